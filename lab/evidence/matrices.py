"""The losses and accuracies of every model on everything measured, as tables.  ``matrices_part(compared)``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bequest.reports.wording import significant
from lab.evidence.markdown import NOTHING, joined, number, table
from lab.experiments.comparing import Arm, Comparison
from lab.experiments.schema import ONLY

if TYPE_CHECKING:
    from lab.experiments.rows import Row


def matrices_part(compared: Comparison) -> list[str]:
    """The baseline's matrices, and those of the other arms folded away."""
    base = [arm for arm in compared.cells if arm == compared.baseline(arm)]
    others = [line for arm in compared.cells if arm not in base for line in matrices(compared, arm)]
    lines = [line for arm in base for line in matrices(compared, arm)]
    if others:
        summary = "<details><summary>The other methods' matrices</summary>"
        lines += [summary, "", *others, "", "</details>", ""]
    return lines


def matrices(compared: Comparison, arm: Arm) -> list[str]:
    """Mean losses and mean accuracies of every model on everything measured, per order."""
    lines: list[str] = []
    rows = compared.cells[arm]
    models = (*compared.outside[arm], *compared.stages[arm])
    for order in dict.fromkeys(row.order for row in rows):
        own = [row for row in rows if row.order == order]
        where = arm.label + ("" if order == ONLY else f", order {order}")
        cells = f"mean over {len(own)} seed{'' if len(own) == 1 else 's'}"
        losses = matrix(own, models, "perplexity")
        if losses:
            lines += [f"**Held-out loss**, nats (perplexity), {where}, {cells}", *losses]
        scores = matrix(own, models, "tasks")
        if scores:
            how = joined(
                sorted(
                    {entry["how"] for row in own for tasks in _of(row, "tasks").values() for entry in tasks.values()}
                )
            )
            lines += [f"**Accuracy** ({how}), {where}, {cells}", *scores]
    return lines


def matrix(rows: Sequence[Row], order: Sequence[str], what: str) -> list[str]:
    """One matrix as a table; a dash where some row lacks the cell."""
    seen = {name for row in rows for name in _of(row, what)}
    models = [*dict.fromkeys(name for name in order if name in seen), *sorted(seen - set(order))]
    names = {name for row in rows for found in _of(row, what).values() for name in found}
    stream = [name for name in rows[0].sequence if name in names]
    columns = [*stream, *sorted(names - set(stream))]
    if not models or not columns:
        return []
    lines = []
    shown = with_perplexity if what == "perplexity" else number
    if what == "perplexity":
        unigrams = [average(found["unigram"] for found in _entries(rows, models, column)) for column in columns]
        lines.append(["*unigram entropy*", *map(shown, unigrams)])
    for model in models:
        found = [[_of(row, what).get(model, {}).get(column) for row in rows] for column in columns]
        lines.append([model, *(shown(average(map(_value, entries)) if all(entries) else None) for entries in found)])
    return table(["model", *columns], lines)


def with_perplexity(loss: float | None) -> str:
    """``3.796 (44.5)``."""
    return NOTHING if loss is None else f"{number(loss)} ({significant(math.exp(loss))})"


def average(values: Any) -> float | None:
    """Mean of numbers, None for none or where one is missing."""
    found = list(values)
    return sum(found) / len(found) if found and None not in found else None


def _entries(rows: Sequence[Row], models: Sequence[str], column: str) -> list[Mapping[str, Any]]:
    return [
        _of(row, "perplexity")[m][column] for row in rows for m in models if column in _of(row, "perplexity").get(m, {})
    ]


def _of(row: Row, what: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = row.measures.get(what, {})
    return found


def _value(entry: Mapping[str, Any]) -> float | None:
    """The loss, or the accuracy as the mean over the measurement's own seeds."""
    return entry["loss"] if "loss" in entry else average(entry["accuracy"])
