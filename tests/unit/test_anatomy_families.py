"""The families on the sizes of published models, their names on disk, their refusals, their units."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bequest import checkpoints
from bequest.anatomy import (
    FAMILIES,
    Anatomy,
    anatomy_of,
    check_model,
    complete_config,
    objective_of,
    settle,
    sizes_of,
    target_config,
)
from bequest.anatomy.anatomy import Place, UnitKind
from bequest.anatomy.axes import parse
from bequest.anatomy.experts import has_experts
from bequest.anatomy.table import holds
from bequest.checkpoints import Part
from bequest.errors import AnatomyError, InputError

# Sizes as the published config.json has them, in its own words, and the published number of parameters of that
# checkpoint, tied ones once.
PUBLISHED: dict[str, tuple[str, dict[str, Any], int]] = {
    "modernbert": (
        "answerdotai/ModernBERT-base",
        {
            "vocab_size": 50368,
            "hidden_size": 768,
            "intermediate_size": 1152,
            "num_hidden_layers": 22,
            "num_attention_heads": 12,
            "global_attn_every_n_layers": 3,
            "global_rope_theta": 160000.0,
            "local_rope_theta": 10000.0,
        },
        149_655_232,
    ),
    "gpt_neox": (
        "EleutherAI/pythia-160m",
        {
            "vocab_size": 50304,
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "rotary_pct": 0.25,
            "rotary_emb_base": 10000,
        },
        162_322_944,
    ),
    "opt": (
        "facebook/opt-125m",
        {
            "vocab_size": 50272,
            "hidden_size": 768,
            "ffn_dim": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "max_position_embeddings": 2048,
            "word_embed_proj_dim": 768,
        },
        125_239_296,
    ),
    "phi3": (
        "microsoft/Phi-3-mini-4k-instruct",
        {
            "vocab_size": 32064,
            "hidden_size": 3072,
            "intermediate_size": 8192,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "sliding_window": 2047,
        },
        3_821_079_552,
    ),
    "gemma": (
        "google/gemma-2b",
        {
            "vocab_size": 256000,
            "hidden_size": 2048,
            "intermediate_size": 16384,
            "num_hidden_layers": 18,
            "num_attention_heads": 8,
            "num_key_value_heads": 1,
            "head_dim": 256,
            "hidden_act": "gelu",
        },
        2_506_172_416,
    ),
    "gemma2": (
        "google/gemma-2-2b",
        {
            "vocab_size": 256000,
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "num_hidden_layers": 26,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
        },
        2_614_341_888,
    ),
    "gemma3_text": (
        "google/gemma-3-1b-pt",
        {
            "vocab_size": 262144,
            "hidden_size": 1152,
            "intermediate_size": 6912,
            "num_hidden_layers": 26,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 256,
            "sliding_window": 512,
            "sliding_window_pattern": 6,
            "rope_theta": 1000000,
            "rope_local_base_freq": 10000,
        },
        999_885_952,
    ),
    "olmo2": (
        "allenai/OLMo-2-0425-1B",
        {
            "vocab_size": 100352,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 16,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
        },
        1_484_916_736,
    ),
    "granite": (
        "ibm-granite/granite-3.1-2b-base",
        {
            "vocab_size": 49152,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 40,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "tie_word_embeddings": True,
            "embedding_multiplier": 12.0,
            "logits_scaling": 8.0,
            "residual_multiplier": 0.22,
            "attention_multiplier": 0.015625,
        },
        2_533_525_504,
    ),
    "smollm3": (
        "HuggingFaceTB/SmolLM3-3B",
        {
            "vocab_size": 128256,
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 4,
            "no_rope_layer_interval": 4,
        },
        3_075_098_624,
    ),
    "mixtral": (
        "mistralai/Mixtral-8x7B-v0.1",
        {
            "vocab_size": 32000,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
        },
        46_702_792_704,
    ),
    "qwen2_moe": (
        "Qwen/Qwen1.5-MoE-A2.7B",
        {
            "vocab_size": 151936,
            "hidden_size": 2048,
            "intermediate_size": 5632,
            "moe_intermediate_size": 1408,
            "shared_expert_intermediate_size": 5632,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "num_experts": 60,
            "num_experts_per_tok": 4,
        },
        14_315_784_192,
    ),
}
NEW = list(PUBLISHED)
TINY = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 6, "intermediate_size": 10}
EXPERTS = {"mixtral": {"num_experts": 3}, "qwen2_moe": {"num_experts": 3, "num_experts_per_tok": 2}}


def published(name: str) -> dict[str, Any]:
    head = FAMILIES[name].heads[objective_of(FAMILIES[name])]
    return {"model_type": name, "architectures": [head.class_name], **PUBLISHED[name][1]}


def tiny(name: str, *, head: str | None = None, **extra: Any) -> dict[str, Any]:
    sizes = {**TINY, "max_position_embeddings": 16, **EXPERTS.get(name, {}), **extra}
    return complete_config(name, sizes, head=head or objective_of(FAMILIES[name]), vocab_size=31)


@pytest.mark.parametrize("name", NEW)
def test_published_models_have_the_published_number_of_parameters(name: str) -> None:
    model = checkpoints.meta_model(published(name))
    anatomy = check_model(model)
    assert anatomy.parameters() == model.num_parameters() == PUBLISHED[name][2]
    assert anatomy_of(published(name)).sizes == anatomy.sizes
    assert set(anatomy.tensors) == {key for key, _ in model.named_parameters()}


@pytest.mark.parametrize("name", NEW)
def test_odd_sizes_match_too(name: str) -> None:
    family = FAMILIES[name]
    sizes: dict[str, Any] = {"hidden_size": 42, "num_attention_heads": 3, "intermediate_size": 11}
    if "num_key_value_heads" in family.defaults:
        sizes |= {"num_key_value_heads": 1}
    if family.head_dim != "quotient":
        sizes |= {"head_dim": 10, "num_attention_heads": 3 if family.whole_heads else 5}
    for head in family.heads:
        model = checkpoints.meta_model(tiny(name, head=head, num_hidden_layers=3, **sizes))
        anatomy = check_model(model)
        assert anatomy.parameters() == model.num_parameters()
        assert anatomy.head == head


@pytest.mark.parametrize("name", NEW)
def test_published_words_settle_as_the_config_class_settles_them(name: str) -> None:
    theirs = checkpoints.live_config(published(name)).to_dict()
    ours = settle(published(name))
    old_rope = "rope_parameters" not in ours
    for key in FAMILIES[name].defaults:
        if key != "rope_parameters" or not old_rope:
            assert ours[key] == theirs[key], key
    grown, _ = target_config(published(name), {"num_hidden_layers": ours["num_hidden_layers"] + 1})
    live = checkpoints.live_config(grown).to_dict()
    for key in FAMILIES[name].per_layer:
        assert live[key] == ours[key] + ours[key][:1]
    assert live["rope_parameters"] == theirs["rope_parameters"] if "rope_parameters" in theirs else name == "opt"


# --- names on disk


@pytest.mark.parametrize("name", NEW)
def test_names_on_disk_and_in_memory(name: str, tmp_path: Path) -> None:
    """Every stored tensor is the part of the parameter that it is said to be, and all parts are all parameters."""
    for tie in (True, False):
        place = tmp_path / str(tie)
        model = checkpoints.new_model(tiny(name, tie_word_embeddings=tie), seed=0)
        checkpoints.save_model(model, place)
        stored = load_file(place / "model.safetensors")
        fresh = checkpoints.meta_model(checkpoints.load_config(place))
        parts = checkpoints.to_memory_parts(stored, fresh)
        memory = {key: torch.full_like(value, torch.nan) for key, value in model.named_parameters()}
        for disk, part in parts.items():
            assert part is not None
            whole = memory[part.tensor] if part.expert is None else memory[part.tensor][part.expert]
            whole[part.rows or slice(None)].copy_(stored[disk])
        for key, value in model.named_parameters():
            assert torch.equal(memory[key], value), key
        written = checkpoints.to_disk_names(memory, fresh)
        assert sorted(disk for names in written.values() for disk in names) == sorted(stored)
        assert {disk: parts[disk].tensor for disk in parts} == {  # type: ignore[union-attr]
            disk: key for key, names in written.items() for disk in names
        }


def test_parts_of_experts_are_told_and_whole_tensors_stay_whole() -> None:
    model = checkpoints.meta_model(tiny("mixtral"))
    block = "model.layers.1.block_sparse_moe."
    names = [f"{block}experts.2.w3.weight", f"{block}experts.0.w2.weight", f"{block}gate.weight"]
    names += ["model.layers.0.mlp.experts.gate_up_proj", "lm_head.weight"]
    assert list(checkpoints.to_memory_parts(names, model).values()) == [
        Part("model.layers.1.mlp.experts.gate_up_proj", 2, slice(10, 20)),
        Part("model.layers.1.mlp.experts.down_proj", 0),
        Part("model.layers.1.mlp.gate.weight"),
        Part("model.layers.0.mlp.experts.gate_up_proj"),
        Part("lm_head.weight"),
    ]


# --- refusals


@pytest.mark.parametrize(
    ("name", "extra", "said"),
    [
        ("opt", {"do_layer_norm_before": False}, "do_layer_norm_before: opt with do_layer_norm_before = false has no"),
        ("opt", {"word_embed_proj_dim": 8}, "word_embed_proj_dim: opt with word_embed_proj_dim != hidden_size has no"),
        ("opt", {"_remove_final_layer_norm": True}, "_remove_final_layer_norm: opt with _remove_final_layer_norm = tr"),
        ("opt", {"layer_norm_elementwise_affine": False}, "its norms have no weights to grow"),
        ("qwen2_moe", {"mlp_only_layers": [0]}, "mlp_only_layers: qwen2_moe with mlp_only_layers = [0] has no anatomy"),
        ("qwen2_moe", {"decoder_sparse_step": 2}, "decoder_sparse_step: qwen2_moe with decoder_sparse_step != 1 has"),
        ("qwen2_moe", {"num_experts_per_tok": 9}, "num_experts_per_tok: a token cannot be sent to 9 of 3 experts"),
        ("mixtral", {"num_experts": 0}, "num_experts: must be a whole number of at least 1, not 0"),
        ("gemma2", {"layer_types": ["full_attention"]}, "layer_types: 1 entries for 2 layers; leave it out"),
        ("smollm3", {"no_rope_layers": [1]}, "no_rope_layers: 1 entries for 2 layers"),
        ("gpt_neox", {"hidden_size": 25}, "hidden_size: gpt_neox cannot divide a width of 25 among 6 heads; choose 24"),
        ("gemma2", {"hidden_size": 25, "head_dim": 4}, "hidden_size: gemma2 cannot divide a width of 25 among 6 heads"),
        ("gemma", {"head_dim": 5}, "num_attention_heads: rotary positions need heads of an even size, not 5"),
    ],
)
def test_what_no_line_covers_is_refused_in_one_line(name: str, extra: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        tiny(name, **extra)
    assert said in caught.value.line()
    assert caught.value.remedy or "whole number" in said
    assert "\n" not in caught.value.line()


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("bloom", "no anatomy table for the family 'bloom': ALiBi's slopes depend on a head's index"),
        ("minicpm", "its multipliers are derived from its sizes"),
        ("gemma3", "its text_config is a gemma3_text"),
        ("t5", "no anatomy table for the family 't5': it has an encoder and a decoder"),
        ("mixtrall", "did you mean 'mixtral'?"),
    ],
)
def test_families_without_a_table_are_told_why(kind: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        anatomy_of({"model_type": kind, "architectures": ["Some"]})
    assert said in caught.value.line()
    assert caught.value.key == "model_type"


def test_partial_rotary_positions_need_no_even_heads() -> None:
    """A quarter of a head of 5 is one dimension, turned as a pair with the next: transformers builds and runs it."""
    config = tiny("gpt_neox", hidden_size=30)
    assert sizes_of(config)["head_dim"] == 5
    model = checkpoints.new_model(config, seed=0).eval()
    assert model(input_ids=torch.arange(6)[None]).logits.isfinite().all()
    with pytest.raises(InputError, match="even size, not 5"):
        tiny("phi3", hidden_size=30)


def test_conditions() -> None:
    config = {"on": True, "off": False, "empty": [], "two": 2, "same": 2}
    held = ["on", "not off", "not empty", "two != 1", "two != off"]
    assert [holds(condition, config) for condition in held] == [True] * 5
    assert [holds(condition, config) for condition in ("off", "not on", "two != 2", "two != same")] == [False] * 4


# --- targets


@pytest.mark.parametrize("name", NEW)
def test_canonical_sizes_lead_to_configs_that_the_class_accepts(name: str) -> None:
    source = tiny(name)
    to = {"hidden_size": 48, "num_hidden_layers": 5}
    target, _ = target_config(source, to)
    live = checkpoints.meta_model(target)
    before, after = sizes_of(source), sizes_of(target)
    assert after["hidden_size"] == 48 and after["num_hidden_layers"] == 5
    assert after["num_attention_heads"] == 12 and after["head_dim"] == before["head_dim"]
    assert after["intermediate_size"] == (24 if has_experts(FAMILIES[name]) else 20)  # grouped kernels take eights
    for key in FAMILIES[name].per_layer:
        assert target[key] == (source[key] * 3)[:5]
    assert check_model(live).parameters() == Anatomy(target, objective_of(FAMILIES[name])).parameters()
    if "num_key_value_heads" in before:
        named, _ = target_config(source, {**to, "num_key_value_heads": 12})
        assert sizes_of(named)["num_key_value_heads"] == 12


def test_sizes_that_hang_on_others_follow() -> None:
    assert target_config(tiny("opt"), {"hidden_size": 48})[0]["word_embed_proj_dim"] == 48
    source = tiny("qwen2_moe", shared_expert_intermediate_size=15)
    assert source["intermediate_size"] == FAMILIES["qwen2_moe"].defaults["intermediate_size"]  # nothing reads it
    target, inferred = target_config(source, {"intermediate_size": 20})
    assert (target["moe_intermediate_size"], target["shared_expert_intermediate_size"]) == (20, 30)
    assert target["intermediate_size"] == source["intermediate_size"]
    assert inferred == {"shared_expert_intermediate_size": "30 (1.5 times the experts' width)"}
    target, _ = target_config(source, {"moe_intermediate_size": 20, "shared_expert_intermediate_size": 16})
    assert (target["moe_intermediate_size"], target["shared_expert_intermediate_size"]) == (20, 16)
    with pytest.raises(InputError, match=r"shared_expert_intermediate_size: 14 is smaller"):
        target_config(source, {"shared_expert_intermediate_size": 14})
    granite, _ = target_config(tiny("granite", residual_multiplier=0.22), {"hidden_size": 48})
    assert granite["residual_multiplier"] == 0.22


def test_new_models_keep_the_familys_shape() -> None:
    """gemma2's heads fill 8/9 of its width; a small one is given a number of heads that its class accepts."""
    small = sizes_of(complete_config("gemma2", {"hidden_size": 96}, head="causal-lm"))
    assert (small["num_attention_heads"], small["head_dim"]) == (6, 16)
    moe = complete_config("qwen2_moe", {"hidden_size": 64}, head="causal-lm", num_experts=4)
    assert (moe["moe_intermediate_size"], moe["shared_expert_intermediate_size"]) == (48, 192)
    assert Anatomy(moe, "causal-lm").sizes["expert"] == 4


