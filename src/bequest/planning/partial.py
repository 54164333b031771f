"""What a stage trains of its model, what that costs, and the optimizer state that it starts from.  No torch."""

from __future__ import annotations

from dataclasses import dataclass

from bequest.errors import InputError
from bequest.planning.artefacts import Artefact, complaint
from bequest.planning.settings import train_settings
from bequest.recipe.quantities import short
from bequest.recipe.references import key_of
from bequest.recipe.sections import Budgeted, Grow, Pretrain, Recipe, Section

ADAM = ("adamw_torch", "adamw_torch_fused")
"""transformers' names of the optimizers whose state can be kept."""


@dataclass(frozen=True)
class Part:
    """How many parameters a stage trains, its training FLOPs per token on average, and what the plan says of it."""

    trainable: int
    flops_per_token: float
    notes: tuple[str, ...] = ()


def part_trained(recipe: Recipe, section: Budgeted, artefact: Artefact, head_share: float) -> Part:
    """The part of a model that a language-model stage trains.

    Raises:
        InputError: new blocks where none are recorded, or prefixes that the model does not have.
    """
    anatomy = artefact.anatomy
    params, whole = anatomy.parameters(), anatomy.flops(section.block, head_share=head_share)
    if section.train_only is not None:
        if not artefact.new_layers:
            raise InputError(
                f"{artefact.name} has no new blocks: neither it nor a base of it was grown in depth",
                where=recipe.source,
                key=key_of(section, "train_only"),
                remedy="start from a grow stage that adds layers, or from a directory whose lineage.json records one",
            )
        added = [tensor for tensor in anatomy.tensors.values() if tensor.layer in artefact.new_layers]
        trainable = sum(tensor.elements for tensor in added)
        # A frozen weight needs no gradient of its own: half of its backward pass.
        flops = whole.forward + whole.backward * (1 + trainable / params) / 2
        layers = ", ".join(str(layer) for layer in artefact.new_layers)
        note = f"trains {short(trainable)} of {short(params)} parameters: the new blocks (layers {layers}, from 0)"
        return Part(trainable, flops, (note,))
    with complaint(recipe, section, ""):
        stage = train_settings(section).two_stage
        if stage is None:
            return Part(params, whole.train)
        depths = stage.depths(anatomy.layers)
    share = stage.until if stage.until <= 1 else stage.until / section.tokens
    first = stage.mean_flops(anatomy, section.block, head_share)
    note = (
        f"the first {share:.3g} of the tokens train prefixes of {', '.join(map(str, depths))} layers, each update the "
        f"top {stage.block} of one and the head, then the whole model"
    )
    return Part(params, share * first + (1 - share) * whole.train, (note,))


def check_optimizer(recipe: Recipe, section: Section, base: Artefact | None) -> None:
    """Refuse to keep a state that is none of Adam's, or to start from one that the base does not keep.

    Raises:
        InputError: it cannot be kept, or there is none.
    """
    wanted = section.optimizer if isinstance(section, Pretrain | Grow) else "fresh"
    if wanted not in ("fresh", "reset") and base is not None and not base.optimizer:
        raise InputError(
            f"{base.name} keeps no optimizer state",
            where=recipe.source,
            key=key_of(section, "optimizer"),
            remedy=f"set {key_of(base.stage, 'keep_optimizer')}=true"
            if isinstance(base.stage, Pretrain)
            else "start from a pretrain stage with keep_optimizer: true",
        )
    if not isinstance(section, Pretrain) or not (section.keep_optimizer or wanted == "inherit"):
        return
    key = "keep_optimizer" if section.keep_optimizer else "optimizer"
    named = str(section.training.get("optim", ADAM[0]))
    for option, refused in (("optim", named not in ADAM), ("deepspeed", section.training.get("deepspeed"))):
        if refused:
            raise InputError(
                f"does not go with training.{option}={section.training[option]}",
                where=recipe.source,
                key=key_of(section, key),
                remedy=f"drop one of the two (the state of {' and '.join(ADAM)} can be kept)",
            )
