"""What full tuning changed, as differences by name, and a new base with these differences on it.

Recyclable Tuning (Qin, Qian et al., Findings of ACL 2023, arXiv 2305.08702)::

    θ = θ_new + (θ_tuned − θ_old)     backbone tensors, by name, in fp32;   head = the tuned one

Deviation from the released code: tensors are matched by name, and the head is never added to another head (the
initialisation script there adds two random ones).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bequest import checkpoints, processes
from bequest.errors import AnatomyError, InputError
from bequest.recycling.places import located
from bequest.recycling.tuned import CLASSIFIER, Generation, Tuned

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from bequest.weights.deltas import Delta


@dataclass(frozen=True)
class FullChange:
    """What full tuning changed.

    Attributes:
        delta: differences of the backbone's tensors, and the tensors of the head.
        pad_token_id: the tuned model's.
        notes: how much of the difference is rounding, where files are 16-bit.
    """

    delta: Delta
    pad_token_id: int | None
    notes: tuple[str, ...]


def change_made(tuned: Tuned, old: Generation | None) -> FullChange:
    """What tuning changed of the base it began with.

    Raises:
        InputError: no old base, or a tensor that differs in name or shape.
    """
    from bequest.weights.deltas import delta

    if old is None:
        raise InputError(
            "a fully tuned model needs the base it was tuned on",
            where=tuned.path,
            key="old",
            remedy="give the old base, or distil",
        )
    live = checkpoints.load_model(tuned.path)
    after, before = parameters(live), backbone(tuned, old)
    with located(tuned.path):
        change = delta(after, before)
    return FullChange(change, live.config.pad_token_id, rounding_notes(tuned, old, after, before))


def write_changed(tuned: Tuned, new: Generation, change: FullChange, delta: Delta, out: Path) -> None:
    """Write the new base, in the tuned weights' variant, with a change on it.

    Args:
        tuned: the weights that the change is of.
        new: the base.
        change: as :func:`change_made` returned it.
        delta: the same change, in the new base's shapes.
        out: the directory.

    Raises:
        InputError: a difference finds no tensor of its name and shape.
    """
    from bequest.weights.deltas import apply_delta

    made = loaded(tuned, new)
    made.config.pad_token_id = change.pad_token_id
    # The fresh head is not a tensor of the new base: the tuned one is copied over it.
    with located(new.path):
        changed = apply_delta(backbone(tuned, new), delta)
    missing, unexpected = made.load_state_dict(changed, strict=False)
    wrong = [*unexpected, *(name for name in missing if name in parameters(made))]
    if wrong:
        raise AnatomyError("the new base and the tuned weights differ in this tensor", where=out, key=wrong[0])
    if processes.is_main():
        checkpoints.save_model(made, out)


def backbone(tuned: Tuned, base: Generation) -> dict[str, Tensor]:
    """The parameters of a base by the names they have in the tuned variant, without those its files do not hold."""
    model = loaded(tuned, base)
    stored = set(checkpoints.to_memory_names(checkpoints.header_shapes(base.path), model).values())
    return {name: value for name, value in parameters(model).items() if name in stored}


def loaded(tuned: Tuned, base: Generation) -> Any:
    """A base as the variant that the weights were tuned for."""
    labels = list(tuned.labels) if tuned.head == CLASSIFIER else None
    return checkpoints.load_model(base.path, head=tuned.head, labels=labels)


def parameters(model: Any) -> dict[str, Tensor]:
    """A model's parameters by name, tied ones once."""
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def rounding_notes(
    tuned: Tuned, old: Generation, after: dict[str, Tensor], before: dict[str, Tensor]
) -> tuple[str, ...]:
    """Say how much of the difference is rounding, where 16-bit files took part."""
    import torch

    from bequest.weights.deltas import rounding_share

    kinds = {kind for path in (tuned.path, old.path) for _, kind in checkpoints.header_shapes(path).values()}
    widths = {"BF16": torch.bfloat16, "F16": torch.float16}
    coarse = next((widths[kind] for kind in ("BF16", "F16") if kind in kinds), None)
    if coarse is None:
        return ()
    lost = rounding_share({name: value for name, value in after.items() if name in before}, before, coarse)
    return (f"about {lost:.0%} of the difference is rounding: the files are 16-bit",)
