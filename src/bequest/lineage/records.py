"""The records of ``lineage.json``: pydantic models, immutable."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 1


class Record(BaseModel):
    """Base of the records below: immutable; keys that a newer bequest added survive reading and writing."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Digests(Record):
    """SHA-256 of what the artefact is; ``tokenizer`` is None where the directory holds none."""

    weights: str
    config: str
    tokenizer: str | None = None


class Parent(Record):
    """An artefact that this one was made from; ``path`` is relative to the directory of the child."""

    id: str
    role: Literal["base", "teacher", "donor", "tuned", "tokenizer"]
    name: str
    path: str | None = None


class Operation(Record):
    """What was done: the stage kind, the method, every parameter, and the growth maps (or the rule that makes them)."""

    stage: str
    method: str | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    maps: dict[str, Any] | None = None


class DataUse(Record):
    """One corpus or task that went in: its fingerprint, the tokens taken from it, its licence."""

    name: str
    fingerprint: str
    tokens: int | None = None
    licence: str | None = None


class Cost(Record):
    """What it took: FLOPs of the trained model and of teachers, training tokens, seconds, and on what device."""

    train_flops: float = 0.0
    teacher_flops: float = 0.0
    tokens: int = 0
    wall_seconds: float = 0.0
    device: str | None = None


class Environment(Record):
    """With what it was made: package versions, seed, the revision of the user's repository, the command."""

    versions: dict[str, str] = Field(default_factory=dict)
    seed: int | None = None
    git_revision: str | None = None
    command: str | None = None


class Lineage(Record):
    """The content of ``lineage.json``."""

    schema_version: int = SCHEMA_VERSION
    id: str
    name: str
    kind: Literal["model", "adapter"] = "model"
    digests: Digests
    parents: list[Parent] = Field(default_factory=list)
    operation: Operation
    data: list[DataUse] = Field(default_factory=list)
    cost: Cost = Field(default_factory=Cost)
    measures: dict[str, Any] = Field(default_factory=dict)
    environment: Environment = Field(default_factory=Environment)

    @property
    def short_id(self) -> str:
        """The first twelve hex digits, for people."""
        return self.id[:12]

    def parent(self, role: str) -> Parent | None:
        """The first parent with this role, or None."""
        return next((parent for parent in self.parents if parent.role == role), None)


class Ancestor(Record):
    """A node of a family tree: an artefact, what it was to the node below, and its own parents."""

    id: str
    name: str
    role: str
    path: Path | None
    lineage: Lineage | None
    parents: list[Ancestor]
