"""What a stage hands on to the next one besides weights, on disk beside the generation that it belongs to.

``objective/state.json`` holds the state as :meth:`Objective.end` returned it; each tensor in it is a mapping with the
one key ``tensor``, the tensor's name in ``objective/tensors.safetensors``.  ``optimizer.safetensors`` holds Adam's
state by parameter (:mod:`bequest.training.adam`), where a stage keeps it.  Plain files: nothing is executed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bequest.errors import InputError
from bequest.planning import OPTIMIZER_FILE
from bequest.storage import disk_errors, file_digest, read_json, write_json
from bequest.tensor_files import read_header

if TYPE_CHECKING:
    from torch import Tensor

PLACE = "objective"
MARK = "tensor"


def keep_optimizer(directory: Path, state: Mapping[str, Tensor] | None) -> None:
    """Write an optimizer's state into a generation's directory; nothing for ``None``."""
    if state is None:
        return
    from safetensors.torch import save_file

    with disk_errors(directory):
        save_file(dict(state), directory / OPTIMIZER_FILE)


def kept_optimizer(directory: Path) -> dict[str, Tensor]:
    """The optimizer's state that lies beside a generation, on the CPU.

    Raises:
        InputError: there is none, or the file is torn.
    """
    from safetensors.torch import load_file

    return load_file(optimizer_file(directory))


def optimizer_digest(directory: Path) -> str:
    """The digest of the optimizer's state beside a generation: a stage that starts from it runs again with it.

    Raises:
        InputError: there is none, or the file is torn.
    """
    return file_digest(optimizer_file(directory))


def optimizer_file(directory: Path) -> Path:
    """Where the state lies, whole."""
    path = directory / OPTIMIZER_FILE
    if not path.is_file():
        remedy = "make the base with keep_optimizer: true (a grown one with optimizer: grow), or start fresh"
        raise InputError("keeps no optimizer state", where=directory, remedy=remedy)
    read_header(path)
    return path


def keep_state(directory: Path, state: Mapping[str, Any]) -> None:
    """Write a state into a generation's directory; nothing where there is none.

    Raises:
        InputError: something in it is neither a tensor nor JSON; its place is named.
    """
    if not state:
        return
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    plain = taken_apart(state, "", tensors)
    place = directory / PLACE
    place.mkdir()
    with disk_errors(place):
        if tensors:
            save_file(tensors, place / "tensors.safetensors")
        write_json(place / "state.json", plain)


def kept_state(directory: Path) -> dict[str, Any]:
    """The state that lies beside a generation, its tensors on the CPU; empty where there is none."""
    place = directory / PLACE
    if not (place / "state.json").is_file():
        return {}
    tensors: dict[str, Tensor] = {}
    if (place / "tensors.safetensors").is_file():
        from safetensors.torch import load_file

        tensors = load_file(place / "tensors.safetensors")
    state: dict[str, Any] = put_together(read_json(place / "state.json"), tensors)
    return state


def taken_apart(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """``value`` as JSON; its tensors go into ``tensors`` by their dotted place."""
    import torch

    if isinstance(value, torch.Tensor):
        # A copy of its own: safetensors refuses tensors that share memory.
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {MARK: name}
    if isinstance(value, Mapping) and MARK not in value and all(isinstance(key, str) for key in value):
        return {key: taken_apart(part, f"{name}.{key}" if name else key, tensors) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [taken_apart(part, f"{name}.{index}", tensors) for index, part in enumerate(value)]
    if value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise InputError(
        f"an objective hands on {type(value).__name__} {str(value)[:40]!r}, which cannot be kept",
        key=name,
        remedy=f"return tensors, numbers, text, lists and mappings by text (no key {MARK!r}) from end()",
    )


def put_together(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What :func:`taken_apart` took apart."""
    if isinstance(value, dict):
        if value.keys() == {MARK}:
            return tensors[value[MARK]]
        return {key: put_together(part, tensors) for key, part in value.items()}
    return [put_together(part, tensors) for part in value] if isinstance(value, list) else value
