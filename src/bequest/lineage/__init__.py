"""What a generation knows about its own history: ``lineage.json`` beside the weights.

A lineage names the artefact by three digests (weights, config, tokenizer), its parents by their ids, and says what was
done, with which data, at what cost, and what was measured.  Its ``id`` depends on the weights, the parents and the
operation only: neither the place, the name, the cost nor later measurements move it.  Nothing secret goes in: no
environment dump, no token, no absolute path.  At the bottom of the import order; no torch.

Small run::

    python -c "from bequest.lineage import weights_digest; print(weights_digest('path/to/model'))"
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from bequest import storage
from bequest.errors import InputError
from bequest.lineage.digesting import (
    config_digest,
    digests,
    kind_of,
    tokenizer_digest,
    tokenizer_value_digest,
    weights_digest,
)
from bequest.lineage.discretion import clean, environment, plain
from bequest.lineage.records import (
    SCHEMA_VERSION,
    Ancestor,
    Cost,
    DataUse,
    Digests,
    Environment,
    Lineage,
    Operation,
    Parent,
)

__all__ = [
    "FILE",
    "SCHEMA_VERSION",
    "Ancestor",
    "Cost",
    "DataUse",
    "Digests",
    "Environment",
    "Lineage",
    "Operation",
    "Parent",
    "add_measures",
    "ancestry",
    "check_id",
    "clean",
    "config_digest",
    "describes",
    "digests",
    "environment",
    "identity_of",
    "kind_of",
    "lineage_id",
    "make_lineage",
    "parent_of",
    "proven_id",
    "read_lineage",
    "relative_path",
    "tokenizer_digest",
    "tokenizer_value_digest",
    "weights_digest",
    "write_lineage",
]
FILE = "lineage.json"


def lineage_id(weights: str, parents: Iterable[Parent], operation: Operation) -> str:
    """The id of an artefact: its weights, its parents (role and id) and its operation; not its name or place."""
    return storage.value_digest(
        {
            "weights": weights,
            "parents": [[parent.role, parent.id] for parent in parents],
            "operation": operation.model_dump(mode="json"),
        }
    )


def identity_of(directory: str | os.PathLike[str]) -> str:
    """The id in ``lineage.json``; for a directory without one, the id that adopting it (with no base) would give."""
    path = Path(directory)
    if (path / FILE).is_file():
        return read_lineage(path).id
    return _adopted_id(path)


def proven_id(directory: str | os.PathLike[str]) -> str:
    """The id of the weights that lie in a directory, whatever lies beside them.

    :func:`identity_of` believes ``lineage.json``; one that was copied with a model and left beside weights that have
    changed since names something else.  Such weights have the id that adopting them (with no base) would give.
    Costs one read of the weights (digests are remembered for the process), which is what an artefact without a lineage
    costs anyway: seconds a model of some GB.
    """
    path = Path(directory)
    if (path / FILE).is_file():
        record = read_lineage(path)
        if describes(record, path):
            return record.id
    return _adopted_id(path)


def describes(lineage: Lineage, directory: str | os.PathLike[str]) -> bool:
    """Whether the weights in a directory are those of a lineage; one read of them, as in :func:`proven_id`."""
    return weights_digest(directory) == lineage.digests.weights


def check_id(lineage: Lineage, directory: str | os.PathLike[str]) -> None:
    """Refuse a lineage whose id is not that of its weights, parents and operation.

    Raises:
        InputError: it was damaged, or changed by hand.
    """
    if lineage.id != lineage_id(lineage.digests.weights, lineage.parents, lineage.operation):
        raise InputError(
            "is not the id of what stands here: the file is damaged, or was changed",
            where=Path(directory) / FILE,
            key="id",
            remedy="restore it, or make the generation again",
        )


def _adopted_id(path: Path) -> str:
    return lineage_id(weights_digest(path), (), Operation(stage="adopt"))


def parent_of(
    directory: str | os.PathLike[str],
    role: Literal["base", "teacher", "donor", "tuned", "tokenizer"],
    *,
    child: str | os.PathLike[str] | None = None,
    name: str | None = None,
) -> Parent:
    """The parent record of an artefact on disk, by the id of the weights that lie there (:func:`proven_id`).

    Args:
        directory: the parent's directory.
        role: what it was to the child.
        child: the directory in which the child will lie at the end; makes ``path``.
        name: the parent's name; by default the one in its lineage, else its directory's.
    """
    path = Path(directory)
    named = read_lineage(path).name if (path / FILE).is_file() else path.resolve().name
    relative = relative_path(path, Path(child)) if child is not None else None
    return Parent(id=proven_id(path), role=role, name=name or named, path=relative)


def relative_path(target: Path, start: Path) -> str | None:
    """``target`` as seen from ``start``, or None where that would spell out directories above the user's home."""
    target, start = target.resolve(), start.resolve()
    common = Path(os.path.commonpath([target, start]))
    if common == Path(common.anchor) or common in Path.home().resolve().parents:
        return None
    return Path(os.path.relpath(target, start)).as_posix()


