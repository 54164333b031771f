"""``python -m lab``."""

from __future__ import annotations

from lab.cli import PROGRAM

if __name__ == "__main__":
    PROGRAM.main()
