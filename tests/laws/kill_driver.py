"""Runs `bequest run RECIPE` and kills it with SIGKILL at its N-th durable step.

    python kill_driver.py N RECIPE OUT      N = 0: do not kill, print the number of steps at the end

A durable step is anything that changes what is on the disk below OUT or the cache: a file opened for writing, a rename,
a removal, a directory made.  They are counted by an audit hook, so the program under test carries no hook of its own, and
"between every two files of a checkpoint", "during packing", "the final save" and "a stage's rename" are all steps.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Killer:
    """Counts durable steps below the watched directories and kills the process at the chosen one."""

    def __init__(self, at: int, watched: list[str]) -> None:
        self.at, self.watched, self.steps = at, watched, 0

    def below(self, path: Any) -> bool:
        """Whether a path given to the operating system lies below a watched directory."""
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        if not isinstance(path, str | os.PathLike):
            return False
        full = os.path.abspath(os.fspath(path))
        return any(full == root or full.startswith(root + os.sep) for root in self.watched)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """The audit hook: an exception here would abort the operation, so it only counts, or kills."""
        if event == "open":
            path, mode, flags = arguments
            writes = bool(flags & WRITING) if isinstance(flags, int) else any(c in (mode or "") for c in "wax+")
            if not (writes and self.below(path)):
                return
        elif event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir"):
            if not any(self.below(argument) for argument in arguments[:2]):
                return
        else:
            return
        self.steps += 1
        if self.steps == self.at:
            print(f"killed at step {self.steps}: {event} {arguments[0]}", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Install the hook, then do what the command line does."""
    at, recipe, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    roots = [os.path.abspath(out), os.path.abspath(os.environ["BEQUEST_CACHE"])]
    killer = Killer(at, roots)
    sys.addaudithook(killer)
    from bequest.cli import main as command_line

    sys.argv = ["bequest", "run", recipe, "--out", out]
    try:
        command_line()
    except SystemExit as stop:
        if stop.code not in (None, 0):
            raise
    if not Path(out).is_dir():
        raise SystemExit("the run made nothing")
    print(f"steps {killer.steps}")


if __name__ == "__main__":
    main()
