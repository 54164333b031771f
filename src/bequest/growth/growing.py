"""Growing a live model: plan, maps, surgery, and a model of the target's class that holds the result."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bequest.anatomy.surgery import grow_tensors
from bequest.checkpoints import new_model
from bequest.errors import AnatomyError, InputError
from bequest.growth.plan import GrowthPlan, Method, plan_growth

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def grow(model: PreTrainedModel, to: Mapping[str, Any], method: Method = "auto", seed: int = 0) -> PreTrainedModel:
    """A larger model that holds what a smaller one knows; the smaller one is left as it was.

    Args:
        model: any family with a table (``bequest list families``).
        to: canonical or native size names -> target values; the others follow (``plan_growth`` says how).
        method: ``auto`` (fpi for the width, stack for the depth), a name, a mapping with ``name``, or a list.
        seed: for methods that draw; neither fpi nor stack does.

    Returns:
        A model of the same class, dtype, device and mode.

    Raises:
        InputError: sizes or methods that cannot be; the key and a legal value are named.
        AnatomyError: the model and its family's table disagree.
    """
    return grow_planned(model, plan_growth(model, to, method), seed=seed)


def grow_planned(model: PreTrainedModel, plan: GrowthPlan, *, seed: int = 0) -> PreTrainedModel:
    """Grow a model as planned for it."""
    if plan.maps is None:
        raise InputError(plan.refusal or plan.reason)
    weights = {name: parameter.detach() for name, parameter in model.named_parameters(remove_duplicate=False)}
    grown = grow_tensors(weights, plan.source, plan.target, plan.maps, plan.order)
    bigger = new_model(plan.target_config, seed=seed).to(device=model.device, dtype=model.dtype)
    missing, unexpected = bigger.load_state_dict(grown, strict=False)
    left = [name for name in missing if name not in plan.target.tied and name in plan.target.tensors]
    if left or unexpected:
        raise AnatomyError("the grown tensors do not fit the target's class", key=[*left, *unexpected][0])
    bigger.tie_weights()
    if model.can_generate():
        bigger.generation_config = copy.deepcopy(model.generation_config)
    return bigger.train(model.training)
