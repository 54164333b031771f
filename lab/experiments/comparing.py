"""Comparing methods from their rows: means with 95 % intervals over seeds, paired differences, whether they inform.

The cells of one experiment at one scale form a *comparison* (gathered by ``lab.evidence.gathering.compare``).  A method
at one size is an *arm*; an arm's cells are its (order, seed) pairs.  What is independent is the seed alone: numbers
are averaged over the orders within a seed first, and only seeds count for which every order is there.  Two arms of one
size are compared pair by pair: the same order, the same seed, the same base weights, and the same digest of the first
batches unless one of them changes its batches by design.  A cell that finds no partner is named, never paired with
another.  A comparison of losses whose best cell does not lie ``INFORMATIVE`` nats below the unigram entropy compares
models that count words: it is printed as uninformative.  Small:

    outcome_table(compare(experiment, "cpu", rows), "forget").lines
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bequest.errors import InputError
from bequest.measures.intervals import Interval, interval
from lab.experiments.measured import Outcome, Relative
from lab.experiments.outcomes import compute, margin
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
class Choice:
    """What an arm's pilots choose.

    Attributes:
        tried: pilot rows of the present recipe, one per candidate, in the order of the candidates.
        wanted: how many candidates there are; 0 where nothing is tuned.
        tuned: the chosen value by its variable, None where a candidate has no row yet or none came through.
    """

    tried: tuple[Row, ...]
    wanted: int
    tuned: Mapping[str, Any] | None


@dataclass(frozen=True)
class Comparison:
    """The cells of one experiment at one scale.

    Attributes:
        experiment: its definition.
        scale: ``cpu``, ``gpu`` or ``smoke``.
        cells: per arm, in the experiment's order, the final rows that count, sorted by order and seed.
        choices: per arm with final rows, what its pilots choose.
        earlier: arms whose rows are of an earlier recipe than the present one.
        failed: per arm, the final rows of cells that came to nothing.
        left_out: how many rows do not count, by the reason.
        students: per arm, the stages whose cost is the method's own, in the order of training.
        outside: per arm, the models that its recipe takes from outside.
        stages: per arm, the names of all its stages.
    """

    experiment: Experiment
    scale: str
    cells: Mapping[Arm, tuple[Row, ...]]
    choices: Mapping[Arm, Choice]
    earlier: tuple[Arm, ...] = ()
    failed: Mapping[Arm, tuple[Row, ...]] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    students: Mapping[Arm, tuple[str, ...]] = field(default_factory=dict)
    outside: Mapping[Arm, tuple[str, ...]] = field(default_factory=dict)
    stages: Mapping[Arm, tuple[str, ...]] = field(default_factory=dict)

    @property
    def rows(self) -> tuple[Row, ...]:
        """All final rows that are compared."""
        return tuple(row for rows in self.cells.values() for row in rows)

    @property
    def arms(self) -> tuple[Arm, ...]:
        """Every arm of the experiment, measured or not."""
        return tuple(Arm(method, size) for size in self.experiment.sizes for method in self.experiment.methods)

    @property
    def planned(self) -> int:
        """Cells of one arm: seeds times orders."""
        return len(self.experiment.scales[self.scale].seeds) * len(self.experiment.orders)

    def ran(self, arm: Arm) -> int:
        """Cells of an arm's present recipe that were run, those that came to nothing included."""
        return 0 if arm in self.earlier else len(self.cells.get(arm, ())) + len(self.failed.get(arm, ()))

    def settled(self, arm: Arm) -> bool:
        """Whether the arm's pilots are all there and have chosen."""
        return arm in self.choices and self.choices[arm].tuned is not None

    def baseline(self, arm: Arm) -> Arm:
        """What an arm is compared with: the baseline at the same size."""
        return Arm(self.experiment.baseline, arm.size)

    def reference(self, spec: Outcome, arm: Arm) -> Arm | None:
        """The partner's arm of an outcome of two cells; None where one cell is enough."""
        return Arm(spec.against or self.experiment.baseline, arm.size) if isinstance(spec, Relative) else None

    def wanting(self, arms: Sequence[Arm]) -> tuple[str, ...]:
        """Why nothing is concluded about one arm, or from a comparison of two; empty where something may be."""
        found = [f"rows of an earlier recipe: {arm.label}" for arm in arms if arm in self.earlier]
        for arm in arms:
            if arm not in self.earlier and self.ran(arm) < self.planned:
                found.append(f"{arm.label}: {self.ran(arm)} of {self.planned} cells")
            elif len(arms) > 1 and not self.settled(arm) and arm not in self.earlier:
                found.append(self.pilots_wanting(arm))
        return tuple(found)

    def pilots_wanting(self, arm: Arm) -> str:
        """How far an arm's pilots are from a choice, in words."""
        choice = self.choices[arm]
        if len(choice.tried) == choice.wanted:
            return f"{arm.label}: no candidate came through its pilot"
        return f"{arm.label}: pilot rows of {len(choice.tried)} of {choice.wanted} candidates"

    def fallen(self, arms: Iterable[Arm]) -> tuple[str, ...]:
        """The cells of some arms that came to nothing, in words."""
        return tuple(
            f"{arm.label}, {cell_name(row)} came to nothing ({row.failed})"
            for arm in arms
            for row in self.failed.get(arm, ())
        )


