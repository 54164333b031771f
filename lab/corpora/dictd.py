"""Reads a dictionary in the DICT server's format: an index of headwords and one compressed text.

A line of ``NAME.index`` is a headword, an offset and a length, both in bytes and in base 64 (most significant digit
first).  ``NAME.dict.dz`` is gzip with an extra table for random access, which sequential readers may ignore.

Try it: ``entries(Path("usr/share/dictd"), "foldoc")``.
"""

from __future__ import annotations

import gzip
import re
import string
import zlib
from pathlib import Path

from bequest.errors import InputError

_DIGITS = {sign: value for value, sign in enumerate(string.ascii_uppercase + string.ascii_lowercase + "0123456789+/")}
#: No dictionary of the lab holds a tenth of this; a file that unpacks to more is not what it says.
_MOST_BYTES = 2**29


def entries(directory: Path, name: str) -> list[str]:
    """The text of every entry once, however many headwords lead to it, in the order in which the entries stand.

    Entries about the data base itself (headwords ``00-...``) are left out, also those whose other headwords do not say
    so.

    Raises:
        InputError: a file is missing or damaged, or the index points outside the text.
    """
    index, packed = directory / f"{name}.index", directory / f"{name}.dict.dz"
    try:
        with gzip.open(packed) as file:
            data = file.read(_MOST_BYTES + 1)
        lines = index.read_text(encoding="utf-8", errors="replace").splitlines()
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"cannot read the dictionary: {error}", where=directory, key=name) from error
    if len(data) > _MOST_BYTES:
        raise InputError(f"unpacks to more than {_MOST_BYTES} bytes", where=packed)
    places: dict[tuple[int, int], bool] = {}
    for number, line in enumerate(lines, 1):
        fields = line.split("\t")
        if len(fields) != 3 or not all(set(field) <= _DIGITS.keys() for field in fields[1:]):
            raise InputError("is not headword, offset and length", where=index, key=f"line {number}")
        offset, length = _number(fields[1]), _number(fields[2])
        if offset + length > len(data):
            raise InputError("points beyond the end of the text", where=index, key=f"line {number}")
        about_itself = fields[0].startswith("00-")
        places[offset, length] = places.get((offset, length), False) or about_itself
    return [
        data[offset : offset + length].decode("utf-8", "replace")
        for (offset, length), about_itself in sorted(places.items())
        if not about_itself
    ]


def paragraphs(text: str) -> list[tuple[int, str]]:
    """Blank-line separated blocks as one line each, with the indentation (in columns) of their first line."""
    found = []
    for block in re.split(r"\n[ \t]*\n", text.expandtabs()):
        lines = [line for line in block.split("\n") if line.strip()]
        if lines:
            found.append((len(lines[0]) - len(lines[0].lstrip()), " ".join(" ".join(lines).split())))
    return found


def _number(digits: str) -> int:
    value = 0
    for digit in digits:
        value = value * 64 + _DIGITS[digit]
    return value
