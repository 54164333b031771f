"""Names on disk <-> names in memory, by transformers' own conversion mapping."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bequest.errors import AnatomyError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Part:
    """Where a tensor on disk stands in a parameter in memory.

    Args:
        tensor: the parameter's name in memory.
        expert: the index along its first dimension, where each expert is stored by itself; None where none is.
        rows: the rows of that expert (of the parameter, where there are no experts); None for all of them.
    """

    tensor: str
    expert: int | None = None
    rows: slice | None = None


def to_memory_names(names: Iterable[str], model: PreTrainedModel) -> dict[str, str | None]:
    """Names on disk -> names in memory, by transformers' own conversion mapping.

    Args:
        names: as in the files.
        model: a model of the class that will hold them; one from :func:`meta_model` will do.

    Returns:
        For each name the parameter it becomes (a part of), or None for a stale buffer such as ``position_ids``.
        A missing or superfluous base prefix, old names and split experts are all translated.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    transforms = get_model_conversion_mapping(model)
    renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
    state = model.state_dict()
    stale = _stale(model)
    found: dict[str, str | None] = {}
    for name in names:
        memory, _ = rename_source_key(name, renamings, converters, model.base_model_prefix, state)
        found[name] = None if memory not in state and (memory in stale or _ignored(model, memory)) else memory
    return found


def to_disk_names(names: Iterable[str], model: PreTrainedModel) -> dict[str, tuple[str, ...]]:
    """Names in memory -> the names under which ``save_pretrained`` writes them (several where a tensor is split).

    Args:
        names: parameters of the model.
        model: a model of that class; one from :func:`meta_model` will do.
    """
    import torch
    from transformers.core_model_loading import revert_weight_conversion

    state = model.state_dict()
    found = {}
    for name in names:
        if name not in state:
            raise AnatomyError("the model has no tensor of this name", key=name)
        found[name] = tuple(revert_weight_conversion(model, {name: torch.empty_like(state[name], device="meta")}))
    return found


def to_memory_parts(names: Iterable[str], model: PreTrainedModel) -> dict[str, Part | None]:
    """Names on disk -> the part of a parameter in memory that each of them holds; None for a stale buffer.

    Mixtral's files hold three matrices for each expert, which stand in two tensors in memory.  Files that hold a
    parameter whole, as memory does, are told by their names.

    Args:
        names: as in the files.
        model: a model of the class that will hold them; one from :func:`meta_model` will do.
    """
    found: dict[str, Part | None] = {}
    parts: dict[str, dict[str, Part]] = {}
    state = model.state_dict()
    for name, memory in to_memory_names(names, model).items():
        if memory is None:
            found[name] = None
            continue
        if memory not in parts:
            parts[memory] = _parts(memory, model) if memory in state and state[memory].ndim == 3 else {}
        found[name] = parts[memory].get(name, Part(memory))
    return found


def _parts(memory: str, model: PreTrainedModel) -> dict[str, Part]:
    """Name on disk -> its part of a parameter of three dimensions, as transformers takes a small one apart."""
    import torch
    from transformers.core_model_loading import revert_weight_conversion

    experts, rows, _ = model.state_dict()[memory].shape
    # Each entry says its expert and its half of the rows: gate and up lie one behind the other.
    probe = torch.arange(2 * experts).reshape(experts, 2, 1)
    found = {}
    for name, piece in revert_weight_conversion(model, {memory: probe}).items():
        if piece.ndim == 3:
            continue
        entries = piece.flatten().tolist()
        half = None if len(entries) == 2 else slice(entries[0] % 2 * rows // 2, (entries[0] % 2 + 1) * rows // 2)
        found[name] = Part(memory, entries[0] // 2, half)
    return found


def _stale(model: PreTrainedModel) -> set[str]:
    names = {name for name, _ in model.named_buffers()}
    prefix = f"{model.base_model_prefix}."
    return names | {name.removeprefix(prefix) for name in names} | {prefix + name for name in names}


def _ignored(model: PreTrainedModel, name: str) -> bool:
    patterns = model._keys_to_ignore_on_load_unexpected or []
    return any(re.search(pattern, name) for pattern in patterns) or name.endswith(
        (".masked_bias", "rotary_emb.inv_freq")
    )
