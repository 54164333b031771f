"""Held-out losses against what was spent: a row's curve over its student stages, and where it comes down to a loss.

What a cell spent is counted in four ways (``TOTALS``).  Its stages are laid end to end: what a stage without a curve
cost, such as learning a growth's maps, moves everything after it to the right.  Small:

    course(row.measures, "general", "student")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bequest.errors import InputError

TOTALS = {
    "tokens": "equal tokens",
    "student": "equal FLOPs: student",
    "teacher": "equal FLOPs: student + teacher forward",
    "source": "equal FLOPs: student + teacher forward + making the source or teacher",
}
COUNTS = ("tokens", "train_flops", "teacher_flops")
Curve = tuple[tuple[float, float], ...]
Costs = Sequence[Mapping[str, Any]]


def course(measures: Mapping[str, Any], corpus: str, total: str, costs: Costs | None = None) -> Curve:
    """(budget, loss) of a cell's held-out loss on a corpus, over its own stages laid end to end.

    Args:
        measures: of a row, with ``curves``.
        corpus: whose loss.
        total: a key of ``TOTALS``: what is counted.
        costs: of every stage and base, as ``measures["costs"]``, which is taken where none are given.

    Raises:
        InputError: nobody knows what the stages cost.
    """
    given = measures.get("costs") if costs is None else costs
    if given is None:
        raise InputError("the costs of its stages were not recorded", key="measures.costs")
    curves = measures.get("curves", {})
    spent = sum(_full(cost) for cost in given if not cost["own"]) if total == "source" else 0.0
    found: dict[float, float] = {}
    for cost in given:
        if not cost["own"]:
            continue
        for point in curves.get(cost["of"], ()):
            if point["corpus"] == corpus and point["loss"] is not None:
                found[spent + spent_of(point, total)] = float(point["loss"])
        spent += spent_of(cost, total)
    return tuple(sorted(found.items()))


def whole_course(measures: Mapping[str, Any], corpus: str, total: str) -> Curve:
    """The curve of a cell that has one.

    Raises:
        InputError: as :func:`course`, or the corpus was not measured while training.
    """
    found = course(measures, corpus, total)
    if not found:
        raise InputError(f"no loss on {corpus!r} was measured while training", key="measures.curves")
    return found


def reached(points: Curve, loss: float) -> float | None:
    """The first budget at which a curve is down at a loss, linear between two points; None where it never is."""
    before: tuple[float, float] | None = None
    for at, found in points:
        if found <= loss:
            if before is None:
                return at
            return before[0] + (at - before[0]) * (before[1] - loss) / (before[1] - found)
        before = at, found
    return None


def level(points: Curve, budget: float) -> float:
    """The loss at a budget, linear between two points; beyond an end, the loss there."""
    right = next((index for index, (at, _) in enumerate(points) if at >= budget), len(points))
    if right in (0, len(points)):
        return points[min(right, len(points) - 1)][1]
    (x0, y0), (x1, y1) = points[right - 1], points[right]
    return y0 + (y1 - y0) * (budget - x0) / (x1 - x0)


def spent_of(counts: Mapping[str, Any], total: str) -> float:
    """What a point of a stage's curve, or a whole stage, counts."""
    if total == "tokens":
        return float(counts["tokens"])
    return float(counts["train_flops"]) + (0.0 if total == "student" else float(counts["teacher_flops"]))


def _full(cost: Mapping[str, Any]) -> float:
    return float(cost["train_flops"]) + float(cost["teacher_flops"])
