"""Errors of arithmetic know the tensor and not the file; whoever called it for a file adds the place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bequest.errors import InputError


@contextmanager
def located(where: str | Path) -> Iterator[None]:
    """Name the place in an :class:`InputError` that names none.

    Raises:
        InputError: the same error, of the same type, with ``where``.
    """
    try:
        yield
    except InputError as error:
        if error.where is not None:
            raise
        raise type(error)(error.message, where=where, key=error.key, remedy=error.remedy) from None
