"""The tables of later decoders with RMSNorm: phi3, granite, smollm3, gemma, gemma2, gemma3_text, olmo2.

phi3 fuses its projections; granite multiplies by constants, which commute with the maps and stay as they are; gemma
multiplies its embeddings by sqrt(hidden) and its norms by 1 + w; gemma2 and gemma3 norm what each branch adds to the
stream as well, olmo2 only that, so that its projections read the stream itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bequest.anatomy.decoders import (
    DEFAULTS,
    ROPE,
    ROTARY_BUFFERS,
    attention_rows,
    decoder_heads,
    mlp_rows,
    pre_norm_rows,
)
from bequest.anatomy.table import Family, Row, linear

_L = "layers.{layer}."

PHI3 = Family(
    name="phi3",
    prefix="model",
    norm="rms",
    rows=pre_norm_rows(
        (
            *linear(_L + "self_attn.qkv_proj", "q|kv|kv <- hidden", None),
            *linear(_L + "self_attn.o_proj", "hidden <- attn", None),
        ),
        (
            *linear(_L + "mlp.gate_up_proj", "ffn|ffn <- hidden", None),
            *linear(_L + "mlp.down_proj", "hidden <- ffn", None),
        ),
    ),
    heads=decoder_heads("Phi3"),
    defaults={
        **DEFAULTS,
        "vocab_size": 32064,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_key_value_heads": None,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-05,
        "rope_parameters": {**ROPE, "partial_rotary_factor": 1.0},
        "bos_token_id": 1,
        "eos_token_id": 32000,
        "pad_token_id": 32000,
        "sliding_window": None,
    },
    last_norm="norm",
    head_dim="optional",
    rotary=True,
    whole_heads=False,
    buffers=ROTARY_BUFFERS,
)

GRANITE = Family(
    name="granite",
    prefix="model",
    norm="rms",
    rows=pre_norm_rows(attention_rows(qkv_bias="attention_bias", o_bias="attention_bias"), mlp_rows(bias="mlp_bias")),
    heads=decoder_heads("Granite", classifier=""),
    defaults={
        **DEFAULTS,
        "vocab_size": 32000,
        "intermediate_size": 11008,
        "num_key_value_heads": None,
        "max_position_embeddings": 2048,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "attention_bias": False,
        "mlp_bias": False,
        "embedding_multiplier": 1.0,
        "logits_scaling": 1.0,
        "residual_multiplier": 1.0,
        "attention_multiplier": 1.0,
    },
    last_norm="norm",
    head_dim="optional",
    rotary=True,
    whole_heads=False,
    buffers=ROTARY_BUFFERS,
)


def _unturned_layers_slide(config: Mapping[str, Any], layer: int) -> str:
    slides = config["use_sliding_window"] and config["sliding_window"] is not None
    return "sliding_attention" if slides and not config["no_rope_layers"][layer] else "full_attention"


SMOLLM3 = Family(
    name="smollm3",
    prefix="model",
    norm="rms",
    rows=pre_norm_rows(attention_rows(qkv_bias="attention_bias", o_bias="attention_bias"), mlp_rows(bias="mlp_bias")),
    heads=decoder_heads("SmolLM3"),
    defaults={
        **DEFAULTS,
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "pad_token_id": 128004,
        "bos_token_id": 128000,
        "eos_token_id": 128001,
        "rope_parameters": {**ROPE, "rope_theta": 2000000.0},
        "use_sliding_window": False,
        "sliding_window": None,
        "no_rope_layers": None,
        "no_rope_layer_interval": 4,
        "layer_types": None,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
    },
    # A 1 turns the block's queries and keys by their positions, a 0 does not.
    lists={
        "no_rope_layers": lambda config, layer: int((layer + 1) % config["no_rope_layer_interval"] != 0),
        "layer_types": _unturned_layers_slide,
    },
    last_norm="norm",
    head_dim="optional",
    rotary=True,
    whole_heads=False,
    buffers=ROTARY_BUFFERS,
)

_GEMMA: dict[str, Any] = {
    "vocab_size": 256000,
    "head_dim": 256,
    "max_position_embeddings": 8192,
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-06,
    "use_cache": True,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
    "tie_word_embeddings": True,
    "rope_parameters": ROPE,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "use_bidirectional_attention": None,
}
_GEMMA_BIASES: dict[str, Any] = {"qkv_bias": "attention_bias", "o_bias": "attention_bias"}

GEMMA = Family(
    name="gemma",
    prefix="model",
    norm="rms",
    rows=pre_norm_rows(attention_rows(**_GEMMA_BIASES), mlp_rows(), gain="gain1", lookup="vocab -> *hidden"),
    heads=decoder_heads("Gemma"),
    defaults={
        **_GEMMA,
        "hidden_size": 3072,
        "intermediate_size": 24576,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "hidden_act": "gelu_pytorch_tanh",
    },
    # The first checkpoints say "gelu" and mean its approximation.
    derived={
        "hidden_act": lambda config: "gelu_pytorch_tanh" if config["hidden_act"] == "gelu" else config["hidden_act"]
    },
    last_norm="norm",
    head_dim="field",
    rotary=True,
    whole_heads=False,
    buffers=ROTARY_BUFFERS,
)


def _normed_branches(attention: tuple[Row, ...]) -> tuple[Row, ...]:
    """A gemma2-like base: a norm before each branch and one behind it."""
    return (
        Row("embed_tokens.weight", "vocab -> *hidden"),
        Row(_L + "input_layernorm.weight", "gain1 hidden"),
        *attention,
        Row(_L + "post_attention_layernorm.weight", "post gain1 hidden"),
        Row(_L + "pre_feedforward_layernorm.weight", "gain1 hidden"),
        *mlp_rows(),
        Row(_L + "post_feedforward_layernorm.weight", "post gain1 hidden"),
        Row("norm.weight", "gain1 hidden"),
    )


_GEMMA2: dict[str, Any] = {
    **_GEMMA,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "layer_types": None,
    "final_logit_softcapping": 30.0,
    "attn_logit_softcapping": 50.0,
}

GEMMA2 = Family(
    name="gemma2",
    prefix="model",
    norm="rms",
    rows=_normed_branches(attention_rows(**_GEMMA_BIASES)),
    heads=decoder_heads("Gemma2"),
    defaults=_GEMMA2,
    lists={"layer_types": lambda config, layer: "full_attention" if layer % 2 else "sliding_attention"},
    last_norm="norm",
    head_dim="field",
    rotary=True,
    buffers=ROTARY_BUFFERS,
)


def _gemma3_pattern(config: Mapping[str, Any]) -> Any:
    return config.get("sliding_window_pattern", 6)  # older configs say it; newer ones list the layers


GEMMA3_TEXT = Family(
    name="gemma3_text",
    prefix="model",
    norm="rms",
    rows=_normed_branches(attention_rows(**_GEMMA_BIASES, q_norm="gain1 head_dim", k_norm="gain1 head_dim")),
    heads=decoder_heads("Gemma3", classifier="Gemma3Text"),
    defaults={
        **_GEMMA2,
        "vocab_size": 262208,
        "max_position_embeddings": 131072,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {"rope_type": "default", "rope_theta": 1000000.0},
        },
        "final_logit_softcapping": None,
        "attn_logit_softcapping": None,
        "use_bidirectional_attention": False,
        "_sliding_window_pattern": 6,
    },
    derived={"_sliding_window_pattern": _gemma3_pattern},
    lists={
        "layer_types": lambda config, layer: (
            "sliding_attention" if (layer + 1) % config["_sliding_window_pattern"] else "full_attention"
        )
    },
    last_norm="norm",
    head_dim="field",
    rotary=True,
    buffers=ROTARY_BUFFERS,
)

OLMO2 = Family(
    name="olmo2",
    prefix="model",
    norm="rms",
    rows=(
        Row("embed_tokens.weight", "vocab -> hidden"),
        *attention_rows(
            read="~hidden",
            k="k",
            qkv_bias="attention_bias",
            o_bias="attention_bias",
            q_norm="gain q",
            k_norm="gain k",
        ),
        Row(_L + "post_attention_layernorm.weight", "post gain hidden"),
        *mlp_rows(read="~hidden"),
        Row(_L + "post_feedforward_layernorm.weight", "post gain hidden"),
        Row("norm.weight", "gain hidden"),
    ),
    heads=decoder_heads("Olmo2"),
    defaults={
        **DEFAULTS,
        "vocab_size": 50304,
        "intermediate_size": 11008,
        "num_key_value_heads": None,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-05,
        "pad_token_id": 1,
        "bos_token_id": None,
        "eos_token_id": 50279,
        "attention_bias": False,
    },
    last_norm="norm",
    head_dim="optional",
    rotary=True,
    whole_heads=False,
    buffers=ROTARY_BUFFERS,
)
