"""The tables of the decoders: gpt2 (pre-LN LayerNorm), llama, mistral, qwen2, qwen3 (RMSNorm).

All are pre-norm: the last norm belongs to the base model, so on a tied base it carries n/N for every variant, and
whatever reads it (``lm_head``, ``score``) is read like the tied head.  One base therefore grows to the same base
whichever head hangs on it.
"""

from __future__ import annotations

from typing import Any

from bequest.anatomy.table import Family, Head, Row

GPT2 = Family(
    name="gpt2",
    prefix="transformer",
    norm="layer",
    rows=(
        Row("wte.weight", "vocab -> hidden"),
        Row("wpe.weight", "pos -> hidden"),
        Row("h.{layer}.ln_1.weight", "gain hidden"),
        Row("h.{layer}.ln_1.bias", "shift hidden"),
        Row("h.{layer}.attn.c_attn.weight", "hidden -> q|kv|kv"),
        Row("h.{layer}.attn.c_attn.bias", "q|kv|kv"),
        Row("h.{layer}.attn.c_proj.weight", "attn -> hidden"),
        Row("h.{layer}.attn.c_proj.bias", "hidden"),
        Row("h.{layer}.ln_2.weight", "gain hidden"),
        Row("h.{layer}.ln_2.bias", "shift hidden"),
        Row("h.{layer}.mlp.c_fc.weight", "hidden -> ffn"),
        Row("h.{layer}.mlp.c_fc.bias", "ffn"),
        Row("h.{layer}.mlp.c_proj.weight", "ffn -> hidden"),
        Row("h.{layer}.mlp.c_proj.bias", "hidden"),
        Row("ln_f.weight", "gain hidden"),
        Row("ln_f.bias", "shift hidden"),
    ),
    heads={
        "causal-lm": Head(
            "GPT2LMHeadModel",
            rows=(Row("lm_head.weight", "vocab <- hidden", per="target"),),
            tied={"lm_head.weight": "{base}wte.weight"},
            lm_head="lm_head",
            output_embedding="lm_head",
            reads_last=("lm_head.weight",),
        ),
        "sequence-classification": Head(
            "GPT2ForSequenceClassification",
            rows=(Row("score.weight", "label <- hidden"),),
            reads_last=("score.weight",),
        ),
        "bare": Head("GPT2Model"),
    },
    defaults={
        "vocab_size": 50257,
        "n_positions": 1024,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "n_inner": None,
        "activation_function": "gelu_new",
        "resid_pdrop": 0.1,
        "embd_pdrop": 0.1,
        "attn_pdrop": 0.1,
        "layer_norm_epsilon": 1e-05,
        "initializer_range": 0.02,
        "summary_type": "cls_index",
        "summary_use_proj": True,
        "summary_activation": None,
        "summary_proj_to_labels": True,
        "summary_first_dropout": 0.1,
        "scale_attn_weights": True,
        "use_cache": True,
        "bos_token_id": 50256,
        "eos_token_id": 50256,
        "pad_token_id": None,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
        "add_cross_attention": False,
        "tie_word_embeddings": True,
    },
    native={
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "intermediate_size": "n_inner",
        "max_position_embeddings": "n_positions",
    },
    last_norm="ln_f",
    buffers=("h.{layer}.attn.bias", "h.{layer}.attn.masked_bias"),
    refuses={"add_cross_attention": "bequest's table has no lines for cross attention"},
)

_L = "layers.{layer}."