# --- axes and units


def test_sizes_of_the_axes() -> None:
    def axes(name: str, **extra: Any) -> dict[str, int]:
        return Anatomy(tiny(name, **extra), objective_of(FAMILIES[name])).sizes

    assert axes("olmo2", num_key_value_heads=2)["k"] == axes("olmo2", num_key_value_heads=2)["kv"] == 8
    assert axes("gpt_neox")["qkv"] == 3 * 24
    assert axes("opt")["pos"] == 18
    assert {key: axes("qwen2_moe", shared_expert_intermediate_size=15)[key] for key in ("ffn", "shared", "expert")} == {
        "ffn": 10,
        "shared": 15,
        "expert": 3,
    }
    assert not {"k", "qkv", "shared", "expert"} & axes("llama").keys()


def test_roles_that_set_families_apart() -> None:
    def roles(line: str) -> list[str]:
        return [dim.role for dim in parse(line).dims]

    lines = {name: {row.name: row.line for row in FAMILIES[name].rows} for name in NEW}
    assert roles(lines["gemma3_text"]["embed_tokens.weight"]) == ["read", "scaled_write"]
    post = lines["gemma2"]["layers.{layer}.post_feedforward_layernorm.weight"]
    assert roles(post) == ["post_gain"] and parse(post).one_plus
    assert roles(lines["olmo2"]["layers.{layer}.mlp.up_proj.weight"]) == ["write", "raw_read"]
    assert roles(lines["mixtral"]["layers.{layer}.mlp.experts.down_proj"]) == ["batch", "write", "read"]
    with pytest.raises(AnatomyError, match="multiplies what is no lookup"):
        parse("*hidden <- ffn")


