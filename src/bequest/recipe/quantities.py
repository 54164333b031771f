"""Numbers as people write them in a recipe: ``20M`` tokens, ``4k`` words, ``3e6``; and back: ``20M``."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

SUFFIXES = {"k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9, "t": 10**12}


class ExplainedError(ValueError):
    """A refused value with the remedy beside the message; ``key`` where a whole section was checked, not one key."""

    def __init__(self, message: str, remedy: str, *, key: str | None = None) -> None:
        super().__init__(message)
        self.remedy, self.key = remedy, key


def parse_count(value: Any) -> int:
    """A whole number: ``5``, ``"5M"``, ``"1.5B"``, ``"3e6"``, ``"1_000"``.

    Raises:
        ExplainedError: the value is no whole number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ExplainedError(f"{value!r} is not a number", "write a whole number such as 20M, 4k or 3e6")
    if isinstance(value, int):
        return value
    match = re.fullmatch(r"([0-9_]*\.?[0-9]+(?:e[+-]?\d+)?)\s*([kmgbt]?)", str(value).strip(), re.I)
    if not match:
        raise ExplainedError(f"{value!r} is not a number", "write a whole number such as 20M, 4k or 3e6")
    number = float(match[1].replace("_", "")) * SUFFIXES.get(match[2].lower(), 1)
    if abs(number - round(number)) > 1e-6 * max(1.0, abs(number)):
        raise ExplainedError(f"{value!r} is not a whole number", "write a whole number such as 20M, 4k or 3e6")
    return round(number)


def parse_share_or_count(value: Any) -> float | int:
    """A share of a stage (``0.3``, up to and including 1) or, above 1, a count (``2M``)."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1:
        return float(value)
    if isinstance(value, str) and re.fullmatch(r"0?\.\d+|0|1|1\.0*|\d+(\.\d+)?\s*%", value.strip()):
        text = value.strip()
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    return parse_count(value)


Seed = Annotated[int, Field(ge=0, lt=2**32)]
Count = Annotated[int, BeforeValidator(parse_count), Field(gt=0)]
ShareOrCount = Annotated[float | int, BeforeValidator(parse_share_or_count), Field(ge=0)]


def short(number: float | None, unit: str = "") -> str:
    """A number for people: ``1.2M``, ``340k``, ``3.4e+15``-sized ones as ``3.4P``; ``-`` for None."""
    if number is None:
        return "-"
    for size, suffix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            digits = number / size
            return f"{digits:.3g}{suffix}{unit}"
    return f"{number:.3g}{unit}" if number != int(number) else f"{int(number)}{unit}"


def short_bytes(number: float | None) -> str:
    """Bytes for people, in powers of 1024: ``1.5 GiB``."""
    if number is None:
        return "-"
    for size, suffix in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if number >= size:
            return f"{number / size:.3g} {suffix}" if number / size < 999.5 else f"{number / size:.0f} {suffix}"
    return f"{int(number)} B"
