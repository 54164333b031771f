"""Adam's state as tensors by name, so that it can outlive a run: kept beside a generation, grown with it, taken up.

``<parameter>.exp_avg`` and ``<parameter>.exp_avg_sq`` have the parameter's shape, ``<parameter>.step`` none; all fp32,
by the parameter's name in memory (tied ones once).  A parameter that no update has trained has no state.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from bequest.errors import InputError
from bequest.training.masked_update import inner_optimizer, plain_name

STEP = "step"
MOMENTS = ("exp_avg", "exp_avg_sq")


def adam_inside(optimizer: Any) -> torch.optim.Adam:
    """The Adam (or AdamW) that accelerate's wrapper steps.

    Raises:
        InputError: it is another optimizer, or one that keeps a third moment.
    """
    inner = inner_optimizer(optimizer)
    if not isinstance(inner, torch.optim.Adam) or any(group["amsgrad"] for group in inner.param_groups):
        raise InputError(
            f"the state of {type(inner).__name__} cannot be kept or taken up",
            key="training.optim",
            remedy="use adamw_torch or adamw_torch_fused",
        )
    return inner


def state_by_name(optimizer: Any, model: nn.Module) -> dict[str, Tensor]:
    """The whole state on the CPU.  Every process must call this: gathering a sharded tensor takes all of them."""
    adam = adam_inside(optimizer)
    found: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        state = adam.state.get(parameter)
        if not state:
            continue
        for part in (STEP, *MOMENTS):
            value = state[part].full_tensor() if isinstance(state[part], DTensor) else state[part]
            # A copy of its own: safetensors refuses tensors that share memory.
            found[f"{plain_name(name)}.{part}"] = value.detach().to("cpu", torch.float32, copy=True).contiguous()
    return found


def take_up(optimizer: Any, model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Let a fresh optimizer go on from ``state``; a parameter that it does not name starts from nothing.

    State of parameters that are frozen in this run is left out.

    Raises:
        InputError: a state that is of no parameter of the model, of another shape, or incomplete; it is named.
    """
    adam = adam_inside(optimizer)
    groups = {id(parameter): group for group in adam.param_groups for parameter in group["params"]}
    named = {plain_name(name): parameter for name, parameter in model.named_parameters()}
    check_state(state, {name: tuple(parameter.shape) for name, parameter in named.items()})
    for name, parameter in named.items():
        if f"{name}.{STEP}" in state and id(parameter) in groups:
            moments = {part: placed(state[f"{name}.{part}"], parameter) for part in MOMENTS}
            adam.state[parameter] = {
                STEP: step_like(state[f"{name}.{STEP}"], parameter, groups[id(parameter)]),
                **moments,
            }


def check_state(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Hold a state against the parameters that it should be of.

    Raises:
        InputError: see :func:`take_up`.
    """
    for key, value in state.items():
        name, _, part = key.rpartition(".")
        if name not in shapes or part not in (STEP, *MOMENTS):
            message = "the kept optimizer state is of no parameter of the model"
        elif tuple(value.shape) != (() if part == STEP else shapes[name]):
            message = f"the kept optimizer state has {tuple(value.shape)} where the model has {shapes[name]}"
        elif any(f"{name}.{other}" not in state for other in (STEP, *MOMENTS)):
            message = "the kept optimizer state lacks a part"
        else:
            continue
        raise InputError(message, key=key, remedy="use optimizer: fresh, or make the base again")


def complete(optimizer: Any) -> None:
    """Give every parameter that has not been trained yet the state that Adam would start it with.

    A sharded checkpoint is loaded into a state of every parameter, and refuses one that lacks some.
    """
    inner = inner_optimizer(optimizer)
    if not isinstance(inner, torch.optim.Adam):
        return
    for group in inner.param_groups:
        parts = (*MOMENTS, *(("max_exp_avg_sq",) if group["amsgrad"] else ()))
        for parameter in group["params"]:
            if not inner.state.get(parameter):
                zeros = {part: torch.zeros_like(parameter, memory_format=torch.preserve_format) for part in parts}
                inner.state[parameter] = {STEP: step_like(torch.tensor(0.0), parameter, group), **zeros}


def step_like(step: Tensor, parameter: Tensor, group: Mapping[str, Any]) -> Tensor:
    """A count of steps where this optimizer wants it: on the parameter's device only if a kernel reads it there."""
    device = parameter.device if group["fused"] or group["capturable"] else torch.device("cpu")
    return step.to(device=device, dtype=torch.float32, copy=True)


def placed(value: Tensor, parameter: Tensor) -> Tensor:
    """A moment of the parameter's dtype, on its device, sharded as it is."""
    moved = value.to(device=parameter.device, dtype=parameter.dtype, copy=True)
    if isinstance(parameter, DTensor):
        return distribute_tensor(moved, parameter.device_mesh, parameter.placements)
    return moved