def test_the_first_block_of_modernbert_has_no_norm() -> None:
    anatomy = Anatomy(tiny("modernbert", norm_bias=True), "masked-lm")
    assert "model.layers.0.attn_norm.weight" not in anatomy.tensors
    assert {f"model.layers.1.attn_norm.{part}" for part in ("weight", "bias")} <= anatomy.tensors.keys()


def test_heads_of_interleaved_projections() -> None:
    anatomy = Anatomy(tiny("gpt_neox"), "causal-lm")
    weight = "gpt_neox.layers.1.attention.query_key_value.weight"
    head = anatomy.units("head", 1)[2]
    assert {place.tensor: place.indices for place in head.writes}[weight] == slice(24, 36)
    assert [place.indices for place in head.reads] == [slice(8, 12)]
    keys = anatomy.units("kv_head", 1)[2]
    assert {place.tensor: place.indices for place in keys.writes}[weight] == slice(28, 36)


def test_heads_that_are_normed_together() -> None:
    anatomy = Anatomy(tiny("olmo2"), "causal-lm")
    names = {place.tensor.split(".")[-2] for place in anatomy.units("head", 0)[1].writes}
    assert names == {"q_proj", "k_proj", "v_proj"}
    grouped = Anatomy(tiny("olmo2", num_key_value_heads=2), "causal-lm")
    assert {place.tensor.split(".")[-2] for place in grouped.units("kv_head", 0)[1].writes} == {"k_proj", "v_proj"}