def _rows(
    *, qkv_bias: str | None = None, o_bias: str | None = None, mlp_bias: str | None = None, normed: bool = False
) -> tuple[Row, ...]:
    """The lines of a llama-like base; a bias argument is the config key that switches it on, or "" for always."""

    def bias(name: str, axis: str, when: str | None) -> tuple[Row, ...]:
        return () if when is None else (Row(f"{_L}{name}.bias", axis, when),)

    return (
        Row("embed_tokens.weight", "vocab -> hidden"),
        Row(_L + "input_layernorm.weight", "gain hidden"),
        Row(_L + "self_attn.q_proj.weight", "q <- hidden"),
        *bias("self_attn.q_proj", "q", qkv_bias),
        Row(_L + "self_attn.k_proj.weight", "kv <- hidden"),
        *bias("self_attn.k_proj", "kv", qkv_bias),
        Row(_L + "self_attn.v_proj.weight", "kv <- hidden"),
        *bias("self_attn.v_proj", "kv", qkv_bias),
        *((Row(_L + "self_attn.q_norm.weight", "gain head_dim"),) if normed else ()),
        *((Row(_L + "self_attn.k_norm.weight", "gain head_dim"),) if normed else ()),
        Row(_L + "self_attn.o_proj.weight", "hidden <- attn"),
        *bias("self_attn.o_proj", "hidden", o_bias),
        Row(_L + "post_attention_layernorm.weight", "gain hidden"),
        Row(_L + "mlp.gate_proj.weight", "ffn <- hidden"),
        *bias("mlp.gate_proj", "ffn", mlp_bias),
        Row(_L + "mlp.up_proj.weight", "ffn <- hidden"),
        *bias("mlp.up_proj", "ffn", mlp_bias),
        Row(_L + "mlp.down_proj.weight", "hidden <- ffn"),
        *bias("mlp.down_proj", "hidden", mlp_bias),
        Row("norm.weight", "gain hidden"),
    )


def _heads(stem: str) -> dict[str, Head]:
    return {
        "causal-lm": Head(
            f"{stem}ForCausalLM",
            rows=(Row("lm_head.weight", "vocab <- hidden", per="target"),),
            tied={"lm_head.weight": "{base}embed_tokens.weight"},
            lm_head="lm_head",
            output_embedding="lm_head",
            reads_last=("lm_head.weight",),
        ),
        "sequence-classification": Head(
            f"{stem}ForSequenceClassification",
            rows=(Row("score.weight", "label <- hidden"),),
            reads_last=("score.weight",),
        ),
        "bare": Head(f"{stem}Model"),
    }


_ROPE: dict[str, Any] = {"rope_theta": 10000.0, "rope_type": "default"}
_BUFFERS = ("layers.{layer}.self_attn.rotary_emb.inv_freq", "rotary_emb.inv_freq")
_SIZES: dict[str, Any] = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-06,
    "use_cache": True,
    "pad_token_id": None,
    "tie_word_embeddings": False,
    "rope_parameters": _ROPE,
    "attention_dropout": 0.0,
}

LLAMA = Family(
    name="llama",
    prefix="model",
    norm="rms",
    rows=_rows(qkv_bias="attention_bias", o_bias="attention_bias", mlp_bias="mlp_bias"),
    heads=_heads("Llama"),
    defaults={
        **_SIZES,
        "vocab_size": 32000,
        "intermediate_size": 11008,
        "max_position_embeddings": 2048,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pretraining_tp": 1,
        "attention_bias": False,
        "mlp_bias": False,
        "num_key_value_heads": None,
        "head_dim": None,
    },
    last_norm="norm",
    head_dim="field",
    rotary=True,
    buffers=_BUFFERS,
)

MISTRAL = Family(
    name="mistral",
    prefix="model",
    norm="rms",
    rows=_rows(),
    heads=_heads("Mistral"),
    defaults={
        **_SIZES,
        "vocab_size": 32000,
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "head_dim": None,
        "max_position_embeddings": 131072,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "sliding_window": 4096,
    },
    last_norm="norm",
    head_dim="field",
    rotary=True,
    whole_heads=False,
    buffers=_BUFFERS,
)

_QWEN: dict[str, Any] = {
    **_SIZES,
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "max_position_embeddings": 32768,
    "use_sliding_window": False,
    "sliding_window": None,
    "max_window_layers": 28,
    "layer_types": None,
    "bos_token_id": None,
    "eos_token_id": None,
}

QWEN2 = Family(
    name="qwen2",
    prefix="model",
    norm="rms",
    rows=_rows(qkv_bias=""),
    heads=_heads("Qwen2"),
    defaults=_QWEN,
    last_norm="norm",
    head_dim="optional",
    rotary=True,
    whole_heads=False,
    buffers=_BUFFERS,
)

QWEN3 = Family(
    name="qwen3",
    prefix="model",
    norm="rms",
    rows=_rows(qkv_bias="attention_bias", o_bias="attention_bias", normed=True),
    heads=_heads("Qwen3"),
    defaults={**_QWEN, "head_dim": 128, "attention_bias": False},
    last_norm="norm",
    head_dim="field",
    rotary=True,
    whole_heads=False,
    buffers=_BUFFERS,
)
