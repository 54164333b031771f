"""Law: whole multiples compute the same function, for every family, head, tie and attention; controls fail."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from bequest.anatomy import FAMILIES, Anatomy, check_model, complete_config, maps
from bequest.anatomy.maps import AxisMap, Maps, duplicate
from bequest.anatomy.surgery import grow_tensor, grow_tensors
from bequest.checkpoints import new_model
from bequest.errors import AnatomyError
from bequest.growth import check_preservation, grow, grow_planned, plan_growth
from bequest.growth.exact import exact_name
from growth_support import GQA, VARIANTS, VOCAB, batches, build, error, native_norms

CASES = [
    pytest.param(family, head, {**variant, "tie_word_embeddings": tie}, id=f"{family}-{head}-{number}-tied={tie}")
    for family, variants in VARIANTS.items()
    for head in FAMILIES[family].heads
    for number, variant in enumerate(variants)
    for tie in (True, False)
]


@pytest.mark.parametrize(("family", "head", "variant"), CASES)
def test_whole_multiples_preserve_the_function(family: str, head: str, variant: dict[str, Any]) -> None:
    model = build(family, head, **variant)
    exact = build(family, head, **variant).double()
    for times in (2, 3):
        to = {"hidden_size": 32 * times}
        if variant.get("embedding_size") == 16:
            to["embedding_size"] = 16 * times
        plan = plan_growth(model, to)
        assert plan.exact
        assert plan.nearest_exact is None
        assert plan.methods == (exact_name(plan.source),)
        assert plan.predicted_error == 0
        bigger = grow_planned(model, plan)
        assert error(model, bigger) < 1e-5
        proof = check_preservation(model, bigger)
        assert proof.preserved, proof.verdict
        assert check_model(bigger).parameters() == plan.params == bigger.num_parameters()
        assert error(native_norms(exact), native_norms(grow(exact, to))) < 1e-12


def test_electra_widens_the_stream_alone() -> None:
    model = build("electra", "masked-lm", embedding_size=16)
    bigger = grow(model, {"hidden_size": 64})
    assert bigger.config.embedding_size == 16
    assert error(model, bigger) < 1e-5


@pytest.mark.parametrize(
    ("family", "to"),
    [
        ("llama", {"intermediate_size": 57}),
        ("llama", {"num_attention_heads": 8}),
        ("llama", {"num_attention_heads": 8, "num_key_value_heads": 2}),
        ("qwen3", {"hidden_size": 96, "num_attention_heads": 9, "num_key_value_heads": 3}),
        ("qwen2", {"hidden_size": 64, "num_attention_heads": 4}),
        ("llama", {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4}),
        ("bert", {"intermediate_size": 41}),
        ("gpt2", {"n_inner": 100}),
    ],
)
def test_inner_axes_grow_by_any_factor(family: str, to: dict[str, int]) -> None:
    head = "masked-lm" if family == "bert" else "causal-lm"
    variant = GQA if family in ("llama", "qwen2", "qwen3") else {}
    model = build(family, head, **variant).double()
    plan = plan_growth(model, to)
    assert plan.exact
    assert error(native_norms(model), native_norms(grow_planned(model, plan))) < 1e-12


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_one_base_grows_the_same_whatever_hangs_on_it(family: str) -> None:
    language = build(family, "causal-lm", tie_word_embeddings=True)
    for head in ("bare", "sequence-classification"):
        other = build(family, head, tie_word_embeddings=True)
        other.base_model.load_state_dict(language.base_model.state_dict())
        grown, reference = grow(other, {"hidden_size": 64}), grow(language, {"hidden_size": 64})
        for name, value in reference.base_model.state_dict().items():
            assert torch.equal(value, grown.base_model.state_dict()[name]), name


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "qwen3"])
def test_the_operator_is_differentiable_and_obeys_the_transpose_law(family: str) -> None:
    """Mᵀ grad' = grad: the loss of the grown model, differentiated through the growth, has the source's gradient."""
    head = "masked-lm" if family == "bert" else "causal-lm"
    model = native_norms(build(family, head, tie_word_embeddings=True).double())
    plan = plan_growth(model, {"hidden_size": 64})
    assert plan.maps is not None
    bigger = native_norms(grow_planned(model, plan))
    batch = next(batches(model))

    def loss(made: Any) -> torch.Tensor:
        return made.logits.log_softmax(-1)[..., 7].mean()

    names = list(plan.source.tensors)
    leaves = {name: dict(model.named_parameters())[name].detach().clone().requires_grad_() for name in names}
    grown = grow_tensors(leaves, plan.source, plan.target, plan.maps)
    through = torch.autograd.grad(loss(torch.func.functional_call(bigger, grown, kwargs=batch)), leaves.values())
    loss(model(**batch)).backward()
    for name, gradient in zip(names, through, strict=True):
        expected = dict(model.named_parameters())[name].grad
        assert torch.allclose(gradient, expected, rtol=1e-9, atol=1e-13), name


def test_stack_is_said_to_be_inexact_and_is() -> None:
    model = build("llama", "causal-lm")
    plan = plan_growth(model, {"num_hidden_layers": 4}, "stack")
    assert not plan.exact
    assert plan.order == (0, 1, 0, 1)
    assert plan.new_layers == (2, 3)
    assert error(model, grow_planned(model, plan)) > 1e-2
    both = plan_growth(model, {"hidden_size": 64, "num_hidden_layers": 3}, ["fpi", "stack"])
    assert both.methods == ("fpi", "stack")
    assert both.order == (0, 1, 1)
    proof = check_preservation(model, grow_planned(model, both))
    assert not proof.preserved
    assert proof.first_layer == 2


def test_depth_takes_each_layer_from_its_source() -> None:
    model = build("qwen2", "causal-lm", use_sliding_window=True, sliding_window=4, max_window_layers=1)
    assert model.config.layer_types == ["full_attention", "sliding_attention"]
    bigger = grow(model, {"num_hidden_layers": 5}, method="stack")
    assert [0 if kind == "full_attention" else 1 for kind in bigger.config.layer_types] == [0, 1, 0, 1, 1]
    for layer, source in enumerate((0, 1, 0, 1, 1)):
        for name, value in model.model.layers[source].named_parameters():
            assert torch.equal(bigger.model.layers[layer].get_parameter(name), value)


# --- negative controls: each is one mistake that has been made in public code, and must show


def regrown(model: Any, to: dict[str, int], change: Any) -> Any:
    """A growth in which ``change(maps) -> maps`` has made a mistake."""
    plan = plan_growth(model, to)
    assert plan.maps is not None
    wrong = dataclasses.replace(plan.maps, axes=change(dict(plan.maps.axes)))
    return grow_planned(model, dataclasses.replace(plan, maps=wrong))


def rescaled(axis: AxisMap, **scales: tuple[float, ...] | None) -> AxisMap:
    kept = {role: value for role, value in {**axis.scales, **scales}.items() if value is not None}
    return AxisMap(axis.source, axis.index, kept)  # type: ignore[arg-type]


LANGUAGE = [("bert", "masked-lm"), ("electra", "masked-lm"), ("gpt2", "causal-lm"), ("llama", "causal-lm")]


@pytest.mark.parametrize(("family", "head"), LANGUAGE)
@pytest.mark.parametrize("axis", ["hidden", "attn", "ffn"])
def test_control_reads_without_shares(family: str, head: str, axis: str) -> None:
    model = build(family, head)
    wrong = regrown(model, {"hidden_size": 64}, lambda axes: {**axes, axis: rescaled(axes[axis], read=None)})
    assert error(model, wrong) > 1e-2
    assert not check_preservation(model, wrong).preserved


@pytest.mark.parametrize(("family", "head"), LANGUAGE)
def test_control_norms_divided_by_counts(family: str, head: str) -> None:
    model = build(family, head)
    half = tuple([0.5] * 64)
    wrong = regrown(model, {"hidden_size": 64}, lambda axes: {**axes, "hidden": rescaled(axes["hidden"], gain=half)})
    assert error(model, wrong) > 1e-2


@pytest.mark.parametrize(("family", "head"), LANGUAGE)
def test_control_tied_head_without_the_last_norms_share(family: str, head: str) -> None:
    model = build(family, head, tie_word_embeddings=True, **({"embedding_size": 32} if family == "electra" else {}))
    wrong = regrown(
        model,
        {"hidden_size": 64},
        lambda axes: {**axes, "hidden": rescaled(axes["hidden"], last_gain=None, last_shift=None)},
    )
    assert error(model, wrong) > 1e-2


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2"])
def test_control_score_head_read_plainly_on_a_tied_base(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(family, "sequence-classification", tie_word_embeddings=True)
    assert error(model, grow(model, {"hidden_size": 64})) < 1e-5
    heads = dict(FAMILIES[family].heads)
    heads["sequence-classification"] = dataclasses.replace(heads["sequence-classification"], reads_last=())
    monkeypatch.setitem(FAMILIES, family, dataclasses.replace(FAMILIES[family], heads=heads))
    assert error(model, grow(model, {"hidden_size": 64})) > 1e-2


def test_control_naive_tiling_of_query_heads() -> None:
    model = build("llama", "causal-lm", **GQA)
    to = {"num_attention_heads": 8, "num_key_value_heads": 2}
    assert error(model, grow(model, to)) < 1e-5
    naive = duplicate([head % 4 for head in range(8)], 4).expanded(8)
    wrong = regrown(model, to, lambda axes: {**axes, "q": naive, "attn": naive})
    assert error(model, wrong) > 1e-2


@pytest.mark.parametrize(("family", "head"), [("bert", "masked-lm"), ("gpt2", "causal-lm"), ("llama", "causal-lm")])
def test_control_uneven_width(family: str, head: str) -> None:
    """Plain copies on an uneven stream are called approximate, with reason, size and remedy, and are."""
    model = build(family, head)
    plan = plan_growth(model, {"hidden_size": 48}, "fpi")
    assert not plan.exact
    assert "48/32 is not an integer; nearest exact width 64" in plan.reason
    assert plan.nearest_exact == {"hidden_size": 64}
    wrong = error(model, grow_planned(model, plan))
    assert 1e-4 < wrong < plan.predicted_error < 30 * wrong


def test_control_random_map_is_not_balanced() -> None:
    model = build("bert", "masked-lm")
    index = list(range(32)) + [unit % 5 for unit in range(32)]
    wrong = regrown(model, {"hidden_size": 64}, lambda axes: {**axes, "hidden": duplicate(index, 32)})
    assert error(model, wrong) > 1e-3


@pytest.mark.parametrize(("family", "writer"), [("llama", "self_attn.o_proj.weight"), ("bert", "output.dense.weight")])
def test_control_two_residual_maps(family: str, writer: str) -> None:
    model = build(family, "masked-lm" if family == "bert" else "causal-lm")
    plan = plan_growth(model, {"hidden_size": 64})
    assert plan.maps is not None
    bigger = grow_planned(model, plan)
    other = dict(plan.maps.axes)
    other["hidden"] = duplicate([unit // 2 for unit in range(64)], 32)
    moved = Maps(other, plan.maps.order)
    with torch.no_grad():
        for name, tensor in plan.source.tensors.items():
            if name.endswith(writer):
                old = dict(model.named_parameters())[name]
                bigger.get_parameter(name).copy_(grow_tensor(old, tensor, plan.source, moved))
    assert error(model, bigger) > 1e-2


def test_defaults_hide_bugs_that_jitter_shows() -> None:
    """Why every law jitters: with biases at zero, norm shifts that are not divided for a tied head look exact."""
    config = complete_config("bert", {"hidden_size": 32, "num_hidden_layers": 1}, head="masked-lm", vocab_size=VOCAB)
    plain, jittered = new_model(config, seed=0).eval(), build("bert", "masked-lm")

    def wrong(model: Any) -> Any:
        return regrown(
            model, {"hidden_size": 64}, lambda axes: {**axes, "hidden": rescaled(axes["hidden"], last_shift=None)}
        )

    assert error(plain, wrong(plain)) < 1e-5
    assert error(jittered, wrong(jittered)) > 1e-2


# --- surgery's own refusals


def test_a_stored_alias_that_differs_is_refused() -> None:
    model = build("llama", "causal-lm", tie_word_embeddings=True)
    plan = plan_growth(model, {"hidden_size": 64})
    assert plan.maps is not None
    weights = {name: value.detach() for name, value in model.named_parameters(remove_duplicate=False)}
    assert "lm_head.weight" in weights
    weights["lm_head.weight"] = weights["lm_head.weight"] + 1
    with pytest.raises(AnatomyError, match=r"lm_head\.weight"):
        grow_tensors(weights, plan.source, plan.target, plan.maps)


def test_maps_that_do_not_lead_to_the_target_are_refused() -> None:
    model = build("llama", "causal-lm")
    plan = plan_growth(model, {"hidden_size": 64})
    assert plan.maps is not None
    weights = {name: value.detach() for name, value in model.named_parameters()}
    axes = {axis: found for axis, found in plan.maps.axes.items() if axis != "ffn"}
    with pytest.raises(AnatomyError, match="'ffn' leads to 40, not 80"):
        grow_tensors(weights, plan.source, plan.target, Maps(axes, plan.order))
    with pytest.raises(AnatomyError, match="every source unit"):
        AxisMap(3, (0, 1, 0))


def test_the_matrix_that_an_axis_map_stands_for() -> None:
    """The operator against a slow reference: tensordot with the whole matrix, dimension by dimension."""
    anatomy = Anatomy(build("gpt2", "causal-lm", tie_word_embeddings=False).config.to_dict(), "causal-lm")
    plan = plan_growth(anatomy.config, {"hidden_size": 96})
    assert plan.maps is not None
    tensor = anatomy.tensors["transformer.h.0.attn.c_attn.weight"]
    t = torch.randn(tensor.shape, dtype=torch.float64)

    def matrix(axis: str, role: str) -> torch.Tensor:
        found = plan.maps.axes[axis]  # type: ignore[union-attr]
        made = torch.zeros(found.target, found.source, dtype=torch.float64)
        for unit, origin in enumerate(found.index):
            made[unit, origin] = (found.scale(role) or [1.0] * found.target)[unit]  # type: ignore[arg-type]
        return made

    rows = matrix("hidden", "read")
    columns = torch.block_diag(matrix("q", "write"), matrix("kv", "write"), matrix("kv", "write"))
    assert torch.allclose(grow_tensor(t, tensor, anatomy, plan.maps), rows @ t @ columns.T, atol=1e-15)
    assert maps.origin_of("transformer.h.1.attn.c_attn.weight", 1, (0, 0)) == "transformer.h.0.attn.c_attn.weight"
