"""Comparing methods from their rows: means with 95 % intervals, paired differences, and whether they inform at all.

The cells of one experiment at one scale form a *comparison*.  A method at one size is an *arm*; an arm's cells are its
(order, seed) pairs.  Two arms of one size are compared pair by pair: the same order, the same seed, and, unless one of
them changes its batches by design, the same digest of the first batches.  A cell that finds no partner is named, never
paired with another.  A comparison of losses whose best cell does not lie ``INFORMATIVE`` nats below the unigram
entropy compares models that count words: it is printed as uninformative.  Small:

    compared = compare(experiment, "cpu", read_rows(path))
    outcome_table(compared, "forget").lines
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bequest.errors import InputError
from bequest.measures.intervals import Interval, interval
from bequest.storage import value_digest
from lab.experiments import resolving
from lab.experiments.outcomes import Outcome, compute, margin
from lab.experiments.schema import ONLY

if TYPE_CHECKING:
    from lab.experiments.rows import Row
    from lab.experiments.schema import Experiment

INFORMATIVE = 1.0
"""Nats that the best cell of a comparison must lie below the unigram entropy."""
DECIMALS = 5
"""Of a number before its interval: rows hold six, so that what differs by less is rounding."""
EQUAL_TOKENS = 0.01
"""Two arms see equal tokens when their tokens differ by no more than this share."""


@dataclass(frozen=True, order=True)
class Arm:
    """A method at one size; ``-`` where the experiment has one size."""

    method: str
    size: str = ONLY

    @property
    def label(self) -> str:
        """For tables."""
        return f"`{self.method}`" if self.size == ONLY else f"`{self.method}` · {self.size}"


@dataclass(frozen=True)
class Comparison:
    """The cells of one experiment at one scale.

    Attributes:
        experiment: its definition.
        scale: ``cpu``, ``gpu`` or ``smoke``.
        cells: per arm, in the experiment's order, its final rows sorted by order and seed.
        pilots: per arm, its pilot rows sorted by tuned value.
        earlier: arms whose rows are of an earlier recipe than the present one.
        superseded: final rows left out because a newer row stands for the same cell.
        unknown: final rows of methods, sizes or orders that the experiment no longer has.
        students: per arm, the stages whose cost is the method's own, in the order of training.
        models: per arm, the models that a row may have measures of: those from outside, then the stages.
    """

    experiment: Experiment
    scale: str
    cells: Mapping[Arm, tuple[Row, ...]]
    pilots: Mapping[Arm, tuple[Row, ...]]
    earlier: tuple[Arm, ...] = ()
    superseded: int = 0
    unknown: int = 0
    students: Mapping[Arm, tuple[str, ...]] = field(default_factory=dict)
    models: Mapping[Arm, tuple[str, ...]] = field(default_factory=dict)

    @property
    def rows(self) -> tuple[Row, ...]:
        """All final rows that are compared."""
        return tuple(row for rows in self.cells.values() for row in rows)

    def baseline(self, arm: Arm) -> Arm:
        """What an arm is compared with: the baseline at the same size."""
        return Arm(self.experiment.baseline, arm.size)


def compare(
    experiment: Experiment, scale: str, rows: Iterable[Row], sources: resolving.Sources | None = None
) -> Comparison:
    """Gather one scale's rows.  The order of the rows does not matter.

    Of an arm's rows those of the present recipe count; where there is none, those of the latest earlier recipe, and
    the arm is named in ``earlier``.  Of several rows for one cell the latest counts; on one day, the one whose code has
    more rows here.

    Args:
        experiment: its definition.
        scale: one of its scales, whose rows are compared.
        rows: of this experiment; those of other scales are left aside.
        sources: what corpora, tasks and models are, for the present recipe's hash; the lab's own by default.
    """
    sources = sources or resolving.identities()
    whole = sorted((row for row in rows if row.scale == scale), key=_identity)
    arms = [Arm(method, size) for size in experiment.sizes for method in experiment.methods]
    here = [
        row
        for row in whole
        if Arm(row.method, row.size) in arms and experiment.orders.get(row.order, ()) == row.sequence
    ]
    codes = Counter(row.code for row in here)
    cells: dict[Arm, tuple[Row, ...]] = {}
    pilots: dict[Arm, tuple[Row, ...]] = {}
    students: dict[Arm, tuple[str, ...]] = {}
    models: dict[Arm, tuple[str, ...]] = {}
    earlier, superseded = [], 0
    for arm in arms:
        own = [row for row in here if (row.method, row.size) == (arm.method, arm.size)]
        final = [row for row in own if row.role == "final"]
        if not final:
            continue
        kept, old = _of_one_recipe(final, _present(experiment, scale, arm, "final", sources))
        earlier += [arm] if old else []
        cells[arm] = _newest(kept, codes)
        superseded += len(final) - len(cells[arm])
        tried = _of_one_recipe(
            [row for row in own if row.role == "pilot"], _present(experiment, scale, arm, "pilot", sources)
        )
        pilots[arm] = _newest(tried[0], codes, by_value=True)
        found = resolving.outline(experiment, scale, arm.method, arm.size, next(iter(experiment.orders)), sources)
        names = [str(body.get("name", kind)) for stage in found.recipe["stages"] for kind, body in stage.items()]
        students[arm] = tuple(name for name in names if name in found.student)
        models[arm] = (*sorted(set(found.models.values())), *names)
    unknown = sum(row.role == "final" for row in whole) - sum(row.role == "final" for row in here)
    return Comparison(experiment, scale, cells, pilots, tuple(earlier), superseded, unknown, students, models)


@dataclass(frozen=True)
class Pairing:
    """Which cells of two arms belong together.

    Attributes:
        pairs: (left, right) rows.
        remarks: one per cell that found no partner, saying why.
    """

    pairs: tuple[tuple[Row, Row], ...]
    remarks: tuple[str, ...]


def pairing(left: Sequence[Row], right: Sequence[Row], *, other_batches: bool = False) -> Pairing:
    """Pair the cells of two arms by order and seed.

    Args:
        left: final rows of one arm.
        right: final rows of the other.
        other_batches: one of the two changes its batches by design, so that their digests differ.
    """
    partners = {(row.order, row.seed): row for row in right}
    pairs, remarks = [], []
    for row in left:
        partner = partners.pop((row.order, row.seed), None)
        if partner is None:
            remarks.append(f"{cell_name(row)}: no partner")
        elif not other_batches and (row.batches != partner.batches or not row.batches):
            remarks.append(f"{cell_name(row)}: {'other batches' if row.batches else 'batches not recorded'}")
        else:
            pairs.append((row, partner))
    remarks += [f"{cell_name(row)}: no partner" for row in partners.values()]
    return Pairing(tuple(pairs), tuple(sorted(remarks)))


@dataclass(frozen=True)
class Line:
    """One arm's outcome.

    Attributes:
        arm: method and size.
        mean: over its cells; None where a cell lacks what the outcome needs.
        difference: the arm minus the baseline, over the pairs; None for the baseline itself and where nothing pairs.
        pairs: how many cells were paired.
        remarks: cells without a partner, or why there is no mean.
        margin: the best cell's distance below the unigram line, nats; None where the outcome reads no loss.
    """

    arm: Arm
    mean: Interval | None
    difference: Interval | None = None
    pairs: int = 0
    remarks: tuple[str, ...] = ()
    margin: float | None = None


@dataclass(frozen=True)
class OutcomeTable:
    """One outcome over all arms."""

    name: str
    spec: Outcome
    lines: tuple[Line, ...]

    def margin(self, size: str) -> float | None:
        """The best cell's distance below the unigram line among the arms of a size; None where no loss is read."""
        return best(line.margin for line in self.lines if line.arm.size == size)

    def informative(self, size: str) -> bool:
        """Whether the arms of a size may be compared at all."""
        return informative(self.margin(size))


