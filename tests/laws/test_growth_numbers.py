"""The specification's numbers, storage in half precision, records that remake their maps, controls of exact maps."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from typing import Any

import pytest
import torch

from bequest.anatomy import Anatomy, complete_config
from bequest.anatomy.axes import Dim, parse
from bequest.anatomy.fills import Fill
from bequest.anatomy.maps import AxisMap, Maps, average, duplicate, isometric
from bequest.anatomy.surgery import along, grow_tensors
from bequest.errors import InputError
from bequest.growth import METHODS, grow, grow_planned, plan_from_record, plan_growth
from growth_support import GQA, VARIANTS, batches, build, error, language_head, native_norms


def matrix(found: AxisMap, role: Any) -> torch.Tensor:
    """The matrix that a map stands for, written out."""
    scale = found.scale(role) or (1.0,) * found.target
    made = torch.zeros(found.target, found.source, dtype=torch.float64)
    for unit, origin in enumerate(found.index):
        if origin >= 0:
            made[unit, origin] = scale[unit]
        elif found.pad(role) == "mean":
            made[unit] = scale[unit] / found.source
    return made


# --- numeric vectors (growth.md §1)


def test_vector_of_copies_and_shares() -> None:
    g_in, g_out = duplicate([0, 1, 0], 2), duplicate([0, 1, 1], 2)
    w = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    u = matrix(g_out, "write") @ w @ matrix(g_in, "read").T
    assert u.tolist() == [[0.5, 2, 0.5], [1.5, 4, 1.5], [1.5, 4, 1.5]]
    assert (u @ torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)).tolist() == [-1, -1, -1]


def test_vector_of_the_isometric_map() -> None:
    found = isometric([0, 1, 0], 2)
    assert found.scale("write") == pytest.approx((0.866025, 1.224745, 0.866025), abs=1e-6)
    x = matrix(found, "write") @ torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert x.tolist() == pytest.approx([2.598076, 4.898979, 2.598076], abs=1e-6)
    assert float(x.square().mean()) == pytest.approx(12.5, abs=1e-12)


def test_vector_of_the_scaled_average_map() -> None:
    found = average(2, 5)
    a = math.sqrt(5 / 4)
    assert found.index == (0, 1, 0, 1, -1)
    x = matrix(found, "write") @ torch.tensor([1.0, 3.0], dtype=torch.float64)
    assert x.tolist() == pytest.approx([a * value for value in (1, 3, 1, 3, 2)], abs=1e-12)
    assert float(x.var(unbiased=False)) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("found", [isometric([0, 1, 2, 0, 1], 3), average(3, 8), duplicate([0, 1, 2, 1], 3)], ids=str)
@pytest.mark.parametrize("role", ["write", "read", "raw_read", "gain", "shift", "last_gain", "last_shift", "tied_read"])
def test_the_operator_is_the_matrix(found: AxisMap, role: Any) -> None:
    """Against tensordot with the whole matrix; reading what was written gives the source back."""
    runs = []
    scale = found.scale(role) or (1.0,) * found.target
    for unit, origin in enumerate(found.index):
        pad = found.pad(role) if origin < 0 else None
        runs.append(Fill(unit, 1, None if pad else origin, scale[unit], pad=pad, mean_of=(0, found.source)))
    t = torch.randn(found.source, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(along(t, 0, runs), matrix(found, role) @ t, atol=1e-15)
    back = matrix(found, "raw_read").T @ matrix(found, "write")
    assert torch.allclose(back, torch.eye(found.source, dtype=torch.float64), atol=1e-12)


# --- the exact maps, each with one mistake


def mistaken(model: Any, to: dict[str, int], role: str, *, factor: float = 1.1) -> Any:
    """A growth in which one role of the stream is not what it should be."""
    plan = plan_growth(model, to)
    assert plan.maps is not None
    hidden = plan.maps.axes["hidden"]
    scale = hidden.scale(role) or (1.0,) * hidden.target  # type: ignore[arg-type]
    wrong = AxisMap(hidden.source, hidden.index, {**hidden.scales, role: tuple(factor * v for v in scale)}, hidden.pads)  # type: ignore[dict-item]
    maps = dataclasses.replace(plan.maps, axes={**plan.maps.axes, "hidden": wrong})
    return grow_planned(model, dataclasses.replace(plan, maps=maps))


@pytest.mark.parametrize(
    ("family", "tie", "roles"),
    [
        ("llama", True, ("read", "gain", "last_gain")),
        ("llama", False, ("read", "gain")),
        ("olmo2", False, ("raw_read", "write", "gain")),
        ("gemma2", True, ("scaled_write", "post_gain", "scaled_last_gain")),
        ("gpt2", True, ("gain", "shift", "last_gain", "last_shift")),
        ("opt", False, ("gain", "shift", "read")),
    ],
)
def test_control_every_role_matters(family: str, tie: bool, roles: tuple[str, ...]) -> None:
    model = build(family, "causal-lm", tie_word_embeddings=tie)
    to = {"hidden_size": 48}
    assert error(model, grow(model, to)) < 1e-5
    for role in roles:
        assert error(model, mistaken(model, to, role)) > 1e-3, role


def test_control_isometric_gains_not_divided() -> None:
    model = build("llama", "causal-lm")
    plan = plan_growth(model, {"hidden_size": 48})
    assert plan.maps is not None
    hidden = plan.maps.axes["hidden"]
    scales = {role: value for role, value in hidden.scales.items() if role != "gain"}
    maps = dataclasses.replace(
        plan.maps, axes={**plan.maps.axes, "hidden": AxisMap(hidden.source, hidden.index, scales)}
    )
    assert error(model, grow_planned(model, dataclasses.replace(plan, maps=maps))) > 1e-2


@pytest.mark.parametrize("family", ["llama", "gpt2", "olmo2", "gemma2", "phi3", "gpt_neox", "qwen2"])
def test_transpose_law_at_a_fractional_width(family: str) -> None:
    """M^T grad' = grad, tensor by tensor, through the differentiable operator."""
    model = native_norms(build(family, "causal-lm", **VARIANTS[family][0]).double())
    heads = {"num_attention_heads": 6} if family == "gpt_neox" else {}
    # Gemma 2's attention casts to float32 inside, where noise would leave its rounding.
    method = "auto" if family == "gemma2" else ["auto", "noise"]
    plan = plan_growth(model, {"hidden_size": 48, **heads}, method)
    assert plan.maps is not None
    bigger = native_norms(grow_planned(model, plan))
    batch = next(batches(model))

    def loss(made: Any) -> torch.Tensor:
        return made.logits.log_softmax(-1)[..., 7].mean()

    parameters = dict(model.named_parameters())
    leaves = {name: parameters[name].detach().clone().requires_grad_() for name in plan.source.tensors}
    # The noise is a constant of the growth, drawn relative to the weights it was added to.
    quiet = grow_tensors(leaves, plan.source, plan.target, dataclasses.replace(plan.maps, noise=None))
    fixed = grow_tensors(parameters, plan.source, plan.target, dataclasses.replace(plan.maps, noise=None))
    noisy = {name: value + (bigger.get_parameter(name) - fixed[name]).detach() for name, value in quiet.items()}
    through = torch.autograd.grad(loss(torch.func.functional_call(bigger, noisy, kwargs=batch)), leaves.values())
    loss(model(**batch)).backward()
    for name, gradient in zip(leaves, through, strict=True):
        expected = parameters[name].grad
        assert expected is not None
        assert torch.allclose(gradient, expected, rtol=1e-8, atol=1e-12), name


