"""The ``bequest`` command, also ``python -m bequest``: a Ctrl-C ends it quietly from its very first imports on."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line."""
    try:
        from bequest.cli import main as command_line

        command_line()
    except KeyboardInterrupt:
        sys.stderr.write("bequest: interrupted; run the same command again to resume\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