# -- pairs and seeds ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pairing:
    """Which cells of two arms belong together.

    Attributes:
        pairs: (left, right) rows.
        remarks: one per cell that found no partner, and one per seed that does not count, saying why.
    """

    pairs: tuple[tuple[Row, Row], ...]
    remarks: tuple[str, ...]


def pairing(
    left: Sequence[Row], right: Sequence[Row], *, other_batches: bool = False, own_bases: Collection[str] = ()
) -> Pairing:
    """Pair the cells of two arms by order and seed.

    Args:
        left: final rows of one arm.
        right: final rows of the other.
        other_batches: one of the two changes its batches by design, so that their digests differ.
        own_bases: models from outside that only one of the two has in its recipe, such as a teacher.
    """
    partners = {(row.order, row.seed): row for row in right}
    pairs, remarks = [], []
    for row in left:
        partner = partners.pop((row.order, row.seed), None)
        objection = "no partner" if partner is None else _objection(row, partner, other_batches, own_bases)
        if objection is None and partner is not None:
            pairs.append((row, partner))
        else:
            remarks.append(f"{cell_name(row)}: {objection}")
    remarks += [f"{cell_name(row)}: no partner" for row in partners.values()]
    return Pairing(tuple(pairs), tuple(sorted(remarks)))


def _objection(row: Row, partner: Row, other_batches: bool, own_bases: Collection[str]) -> str | None:
    """Why two rows of one order and seed are no pair, None where they are one."""
    shared = [{name: digest for name, digest in one.bases.items() if name not in own_bases} for one in (row, partner)]
    if shared[0] != shared[1]:
        return "other base weights"
    if not row.batches or not partner.batches:
        return "batches not recorded"
    if not other_batches and row.batches != partner.batches:
        return "other batches"
    if other_batches and row.code != partner.code:
        return "other code, and batches that differ by design cannot show that the text is the same"
    return None


def paired(compared: Comparison, arm: Arm, other: Arm) -> Pairing:
    """The pairs of two arms, of those seeds only for which every order pairs."""
    free = any(compared.experiment.methods[one.method].changes_batches for one in (arm, other))
    own = set(compared.outside.get(arm, ())) ^ set(compared.outside.get(other, ()))
    found = pairing(compared.cells[arm], compared.cells[other], other_batches=free, own_bases=own)
    seeds, remarks = whole_seeds(compared.experiment.orders, [row for row, _ in found.pairs])
    pairs = tuple(pair for pair in found.pairs if pair[0].seed in seeds)
    return Pairing(pairs, (*found.remarks, *remarks))


def whole_rows(compared: Comparison, arm: Arm) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """An arm's rows of those seeds for which every order is there, and a remark per other seed."""
    rows = compared.cells.get(arm, ())
    seeds, remarks = whole_seeds(compared.experiment.orders, rows)
    return tuple(row for row in rows if row.seed in seeds), remarks


def whole_seeds(orders: Collection[str], rows: Sequence[Row]) -> tuple[set[int], tuple[str, ...]]:
    """The seeds that have every order among some rows, and a remark per seed that lacks one."""
    there: dict[int, set[str]] = {}
    for row in rows:
        there.setdefault(row.seed, set()).add(row.order)
    lacking = {seed: [name for name in orders if name not in found] for seed, found in sorted(there.items())}
    remarks = [f"seed {seed} left out: nothing in order {', '.join(names)}" for seed, names in lacking.items() if names]
    return {seed for seed, names in lacking.items() if not names}, tuple(remarks)


def over_seeds(found: Sequence[float], rows: Sequence[Row], *, exact: bool = False) -> Interval:
    """Mean and interval over seeds of one number per row: the mean over the orders within each seed first.

    The orders of one seed share its first weights, masks and sampling: they are no further independent values.  Numbers
    are rounded to ``DECIMALS``, so that what is equal but for the rows' own rounding counts as equal.

    Args:
        found: one number per row.
        rows: the rows.
        exact: nothing random enters the number, so that several equal values are the number itself.
    """
    within: dict[int, list[float]] = {}
    for value, row in zip(found, rows, strict=True):
        within.setdefault(row.seed, []).append(value)
    orders = len({row.order for row in rows})
    over = "seeds" if orders == 1 else f"seeds, mean of {orders} orders"
    means = [round(statistics.fmean(within[seed]), DECIMALS) for seed in sorted(within)]
    if exact and len(means) > 1 and len(set(means)) == 1:
        return Interval(means[0], means[0], means[0], len(means), over)
    return interval(means, over=over)


def cell_name(row: Row) -> str:
    """``seed 2``, or ``order B seed 2``."""
    return f"seed {row.seed}" if row.order == ONLY else f"order {row.order} seed {row.seed}"


