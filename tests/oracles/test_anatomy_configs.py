"""Oracle: transformers' config classes say what the tables' defaults are, and what is settled from them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from bequest.anatomy import FAMILIES, check_model, complete_config, objective_of, settle, target_config
from bequest.checkpoints import live_config, meta_model, new_model
from bequest.errors import InputError

SAME_BY_NULL = {"n_inner"}  # null means four times the width; we write the number


def agree(ours: dict[str, Any], theirs: dict[str, Any], family: str) -> None:
    for key in FAMILIES[family].defaults:
        if key in SAME_BY_NULL and theirs[key] is None:
            assert ours[key] == 4 * theirs["n_embd"]
        else:
            assert ours[key] == theirs[key], key


@pytest.mark.parametrize("family", FAMILIES)
def test_defaults_are_the_classes_own(family: str) -> None:
    theirs = CONFIG_MAPPING[family]().to_dict()
    agree(settle({"model_type": family}), theirs, family)
    general = {"id2label", "label2id", "architectures", "model_type", "transformers_version", "_name_or_path"}
    general |= {"output_hidden_states", "output_attentions", "return_dict", "dtype", "chunk_size_feed_forward"}
    general |= {"is_encoder_decoder", "problem_type"}
    assert theirs.keys() - general == FAMILIES[family].defaults.keys() | ({"head_dim"} & theirs.keys())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_default_model_follows_from_its_own_width(family: str) -> None:
    """Naming the family's own width infers the family's own sizes."""
    head = objective_of(FAMILIES[family])
    width = settle({"model_type": family})[FAMILIES[family].key("hidden_size")]
    named, plain = complete_config(family, {"hidden_size": width}, head=head), complete_config(family, {}, head=head)
    assert named == plain
    assert {k: v for k, v in plain.items() if k != "architectures"} == settle({"model_type": family}) | {
        "model_type": family
    }


@settings(max_examples=200, deadline=None)
@given(
    family=st.sampled_from(sorted(FAMILIES)),
    hidden=st.integers(1, 20).map(lambda n: 12 * n),
    layers=st.integers(1, 4),
    heads=st.sampled_from([None, 1, 2, 3, 4, 6, 7]),
    kv=st.sampled_from([None, 0, 1, 2, 3]),
)
def test_complete_configs_are_what_the_classes_make_of_them(
    family: str, hidden: int, layers: int, heads: int | None, kv: int | None
) -> None:
    sizes: dict[str, Any] = {"hidden_size": hidden, "num_hidden_layers": layers}
    if heads:
        sizes["num_attention_heads"] = heads
    if kv is not None and "num_key_value_heads" in FAMILIES[family].defaults:
        sizes["num_key_value_heads"] = kv or None
    try:
        config = complete_config(family, sizes, head=objective_of(FAMILIES[family]), vocab_size=100)
    except InputError as error:
        assert error.key in ("hidden_size", "num_attention_heads", "num_key_value_heads")
        return
    made = live_config(config).to_dict()
    agree(settle(made), made, family)
    agree(config, made, family)
    assert settle(settle(config)) == settle(config)
    embedding = {"embedding_size": 2 * config["embedding_size"]} if family == "electra" else {}
    target, _ = target_config(config, {FAMILIES[family].key("hidden_size"): 2 * hidden, **embedding})
    agree(target, live_config(target).to_dict(), family)


def test_old_rope_words_survive_growth() -> None:
    old = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "rope_theta": 500000.0}
    old |= {"num_hidden_layers": 1, "architectures": ["LlamaForCausalLM"]}
    assert AutoConfig.for_model(**old).rope_parameters["rope_theta"] == 500000.0
    target, _ = target_config(old, {"hidden_size": 128})
    assert live_config(target).rope_parameters["rope_theta"] == 500000.0


@pytest.mark.parametrize("family", FAMILIES)
def test_widths_that_heads_do_not_divide_are_refused_where_the_class_refuses_them(family: str) -> None:
    """Some config classes refuse them even with a head_dim given, some models when they are built or first run."""
    record = FAMILIES[family]
    sizes: dict[str, Any] = {"hidden_size": 50, "num_attention_heads": 7, "num_hidden_layers": 1}
    if record.head_dim != "quotient":
        sizes["head_dim"] = 6
    if "num_key_value_heads" in record.defaults:
        sizes["num_key_value_heads"] = 7
    config = settle({"model_type": family}) | {record.key(key): value for key, value in sizes.items()}
    config |= dict.fromkeys((*record.per_layer, *record.follows))
    config |= {"vocab_size": 20, "pad_token_id": None, "architectures": [record.heads["bare"].class_name]}
    if not record.whole_heads:
        assert settle(config)[record.key("hidden_size")] == 50
        check_model(meta_model(config))
        return
    with pytest.raises(InputError, match=r"hidden_size.*choose 49 or 56"):
        settle(config)
    with pytest.raises((InputError, ValueError, RuntimeError), match=r"multiple|divisible|divide|shapes"):
        new_model(config, seed=0)(input_ids=torch.ones(1, 1, dtype=torch.long))


def test_the_class_and_the_table_read_the_same_lists() -> None:
    """The entries of per-layer lists under every switch that they hang on."""
    for family, switches in (
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}),
        ("qwen2_moe", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 3}),
        ("smollm3", {"use_sliding_window": True, "sliding_window": 8, "no_rope_layer_interval": 3}),
        ("smollm3", {"sliding_window": 8}),
        ("gemma3_text", {"sliding_window_pattern": 2}),
        ("modernbert", {"global_attn_every_n_layers": 4}),
        ("gemma2", {}),
    ):
        config = {"model_type": family, "num_hidden_layers": 7, **switches}
        agree(settle(config), live_config(config).to_dict(), family)
        full = settle(config)
        assert all(len(full[key]) == 7 and len(set(full[key])) <= 2 for key in FAMILIES[family].per_layer)
