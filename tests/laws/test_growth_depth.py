"""Laws of depth: identity blocks are bitwise identities, layers come from where the order says, controls fail."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from bequest.anatomy import FAMILIES
from bequest.growth import METHODS, grow, grow_planned, plan_growth
from bequest.growth.identity import placed
from bequest.growth.interpolate import interpolated
from bequest.growth.stack import stacked
from growth_support import VARIANTS, batches, build, error, language_head

PRE_NORM = [family for family in VARIANTS if FAMILIES[family].norm != "layer-post"]


def logits(model: Any) -> list[torch.Tensor]:
    with torch.no_grad():
        return [model(**batch).logits for batch in batches(model)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("family", PRE_NORM)
def test_identity_blocks_are_bitwise_identities(family: str, dtype: torch.dtype) -> None:
    model = build(family, language_head(family), **VARIANTS[family][0]).to(dtype)
    layers = model.config.num_hidden_layers
    plan = plan_growth(model, {"num_hidden_layers": layers + 3})
    assert plan.exact
    assert plan.methods == ("identity",)
    assert len(plan.new_layers) == 3
    for expected, found in zip(logits(model), logits(grow_planned(model, plan)), strict=True):
        assert torch.equal(expected, found)


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "olmo2", "opt"])
def test_control_an_identity_block_with_one_writer_left(family: str) -> None:
    """A bias, or a gain behind the writers, that is not zeroed shows; every tensor that should be zero is."""
    model = build(family, "causal-lm", **VARIANTS[family][0])
    plan = plan_growth(model, {"num_hidden_layers": 3}, "identity")
    bigger = grow_planned(model, plan)
    new = plan.new_layers[0]
    zeroed = [
        name
        for name, tensor in plan.target.tensors.items()
        if tensor.layer == new and not (bigger.get_parameter(name).detach() + (1 if tensor.line.one_plus else 0)).any()
    ]
    assert len(zeroed) == (2 if family in ("gemma2", "olmo2") else 4)
    for name in zeroed:
        origin = dict(model.named_parameters())[name.replace(f".{new}.", f".{plan.order[new]}.")]
        spoilt = grow_planned(model, plan)
        with torch.no_grad():
            spoilt.get_parameter(name).copy_(origin)
        assert error(model, spoilt) > 1e-3, name


def test_new_blocks_learn_although_they_write_nothing() -> None:
    model = build("llama", "causal-lm")
    plan = plan_growth(model, {"num_hidden_layers": 3})
    bigger = grow_planned(model, plan).train()
    batch = next(batches(bigger))
    bigger(**batch).logits.log_softmax(-1)[..., 3].mean().backward()
    block = bigger.model.layers[plan.new_layers[0]]
    assert block.self_attn.o_proj.weight.grad.abs().max() > 0
    assert block.mlp.down_proj.weight.grad.abs().max() > 0
    assert block.mlp.up_proj.weight.grad.abs().max() == 0  # at step 0 only what was zeroed gets a gradient


def test_post_ln_has_no_identity_block() -> None:
    model = build("bert", "masked-lm")
    plan = plan_growth(model, {"num_hidden_layers": 3}, "identity")
    assert not plan.exact
    assert "post-LN" in plan.reason
    assert 1e-3 < error(model, grow_planned(model, plan)) < plan.predicted_error
    assert plan_growth(model, {"num_hidden_layers": 3}).methods == ("stack",)


def test_attention_scaled_by_the_blocks_index_is_not_called_exact() -> None:
    """GPT-2 with scale_attn_by_inverse_layer_idx: a block that moves computes something else."""
    model = build("gpt2", "causal-lm", scale_attn_by_inverse_layer_idx=True)
    plan = plan_growth(model, {"num_hidden_layers": 4})
    assert not plan.exact
    assert "scale_attn_by_inverse_layer_idx" in plan.reason
    assert 1e-6 < error(model, grow_planned(model, plan)) < plan.predicted_error
    assert plan_growth(model, {"hidden_size": 64}).exact
    # One block on top moves nobody.
    top = plan_growth(model, {"num_hidden_layers": 3})
    assert top.exact and top.order == (0, 1, 1)
    assert error(model, grow_planned(model, top)) == 0


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (stacked(5, 12), (0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 3, 4)),
        (stacked(3, 6), (0, 1, 2, 0, 1, 2)),
        (interpolated(5, 12), (0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4)),
        (placed(6, 8), ((0, 1, 2, 2, 3, 4, 5, 5), frozenset({3, 7}))),
        (placed(4, 8), ((0, 0, 1, 1, 2, 2, 3, 3), frozenset({1, 3, 5, 7}))),
        (placed(5, 7), ((0, 1, 2, 2, 3, 4, 4), frozenset({3, 6}))),
        (placed(2, 5), ((0, 0, 1, 1, 1), frozenset({1, 3, 4}))),
        (placed(30, 36)[0][:12], (0, 1, 2, 3, 4, 4, 5, 6, 7, 8, 9, 9)),
    ],
)
def test_orders(made: Any, expected: Any) -> None:
    assert made == expected


@pytest.mark.parametrize("method", ["stack", "interpolate", "identity"])
def test_layers_come_from_where_the_order_says(method: str) -> None:
    model = build("smollm3", "causal-lm", num_hidden_layers=4)
    plan = plan_growth(model, {"num_hidden_layers": 6}, method)
    bigger = grow_planned(model, plan)
    for key in plan.target.family.per_layer:
        assert getattr(bigger.config, key) == [getattr(model.config, key)[layer] for layer in plan.order]
    for layer, source in enumerate(plan.order):
        for name, value in model.model.layers[source].named_parameters():
            silent = (
                method == "identity"
                and layer in plan.new_layers
                and name.endswith(("o_proj.weight", "down_proj.weight"))
            )
            assert torch.equal(
                bigger.model.layers[layer].get_parameter(name), torch.zeros_like(value) if silent else value
            )
    first = [plan.order.index(source) for source in range(4)]
    assert sorted([*first, *plan.new_layers]) == list(range(6))


def test_depth_after_width_is_depth_of_the_widened() -> None:
    model = build("llama", "causal-lm")
    wide = grow(model, {"hidden_size": 64}, "isometric")
    both = grow(model, {"hidden_size": 64, "num_hidden_layers": 4}, ["isometric", "stack"])
    then = grow(wide, {"num_hidden_layers": 4}, "stack")
    for name, value in then.state_dict().items():
        assert torch.equal(value, both.state_dict()[name]), name


def test_every_method_documents_itself() -> None:
    for name, method in METHODS.items():
        assert method.__doc__ and dataclasses.is_dataclass(method), name
        assert method.directions <= {"width", "depth", "symmetry"}