# --- half precision


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "roberta", "olmo2", "phi3"])
def test_storage_in_bfloat16(family: str) -> None:
    """Powers of two are stored without rounding; other factors cost no more than a few roundings of the source."""
    exact = build(family, language_head(family), **VARIANTS[family][0])
    rounded = copy.deepcopy(exact).bfloat16()
    source = native_norms(copy.deepcopy(rounded).double())
    own = error(native_norms(copy.deepcopy(exact).double()), source)
    whole = native_norms(grow(rounded, {"hidden_size": 64}).double())
    assert error(source, whole) < 1e-12
    if family != "roberta":
        fractional = native_norms(grow(rounded, {"hidden_size": 48}).double())
        assert 1e-9 < error(source, fractional) < 4 * own


# --- records


@pytest.mark.parametrize("method", ["auto", *(name for name in METHODS if name not in ("noise", "ligo", "upcycle"))])
def test_a_record_remakes_the_maps(method: str) -> None:
    depth = METHODS[method].directions == {"depth"} if method != "auto" else False
    to: dict[str, int] = {"num_hidden_layers": 3} if depth else {"hidden_size": 64}
    config = complete_config(
        "gpt2" if method == "scaled_average" else "llama",
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
        head="causal-lm",
        vocab_size=48,
    )
    plan = plan_growth(config, to, method, seed=3, training_follows=True)
    record = json.loads(json.dumps(plan.record()))
    again = plan_from_record(record)
    assert plan.maps is not None and again.maps is not None
    assert again.maps.digest() == plan.maps.digest() == record["digest"]
    assert again.target_config == plan.target_config
    assert again.methods == plan.methods
    if plan.maps.noise is not None or plan.maps.fresh or method == "net2net":
        assert plan_growth(config, to, method, seed=4, training_follows=True).record()["digest"] != record["digest"]
    record["digest"] = "0" * 64
    with pytest.raises(InputError, match="come out otherwise"):
        plan_from_record(record)
    with pytest.raises(InputError, match="too old"):
        plan_from_record({"methods": ["fpi"]})


def test_an_old_record_and_a_fresh_map_say_so() -> None:
    source = Anatomy(complete_config("llama", {"hidden_size": 32}, head="causal-lm", vocab_size=48), "causal-lm")
    assert Maps({}, tuple(range(source.layers))).new_layers == ()
    assert Maps({}, (0, 0, 1), fresh=frozenset({2})).new_layers == (1, 2)
    assert parse("vocab -> *hidden").dims[1] == Dim(("hidden",), "scaled_write")


def test_grouped_heads_in_growth() -> None:
    """(4 q, 2 kv) -> (9 q, 3 kv): every query head beside a copy of its own key-value head."""
    model = native_norms(build("qwen3", "causal-lm", **GQA).double())
    to = {"hidden_size": 72, "num_attention_heads": 9, "num_key_value_heads": 3}
    plan = plan_growth(model, to)
    assert plan.maps is not None
    assert plan.maps.rule["isometric"]["heads"] == [0, 1, 0, 2, 3, 2, 1, 0, 1]
    assert error(model, native_norms(grow_planned(model, plan))) < 1e-12
