"""The task table: every measured model's score, and recycled tuned weights against their controls.

The controls of weights recycled onto a base N: tuned weights of the same task made on N itself (a tune stage, or a
tuned copy of N that the measure made), the weights before they were recycled (on their own base), and N with a linear
probe.  Differences are paired by seed when both sides have the same number (≥ 2) of seeds, otherwise by test example
when both recorded which examples they got right; otherwise there is no interval and the row says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bequest.measures.intervals import Interval, interval, paired
from bequest.reports.record import RunRecord, StageRecord, mapping

HOW = {"own": "own head", "tune": "tuned copy", "linear": "linear probe"}


@dataclass(frozen=True)
class Score:
    """One measured model on one task."""

    model: str
    role: str
    how: str
    base: str | None
    stage: StageRecord | None
    accuracy: Interval | None
    macro_f1: Interval | None


@dataclass(frozen=True)
class Comparison:
    """A recycled model minus one of its controls, in accuracy."""

    recycled: str
    control: str
    control_role: str
    difference: Interval | None
    missing: str | None

    @property
    def verdict(self) -> str:
        """``better``, ``worse``, ``no effect seen`` or ``no interval``."""
        if self.difference is None or self.difference.covers_zero is None:
            return "no interval"
        if self.difference.covers_zero:
            return "no effect seen"
        return "better" if self.difference.mean > 0 else "worse"


@dataclass(frozen=True)
class TaskTable:
    """One task's scores and comparisons."""

    task: str
    scores: tuple[Score, ...]
    comparisons: tuple[Comparison, ...]


def task_tables(run: RunRecord) -> list[TaskTable]:
    """One table per measured task, models in the order of the run."""
    measured = run.tasks()
    order = {stage.name: index for index, stage in enumerate(run.stages)}
    models = sorted(measured, key=lambda name: (order.get(name, len(order)), name))
    names = list(dict.fromkeys(task for model in models for task in measured[model]))
    return [
        table(run, task, {model: measured[model][task] for model in models if task in measured[model]})
        for task in names
    ]


def table(run: RunRecord, task: str, found: Mapping[str, Mapping[str, Any]]) -> TaskTable:
    """The table of one task."""
    scores = [score(run, model, entry, found) for model, entry in found.items()]
    comparisons = []
    for recycled in scores:
        if recycled.role != "recycled":
            continue
        for other in scores:
            role = control_role(run, recycled, other)
            if role is not None:
                comparisons.append(compare(recycled, other, role, found))
    return TaskTable(task, tuple(scores), tuple(comparisons))


def score(run: RunRecord, model: str, entry: Mapping[str, Any], found: Mapping[str, Any]) -> Score:
    """One row."""
    stage = run.stage(model)
    base = stage.parent("base") if stage is not None else None
    how = str(entry.get("how", "own"))
    if stage is not None and stage.kind == "recycle":
        role = "recycled"
    elif stage is not None and stage.kind == "tune":
        role = "retrained" if recycled_onto(run, base.name if base else None, found) else "tuned"
    else:
        role = {"tune": "tuned copy", "linear": "probe"}.get(how, "base")
    return Score(
        model=model,
        role=role,
        how=HOW.get(how, how),
        base=base.name if base else None,
        stage=stage,
        accuracy=over_seeds_or_examples(entry),
        macro_f1=over_seeds(entry.get("macro_f1")),
    )


def recycled_onto(run: RunRecord, base: str | None, found: Mapping[str, Any]) -> bool:
    """Whether some measured weights were recycled onto this base."""
    stages = (run.stage(model) for model in found)
    bases = (stage.parent("base") for stage in stages if stage is not None and stage.kind == "recycle")
    return base is not None and any(parent is not None and parent.name == base for parent in bases)


def control_role(run: RunRecord, recycled: Score, other: Score) -> str | None:
    """What ``other`` is to ``recycled``, None when it is no control of it."""
    stage = run.stage(recycled.model)
    tuned = stage.parent("tuned") if stage is not None else None
    if other.role in ("tuned", "retrained") and other.base == recycled.base:
        return "retrained on the new base"
    if other.model == recycled.base:
        return {"tuned copy": "retrained (tuned copy)", "probe": "linear probe of the new base"}.get(other.role)
    if tuned is not None and other.model == tuned.name:
        return "before, on the old base"
    return None


def compare(recycled: Score, other: Score, role: str, found: Mapping[str, Mapping[str, Any]]) -> Comparison:
    """The paired difference in accuracy, or why there is none."""
    left, right = found[recycled.model], found[other.model]
    a, b = values(left.get("accuracy")), values(right.get("accuracy"))
    if len(a) == len(b) >= 2:
        return Comparison(recycled.model, other.model, role, paired(a, b), None)
    hits = [example_hits(entry.get("correct")) for entry in (left, right)]
    if hits[0] and len(hits[0]) == len(hits[1]):
        return Comparison(recycled.model, other.model, role, paired(hits[0], hits[1], over="examples"), None)
    if not a or not b:
        return Comparison(recycled.model, other.model, role, None, "not measured")
    plain = interval([sum(a) / len(a) - sum(b) / len(b)])
    return Comparison(recycled.model, other.model, role, plain, f"{len(a)} and {len(b)} seeds cannot be paired")


def example_hits(strings: Any) -> list[float]:
    """Per test example the share of seeds that got it right, from strings of 0 and 1, one per seed."""
    rows = [row for row in strings or () if isinstance(row, str) and row]
    if not rows or len({len(row) for row in rows}) != 1:
        return []
    return [sum(row[index] == "1" for row in rows) / len(rows) for index in range(len(rows[0]))]


def values(found: Any) -> list[float]:
    """The per-seed values of a metric; a single number counts as one seed."""
    if isinstance(found, int | float):
        return [float(found)]
    return [float(value) for value in found] if isinstance(found, Sequence) and not isinstance(found, str) else []


def over_seeds_or_examples(entry: Mapping[str, Any]) -> Interval | None:
    """Accuracy over seeds; with one seed, over the test examples where it is known which were right."""
    hits = example_hits(entry.get("correct"))
    if len(values(entry.get("accuracy"))) == 1 and len(hits) > 1:
        return interval(hits, over="examples")
    return over_seeds(entry.get("accuracy"))


def over_seeds(found: Any) -> Interval | None:
    """Mean and interval over seeds, None when the metric is not there."""
    numbers = values(found)
    return interval(numbers) if numbers else None


def cost_of(entry: Score, what: str) -> float | None:
    """A cost of making the model of this row (``train_flops``, ``tokens``, ``wall_seconds``), None when unknown."""
    found = mapping(entry.stage.cost if entry.stage is not None and entry.stage.is_tuned else None).get(what)
    return float(found) if isinstance(found, int | float) else None
