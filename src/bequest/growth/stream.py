"""Checkpoint to checkpoint: one source tensor in memory at a time, one target shard written at a time.

The plan comes from the config and the files' headers, so every name and every size is accounted for before anything is
written.  Peak memory is one shard plus one tensor in float64, not a model.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from bequest import lineage
from bequest.anatomy.maps import origin_of
from bequest.anatomy.surgery import grow_tensor
from bequest.checkpoints import (
    copy_tokenizer,
    header_shapes,
    is_adapter,
    live_config,
    load_config,
    meta_model,
    to_disk_names,
    to_memory_names,
)
from bequest.errors import AnatomyError, InputError
from bequest.growth.plan import GrowthPlan, Method, plan_growth
from bequest.storage import atomic_directory, write_json
from bequest.tensor_files import check_target, weight_files

_SHARD_BYTES = 2 * 1024**3
_GENERATION = "generation_config.json"


def grow_checkpoint(
    source: str | Path,
    out: str | Path,
    to: Mapping[str, Any],
    method: Method = "auto",
    *,
    force: bool = False,
    shard_bytes: int = _SHARD_BYTES,
) -> GrowthPlan:
    """Grow a model directory into a new one, tensor by tensor, in the dtype that it is stored in.

    The directory has a lineage but no model card: ``bequest grow`` writes one beside it, as does
    ``bequest.reports.card.write_card(out)``.

    Args:
        source: a model directory with safetensors weights.
        out: the directory to make: config, weights, the source's tokenizer and generation config, a lineage.
        to, method: as for :func:`bequest.grow`.
        force: replace an existing ``out``.
        shard_bytes: the most bytes of one file of weights.

    Returns:
        The plan that was carried out; ``plan.record()`` is what a lineage keeps.

    Raises:
        InputError: no model there, or sizes or methods that cannot be.
        AnatomyError: the files and the family's table disagree; nothing is written then.
        RunError: the disk is full; nothing half-written is left.
    """
    directory = Path(source)
    if not directory.is_dir() or is_adapter(directory):
        raise InputError(
            "no such model directory", where=source, remedy="give a directory with config.json and weights"
        )
    target = check_target(out, force=force, sources=[directory])
    plan = plan_growth(load_config(directory), to, method)
    if plan.maps is None:
        raise InputError(plan.refusal or plan.reason, where=source)
    places = _places(directory, plan)
    with atomic_directory(target, force=force) as temporary:
        _write_weights(plan, places, temporary, shard_bytes)
        write_json(temporary / "config.json", _stored_config(plan, directory))
        copy_tokenizer(directory, temporary)
        if (directory / _GENERATION).is_file():
            shutil.copyfile(directory / _GENERATION, temporary / _GENERATION)
        made = lineage.make_lineage(
            temporary,
            name=Path(out).name,
            stage="grow",
            method="+".join(plan.methods),
            parameters={"to": dict(plan.to)},
            maps=plan.record(),
            parents=[lineage.parent_of(directory, "base", child=out)],
        )
        lineage.write_lineage(temporary, made)
    return plan


def _places(directory: Path, plan: GrowthPlan) -> dict[str, tuple[Path, str]]:
    """Source tensor (name in memory) -> (file, name on disk); the table and the headers must agree."""
    model = meta_model(plan.source.config)
    taken = model.state_dict().keys()
    headers = header_shapes(directory)
    memory = to_memory_names(headers, model)
    places: dict[str, tuple[Path, str]] = {}
    aliases: dict[str, tuple[Path, str]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    files = {name: file for file in weight_files(directory) for name in _names(file)}
    for name, file in files.items():
        target = memory[name]
        if target is None or (target not in taken and plan.source.droppable(target)):
            continue
        (aliases if target in plan.source.aliases else places)[target] = (file, name)
        shapes[target] = headers[name][0]
    plan.source.check(shapes)
    for alias, (file, name) in aliases.items():
        owner_file, owner = places[plan.source.tied[alias]]
        if not torch.equal(_read(file, name), _read(owner_file, owner)):
            raise AnatomyError(f"the config ties this tensor to {owner}, but they differ", where=file, key=name)
    return places


def _write_weights(plan: GrowthPlan, places: Mapping[str, tuple[Path, str]], out: Path, shard_bytes: int) -> None:
    """The target's tensors in shards; one shard is held in memory at a time."""
    assert plan.maps is not None
    disk = _disk_names(plan)
    shards = _shards(plan, {name: _width(*places[name]) for name in places}, shard_bytes)
    weight_map: dict[str, str] = {}
    total = 0
    for number, names in enumerate(shards, start=1):
        single = len(shards) == 1
        file = "model.safetensors" if single else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        held: dict[str, torch.Tensor] = {}
        for name in names:
            tensor = plan.target.tensors[name]
            t = _read(*places[origin_of(name, tensor.layer, plan.order)])
            held[disk[name]] = grow_tensor(t, tensor, plan.source, plan.maps)
            weight_map[disk[name]] = file
            total += held[disk[name]].nbytes
        save_file(held, out / file, metadata={"format": "pt"})
    if len(shards) > 1:
        index = {"metadata": {"total_size": total, "total_parameters": plan.params}, "weight_map": weight_map}
        write_json(out / "model.safetensors.index.json", index)


def _shards(plan: GrowthPlan, widths: Mapping[str, int], shard_bytes: int) -> list[list[str]]:
    """The target's names in shards of at most ``shard_bytes`` (a single tensor may exceed it)."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, tensor in plan.target.tensors.items():
        size = tensor.elements * widths[origin_of(name, tensor.layer, plan.order)]
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def _disk_names(plan: GrowthPlan) -> dict[str, str]:
    """Target tensor (name in memory) -> its one name on disk."""
    found = to_disk_names(plan.target.tensors, meta_model(plan.target_config))
    for name, names in found.items():
        if len(names) != 1:
            raise AnatomyError(f"is stored as {len(names)} tensors, which cannot be streamed yet", key=name)
    return {name: names[0] for name, names in found.items()}


def _stored_config(plan: GrowthPlan, directory: Path) -> dict[str, Any]:
    """The target's config as transformers writes it."""
    config = live_config(plan.target_config).to_dict()
    stored = load_config(directory)
    for key in ("dtype", "torch_dtype"):
        if stored.get(key) is not None:
            config["dtype"] = stored[key]
    config.pop("_name_or_path", None)
    return dict(config)


def _names(file: Path) -> list[str]:
    """The names in one safetensors file."""
    with safe_open(file, framework="pt") as stream:
        return list(stream.keys())


def _read(file: Path, name: str) -> torch.Tensor:
    with safe_open(file, framework="pt") as stream:
        tensor: torch.Tensor = stream.get_tensor(name)
    return tensor


def _width(file: Path, name: str) -> int:
    """Bytes per element of a stored tensor."""
    with safe_open(file, framework="pt") as stream:
        return {"F64": 8, "F32": 4}.get(stream.get_slice(name).get_dtype(), 2)
