"""The errors bequest raises on purpose, each one line that names the place, the key and the remedy.

This module is at the bottom of the import order: it imports nobody of ours.  ``cli.py`` turns an error into its line on
stderr and its exit code; anything else that reaches the user as a traceback is a bug.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BequestError(Exception):
    """Something bequest can explain in one line.

    Args:
        message: what is wrong, without a trailing full stop.
        where: the file, directory or recipe in which it stands.
        key: the key, tensor or option concerned, in dotted form.
        remedy: what the user can do about it.
    """

    exit_code = 3

    def __init__(
        self, message: str, *, where: object = None, key: str | None = None, remedy: str | None = None
    ) -> None:
        self.message, self.where, self.key, self.remedy = message, where, key, remedy
        super().__init__(message)

    def __str__(self) -> str:
        return self.line()

    def line(self) -> str:
        """The error as one line: ``where: key: message; remedy``."""
        head = "".join(f"{part}: " for part in (self.where, self.key) if part not in (None, ""))
        tail = f"; {self.remedy}" if self.remedy else ""
        return " ".join(f"{head}{self.message}{tail}".split())


class InputError(BequestError):
    """What the user gave cannot be used: a file, a recipe, a directory, an option.  Exit code 2."""

    exit_code = 2


class AnatomyError(InputError):
    """A model and its family's table disagree; ``key`` is the tensor.  Raised before anything is written."""


class RunError(BequestError):
    """A run failed while running (disk, memory, NaN); the last good generation is still usable.  Exit code 3."""


class Interrupted(BequestError):
    """The user stopped the run; the line says how to resume.  Exit code 130."""

    exit_code = 130


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """A remedy for an unknown name: the nearest known name, or the list of all of them."""
    known = sorted(set(options))
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"known: {', '.join(known)}" if known else "none is known"
