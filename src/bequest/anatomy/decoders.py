"""The tables of the decoders: gpt2, gpt_neox, opt (pre-LN LayerNorm), llama, mistral, qwen2, qwen3 (RMSNorm).

All are pre-norm: the last norm belongs to the base model, so on a tied base it carries n/N for every variant, and
whatever reads it (``lm_head``, ``score``) is read like the tied head.  One base therefore grows to the same base
whichever head hangs on it.  The rows and heads that the other decoders share with llama are made here too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bequest.anatomy.table import Family, Head, Row, layer_norm, linear

_L = "layers.{layer}."


def decoder_heads(
    stem: str, *, embedding: str = "embed_tokens.weight", lm: str = "ForCausalLM", classifier: str | None = None
) -> dict[str, Head]:
    """The variants of a decoder: language model, sequence classification, bare.

    Args:
        stem: what the names of its classes begin with.
        embedding: the tensor of the base that a tied head shares.
        lm: what the name of its language model ends with.
        classifier: the stem of its classifier's class, where it is another; empty where transformers has none.
    """
    heads = {
        "causal-lm": Head(
            stem + lm,
            rows=(Row("lm_head.weight", "vocab <- hidden", per="target"),),
            tied={"lm_head.weight": "{base}" + embedding},
            lm_head="lm_head",
            output_embedding="lm_head",
            reads_last=("lm_head.weight",),
        )
    }
    if classifier != "":
        heads["sequence-classification"] = Head(
            f"{classifier or stem}ForSequenceClassification",
            rows=(Row("score.weight", "label <- hidden"),),
            reads_last=("score.weight",),
        )
    return heads | {"bare": Head(f"{classifier or stem}Model")}


def attention_rows(
    *,
    read: str = "hidden",
    k: str = "kv",
    qkv_bias: str | None = None,
    o_bias: str | None = None,
    q_norm: str | None = None,
    k_norm: str | None = None,
) -> tuple[Row, ...]:
    """Llama-like attention: what its projections read, the axis of its keys, biases, lines of norms of q and k."""
    return (
        *linear(_L + "self_attn.q_proj", f"q <- {read}", qkv_bias),
        *linear(_L + "self_attn.k_proj", f"{k} <- {read}", qkv_bias),
        *linear(_L + "self_attn.v_proj", f"kv <- {read}", qkv_bias),
        *((Row(_L + "self_attn.q_norm.weight", q_norm),) if q_norm else ()),
        *((Row(_L + "self_attn.k_norm.weight", k_norm),) if k_norm else ()),
        *linear(_L + "self_attn.o_proj", "hidden <- attn", o_bias),
    )


def mlp_rows(*, name: str = "mlp", axis: str = "ffn", read: str = "hidden", bias: str | None = None) -> tuple[Row, ...]:
    """A gated FFN: its module below the block, the axis of its neurons, what it reads, the condition of its biases."""
    return (
        *linear(f"{_L}{name}.gate_proj", f"{axis} <- {read}", bias),
        *linear(f"{_L}{name}.up_proj", f"{axis} <- {read}", bias),
        *linear(f"{_L}{name}.down_proj", f"hidden <- {axis}", bias),
    )


def pre_norm_rows(
    attention: tuple[Row, ...], mlp: tuple[Row, ...], *, gain: str = "gain", lookup: str = "vocab -> hidden"
) -> tuple[Row, ...]:
    """A llama-like base: a norm before the attention, one before the FFN, one at the end."""
    return (
        Row("embed_tokens.weight", lookup),
        Row(_L + "input_layernorm.weight", f"{gain} hidden"),
        *attention,
        Row(_L + "post_attention_layernorm.weight", f"{gain} hidden"),
        *mlp,
        Row("norm.weight", f"{gain} hidden"),
    )


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
    heads=decoder_heads("GPT2", embedding="wte.weight", lm="LMHeadModel"),
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
    derived={"n_inner": lambda config: config["n_inner"] or 4 * config["n_embd"]},
    native={
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "intermediate_size": "n_inner",
        "max_position_embeddings": "n_positions",
    },
    last_norm="ln_f",
    by_index=("scale_attn_by_inverse_layer_idx",),
    buffers=("h.{layer}.attn.bias", "h.{layer}.attn.masked_bias"),
    refuses={"add_cross_attention": "bequest's table has no lines for cross attention"},
)

GPT_NEOX = Family(
    name="gpt_neox",
    prefix="gpt_neox",
    norm="layer",
    # Attention and FFN read the same stream (parallel residual) or one after the other: the lines are the same.
    rows=(
        Row("embed_in.weight", "vocab -> hidden"),
        *layer_norm(_L + "input_layernorm"),
        *linear(_L + "attention.query_key_value", "qkv <- hidden", "attention_bias"),
        *linear(_L + "attention.dense", "hidden <- attn", "attention_bias"),
        *layer_norm(_L + "post_attention_layernorm"),
        *linear(_L + "mlp.dense_h_to_4h", "ffn <- hidden"),
        *linear(_L + "mlp.dense_4h_to_h", "hidden <- ffn"),
        *layer_norm("final_layer_norm"),
    ),
    heads=decoder_heads("GPTNeoX", embedding="embed_in.weight"),
    defaults={
        "vocab_size": 50432,
        "hidden_size": 6144,
        "num_hidden_layers": 44,
        "num_attention_heads": 64,
        "intermediate_size": 24576,
        "hidden_act": "gelu",
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
        "classifier_dropout": 0.1,
        "max_position_embeddings": 2048,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-05,
        "use_cache": True,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": None,
        "tie_word_embeddings": False,
        "use_parallel_residual": True,
        "rope_parameters": {"rope_theta": 10000.0, "partial_rotary_factor": 0.25, "rope_type": "default"},
        "attention_bias": True,
        "is_decoder": False,
    },
    last_norm="final_layer_norm",
    rotary=True,
    buffers=(
        "layers.{layer}.attention.bias",
        "layers.{layer}.attention.masked_bias",
        "layers.{layer}.attention.rotary_emb.inv_freq",
        "rotary_emb.inv_freq",
    ),
)

_OPT = "decoder.layers.{layer}."

OPT = Family(
    name="opt",
    prefix="model",
    norm="layer",
    rows=(
        Row("decoder.embed_tokens.weight", "vocab -> hidden"),
        Row("decoder.embed_positions.weight", "pos -> hidden"),
        *layer_norm(_OPT + "self_attn_layer_norm"),
        *linear(_OPT + "self_attn.q_proj", "q <- hidden", "enable_bias"),
        *linear(_OPT + "self_attn.k_proj", "kv <- hidden", "enable_bias"),
        *linear(_OPT + "self_attn.v_proj", "kv <- hidden", "enable_bias"),
        *linear(_OPT + "self_attn.out_proj", "hidden <- attn", "enable_bias"),
        *layer_norm(_OPT + "final_layer_norm"),
        *linear(_OPT + "fc1", "ffn <- hidden", "enable_bias"),
        *linear(_OPT + "fc2", "hidden <- ffn", "enable_bias"),
        *layer_norm("decoder.final_layer_norm"),
    ),
    heads=decoder_heads("OPT", embedding="decoder.embed_tokens.weight"),
    defaults={
        "vocab_size": 50272,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "ffn_dim": 3072,
        "max_position_embeddings": 2048,
        "do_layer_norm_before": True,
        "_remove_final_layer_norm": False,
        "word_embed_proj_dim": None,
        "dropout": 0.1,
        "attention_dropout": 0.0,
        "num_attention_heads": 12,
        "activation_function": "relu",
        "layerdrop": 0.0,
        "init_std": 0.02,
        "use_cache": True,
        "pad_token_id": 1,
        "bos_token_id": 2,
        "eos_token_id": 2,
        "enable_bias": True,
        "layer_norm_elementwise_affine": True,
        "tie_word_embeddings": True,
    },
    derived={"word_embed_proj_dim": lambda config: config["word_embed_proj_dim"] or config["hidden_size"]},
    follows={"word_embed_proj_dim": "hidden_size"},
    native={"intermediate_size": "ffn_dim"},
    last_norm="decoder.final_layer_norm",
    extra_positions=2,
    refuses={
        "not do_layer_norm_before": "its blocks are post-LN (opt-350m); choose another size of OPT",
        "word_embed_proj_dim != hidden_size": "its embeddings are projected (opt-350m); choose another size of OPT",
        "_remove_final_layer_norm": "it has no norm before the head; choose a checkpoint with one",
        "not layer_norm_elementwise_affine": "its norms have no weights to grow; choose a checkpoint with them",
    },
)

ROPE: dict[str, Any] = {"rope_theta": 10000.0, "rope_type": "default"}
ROTARY_BUFFERS = ("layers.{layer}.self_attn.rotary_emb.inv_freq", "rotary_emb.inv_freq")
#: What the config classes of most llama-like families begin with.
DEFAULTS: dict[str, Any] = {
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
    "rope_parameters": ROPE,
    "attention_dropout": 0.0,
}

LLAMA = Family(
    name="llama",
    prefix="model",
    norm="rms",
    rows=pre_norm_rows(attention_rows(qkv_bias="attention_bias", o_bias="attention_bias"), mlp_rows(bias="mlp_bias")),
    heads=decoder_heads("Llama"),
    defaults={
        **DEFAULTS,
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
    buffers=ROTARY_BUFFERS,
)

MISTRAL = Family(
    name="mistral",
    prefix="model",
    norm="rms",
    rows=pre_norm_rows(attention_rows(), mlp_rows()),
    heads=decoder_heads("Mistral"),
    defaults={
        **DEFAULTS,
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
    buffers=ROTARY_BUFFERS,
)


def _window(config: Mapping[str, Any]) -> Any:
    return config["sliding_window"] if config["use_sliding_window"] else None


def _upper_layers_slide(config: Mapping[str, Any], layer: int) -> str:
    slides = config["sliding_window"] is not None and layer >= config["max_window_layers"]
    return "sliding_attention" if slides else "full_attention"


_QWEN: dict[str, Any] = {
    **DEFAULTS,
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
    rows=pre_norm_rows(attention_rows(qkv_bias=""), mlp_rows()),
    heads=decoder_heads("Qwen2"),
    defaults=_QWEN,
    derived={"sliding_window": _window},
    lists={"layer_types": _upper_layers_slide},
    last_norm="norm",
    head_dim="optional",
    rotary=True,
    whole_heads=False,
    buffers=ROTARY_BUFFERS,
)

QWEN3 = Family(
    name="qwen3",
    prefix="model",
    norm="rms",
    rows=pre_norm_rows(
        attention_rows(
            qkv_bias="attention_bias", o_bias="attention_bias", q_norm="gain head_dim", k_norm="gain head_dim"
        ),
        mlp_rows(),
    ),
    heads=decoder_heads("Qwen3"),
    defaults={**_QWEN, "head_dim": 128, "attention_bias": False},
    derived={"sliding_window": _window},
    lists={"layer_types": _upper_layers_slide},
    last_norm="norm",
    head_dim="field",
    rotary=True,
    whole_heads=False,
    buffers=ROTARY_BUFFERS,
)
