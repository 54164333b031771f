"""Methods at equal budgets: their loss curves read where all of them have spent the same.

A budget is counted in four ways: tokens of the student's stages, and FLOPs in three totals:

    student    training FLOPs of the student's stages
    teacher    the same and the teacher's forward passes during them
    source     the same and what making the source or the teacher cost

Each curve is read at the largest budget that every cell reaches, by linear interpolation of the loss in the logarithm
of the budget.  A method whose source alone costs more has no value there.  A learning-rate schedule read before its end
is not a finished run: such values are marked.  A stream of domains is not read in the middle, where its losses say how
far it had come: what each method spent is compared instead.  Small: ``equal_budgets(compared, "-", ["general"])``.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bequest.errors import InputError
from bequest.measures.intervals import Interval
from lab.experiments.comparing import Arm, Comparison, over_seeds, paired, whole_seeds
from lab.experiments.curves import COUNTS, TOTALS, Curve, course
from lab.experiments.outcomes import CorpusOutcome

if TYPE_CHECKING:
    from lab.experiments.rows import Row

FINISHED = 0.99
"""A curve read at this share of its end or later counts as finished."""


@dataclass(frozen=True)
class Reading:
    """One arm read at the common budget.

    Attributes:
        loss: mean over seeds, nats; None where a cell had not begun to train at this budget.
        difference: arm minus baseline over the pairs; None where nothing pairs.
        finished: whether every cell ends here.
    """

    loss: Interval | None
    difference: Interval | None
    finished: bool


@dataclass(frozen=True)
class EqualBudget:
    """All arms of one size read at one budget.

    Attributes:
        total: a key of ``TOTALS``.
        budget: tokens or FLOPs, the largest that every cell reaches.
        readings: per arm.
        unigram: the corpora's mean unigram entropy, nats, None where one was not measured.
    """

    total: str
    budget: float
    readings: Mapping[Arm, Reading]
    unigram: float | None

    @property
    def best(self) -> float | None:
        """Nats below the unigram line of the best arm; None where it cannot be told."""
        losses = [reading.loss.mean for reading in self.readings.values() if reading.loss is not None]
        return self.unigram - min(losses) if losses and self.unigram is not None else None


def curve(row: Row, corpus: str, student: Sequence[str], total: str, *, whole: bool = False) -> Curve:
    """(budget, loss) of a row's held-out loss on a corpus, over its student stages laid end to end.

    Args:
        row: a row whose measures hold curves.
        corpus: whose loss.
        student: the student's stages in the order of training, for a row that does not say what each of them cost.
        total: a key of ``TOTALS``: what is counted.
        whole: with the point at budget 0, which has no logarithm.

    Raises:
        InputError: an earlier stage has neither a cost nor a curve, so that nobody knows where the later ones begin.
    """
    costs = row.measures.get("costs") or _costs_by_curves(row, student)
    return tuple(point for point in course(row.measures, corpus, total, costs) if whole or point[0] > 0)


def _costs_by_curves(row: Row, student: Sequence[str]) -> list[dict[str, Any]]:
    """What stages cost by the ends of their curves, and what came before them."""
    found = row.measures.get("curves", {})
    trained = [stage for stage in student if found.get(stage)]
    if any(not found.get(stage) for stage in student[: len(trained)]):
        raise InputError("a stage before the last has no loss curve", key="measures.curves")
    ends = {stage: {name: max(point[name] for point in found[stage]) for name in COUNTS} for stage in trained}
    source = {"of": "source", "own": False, "tokens": 0, "train_flops": row.source_flops, "teacher_flops": 0}
    return [source, *({"of": stage, "own": True, **counts} for stage, counts in ends.items())]


def read_at(points: Curve, budget: float) -> float | None:
    """The loss at a budget, linear in log budget between two points; None outside the curve."""
    if not points or not points[0][0] <= budget <= points[-1][0]:
        return None
    right = next(index for index, point in enumerate(points) if budget <= point[0])
    if points[right][0] == budget:
        return points[right][1]
    (x0, y0), (x1, y1) = points[right - 1], points[right]
    return y0 + (y1 - y0) * (math.log(budget / x0) / math.log(x1 / x0))


def is_stream(compared: Comparison) -> bool:
    """Whether a loss in the middle of training tells how far the stream had come, not how good the method is.

    So it is with several student stages, unless what the experiment is about is the loss on one corpus.
    """
    experiment = compared.experiment
    one_corpus = isinstance(experiment.outcomes[experiment.main_outcome], CorpusOutcome)
    return not one_corpus and any(len(stages) > 1 for stages in compared.students.values())


@dataclass(frozen=True)
class Spent:
    """What one arm's cells spent to their end, FLOPs, mean over its cells.

    Attributes:
        totals: by the FLOP totals of ``TOTALS``.
        ratios: the same as a share of the baseline's; None without a baseline, or where it spent nothing.
    """

    totals: Mapping[str, float]
    ratios: Mapping[str, float | None]


def spending(compared: Comparison, size: str) -> dict[Arm, Spent]:
    """The FLOPs of every arm of a size in three totals, and their ratios to the baseline's."""
    totals = {arm: _totals(rows) for arm, rows in compared.cells.items() if arm.size == size}
    base = totals.get(Arm(compared.experiment.baseline, size), {})
    return {
        arm: Spent(found, {name: value / base[name] if base.get(name) else None for name, value in found.items()})
        for arm, found in totals.items()
    }