# -- making, writing, reading -----------------------------------------------------------------------------------------


def make_lineage(
    directory: str | os.PathLike[str],
    *,
    name: str,
    stage: str,
    method: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    maps: Mapping[str, Any] | None = None,
    parents: Sequence[Parent] = (),
    data: Sequence[DataUse] = (),
    cost: Cost | None = None,
    measures: Mapping[str, Any] | None = None,
    seed: int | None = None,
) -> Lineage:
    """The lineage of the artefact that lies whole in ``directory`` (weights, config and tokenizer already written).

    Args:
        directory: where the artefact is now; it may be a temporary name.
        name: the stage's or artefact's name.
        stage: the stage kind (``pretrain``, ``grow``, ..., or ``adopt``, ``carry``).
        method: the method's name, several joined by ``+``.
        parameters: every parameter; secrets and absolute paths are cleaned out here.
        maps: growth maps, or the rule and seed that make them.
        parents: see :func:`parent_of`.
        data: the corpora and tasks used.
        cost: what it took.
        measures: what was measured already; :func:`add_measures` adds later ones.
        seed: the stage's seed.

    Raises:
        InputError: the directory holds no whole model or adapter.
    """
    path = Path(directory)
    found = digests(path)
    operation = Operation(
        stage=stage,
        method=method,
        parameters=clean(plain(parameters or {})),
        maps=clean(plain(maps)) if maps is not None else None,
    )
    return Lineage(
        id=lineage_id(found.weights, parents, operation),
        name=name,
        kind=kind_of(path),
        digests=found,
        parents=list(parents),
        operation=operation,
        data=list(data),
        cost=cost or Cost(),
        measures=clean(plain(measures or {})),
        environment=environment(seed),
    )


def write_lineage(directory: str | os.PathLike[str], lineage: Lineage) -> Path:
    """Write ``lineage.json`` whole or not at all; returns its path."""
    path = Path(directory) / FILE
    storage.write_json(path, lineage.model_dump(mode="json"))
    return path


def read_lineage(directory: str | os.PathLike[str]) -> Lineage:
    """Read ``lineage.json`` of a generation.

    Raises:
        InputError: there is none, it is damaged, or a newer bequest wrote it in a way this one cannot read.
    """
    path = Path(directory) / FILE
    if not path.is_file():
        kind_of(path.parent)
        raise InputError("has no lineage.json", where=path.parent, remedy=f"make one: bequest adopt {path.parent}")
    value = storage.read_json(path)
    version = value.get("schema_version") if isinstance(value, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise InputError(f"schema version {version} is newer than this bequest", where=path, remedy="update bequest")
    try:
        return Lineage.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"damaged ({first['msg']})", where=path, key=key, remedy="restore it, or adopt again"
        ) from None


def add_measures(directory: str | os.PathLike[str], measures: Mapping[str, Any]) -> Lineage:
    """Merge measurements into a generation's lineage (nested mappings are merged); the id stays."""
    old = read_lineage(directory)
    new = old.model_copy(update={"measures": _merged(old.measures, clean(plain(measures)))})
    write_lineage(directory, new)
    return new


def ancestry(directory: str | os.PathLike[str], *, role: str = "self") -> Ancestor:
    """The tree of an artefact's parents, as far as their directories still lie where they were (or by name only).

    Raises:
        InputError: ``directory`` itself has no lineage.
    """
    return _ancestor(Path(directory), read_lineage(directory), role, ())


def _ancestor(path: Path, lineage: Lineage, role: str, seen: tuple[str, ...]) -> Ancestor:
    parents = []
    for parent in lineage.parents:
        place = Path(os.path.normpath(path / parent.path)) if parent.path else None
        known = read_lineage(place) if place and (place / FILE).is_file() else None
        if place and known and known.id == parent.id and parent.id not in seen:
            parents.append(_ancestor(place, known, parent.role, (*seen, lineage.id)))
        else:
            # The directory is gone, or holds something else by now: the record is all that is known.
            parents.append(
                Ancestor(id=parent.id, name=parent.name, role=parent.role, path=None, lineage=None, parents=[])
            )
    return Ancestor(id=lineage.id, name=lineage.name, role=role, path=path, lineage=lineage, parents=parents)


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    both = dict(old)
    for key, value in new.items():
        before = both.get(key)
        both[key] = _merged(before, value) if isinstance(before, Mapping) and isinstance(value, Mapping) else value
    return both