# -- outcomes ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """One arm's outcome.

    Attributes:
        arm: method and size.
        mean: over seeds; None where a cell lacks what the outcome needs, or no seed has every order.
        difference: the arm minus the baseline, over the pairs; None for the baseline itself and where nothing pairs.
        remarks: cells without a partner, seeds that do not count, or why there is no mean.
        margin: the best cell's distance below the unigram line, nats; None where the outcome reads no loss.
        concludes: whether the difference may be called an effect: every planned cell is there, came through and pairs.
    """

    arm: Arm
    mean: Interval | None
    difference: Interval | None = None
    remarks: tuple[str, ...] = ()
    margin: float | None = None
    concludes: bool = False


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
    return OutcomeTable(name, spec, tuple(_line(compared, spec, arm) for arm in compared.cells))


def _line(compared: Comparison, spec: Outcome, arm: Arm) -> Line:
    """One arm's mean and its paired difference, which an outcome of two cells already is."""
    rows, remarks = whole_rows(compared, arm)
    if not rows or compared.reference(spec, arm) == arm:
        return Line(arm, None, remarks=remarks)
    try:
        partners = partners_of(compared, spec, rows)
        mean = over_seeds(values(compared, spec, rows), rows, exact=spec.exact)
        margins = best(margin(spec, row.measures, order=row.sequence) for row in (*rows, *partners))
    except InputError as error:
        return Line(arm, None, remarks=(f"not measured: {error}",))
    base = compared.baseline(arm)
    if isinstance(spec, Relative):
        told = (*remarks, *remarks_on(compared, spec, rows))
        return Line(arm, mean, mean, told, margins, concludes=len(rows) == compared.planned)
    if arm == base or base not in compared.cells:
        return Line(arm, mean, remarks=remarks, margin=margins)
    matched = paired(compared, arm, base)
    if not matched.pairs:
        return Line(arm, mean, remarks=matched.remarks, margin=margins)
    left, right = zip(*matched.pairs, strict=True)
    try:
        other = values(compared, spec, right)
    except InputError as error:
        return Line(arm, mean, remarks=(f"baseline not measured: {error}",), margin=margins)
    own = values(compared, spec, left)
    difference = over_seeds([a - b for a, b in zip(own, other, strict=True)], left, exact=spec.exact)
    concludes = not compared.wanting((arm, base)) and len(left) == compared.planned
    return Line(arm, mean, difference, matched.remarks, margins, concludes)


def values(compared: Comparison, spec: Outcome, rows: Sequence[Row]) -> list[float]:
    """The outcome of each row.

    Raises:
        InputError: a row lacks what the outcome needs, such as its partner in another method.
    """
    partners: dict[int, Row] = dict(enumerate(partners_of(compared, spec, rows)))
    return [
        compute(spec, row.measures, order=row.sequence, partner=partners[at].measures if at in partners else None)
        for at, row in enumerate(rows)
    ]


def partners_of(compared: Comparison, spec: Outcome, rows: Sequence[Row]) -> list[Row]:
    """Of each row its partner in the outcome's other method; none for an outcome of a single cell.

    Raises:
        InputError: a row has no partner.
    """
    found = []
    for row in rows:
        arm = Arm(row.method, row.size)
        other = compared.reference(spec, arm)
        if other is None:
            return []
        if other not in compared.cells:
            raise InputError(f"{other.label} has no cells to compare with")
        partner = next((theirs for own, theirs in paired(compared, arm, other).pairs if own is row), None)
        if partner is None:
            raise InputError(f"{cell_name(row)} has no partner in {other.label}")
        found.append(partner)
    return found


def remarks_on(compared: Comparison, spec: Relative, rows: Sequence[Row]) -> list[str]:
    """What a reader must know about the numbers of some rows and their partners."""
    pairs = zip(rows, partners_of(compared, spec, rows), strict=True)
    told = [(cell_name(row), spec.remark(row.measures, partner.measures)) for row, partner in pairs]
    return [f"{name} {remark}" for name, remark in told if remark is not None]


def informative(margin: float | None) -> bool:
    """Whether the best cell lies far enough below the unigram line; outcomes that read no loss always do."""
    return margin is None or round(margin, DECIMALS) >= INFORMATIVE


def best(margins: Iterable[float | None]) -> float | None:
    """The largest margin, None where no loss is read."""
    known = [value for value in margins if value is not None]
    return max(known) if known else None


def unequal_tokens(compared: Comparison, arm: Arm) -> bool:
    """Whether an arm's cells saw other amounts of text than the baseline's."""
    base = compared.cells.get(compared.baseline(arm), ())
    if not base:
        return False
    low, high = min(row.tokens for row in base), max(row.tokens for row in base)
    own = [row.tokens for row in compared.cells[arm]]
    return max(own) > high * (1 + EQUAL_TOKENS) or min(own) < low * (1 - EQUAL_TOKENS)
