"""Which rows of an experiment's CSV count, and how many are left aside for which reason.

A final row counts when the experiment file, as it is now, plans its cell: method, size, order, seed and recipe are
those of the file, and its tuned value is the one that the pilots choose among the present candidates.  Small:

    compare(experiment, "cpu", read_rows(path)[0]).cells
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bequest.errors import InputError, RunError
from bequest.storage import value_digest
from lab.experiments import resolving
from lab.experiments.comparing import Arm, Choice, Comparison
from lab.experiments.tuning import chosen

if TYPE_CHECKING:
    from lab.experiments.rows import Row
    from lab.experiments.schema import Experiment

NEWER = "newer ones stand for their cells or recipe"
UNKNOWN = "the experiment no longer has their method, size or order"
SEED = "the scale does not list their seed"
VALUE = "their tuned value is not the one that the pilots choose"
PILOT = "they are pilots of another seed, order or recipe, or of a value that is no candidate"


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
    gathered = _Gathered(experiment, scale, sources, whole)
    for method, size in ((method, size) for size in experiment.sizes for method in experiment.methods):
        gathered.add(Arm(method, size))
    return Comparison(
        experiment,
        scale,
        gathered.cells,
        gathered.choices,
        tuple(gathered.earlier),
        gathered.failed,
        {reason: count for reason, count in gathered.left_out.items() if count},
        gathered.students,
        gathered.outside,
        gathered.stages,
    )


class _Gathered:
    """One scale's rows arm by arm."""

    def __init__(self, experiment: Experiment, scale: str, sources: resolving.Sources, rows: Sequence[Row]) -> None:
        self.experiment, self.scale, self.sources = experiment, scale, sources
        self.rows = [
            row
            for row in rows
            if row.method in experiment.methods
            and row.size in experiment.sizes
            and row.order in experiment.orders
            and experiment.orders[row.order] == row.sequence
        ]
        self.codes = Counter(row.code for row in self.rows)
        self.cells: dict[Arm, tuple[Row, ...]] = {}
        self.failed: dict[Arm, tuple[Row, ...]] = {}
        self.choices: dict[Arm, Choice] = {}
        self.earlier: list[Arm] = []
        self.left_out: Counter[str] = Counter({UNKNOWN: len(rows) - len(self.rows)})
        self.students: dict[Arm, tuple[str, ...]] = {}
        self.outside: dict[Arm, tuple[str, ...]] = {}
        self.stages: dict[Arm, tuple[str, ...]] = {}

    def add(self, arm: Arm) -> None:
        """Sort out the rows of one arm."""
        own = [row for row in self.rows if (row.method, row.size) == (arm.method, arm.size)]
        choice = self._choice(arm, [row for row in own if row.role == "pilot"])
        final = [row for row in own if row.role == "final"]
        listed = self._keep(final, [row for row in final if row.seed in self._scale.seeds], SEED)
        if not listed:
            return
        of_one, old = _of_one_recipe(listed, self._present(arm, "final"))
        self._keep(listed, of_one, NEWER)
        # Of rows of an earlier recipe nothing is concluded, and present pilots say nothing about them.
        valued = of_one if old else self._keep(of_one, _of_one_value(of_one, self._allowed(arm, choice)), VALUE)
        newest = self._keep(valued, _newest(valued, self.codes), NEWER)
        if not newest:
            return
        self.earlier += [arm] if old else []
        self.choices[arm] = choice
        came_through = tuple(row for row in newest if row.failed is None)
        if came_through:
            self.cells[arm] = came_through
        if len(came_through) < len(newest):
            self.failed[arm] = tuple(row for row in newest if row.failed is not None)
        first = next(iter(self.experiment.orders))
        found = resolving.outline(self.experiment, self.scale, arm.method, arm.size, first, self.sources)
        names = [str(body.get("name", kind)) for stage in found.recipe["stages"] for kind, body in stage.items()]
        self.students[arm] = tuple(name for name in names if name in found.student)
        self.outside[arm] = tuple(sorted(set(found.models.values())))
        self.stages[arm] = tuple(names)

    @property
    def _scale(self) -> Any:
        return self.experiment.scales[self.scale]

    def _keep(self, before: Sequence[Row], kept: Sequence[Row], reason: str) -> list[Row]:
        self.left_out[reason] += len(before) - len(kept)
        return list(kept)

    def _candidates(self, arm: Arm) -> list[dict[str, Any]]:
        """What a row's ``tuned`` may be, in the order of the file."""
        tuning = self.experiment.tuning_of(arm.method)
        return [{tuning.variable: value} for value in tuning.values] if tuning is not None else [{}]

    def _choice(self, arm: Arm, pilots: Sequence[Row]) -> Choice:
        """What the pilots of the present recipe, seed and candidates choose."""
        if self.experiment.tuning_of(arm.method) is None:
            self._keep(pilots, [], PILOT)
            return Choice((), 0, {})
        candidates, first = self._candidates(arm), next(iter(self.experiment.orders))
        present = self._present(arm, "pilot")
        asked = [
            row
            for row in pilots
            if row.recipe in present
            and row.seed == self._scale.pilot
            and row.order == first
            and dict(row.tuned) in candidates
        ]
        newest = _newest(self._keep(pilots, asked, PILOT), self.codes, by_value=True)
        self._keep(asked, newest, NEWER)
        tried = tuple(row for candidate in candidates for row in newest if dict(row.tuned) == candidate)
        if len(tried) < len(candidates):
            return Choice(tried, len(candidates), None)
        try:
            return Choice(tried, len(candidates), chosen(self.experiment, arm.method, tried))
        except (InputError, RunError):
            return Choice(tried, len(candidates), None)

    def _allowed(self, arm: Arm, choice: Choice) -> list[dict[str, Any]]:
        """The tuned values that a final row may have: the chosen one; every candidate while none is chosen."""
        return self._candidates(arm) if choice.tuned is None else [dict(choice.tuned)]

    def _present(self, arm: Arm, role: str) -> set[str]:
        """The hashes of an arm's present recipe: one, or several where orders have several lengths."""
        return {
            resolving.recipe_hash(self.experiment, self.scale, arm.method, arm.size, order, self.sources, role)
            for order in self.experiment.orders
        }


