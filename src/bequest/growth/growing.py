"""Growing a live model: plan, maps, surgery, and a model of the target's class that holds the result."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bequest.anatomy.fills import check_maps
from bequest.anatomy.row_blocks import fill_tensor
from bequest.anatomy.surgery import check_weights
from bequest.checkpoints import new_model, takes_grouped_experts
from bequest.errors import AnatomyError
from bequest.growth.expert_rows import upcycled_tensors
from bequest.growth.plan import GrowthPlan, Method, plan_growth

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def grow(
    model: PreTrainedModel,
    to: Mapping[str, Any],
    method: Method = "auto",
    seed: int = 0,
    *,
    training_follows: bool = False,
) -> PreTrainedModel:
    """A larger model that holds what a smaller one knows; the smaller one is left as it was.

    Args:
        model: any family with a table (``bequest list families``).
        to: canonical or native size names -> target values; the others follow (``plan_growth`` says how).
        method: ``auto`` (the family's exact map, identity blocks), a name, a mapping with ``name``, or a list.
        seed: for methods that draw.
        training_follows: whether the model will be trained: ``auto`` then adds null-space noise, without which copies
            stay copies for ever.

    Returns:
        A model of the same class, dtype, device and mode.

    Raises:
        InputError: sizes or methods that cannot be; the key and a legal value are named.
        AnatomyError: the model and its family's table disagree.
    """
    return grow_planned(model, plan_growth(model, to, method, seed=seed, training_follows=training_follows))


def grow_planned(model: PreTrainedModel, plan: GrowthPlan) -> PreTrainedModel:
    """Grow a model as planned for it.

    The tensors are filled by the same blocks as from disk to disk, so that both give the same bits; what must be
    differentiated goes through :func:`bequest.anatomy.surgery.grow_tensors`.
    """
    maps = plan.final_maps()
    weights = {name: parameter.detach() for name, parameter in model.named_parameters(remove_duplicate=False)}
    check_weights(weights, plan.source)
    if plan.upcycling is not None:
        return holding(model, plan, upcycled_tensors(weights, plan))
    check_maps(plan.source, plan.target, maps)
    read, made = weights.__getitem__, plan.target.tensors.items()
    return holding(model, plan, {name: fill_tensor(read, tensor, plan.source, maps) for name, tensor in made})


def holding(model: PreTrainedModel, plan: GrowthPlan, grown: Mapping[str, torch.Tensor]) -> PreTrainedModel:
    """A model of the target's class that holds the grown tensors; in everything else it is like the smaller one.

    Raises:
        AnatomyError: the tensors and the class disagree.
    """
    bigger = new_model(plan.target_config, seed=plan.seed).to(device=model.device, dtype=model.dtype)
    missing, unexpected = bigger.load_state_dict(grown, strict=False)
    left = [name for name in missing if name not in plan.target.tied and name in plan.target.tensors]
    if left or unexpected:
        raise AnatomyError("the grown tensors do not fit the target's class", key=[*left, *unexpected][0])
    bigger.tie_weights()
    _run_alike(bigger, model)
    if model.can_generate():
        bigger.generation_config = copy.deepcopy(model.generation_config)
    return bigger.train(model.training)


def _run_alike(bigger: PreTrainedModel, model: PreTrainedModel) -> None:
    """The larger model computes with the same attention and experts kernels as the smaller one, where it can."""
    bigger.set_attn_implementation(model.config._attn_implementation)
    if "num_experts_per_tok" in model.config.to_dict() and takes_grouped_experts(bigger):
        bigger.set_experts_implementation(model.config._experts_implementation)
