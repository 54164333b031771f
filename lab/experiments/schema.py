"""What an experiment file may say: methods, orders, sizes, tuning, scales, a recipe, outcomes and claims.

Unknown keys are refused, except where free variables stand: those of a method, a size and a scale are named by the
file itself and reach the recipe as ``${method.X}``, ``${size.X}`` and ``${scale.X}``.  Made by
:func:`lab.experiments.reading.load_experiment`, which also checks what refers to what.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from bequest.recipe.quantities import Seed
from lab.experiments.outcomes import OutcomeSpec

ONLY = "-"
"""The name of the one order or size of an experiment that declares none."""


class Strict(BaseModel):
    """Frozen, and no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Free(BaseModel):
    """Frozen, with free variables beside the keys that mean something here."""

    model_config = ConfigDict(extra="allow", frozen=True)

    @property
    def variables(self) -> dict[str, Any]:
        """The free variables, as the file writes them."""
        return dict(self.model_extra or {})


class Choose(Strict):
    """By which outcome the tuned value is chosen, and in which direction it is good."""

    outcome: str
    best: Literal["lower", "higher"]


class Tuning(Strict):
    """The candidates of one variable, tried on the pilot seed: ``${tuned.VARIABLE}`` in the recipe."""

    variable: str
    values: tuple[Any, ...] = Field(min_length=1)
    choose: Choose


class OwnTuning(Strict):
    """What a method tunes differently; everything left out is the experiment's."""

    variable: str | None = None
    values: tuple[Any, ...] | None = Field(None, min_length=1)
    choose: Choose | None = None


class Method(Free):
    """One thing compared: its variables, and whether its batches differ from the baseline's by design.

    Attributes:
        says: what it is, in words; the page shows this instead of the variables.
    """

    says: str | None = None
    changes_batches: bool = False
    tuning: OwnTuning | None = None


class Scale(Free):
    """How large the experiment is run: free variables, the seeds reported, and the pilot seed, which is not.

    Attributes:
        seeds: one cell each.
        pilot: the seed of the pilot cells.
        pilot_variables: what pilot cells take instead of the scale's own variables.
        cell_minutes: how long a cell is expected to take, where none has run yet.
        expected_hours: how long the whole is expected to take; for the reader.
    """

    seeds: tuple[Seed, ...] = Field(min_length=1)
    pilot: Seed | None = None
    pilot_variables: dict[str, Any] = Field(default_factory=dict)
    cell_minutes: float | None = Field(None, gt=0, allow_inf_nan=False)
    expected_hours: float | None = Field(None, gt=0, allow_inf_nan=False)

    def variables_of(self, role: str) -> dict[str, Any]:
        """The variables of a ``final`` or a ``pilot`` cell."""
        return {**self.variables, **(self.pilot_variables if role == "pilot" else {})}


class Claim(Strict):
    """What is expected, by us or by a paper; the rows give the verdict."""

    says: str
    outcome: str
    of: str
    against: str | None = None
    ratio: bool = False
    expect: str
    source: str | None = None
    paper: str | None = None


class Experiment(Strict):
    """A whole experiment file; ``notes`` is what a reader of its tables must know besides."""

    name: str
    question: str
    notes: tuple[str, ...] = ()
    tier: Literal["screening", "finals", "scratch"]
    baseline: str
    methods: dict[str, Method] = Field(min_length=1)
    orders: dict[str, tuple[str, ...]] = Field(default={ONLY: ()}, min_length=1)
    sizes: dict[str, dict[str, Any]] = Field(default={ONLY: {}}, min_length=1)
    tuning: Tuning | None = None
    scales: dict[str, Scale] = Field(min_length=1)
    recipe: dict[str, Any]
    student: str | tuple[str, ...] = Field(min_length=1)
    outcomes: dict[str, OutcomeSpec] = Field(min_length=1)
    claims: tuple[Claim, ...] = ()

    _source: Path = PrivateAttr(default=Path("experiment.yaml"))

    @property
    def source(self) -> Path:
        """The file it was read from."""
        return self._source

    def tuning_of(self, method: str) -> Tuning | None:
        """What is tuned for a method: the experiment's tuning with the method's own changes; None without tuning."""
        own = self.methods[method].tuning
        if self.tuning is None or own is None:
            return self.tuning
        changes = {key: value for key, value in own if value is not None}
        return self.tuning.model_copy(update=changes)

    @property
    def main_outcome(self) -> str:
        """The outcome that a progress line shows: the one that tuning goes by, else the first."""
        return self.tuning.choose.outcome if self.tuning is not None else next(iter(self.outcomes))

    def free_of_pairing(self) -> frozenset[str]:
        """The methods whose batches differ from the baseline's by design."""
        return frozenset(name for name, method in self.methods.items() if method.changes_batches)


RESERVED: Mapping[str, type[Free]] = {"methods": Method, "scales": Scale}
"""Sections whose entries mix keys that mean something with free variables."""