def test_neurons_of_experts_are_the_experts_own() -> None:
    anatomy = Anatomy(tiny("qwen2_moe", shared_expert_intermediate_size=15), "causal-lm")
    neurons = anatomy.units("neuron", 1)
    assert [neuron.index for neuron in neurons] == list(range(3 * 10))
    mlp = "model.layers.1.mlp."
    assert neurons[2 * 10 + 7].writes == (
        Place(mlp + "experts.gate_up_proj", 1, slice(7, 8), 2),
        Place(mlp + "experts.gate_up_proj", 1, slice(17, 18), 2),
    )
    assert neurons[2 * 10 + 7].reads == (Place(mlp + "experts.down_proj", 2, slice(7, 8), 2),)
    shared = anatomy.units("shared_neuron", 1)
    assert len(shared) == 15
    assert shared[3].reads == (Place(mlp + "shared_expert.down_proj.weight", 1, slice(3, 4)),)
    with pytest.raises(InputError, match="mixtral has no shared expert"):
        Anatomy(tiny("mixtral"), "causal-lm").units("shared_neuron", 0)


@pytest.mark.parametrize(
    ("name", "kind"), [("qwen2_moe", "neuron"), ("qwen2_moe", "shared_neuron"), ("phi3", "neuron"), ("opt", "neuron")]
)
def test_a_neuron_without_its_rows_is_a_neuron_without_its_columns(name: str, kind: UnitKind) -> None:
    anatomy = Anatomy(tiny(name), "causal-lm")
    unit = anatomy.units(kind, 1)[-1]
    ids = torch.arange(4, 20)[None]

    def logits(places: tuple[Place, ...]) -> torch.Tensor:
        model = checkpoints.new_model(tiny(name), seed=0).eval()
        model.set_experts_implementation("eager")  # the grouped kernel takes whole multiples of 16 bytes only
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for weight in parameters.values():
                weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)), alpha=0.3)
            for place in places:
                weight = parameters[place.tensor]
                part = weight.narrow(place.dim, place.indices.start, place.indices.stop - place.indices.start)
                (part if place.expert is None else part[place.expert]).zero_()
            made: torch.Tensor = model(input_ids=ids).logits
        return made

    whole, without = logits(()), logits(unit.writes)
    torch.testing.assert_close(logits(unit.reads), without)
    assert (whole - without).abs().max() > 1e-3


def test_only_the_chosen_experts_are_counted() -> None:
    one = Anatomy(tiny("mixtral", num_experts_per_tok=1), "causal-lm")
    two = Anatomy(tiny("mixtral", num_experts_per_tok=2), "causal-lm")
    expert = 3 * 24 * 10
    assert two.flops(16).forward - one.flops(16).forward == pytest.approx(2 * two.layers * expert)


def test_small_models_of_a_family_have_heads_worth_the_name() -> None:
    """A head_dim of 96, halved, never divides a width of 64: the heads become as large as four of them allow."""
    assert complete_config("gpt_neox", {"hidden_size": 64}, head="causal-lm")["num_attention_heads"] == 4
    assert complete_config("llama", {"hidden_size": 96}, head="causal-lm")["head_dim"] == 16
    assert complete_config("phi3", {"hidden_size": 80}, head="causal-lm")["num_attention_heads"] == 4
