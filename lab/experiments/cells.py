"""The grid of an experiment at one scale: pilot cells first, then the cells that are reported.

A cell is one run: method x size x seed x order.  Its key says which row of the CSV is its own; nothing else does, and
no run directory has to exist.  Try it: ``len(cells_of(load_experiment("lab/stream.yaml"), "cpu"))``.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from bequest import storage
from bequest.errors import InputError, did_you_mean
from lab.experiments import made_up, resolving
from lab.experiments.resolving import Sources, recipe_hash
from lab.experiments.revisions import code_digest
from lab.experiments.schema import ONLY, Experiment

Key = tuple[str, str, str, str, str, int, str, str, str]
"""experiment, scale, recipe, method, size, seed, order, role, tuned (as JSON)."""
SMOKE = "smoke"


@dataclass(frozen=True)
class Cell:
    """One run of an experiment.

    Attributes:
        recipe: the recipe's hash, see :func:`lab.experiments.resolving.recipe_hash`.
        order: the order's name, and ``sequence`` the domains that it names.
        tuned: the tuned value by its variable; None for a reported cell whose value is still to be chosen.
        code: the digest of the code that runs it.
    """

    experiment: str
    tier: str
    scale: str
    recipe: str
    method: str
    size: str
    order: str
    sequence: tuple[str, ...]
    seed: int
    role: Literal["pilot", "final"]
    tuned: Mapping[str, Any] | None
    code: str

    @property
    def key(self) -> Key:
        """What the cell's row is found by, the code apart."""
        tuned = tuned_text(self.tuned or {})
        return (
            self.experiment,
            self.scale,
            self.recipe,
            self.method,
            self.size,
            self.seed,
            self.order,
            self.role,
            tuned,
        )

    @property
    def directory_name(self) -> str:
        """A name for the cell's directory, unique for its key, its code and the order's domains."""
        parts = [self.method, *(part for part in (self.size, self.order) if part != ONLY), f"s{self.seed}", self.role]
        digest = storage.value_digest([*self.key, self.code, list(self.sequence)])
        return "-".join([*parts, digest[:8]])

    def label(self) -> str:
        """The cell in words, for progress lines: ``replay-5, order A, seed 1 (lr 0.0001)``."""
        parts = [self.method]
        parts += [f"size {self.size}"] if self.size != ONLY else []
        parts += [f"order {self.order}"] if self.order != ONLY else []
        parts.append(f"{'pilot' if self.role == 'pilot' else 'seed'} {self.seed}")
        tuned = ", ".join(f"{name} {value}" for name, value in (self.tuned or {}).items())
        return ", ".join(parts) + (f" ({tuned})" if tuned else "")

    def with_tuned(self, tuned: Mapping[str, Any]) -> Cell:
        """The cell with its tuned value chosen."""
        return replace(self, tuned=dict(tuned))


def tuned_text(tuned: Mapping[str, Any]) -> str:
    """A tuned value as its column has it; numbers that are equal have equal text."""
    return json.dumps(dict(tuned), sort_keys=True)


def cells_of(experiment: Experiment, scale: str, seeds: int | None = None, methods: Collection[str] = ()) -> list[Cell]:
    """Every cell: per method and size the pilots (first order, pilot seed), then the reported ones, seeds outermost.

    Args:
        experiment: the experiment.
        scale: one of its scales.
        seeds: only the first so many of the scale's seeds.
        methods: only these methods; all of them if none is named.

    Raises:
        InputError: an unknown scale or method, more seeds than there are, or a name that the recipe's hash needs and
            nobody has.
    """
    for name in methods:
        if name not in experiment.methods:
            remedy = did_you_mean(name, experiment.methods)
            raise InputError(f"no method {name!r}", where=experiment.source, key="methods", remedy=remedy)
    if scale not in experiment.scales:
        remedy = did_you_mean(scale, experiment.scales)
        raise InputError(f"no scale {scale!r}", where=experiment.source, key="scales", remedy=remedy)
    size = experiment.scales[scale]
    if seeds is not None and not 1 <= seeds <= len(size.seeds):
        raise InputError(
            f"{seeds} seeds were asked for, and there are {len(size.seeds)}",
            where=experiment.source,
            key=f"scales.{scale}.seeds",
            remedy=f"ask for {'1' if len(size.seeds) == 1 else f'1 to {len(size.seeds)}'}, or list more",
        )
    identities = made_up.IDENTITIES if scale == SMOKE else resolving.identities()
    builder = _Builder(experiment, scale, identities, code_digest())
    cells = [*builder.pilots(), *builder.finals(size.seeds[:seeds])]
    return [cell for cell in cells if not methods or cell.method in methods]


@dataclass(frozen=True)
class _Builder:
    """Makes the cells of one scale."""

    experiment: Experiment
    scale: str
    identities: Sources
    code: str

    def pilots(self) -> list[Cell]:
        """Per method and size one cell per candidate; none without tuning."""
        pilot = self.experiment.scales[self.scale].pilot
        order = next(iter(self.experiment.orders))
        found = []
        for method in self.experiment.methods:
            tuning = self.experiment.tuning_of(method)
            if tuning is None or pilot is None:
                continue
            for size in self.experiment.sizes:
                for value in tuning.values:
                    found.append(self.cell(method, size, order, pilot, "pilot", {tuning.variable: value}))
        return found

    def finals(self, seeds: Collection[int]) -> list[Cell]:
        """One cell per seed, order, size and method: an experiment that is cut short has whole seeds."""
        return [
            self.cell(method, size, order, seed, "final", None if self.experiment.tuning_of(method) else {})
            for seed in seeds
            for order in self.experiment.orders
            for size in self.experiment.sizes
            for method in self.experiment.methods
        ]

    def cell(
        self,
        method: str,
        size: str,
        order: str,
        seed: int,
        role: Literal["pilot", "final"],
        tuned: Mapping[str, Any] | None,
    ) -> Cell:
        """One cell with its hash."""
        return Cell(
            experiment=self.experiment.name,
            tier=self.experiment.tier,
            scale=self.scale,
            recipe=recipe_hash(self.experiment, self.scale, method, size, order, self.identities, role),
            method=method,
            size=size,
            order=order,
            sequence=self.experiment.orders[order],
            seed=seed,
            role=role,
            tuned=tuned,
            code=self.code,
        )