def _of_one_recipe(rows: Sequence[Row], present: set[str]) -> tuple[list[Row], bool]:
    """The rows of the present recipe, else those of the latest earlier one (on one day, the one with more rows)."""
    kept = [row for row in rows if row.recipe in present]
    if kept or not rows:
        return kept, False
    counts = Counter(row.recipe for row in rows)
    latest = {recipe: max(row.date for row in rows if row.recipe == recipe) for recipe in counts}
    newest = max(counts, key=lambda recipe: (latest[recipe], counts[recipe], recipe))
    return [row for row in rows if row.recipe == newest], True


def _of_one_value(rows: Sequence[Row], allowed: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The rows of that allowed value which most of them have; the first of several."""
    by_value = [[row for row in rows if dict(row.tuned) == value] for value in allowed]
    return max(by_value, key=len)


def _newest(rows: Sequence[Row], codes: Counter[str], *, by_value: bool = False) -> tuple[Row, ...]:
    """One row per cell: the latest; on one day the one whose code has more rows here."""
    kept: dict[tuple[str, int, tuple[tuple[str, str], ...]], Row] = {}
    for row in sorted(rows, key=lambda row: (row.date, codes[row.code], _identity(row))):
        kept[(row.order, row.seed, _tuned(row) if by_value else ())] = row
    return tuple(kept[key] for key in sorted(kept))


def _tuned(row: Row) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, repr(value)) for name, value in row.tuned.items()))


def _identity(row: Row) -> tuple[str, ...]:
    """A total order of rows that does not depend on where they stand in the file."""
    cell = (row.method, row.size, row.order, f"{row.seed:012d}", row.role, *map(str, _tuned(row)))
    made = (row.recipe, row.code, row.commit, row.machine, repr(row.wall_seconds))
    return (*cell, *made, value_digest(dict(row.measures)))