def _totals(rows: Sequence[Row]) -> dict[str, float]:
    student = statistics.fmean(row.train_flops for row in rows)
    teacher = student + statistics.fmean(row.teacher_flops for row in rows)
    return {"student": student, "teacher": teacher, "source": teacher + statistics.fmean(r.source_flops for r in rows)}


def corpora(compared: Comparison, size: str) -> list[str]:
    """The corpora on which every cell of a size has a loss curve in its last student stage.

    Where the experiment is about the loss on one corpus, that one alone.
    """
    main = compared.experiment.outcomes[compared.experiment.main_outcome]
    asked = {main.corpus} if isinstance(main, CorpusOutcome) else None
    seen = [
        {point["corpus"] for point in row.measures.get("curves", {}).get(compared.students[arm][-1], ())}
        for arm, rows in compared.cells.items()
        if arm.size == size
        for row in rows
    ]
    found = set.intersection(*seen) if seen else set()
    return sorted(found if asked is None else found & asked)


def equal_budgets(compared: Comparison, size: str, names: Sequence[str]) -> list[EqualBudget]:
    """Every arm of a size read at the four common budgets.

    Args:
        compared: the cells.
        size: of the arms.
        names: the corpora whose held-out losses are read; the mean over them is compared.

    Raises:
        InputError: as :func:`curve`.
    """
    arms = {arm: rows for arm, rows in compared.cells.items() if arm.size == size}
    unigrams = [_unigram(arms, name) for name in names]
    unigram = None if None in unigrams else statistics.fmean(value for value in unigrams if value is not None)
    found = []
    for total in TOTALS:
        curves = {
            arm: [[curve(row, name, compared.students[arm], total) for name in names] for row in rows]
            for arm, rows in arms.items()
        }
        budget = min(points[-1][0] for cells in curves.values() for several in cells for points in several)
        readings = {arm: _reading(compared, arm, curves, budget) for arm in arms}
        found.append(EqualBudget(total, budget, readings, unigram))
    return found


def _reading(compared: Comparison, arm: Arm, curves: Mapping[Arm, list[list[Curve]]], budget: float) -> Reading:
    """One arm at the budget, and its paired difference against the baseline."""
    base = compared.baseline(arm)
    finished = all(budget >= points[-1][0] * FINISHED for several in curves[arm] for points in several)
    own = _losses(compared.cells[arm], curves[arm], budget)
    seeds, _ = whole_seeds(compared.experiment.orders, compared.cells[arm])
    rows = [row for row in compared.cells[arm] if row.seed in seeds]
    if len(own) < len(compared.cells[arm]) or not rows:
        return Reading(None, None, finished)
    difference = None
    if arm != base and base in curves:
        theirs = _losses(compared.cells[base], curves[base], budget)
        pairs = paired(compared, arm, base).pairs
        if pairs and len(theirs) == len(compared.cells[base]):
            found = [own[_cell(a)] - theirs[_cell(b)] for a, b in pairs]
            difference = over_seeds(found, [a for a, _ in pairs])
    return Reading(over_seeds([own[_cell(row)] for row in rows], rows), difference, finished)


def _losses(rows: Sequence[Row], curves: Sequence[Sequence[Curve]], budget: float) -> dict[tuple[str, int], float]:
    """The mean loss of each cell at a budget, of those that can be read there."""
    found = {_cell(row): _mean_at(several, budget) for row, several in zip(rows, curves, strict=True)}
    return {cell: value for cell, value in found.items() if value is not None}


def _cell(row: Row) -> tuple[str, int]:
    return row.order, row.seed


def _mean_at(several: Sequence[Curve], budget: float) -> float | None:
    """The mean loss over corpora at a budget; None where one cannot be read there."""
    found = [read_at(points, budget) for points in several]
    known = [value for value in found if value is not None]
    return statistics.fmean(known) if len(known) == len(found) else None


def _unigram(arms: Mapping[Arm, Sequence[Row]], corpus: str) -> float | None:
    """The corpus' unigram entropy as measured beside the losses; the smallest where tokenizers differ."""
    found = [
        float(entry[corpus]["unigram"])
        for rows in arms.values()
        for row in rows
        for entry in row.measures.get("perplexity", {}).values()
        if corpus in entry
    ]
    return min(found) if found else None
