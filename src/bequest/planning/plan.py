"""What a plan says: frozen records, one per stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bequest.recipe.sections import Recipe, Reference, Section


@dataclass(frozen=True)
class StagePlan:
    """What one stage will make and take.  ``None`` means: does not apply, or cannot be known before it runs.

    ``params`` counts the model made (an adapter's base is not counted again: ``trainable`` is the adapter).  FLOPs and
    tokens are those of the whole stage; bytes are upper estimates (see :mod:`bequest.planning.estimates`).
    """

    name: str
    kind: str
    section: Section
    parents: tuple[Reference, ...]
    config: dict[str, Any] | None = None
    params: int | None = None
    trainable: int | None = None
    tokens: int | None = None
    updates: int | None = None
    train_flops: float | None = None
    teacher_flops: float = 0.0
    memory_bytes: int | None = None
    disk_bytes: int = 0
    checkpoint_bytes: int = 0
    exact: bool | None = None
    verdict: str | None = None
    inferred: Mapping[str, str] = field(default_factory=dict)
    objective: str | None = None
    block: int | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """The plan of a whole recipe."""

    recipe: Recipe
    stages: tuple[StagePlan, ...]
    packed_bytes: int
    """Disk that packed corpora take in the cache, about."""

    @property
    def train_flops(self) -> float:
        """FLOPs of all students."""
        return sum(stage.train_flops or 0.0 for stage in self.stages)

    @property
    def teacher_flops(self) -> float:
        """FLOPs of all teachers."""
        return sum(stage.teacher_flops for stage in self.stages)

    @property
    def memory_bytes(self) -> int:
        """Memory of the hungriest stage."""
        return max((stage.memory_bytes or 0 for stage in self.stages), default=0)

    @property
    def disk_bytes(self) -> int:
        """Disk that the run directory takes in the end."""
        return sum(stage.disk_bytes for stage in self.stages)

    def stage(self, name: str) -> StagePlan:
        """The plan of the stage of this name."""
        return next(stage for stage in self.stages if stage.name == name)
