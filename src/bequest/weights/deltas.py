"""What tuning added to a base, and adding it to another base of the same shape.

Recyclable Tuning (Qin et al., Findings of ACL 2023, arXiv 2305.08702), direct application of a full fine-tune::

    θ = θ_new + s · (θ_tuned − θ_old)        float backbone tensors, matched by name
    head = head_tuned                        a copy, never arithmetic

Deviation from the released code, which matches tensors by their position in the state dict and adds the two random
heads to each other: names decide here, and a tensor that the old base does not have is copied.  Differences and sums
are taken in fp32 and cast once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bequest.errors import InputError


@dataclass(frozen=True)
class Delta:
    """What tuning did to one base.

    Attributes:
        difference: name → tuned − base in fp32, shape of the tensor, for every float tensor that both have.
        absolute: name → tuned tensor that the base lacks (a task head), to be copied.
    """

    difference: dict[str, Tensor]
    absolute: dict[str, Tensor]

    def norm(self) -> float:
        """‖θ_tuned − θ_old‖₂ over all differences."""
        return math.sqrt(sum(float(value.double().square().sum()) for value in self.difference.values()))


def delta(tuned: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> Delta:
    """The difference between tuned weights and the base they were tuned from.

    Args:
        tuned: name → tensor of the tuned model.
        base: name → tensor of its base.  Names that the tuned model lacks (the base's LM head) are left out.

    Raises:
        InputError: no name is shared, or a shared tensor has another shape.
    """
    difference: dict[str, Tensor] = {}
    absolute: dict[str, Tensor] = {}
    for name, value in tuned.items():
        if name not in base:
            absolute[name] = value.detach().clone()
            continue
        refuse_shape(name, value, base[name])
        if value.is_floating_point():
            difference[name] = value.detach().float() - base[name].detach().float()
    if not difference:
        raise InputError(
            "the tuned weights and the base share no tensor name", remedy="give the base it was tuned from"
        )
    return Delta(difference, absolute)


def apply_delta(new: Mapping[str, Tensor], change: Delta, *, scale: float = 1.0) -> dict[str, Tensor]:
    """The new base with the old tuning added: θ_new + s · Δ, absolute tensors copied.

    Args:
        new: name → tensor of the new base; not modified.
        change: what :func:`delta` returned.
        scale: s; 0 gives the new base's tensors bit for bit, with the tuned head.

    Returns:
        name → tensor, in the new base's dtypes.

    Raises:
        InputError: a difference finds no tensor of its name and shape in the new base.
    """
    result = {name: value.detach().clone() for name, value in new.items()}
    for name, value in change.difference.items():
        if name not in new:
            raise InputError("the new base has no such tensor", key=name, remedy="its family or head differs")
        refuse_shape(name, value, new[name])
        if scale != 0.0:
            result[name] = (new[name].detach().float() + scale * value).to(new[name].dtype)
    result.update({name: value.clone() for name, value in change.absolute.items()})
    return result


def rounding_share(tuned: Mapping[str, Tensor], base: Mapping[str, Tensor], stored: torch.dtype) -> float:
    """Estimated share of ‖Δ‖ that is rounding when both models were stored in ``stored`` (0 = nothing was lost).

    Both ends carry a rounding error of ulp/√12 root mean square; 16-bit files of a lightly tuned model lose a large
    part of Δ (for ‖Δ‖/‖θ‖ = 1e-3 about a third in fp16, more than all of it in bf16).
    """
    bits = -math.log2(torch.finfo(stored).eps)
    noise = 0.0
    for value in (*tuned.values(), *(base[name] for name in tuned if name in base)):
        if value.is_floating_point():
            ulp = torch.exp2(torch.floor(torch.log2(value.detach().abs().double().clamp_min(1e-38))) - bits)
            noise += float((ulp.square() / 12).sum())
    total = delta(tuned, base).norm()
    return math.sqrt(noise) / total if total else math.inf


def refuse_shape(name: str, left: Tensor, right: Tensor) -> None:
    """Raise InputError naming the tensor when two shapes differ."""
    if left.shape != right.shape:
        raise InputError(
            f"shapes differ: {tuple(left.shape)} and {tuple(right.shape)}",
            key=name,
            remedy="weights of another shape need the growth map between the two bases",
        )
