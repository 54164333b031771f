"""Laws of AKI: a selection between two ordinary growths, along one dimension; slow references and controls."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest
import torch

from bequest.anatomy.fills import assembled
from bequest.anatomy.maps import duplicate, head_axes, random_index
from bequest.errors import AnatomyError
from bequest.growth import grow, grow_planned, plan_growth
from bequest.growth.aki import AKI
from growth_support import GQA, build, error


def by_loops(model: Any, maps: Any, layer: int, name: str, rows: str | None, columns: str | None, scope: str) -> Any:
    """The printed formula, element by element, for a Linear of llama: rows write, columns read."""
    own = dict(model.named_parameters())[f"model.layers.{layer}.{name}.weight"].detach().double()
    above = dict(model.named_parameters())[f"model.layers.{min(layer + 1, 1)}.{name}.weight"].detach().double()
    g_out, g_in = maps.axes[rows], maps.axes[columns]
    made = torch.zeros(g_out.target, g_in.target, dtype=torch.float64)
    for i in range(g_out.target):
        for j in range(g_in.target):
            count = sum(other == g_in.index[j] for other in g_in.index)
            new_row = not g_out.originals[i]
            new_column = not g_in.originals[j]
            inner = {"q", "kv", "attn", "ffn"}
            chosen = new_row if scope == "formula" else (rows in inner and new_row) or (columns in inner and new_column)
            made[i, j] = (above if chosen else own)[g_out.index[i], g_in.index[j]] / count
    return made


@pytest.mark.parametrize("scope", ["transplant", "formula"])
def test_the_formula_by_loops(scope: str) -> None:
    """Against a slow reference with random maps, tensor by tensor."""
    model = build("llama", "causal-lm").double()
    plan = plan_growth(model, {"hidden_size": 48}, {"name": "aki", "scope": scope, "map": "random"}, seed=3)
    assert plan.maps is not None
    assert len(set(plan.maps.axes["hidden"].copies)) > 1
    bigger = grow_planned(model, plan)
    lines = {
        "self_attn.q_proj": ("q", "hidden"),
        "self_attn.k_proj": ("kv", "hidden"),
        "self_attn.o_proj": ("hidden", "attn"),
        "mlp.up_proj": ("ffn", "hidden"),
        "mlp.down_proj": ("hidden", "ffn"),
    }
    for name, (rows, columns) in lines.items():
        found = bigger.get_parameter(f"model.layers.0.{name}.weight").detach()
        expected = by_loops(model, plan.maps, 0, name, rows, columns, scope)
        assert (found - expected).abs().max() < 1e-16, name


@pytest.mark.parametrize("scope", ["transplant", "formula"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "mixtral"])
def test_the_last_layer_and_everything_outside_the_blocks_are_fpis(family: str, scope: str) -> None:
    model = build(family, "masked-lm" if family == "bert" else "causal-lm")
    to = {"hidden_size": 64}
    plain, aki = grow(model, to, "fpi"), grow(model, to, {"name": "aki", "scope": scope})
    plan = plan_growth(model, to, "aki")
    differing = set()
    for name, value in plain.named_parameters():
        if torch.equal(value, aki.get_parameter(name)):
            continue
        differing.add(name)
        assert plan.target.tensors[name].layer == 0, name
    assert differing


@pytest.mark.parametrize("scope", ["transplant", "formula"])
def test_equal_layers_make_aki_fpi(scope: str) -> None:
    model = build("llama", "causal-lm", **GQA)
    model.model.layers[1].load_state_dict(model.model.layers[0].state_dict())
    to = {"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 3}
    plain, aki = grow(model, to, "isometric"), grow(model, to, {"name": "aki", "scope": scope})
    for name, value in plain.named_parameters():
        assert torch.equal(value, aki.get_parameter(name)), name


def test_a_transplanted_neuron_is_the_whole_neuron_of_the_layer_above() -> None:
    model = build("llama", "causal-lm")
    bigger = grow(model, {"intermediate_size": 50}, "aki")
    for new, source in ((40, 0), (49, 9)):
        for name in ("gate_proj", "up_proj"):
            row = bigger.model.layers[0].mlp.get_submodule(name).weight[new]
            assert torch.equal(row, model.model.layers[1].mlp.get_submodule(name).weight[source])
        column = bigger.model.layers[0].mlp.down_proj.weight[:, new]
        assert torch.equal(column, model.model.layers[1].mlp.down_proj.weight[:, source] / 2)


def test_aki_is_said_to_be_approximate_and_is() -> None:
    model = build("gpt2", "causal-lm")
    for scope in ("transplant", "formula"):
        plan = plan_growth(model, {"hidden_size": 64}, {"name": "aki", "scope": scope})
        assert not plan.exact
        assert 1e-2 < error(model, grow_planned(model, plan)) < plan.predicted_error


def test_control_a_tensor_chosen_along_two_dimensions_is_refused() -> None:
    model = build("llama", "causal-lm")
    plan = plan_growth(model, {"hidden_size": 64}, "aki")
    assert plan.maps is not None
    tensor = plan.target.tensors["model.layers.0.mlp.down_proj.weight"]
    both = dataclasses.replace(tensor, line=dataclasses.replace(tensor.line, dims=(tensor.line.dims[1],) * 2))
    with pytest.raises(AnatomyError, match="two dimensions"):
        assembled(both, plan.source, plan.maps)


def test_control_a_map_without_consistency_shows() -> None:
    """One of the errors of public ports: a fresh random map for the output projection."""
    model = build("llama", "causal-lm").double()
    plan = plan_growth(model, {"num_attention_heads": 8})
    assert plan.maps is not None
    assert error(model, grow_planned(model, plan)) < 1e-6
    other = head_axes(random_index(4, 8, random.Random(1)), [0, 1, 2, 3] * 2, 4, 4, 8, frozenset())
    wrong = dataclasses.replace(plan.maps, axes={**plan.maps.axes, "attn": other["attn"]})
    assert error(model, grow_planned(model, dataclasses.replace(plan, maps=wrong))) > 1e-2


def test_options_are_checked() -> None:
    for options in ({"scope": "rows"}, {"map": "linear"}, {"stream": "none"}):
        with pytest.raises(ValueError, match="must be"):
            AKI(**options)
    assert duplicate([0, 1, 0], 2).originals == (True, True, False)
