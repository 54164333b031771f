"""Masks on the update: ``p <- p_old + (1 - I) * (p_new - p_old)``, per unit, for any optimizer.

Adam's step does not change when its gradient is scaled by a constant, so a mask on gradients protects nothing; the mask
has to act on the step itself, which also damps momentum and decoupled weight decay.  Step hooks on the *inner*
optimizer snapshot and blend with ``torch.lerp``, which is exact at 0 and at 1 and works on DTensors.  Attach after
``prepare``: sharding replaces the parameters, and hooks registered earlier would silently do nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bequest.errors import RunError


class MaskedUpdate:
    """The masks of one run on one optimizer."""

    def __init__(self, model: nn.Module, optimizer: Any, importance: Mapping[str, Tensor]) -> None:
        """Attach to ``optimizer`` (the inner one of accelerate's wrapper is found here).

        Args:
            model: the plain or wrapped model after ``prepare``; masks go by its parameters' names, wrappers removed.
            optimizer: what the trainer steps.
            importance: I in [0, 1] by parameter name, broadcastable to the parameter ([out, 1], [1, in], or full).

        Raises:
            RunError: a name that is no parameter, a parameter that this optimizer does not step, or a bad mask.
        """
        self.optimizer = inner_optimizer(optimizer)
        named = {plain_name(name): parameter for name, parameter in model.named_parameters()}
        stepped = {id(parameter) for group in self.optimizer.param_groups for parameter in group["params"]}
        self.masked: dict[str, tuple[Tensor, Tensor]] = {}
        for name, value in importance.items():
            if name not in named:
                raise RunError("a mask names no parameter of the model", key=name, remedy="check the method's masks")
            parameter = named[name]
            if id(parameter) not in stepped:
                raise RunError(
                    "the optimizer does not step this masked parameter",
                    key=name,
                    remedy="attach masks after the model is prepared",
                )
            if not bool(((value >= 0) & (value <= 1)).all()):
                raise RunError("a mask lies outside [0, 1]", key=name, remedy="normalise the importance")
            try:
                value.expand(parameter.shape)
            except RuntimeError:
                raise RunError(
                    f"a mask of shape {tuple(value.shape)} does not fit {tuple(parameter.shape)}",
                    key=name,
                    remedy="give one value per row or column",
                ) from None
            self.masked[name] = parameter, place_like(value, parameter)
        self.before: dict[str, Tensor] = {}
        self.handles = [
            self.optimizer.register_step_pre_hook(self.remember),
            self.optimizer.register_step_post_hook(self.blend),
        ]
        self.witness: dict[str, Tensor] | None = {
            name: parameter.detach().clone() for name, (parameter, _) in self.masked.items()
        }

    def remember(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """Before a step: keep the old values of masked parameters."""
        self.before = {name: parameter.detach().clone() for name, (parameter, _) in self.masked.items()}

    @torch.no_grad()
    def blend(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """After a step: move only by the free share of the update."""
        for name, (parameter, free) in self.masked.items():
            parameter.copy_(torch.lerp(self.before[name], parameter, free))
        self.before = {}

    def check_first_step(self) -> None:
        """After the first update: what is fully protected has not moved.

        Raises:
            RunError: it has; the hooks are not on the optimizer that steps.
        """
        if self.witness is None:
            return
        for name, (parameter, free) in self.masked.items():
            moved = local(parameter.detach()) - local(self.witness[name])
            protected = (local(free) == 0).expand_as(moved)
            if bool((moved[protected] != 0).any()):
                raise RunError(
                    "a fully protected unit moved in the first update",
                    key=name,
                    remedy="attach masks to the inner optimizer after the model is prepared",
                )
        self.witness = None

    def detach(self) -> None:
        """Take the hooks off."""
        for handle in self.handles:
            handle.remove()


def inner_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """What accelerate's wrapper (or several) steps in the end."""
    inner = optimizer
    while isinstance(inner, torch.optim.Optimizer) and "optimizer" in vars(inner):
        inner = vars(inner)["optimizer"]
    found: torch.optim.Optimizer = inner
    return found


def plain_name(name: str) -> str:
    """A parameter's name without the wrappers of DDP, FSDP and torch.compile."""
    return ".".join(part for part in name.split(".") if part not in ("module", "_orig_mod", "_fsdp_wrapped_module"))


def local(value: Tensor) -> Tensor:
    """This process's shard of a DTensor, or the tensor itself."""
    from torch.distributed.tensor import DTensor

    return value.to_local() if isinstance(value, DTensor) else value


def place_like(importance: Tensor, parameter: Tensor) -> Tensor:
    """``1 - importance``, of the parameter's dtype and rank, on its device, sharded as it is.

    A mask dimension of size 1 cannot be split, so it is replicated where the parameter is sharded along it.
    """
    from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

    free = (1 - importance.to(torch.float32)).to(device=parameter.device, dtype=parameter.dtype)
    free = free.reshape((1,) * (parameter.dim() - free.dim()) + tuple(free.shape))
    if not isinstance(parameter, DTensor):
        return free
    placements = [
        placement if isinstance(placement, Shard) and free.shape[placement.dim] > 1 else Replicate()
        for placement in parameter.placements
    ]
    return distribute_tensor(free, parameter.device_mesh, placements)
