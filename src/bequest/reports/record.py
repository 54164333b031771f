"""What a run left on the disk, read for the report: ``run.json`` and each stage's lineage, metrics and measures.

Nothing is imported from the stages and no weights are loaded; a parameter count comes from the safetensors header.
What is missing is left out; what is torn (the last line of a metrics file whose writer was killed) is skipped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bequest.errors import InputError
from bequest.storage import read_json
from bequest.tensor_files import read_header


@dataclass(frozen=True)
class Parent:
    """One parent of a generation: ``stage`` is its name inside the run, None for a model from outside."""

    name: str
    role: str
    stage: str | None


@dataclass(frozen=True)
class StageRecord:
    """One stage's directory as read."""

    name: str
    kind: str
    directory: Path
    parents: tuple[Parent, ...] = ()
    lineage: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    metrics: tuple[Mapping[str, Any], ...] = ()
    measures: Mapping[str, Any] = field(default_factory=dict)
    parameters: int | None = None

    @property
    def is_generation(self) -> bool:
        """Whether the stage left a model or an adapter (measure stages do not)."""
        return self.kind != "measure"

    @property
    def is_tuned(self) -> bool:
        """Whether the stage left tuned weights."""
        return self.kind in ("tune", "recycle")

    @property
    def cost(self) -> Mapping[str, Any]:
        """The lineage's cost record."""
        return mapping(self.lineage.get("cost"))

    @property
    def operation(self) -> Mapping[str, Any]:
        """The lineage's operation record."""
        return mapping(self.lineage.get("operation"))

    @property
    def settings(self) -> Mapping[str, Any]:
        """The operation's parameters."""
        return mapping(self.operation.get("parameters"))

    def parent(self, *roles: str) -> Parent | None:
        """The first parent in one of these roles, in the order of the roles."""
        return next((parent for role in roles for parent in self.parents if parent.role == role), None)


@dataclass(frozen=True)
class RunRecord:
    """A whole run as read."""

    name: str
    directory: Path
    summary: tuple[str, ...]
    stages: tuple[StageRecord, ...]

    @property
    def generations(self) -> tuple[StageRecord, ...]:
        """The stages that left something to load, in the order of the run."""
        return tuple(stage for stage in self.stages if stage.is_generation)

    def stage(self, name: str) -> StageRecord | None:
        """The stage of this name."""
        return next((stage for stage in self.stages if stage.name == name), None)

    def perplexity(self) -> dict[str, dict[str, Mapping[str, Any]]]:
        """model → corpus → measured, over all measure stages (a later one replaces an earlier one's value)."""
        return self._measured("perplexity")

    def tasks(self) -> dict[str, dict[str, Mapping[str, Any]]]:
        """model → task → measured, over all measure stages."""
        return self._measured("tasks")

    def _measured(self, what: str) -> dict[str, dict[str, Mapping[str, Any]]]:
        result: dict[str, dict[str, Mapping[str, Any]]] = {}
        for stage in self.stages:
            for model, found in mapping(stage.measures.get(what)).items():
                result.setdefault(model, {}).update(found)
        return result


def read_run(directory: Path) -> RunRecord:
    """Read a run directory.

    Raises:
        InputError: it is no run directory (no ``run.json``), or one of its JSON files is broken.
    """
    path = directory / "run.json"
    if not path.exists():
        raise InputError("no run.json here", where=directory, remedy="give the directory that `bequest run` wrote")
    run = read_json(path)
    declared = [stage for stage in run.get("stages", []) if (directory / stage["name"]).is_dir()]
    lineages = {stage["name"]: read_optional(directory / stage["name"] / "lineage.json") for stage in declared}
    by_id = {lineage["id"]: name for name, lineage in lineages.items() if lineage.get("id")}
    stages = [read_stage(directory, stage, lineages[stage["name"]], by_id) for stage in declared]
    return RunRecord(run.get("name") or directory.name, directory, tuple(run.get("summary") or ()), tuple(stages))


def read_stage(
    directory: Path, stage: Mapping[str, Any], lineage: Mapping[str, Any], by_id: Mapping[str, str]
) -> StageRecord:
    """Read one stage's sub-directory; ``by_id`` maps lineage ids to the run's stage names."""
    home = directory / stage["name"]
    named = set(by_id.values())
    parents = tuple(
        Parent(
            str(parent.get("name") or str(parent.get("id", "?"))[:12]),
            str(parent.get("role", "base")),
            by_id.get(parent.get("id", ""), parent.get("name") if parent.get("name") in named else None),
        )
        for parent in lineage.get("parents", [])
    )
    return StageRecord(
        name=stage["name"],
        kind=stage["kind"],
        directory=home,
        parents=parents,
        lineage=lineage,
        config=read_optional(home / "config.json"),
        metrics=tuple(read_lines(home / "metrics.jsonl")),
        measures=read_optional(home / "measures.json"),
        parameters=stored_parameters(home),
    )


def read_optional(path: Path) -> Mapping[str, Any]:
    """A JSON file's mapping, empty when the file is not there."""
    return mapping(read_json(path)) if path.exists() else {}


def read_lines(path: Path) -> Iterator[Mapping[str, Any]]:
    """The records of a JSON-lines file; a line torn by a kill is skipped."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict):
            yield record


def stored_parameters(directory: Path) -> int | None:
    """How many numbers the directory's safetensors files hold, from their headers; None without such files."""
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        return None
    total: int = sum(math.prod(entry["shape"]) for file in files for entry in read_header(file)[0].values())
    return total


def mapping(value: Any) -> Mapping[str, Any]:
    """``value`` if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}