def outcome_table(compared: Comparison, name: str) -> OutcomeTable:
    """One outcome's mean per arm and paired difference against the baseline."""
    spec = compared.experiment.outcomes[name]
    lines = []
    for arm, rows in compared.cells.items():
        try:
            found = values(spec, rows)
            margins = best(margin(spec, row.measures, order=row.sequence) for row in rows)
        except InputError as error:
            lines.append(Line(arm, None, remarks=(f"not measured: {error}",)))
            continue
        line = Line(arm, over_cells(found, rows), margin=margins)
        base = compared.baseline(arm)
        if arm != base and base in compared.cells:
            line = _against(compared, spec, line, rows, compared.cells[base])
        lines.append(line)
    return OutcomeTable(name, spec, tuple(lines))


def values(spec: Outcome, rows: Sequence[Row]) -> list[float]:
    """The outcome of each row.

    Raises:
        InputError: a row lacks what the outcome needs.
    """
    return [compute(spec, row.measures, order=row.sequence) for row in rows]


def other_batches(experiment: Experiment, *methods: str) -> bool:
    """Whether one of the methods changes its batches by design."""
    return any(experiment.methods[method].changes_batches for method in methods)


def informative(margin: float | None) -> bool:
    """Whether the best cell lies far enough below the unigram line; outcomes that read no loss always do."""
    return margin is None or margin >= INFORMATIVE


