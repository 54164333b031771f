"""The notation, the maps' vectors, target sizes, units: what the anatomy says when it is asked."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

from bequest.anatomy import FAMILIES, Anatomy, anatomy_of, complete_config, sizes_of, target_config
from bequest.anatomy.anatomy import Tensor
from bequest.anatomy.axes import Dim, parse
from bequest.anatomy.maps import Maps, circular, duplicate, grouped_heads, origin_of
from bequest.anatomy.surgery import grow_tensor
from bequest.errors import AnatomyError, InputError
from bequest.growth.stack import stacked

LLAMA = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}


def llama(**sizes: Any) -> dict[str, Any]:
    return complete_config("llama", {**LLAMA, **sizes}, head="causal-lm", vocab_size=100)


@pytest.mark.parametrize(
    ("text", "dims", "kind"),
    [
        ("q <- hidden", (Dim(("q",), "write"), Dim(("hidden",), "read")), "linear"),
        ("hidden -> q|kv|kv", (Dim(("hidden",), "read"), Dim(("q", "kv", "kv"), "write")), "linear"),
        ("q <- ~hidden", (Dim(("q",), "write"), Dim(("hidden",), "raw_read")), "linear"),
        ("vocab -> hidden", (Dim(("vocab",), "read"), Dim(("hidden",), "write")), "lookup"),
        ("hidden", (Dim(("hidden",), "write"),), "vector"),
        ("gain hidden", (Dim(("hidden",), "gain"),), "vector"),
        ("shift embed", (Dim(("embed",), "shift"),), "vector"),
        ("post gain hidden", (Dim(("hidden",), "post_gain"),), "vector"),
        (
            "expert: ffn|ffn <- hidden",
            (Dim(("expert",), "batch"), Dim(("ffn", "ffn"), "write"), Dim(("hidden",), "read")),
            "linear",
        ),
    ],
)
def test_lines_are_parsed(text: str, dims: tuple[Dim, ...], kind: str) -> None:
    line = parse(text)
    assert (line.dims, line.kind, line.one_plus) == (dims, kind, False)


def test_one_plus_norms_are_marked() -> None:
    assert parse("gain1 hidden").one_plus


@pytest.mark.parametrize("text", ["", "q <-", "q <- hidden <- ffn", "hiden", "q <- hidden|", "gane hidden", "a: q"])
def test_lines_outside_the_notation_are_refused(text: str) -> None:
    with pytest.raises(AnatomyError):
        parse(text)


def test_a_misspelt_axis_is_answered() -> None:
    with pytest.raises(AnatomyError, match=r"unknown axis 'hiden'.*did you mean 'hidden'"):
        parse("q <- hiden")


def test_every_line_of_every_table_parses() -> None:
    for family in FAMILIES.values():
        for head in family.heads.values():
            for row in (*family.rows, *head.base_rows, *head.rows):
                assert parse(row.line).dims


def test_fpi_vector_of_the_specification() -> None:
    """W = [[1,2],[3,4]], g_in = [0,1,0], g_out = [0,1,1]."""
    tensor = Tensor("w", parse("q <- hidden"), (2, 2), None)
    maps = Maps({"hidden": duplicate([0, 1, 0], 2), "q": duplicate([0, 1, 1], 2)}, (0,))
    anatomy = Anatomy(llama(), "causal-lm")
    anatomy.sizes |= {"hidden": 2, "q": 2}
    grown = grow_tensor(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), tensor, anatomy, maps)
    assert grown.tolist() == [[0.5, 2, 0.5], [1.5, 4, 1.5], [1.5, 4, 1.5]]
    assert (grown @ torch.tensor([1.0, -1.0, 1.0])).tolist() == [-1, -1, -1]


def test_one_plus_norms_grow_as_their_effect() -> None:
    tensor = Tensor("model.norm.weight", parse("gain1 hidden"), (2,), None)
    anatomy = Anatomy(llama(tie_word_embeddings=True), "causal-lm")
    anatomy.sizes["hidden"] = 2
    grown = grow_tensor(torch.tensor([1.0, 3.0]), tensor, anatomy, Maps({"hidden": circular(2, 4)}, (0,)))
    assert grown.tolist() == [0.0, 1.0, 0.0, 1.0]  # (1 + w) / 2 - 1


def test_shares_are_computed_in_float64() -> None:
    scale = circular(1, 3).scale("read")
    assert scale == (1 / 3, 1 / 3, 1 / 3)


def test_grouped_heads_vectors() -> None:
    assert grouped_heads(4, 2, 9, 3) == ([0, 1, 0, 2, 3, 2, 1, 0, 1], [0, 1, 0])
    assert grouped_heads(4, 2, 8, 2) == ([0, 1, 0, 1, 2, 3, 2, 3], [0, 1])
    assert grouped_heads(2, 2, 4, 4) == ([0, 1, 0, 1], [0, 1, 0, 1])
    with pytest.raises(AnatomyError, match="query head 5 finds no place"):
        grouped_heads(6, 2, 6, 3)


@pytest.mark.parametrize(
    ("layers", "new", "order"),
    [(5, 12, [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 3, 4]), (2, 4, [0, 1, 0, 1]), (3, 4, [0, 1, 2, 2]), (3, 3, [0, 1, 2])],
)
def test_stacking_orders(layers: int, new: int, order: list[int]) -> None:
    assert list(stacked(layers, new)) == order


def test_origins_of_layers() -> None:
    assert origin_of("h.3.attn.c_attn.weight", 3, (0, 1, 0, 1)) == "h.1.attn.c_attn.weight"
    assert origin_of("layers.1.mlp.up_proj.weight", 1, (0, 0)) == "layers.0.mlp.up_proj.weight"
    assert origin_of("wte.weight", None, (0,)) == "wte.weight"


# --- sizes


def test_sizes_not_named_follow() -> None:
    target, inferred = target_config(llama(), {"hidden_size": 128})
    assert sizes_of(target) == {
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "intermediate_size": 2 * llama()["intermediate_size"],
        "head_dim": 16,
    }
    assert inferred.keys() == {"num_attention_heads", "num_key_value_heads", "intermediate_size"}
    assert inferred["num_attention_heads"] == "8 (128 / head_dim 16)"


def test_a_named_size_wins_and_native_names_work() -> None:
    target, inferred = target_config(llama(), {"hidden_size": 128, "intermediate_size": 999})
    assert target["intermediate_size"] == 999
    assert "intermediate_size" not in inferred
    gpt2 = complete_config("gpt2", {"n_embd": 32, "n_layer": 1, "n_head": 4}, head="causal-lm")
    assert target_config(gpt2, {"n_embd": 64})[0] == target_config(gpt2, {"hidden_size": 64})[0]
    assert target_config(gpt2, {"n_embd": 64})[0]["n_inner"] == 256


def test_depth_alone_infers_nothing() -> None:
    target, inferred = target_config(llama(), {"num_hidden_layers": 5})
    assert inferred == {}
    assert {**target, "num_hidden_layers": 2} == llama()


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ({}, "no size to grow is named"),
        ({"hidden_size": 32}, "hidden_size: 32 is smaller than the source's 64"),
        ({"num_hidden_layers": 1}, "num_hidden_layers: 1 is smaller"),
        ({"hidden_sise": 128}, "did you mean 'hidden_size'"),
        ({"hidden_size": "128"}, "hidden_size: must be a whole number"),
        ({"hidden_size": True}, "hidden_size: must be a whole number"),
        ({"hidden_size": 72}, "hidden_size: a width of 72 is no whole number of heads of 16; choose 64 or 80"),
        ({"vocab_size": 200}, "vocab_size: vocabulary and positions do not grow"),
        ({"head_dim": 32}, "head_dim: the head_dim stays 16"),
        ({"num_attention_heads": 6, "num_key_value_heads": 4}, "num_key_value_heads: 6 query heads cannot share 4"),
        ({"hidden_size": 100, "num_attention_heads": 6}, "hidden_size: llama cannot divide a width of 100 among 6"),
    ],
)
def test_targets_that_cannot_be_are_refused_by_key(to: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        target_config(llama(), to)
    assert said in caught.value.line()


def test_electra_keeps_or_follows_its_embedding() -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    apart = complete_config("electra", {**sizes, "embedding_size": 16}, head="masked-lm")
    assert target_config(apart, {"hidden_size": 64})[0]["embedding_size"] == 16
    equal = complete_config("electra", {**sizes, "embedding_size": 32}, head="masked-lm")
    assert target_config(equal, {"hidden_size": 64})[0]["embedding_size"] == 64
    with pytest.raises(InputError, match=r"embedding_size: .*would drop the source's projection"):
        target_config(apart, {"hidden_size": 64, "embedding_size": 64})
    with pytest.raises(InputError, match=r"embedding_size: .*would need a projection"):
        target_config(equal, {"hidden_size": 64, "embedding_size": 32})


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: complete_config("lama", {}, head="causal-lm"), "family: .*did you mean 'llama'"),
        (lambda: complete_config("llama", {}, head="masked-lm"), "head: llama has no 'masked-lm' head"),
        (lambda: complete_config("llama", {"hiden_size": 8}, head="causal-lm"), "did you mean 'hidden_size'"),
        (lambda: complete_config("gpt2", {"n_embd": 8, "hidden_size": 8}, head="bare"), "given twice"),
        (lambda: complete_config("llama", {"hidden_size": -8}, head="bare"), "hidden_size: must be a whole number"),
        (lambda: complete_config("bert", {"is_decoder": True}, head="masked-lm"), "is_decoder: .*no anatomy table"),
        (lambda: anatomy_of({"model_type": "t5"}), "model_type: no anatomy table for the family 't5'"),
        (lambda: anatomy_of({"model_type": "bert"}), "architectures: the config names no architecture"),
        (lambda: anatomy_of({"model_type": "bert", "architectures": ["BertForNSP"]}), "BertForNSP is none of"),
        (lambda: anatomy_of("/nowhere"), "no such config"),
    ],
)
def test_bad_configs_are_answered_in_one_line(call: Any, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        call()
    assert "\n" not in caught.value.line()


def test_new_configs_infer_what_is_not_named() -> None:
    config = complete_config("llama", {"hidden_size": 128, "num_hidden_layers": 4}, head="causal-lm", vocab_size=4096)
    assert sizes_of(config)["num_attention_heads"] == 4
    assert sizes_of(config)["head_dim"] == 32
    assert config["intermediate_size"] == 344
    assert config["architectures"] == ["LlamaForCausalLM"]
    small = complete_config("gpt2", {"hidden_size": 64}, head="causal-lm", vocab_size=500)
    assert small["bos_token_id"] is None
    assert complete_config("gpt2", {}, head="causal-lm", vocab_size=500, eos_token_id=3)["eos_token_id"] == 3


# --- what touches an axis


def test_units_of_a_grouped_decoder() -> None:
    anatomy = Anatomy(llama(attention_bias=True, intermediate_size=50), "causal-lm")
    head = anatomy.units("head", 1)[2]
    prefix = "model.layers.1.self_attn."
    assert {(place.tensor, place.dim) for place in head.writes} == {
        (prefix + "q_proj.weight", 0),
        (prefix + "q_proj.bias", 0),
    }
    assert {(place.tensor, place.dim) for place in head.reads} == {(prefix + "o_proj.weight", 1)}
    assert {(place.indices.start, place.indices.stop) for place in head.places} == {(32, 48)}
    assert [len(anatomy.units(kind, 0)) for kind in ("head", "kv_head", "neuron")] == [4, 2, 50]
    neuron = anatomy.units("neuron", 0)[7]
    assert {place.tensor.split(".")[-2] for place in neuron.places} == {"gate_proj", "up_proj", "down_proj"}
    assert all(place.indices == slice(7, 8) for place in neuron.places)


def test_units_of_a_fused_projection_are_offset() -> None:
    config = complete_config("gpt2", {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}, head="bare")
    head = Anatomy(config, "bare").units("head", 0)[1]
    fused = [place.indices.start for place in head.writes if place.tensor == "h.0.attn.c_attn.weight"]
    assert sorted(fused) == [8, 32 + 8, 64 + 8]
    assert [place.dim for place in head.reads] == [0]


def test_units_partition_their_axis() -> None:
    for family in FAMILIES:
        head = next(iter(FAMILIES[family].heads))
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
        anatomy = Anatomy(complete_config(family, sizes, head=head), head)
        for kind, axis in (("head", "attn"), ("neuron", "ffn")):
            covered = [
                row
                for unit in anatomy.units(kind, 1)  # type: ignore[arg-type]
                for place in unit.reads
                for row in range(place.indices.start, place.indices.stop)
            ]
            rounds = anatomy.sizes.get("expert", 1) if kind == "neuron" else 1
            assert covered == list(range(anatomy.sizes[axis])) * rounds, family


def test_writers_of_the_stream_inside_a_layer_are_what_an_identity_block_zeroes() -> None:
    gpt2 = Anatomy(complete_config("gpt2", {"num_hidden_layers": 2}, head="causal-lm"), "causal-lm")
    assert [use.tensor.split("h.1.")[-1] for use in gpt2.writers("hidden", 1)] == [
        "attn.c_proj.weight",
        "attn.c_proj.bias",
        "mlp.c_proj.weight",
        "mlp.c_proj.bias",
    ]
    decoder = Anatomy(llama(), "causal-lm")
    assert [use.tensor.split(".")[-2] for use in decoder.writers("hidden", 0)] == ["o_proj", "down_proj"]
    assert "lm_head.weight" in [use.tensor for use in decoder.readers("hidden")]
    assert "lm_head.weight" not in [
        use.tensor for use in Anatomy(llama(tie_word_embeddings=True), "causal-lm").readers("hidden")
    ]


def test_published_sizes() -> None:
    """Parameter counts that everybody knows: BERT-base 110M, GPT-2 124M, Llama-2 7B."""
    bert = complete_config("bert", {}, head="bare")
    assert Anatomy(bert, "bare").parameters() == 109_482_240
    assert Anatomy(complete_config("gpt2", {}, head="causal-lm"), "causal-lm").parameters() == 124_439_808
    assert Anatomy(complete_config("llama", {}, head="causal-lm"), "causal-lm").parameters() == 6_738_415_616


def test_planning_needs_neither_torch_nor_transformers() -> None:
    program = (
        "import sys, bequest\n"
        "from bequest import checkpoints\n"
        "from bequest.anatomy import complete_config\n"
        "c = complete_config('llama', {'hidden_size': 64}, head='causal-lm')\n"
        "p = bequest.plan_growth(c, {'hidden_size': 96, 'num_hidden_layers': 64}, training_follows=True)\n"
        "assert p.params and p.flops.train and p.exact and p.record()\n"
        "heavy = {'torch', 'transformers', 'numpy', 'safetensors', 'peft'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
