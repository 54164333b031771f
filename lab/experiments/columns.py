"""What the columns of an experiment's CSV may hold: one text read as a number, a day, a name or a mapping, and checked.

What a reader of rows relies on is checked here, once: a loss that is a word, or seconds that are not a number, would
otherwise come out as a wrong table, or as a fault far from its cause.  What is measured besides passes as it is.

Try it: ``column("wall_seconds", "12.5")``, ``column("measures", "{}")``.
"""

from __future__ import annotations

import datetime
import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

WHOLE = {"seed": 0, "threads": 1, "tokens": 0, "train_flops": 0, "teacher_flops": 0, "source_flops": 0}
"""Columns of whole numbers, and the least that each may be."""
JSON = ("tuned", "bases", "measures")
ONE_OF = {"tier": ("screening", "finals", "scratch"), "role": ("pilot", "final")}
MAY_BE_EMPTY = ("batches",)
SHOWN = 40

Check = Callable[[Any, str], None]
"""Refuses a value, given its dotted place, with a ValueError."""


def column(name: str, text: str) -> Any:
    """The value of a column from its text.

    Raises:
        ValueError: it cannot be; the message begins with the column, and the dotted place in it.
    """
    if name in WHOLE:
        return _whole(name, text)
    if name == "wall_seconds":
        return _seconds(name, text)
    if name in JSON:
        value = _json(name, text)
        COLUMNS_OF_JSON[name](value, name)
        return value
    if name in ONE_OF and text not in ONE_OF[name]:
        raise ValueError(f"{name}: {_shown(text)} is none of {', '.join(ONE_OF[name])}")
    if name == "date" and not _is_day(text):
        raise ValueError(f"{name}: {_shown(text)} is no day such as 2026-01-31")
    if not text and name not in MAY_BE_EMPTY:
        raise ValueError(f"{name}: is empty")
    return text


def _whole(name: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,30}", text) or int(text) < WHOLE[name]:
        raise ValueError(f"{name}: {_shown(text)} is no whole number from {WHOLE[name]}")
    return int(text)


def _seconds(name: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"{name}: {_shown(text)} is no number from 0")
    return seconds


def _is_day(text: str) -> bool:
    try:
        return datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _json(name: str, text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name}: not JSON ({error})") from None


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{_shown(text)} is not finite")
    return number


# -- what stands in the columns of JSON -------------------------------------------------------------------------------


def _text(value: Any, place: str) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{place}: {_shown(value)} is no text")


def _flag(value: Any, place: str) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{place}: {_shown(value)} is neither true nor false")


def _number(value: Any, place: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > sys.float_info.max:
        raise ValueError(f"{place}: {_shown(value)} is no number")


def _optional(check: Check) -> Check:
    def checked(value: Any, place: str) -> None:
        if value is not None:  # what was not finite is written as null
            check(value, place)

    return checked


def _list(check: Check) -> Check:
    def checked(value: Any, place: str) -> None:
        if not isinstance(value, list):
            raise ValueError(f"{place}: {_shown(value)} is no list")
        for number, item in enumerate(value):
            check(item, f"{place}.{number}")

    return checked


def _mapping(of: Check | None = None, **known: Check) -> Check:
    """A mapping whose values are all checked by ``of``, or those of the known keys by their own check."""

    def checked(value: Any, place: str) -> None:
        if not isinstance(value, Mapping):
            raise ValueError(f"{place}: {_shown(value)} is no mapping")
        for key, item in value.items():
            check = known.get(key, of)
            if check is not None:
                check(item, f"{place}.{key}")

    return checked


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


LOSS, COUNT = _optional(_number), _number
COLUMNS_OF_JSON: dict[str, Check] = {
    "tuned": _mapping(),
    "bases": _mapping(_text),
    "measures": _mapping(
        perplexity=_mapping(_mapping(_mapping(loss=LOSS, unigram=LOSS))),
        tasks=_mapping(_mapping(_mapping(accuracy=_list(_number), macro_f1=_list(_number), how=_text))),
        curves=_mapping(_list(_mapping(tokens=COUNT, train_flops=COUNT, teacher_flops=COUNT, corpus=_text, loss=LOSS))),
        costs=_list(_mapping(of=_text, own=_flag, tokens=COUNT, train_flops=COUNT, teacher_flops=COUNT)),
        symmetry=_mapping(_mapping(_mapping(units=COUNT, duplicated=COUNT, locked=COUNT))),
        order=_list(_text),
        unpaired=_list(_text),
        versions=_mapping(_text),
        failed=_optional(_text),
    ),
}