def best(margins: Iterable[float | None]) -> float | None:
    """The largest margin, None where no loss is read."""
    known = [value for value in margins if value is not None]
    return max(known) if known else None


def over_cells(found: Sequence[float], rows: Sequence[Row]) -> Interval:
    """Mean and interval of one number per row: over ``seeds``, or over ``cells`` where several orders were run.

    Numbers are rounded to ``DECIMALS`` first, so that what is equal but for the rows' own rounding counts as equal, and
    has no interval.
    """
    return interval([round(value, DECIMALS) for value in found], over=over(rows))


def over(rows: Sequence[Row]) -> str:
    """``seeds``, or ``cells`` where several orders were run."""
    return "seeds" if len({row.order for row in rows}) == 1 else "cells"


def cell_name(row: Row) -> str:
    """``seed 2``, or ``order B seed 2``."""
    return f"seed {row.seed}" if row.order == "-" else f"order {row.order} seed {row.seed}"


def unequal_tokens(compared: Comparison, arm: Arm) -> bool:
    """Whether an arm's cells saw other amounts of text than the baseline's."""
    base = compared.cells.get(compared.baseline(arm), ())
    if not base:
        return False
    low, high = min(row.tokens for row in base), max(row.tokens for row in base)
    own = [row.tokens for row in compared.cells[arm]]
    return max(own) > high * (1 + EQUAL_TOKENS) or min(own) < low * (1 - EQUAL_TOKENS)


def _against(compared: Comparison, spec: Outcome, line: Line, rows: Sequence[Row], base: Sequence[Row]) -> Line:
    """The line with its paired difference against the baseline."""
    experiment = compared.experiment
    matched = pairing(rows, base, other_batches=other_batches(experiment, line.arm.method, experiment.baseline))
    left, right = [pair[0] for pair in matched.pairs], [pair[1] for pair in matched.pairs]
    difference = None
    if left:
        try:
            other = values(spec, right)
        except InputError as error:
            return Line(line.arm, line.mean, remarks=(f"baseline not measured: {error}",), margin=line.margin)
        own = values(spec, left)
        difference = over_cells([a - b for a, b in zip(own, other, strict=True)], left)
    return Line(line.arm, line.mean, difference, len(left), matched.remarks, line.margin)


def _newest(rows: Sequence[Row], codes: Counter[str], *, by_value: bool = False) -> tuple[Row, ...]:
    """One row per cell: the latest; on one day the one whose code has more rows here."""
    kept: dict[tuple[str, int, tuple[tuple[str, str], ...]], Row] = {}
    for row in sorted(rows, key=lambda row: (row.date, codes[row.code], _identity(row))):
        kept[(row.order, row.seed, _tuned(row) if by_value else ())] = row
    return tuple(kept[key] for key in sorted(kept))


def _present(experiment: Experiment, scale: str, arm: Arm, role: str, sources: resolving.Sources) -> set[str]:
    """The hashes of an arm's present recipe: one, or several where orders have several lengths."""
    return {
        resolving.recipe_hash(experiment, scale, arm.method, arm.size, order, sources, role)
        for order in experiment.orders
    }


def _of_one_recipe(rows: Sequence[Row], present: set[str]) -> tuple[list[Row], bool]:
    """The rows of the present recipe, else those of the latest earlier one (on one day, the one with more rows)."""
    kept = [row for row in rows if row.recipe in present]
    if kept or not rows:
        return kept, False
    counts = Counter(row.recipe for row in rows)
    latest = {recipe: max(row.date for row in rows if row.recipe == recipe) for recipe in counts}
    chosen = max(counts, key=lambda recipe: (latest[recipe], counts[recipe], recipe))
    return [row for row in rows if row.recipe == chosen], True


def _tuned(row: Row) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, repr(value)) for name, value in row.tuned.items()))


def _identity(row: Row) -> tuple[str, ...]:
    """A total order of rows that does not depend on where they stand in the file."""
    cell = (row.method, row.size, row.order, f"{row.seed:012d}", row.role, *map(str, _tuned(row)))
    made = (row.recipe, row.code, row.commit, row.machine, repr(row.wall_seconds))
    return (*cell, *made, value_digest(dict(row.measures)))
