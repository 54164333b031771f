"""Markdown by hand: tables, numbers in fixed formats, lists of what was used.  ``table(["a"], [["1"]])``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from bequest.measures.intervals import Interval
from bequest.recipe.quantities import short
from lab.experiments.comparing import INFORMATIVE

if TYPE_CHECKING:
    from lab.experiments.rows import Row

NOTHING = "–"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> list[str]:
    """A table's lines; the first ``left`` columns are aligned left, the rest right."""
    marks = ["---" if index < left else "--:" for index in range(len(header))]
    return ["", *(f"| {' | '.join(map(escaped, cells))} |" for cells in (header, marks, *rows)), ""]


def escaped(text: str) -> str:
    """A table cell's text on one line, its bars kept from ending the cell."""
    return " ".join(text.split()).replace("|", "\\|")


def number(value: float | None, digits: int = 3) -> str:
    """A number with fixed decimals, a dash for nothing; never a negative zero."""
    if value is None:
        return NOTHING
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def mean(found: Interval | None, *, signed: bool = False) -> str:
    """``3.412 ± 0.013``; a single seed says that it has no interval."""
    if found is None:
        return NOTHING
    head = f"{'+' if signed and float(number(found.mean)) > 0 else ''}{number(found.mean)}"
    if found.half_width is None:
        return f"{head} ({'one seed' if found.n == 1 else 'all equal'})"
    return f"{head} ± {number(found.half_width)}"


def taken_over(found: Interval | None) -> str:
    """``3 seeds, mean of 2 orders``."""
    return NOTHING if found is None else f"{found.n} {found.over}"


def spread(values: Iterable[float], text: Callable[[float], str] = short) -> str:
    """A quantity that may differ between cells: ``300k``, or ``298k to 301k``."""
    found = sorted(set(values))
    if not any(found):
        return NOTHING
    low, high = text(found[0]), text(found[-1])
    return low if low == high else f"{low} to {high}"


def joined(values: Iterable[object], between: str = ", ") -> str:
    """Distinct values in order of first appearance, a dash for none."""
    return between.join(dict.fromkeys(str(value) for value in values)) or NOTHING


def dates(rows: Sequence[Row]) -> str:
    """``2026-05-01``, or ``2026-05-01 to 2026-05-03``."""
    days = sorted({row.date for row in rows})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"


def revisions(rows: Sequence[Row]) -> str:
    """``code 3f2a... (commit 5c66b0c)``, several separated by commas."""
    return joined(sorted({f"code {row.code} (commit {row.commit})" for row in rows}))


def bases(rows: Sequence[Row]) -> str:
    """The base weights that differ between rows under one name: ``minilm 460c6261bc81, 0f3a...``; empty for none."""
    digests: dict[str, set[str]] = {}
    for row in rows:
        for name, digest in row.bases.items():
            digests.setdefault(name, set()).add(digest)
    return "; ".join(f"{name} {joined(sorted(found))}" for name, found in sorted(digests.items()) if len(found) > 1)


def provenance(rows: Sequence[Row]) -> str:
    """Date, revision, seeds and machine in one line."""
    seeds = joined(sorted({row.seed for row in rows}))
    machines = joined(sorted({row.machine for row in rows}), "; ")
    return f"{dates(rows)}, {revisions(rows)}, seeds {seeds}, {machines}"


def plain(value: Any) -> str:
    """A variable's value as one writes it in the file."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {plain(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(plain, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)


def uninformative(below: float, where: str = "") -> str:
    """The sentence that stands instead of a result."""
    return (
        f"*Uninformative{where}: the best cell is {number(below, 2)} nats below the unigram entropy and "
        f"{INFORMATIVE:.2f} is needed; nothing is concluded from these numbers.*"
    )
