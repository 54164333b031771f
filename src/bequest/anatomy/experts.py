"""The tables of decoders with experts: mixtral, qwen2_moe.

In memory the experts of a block stand in two tensors of three dimensions; on disk each expert has tensors of its own.
Every expert reads and writes the same stream and has the same inner width, so one map of each axis serves them all.
"""

from __future__ import annotations

import math
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
from bequest.anatomy.table import Family, Row
from bequest.checkpoints import GROUPED_ROWS

_MLP = "layers.{layer}.mlp."
_EXPERTS = (
    Row(_MLP + "gate.weight", "expert <- hidden"),
    Row(_MLP + "experts.gate_up_proj", "expert: ffn|ffn <- hidden", per="expert"),
    Row(_MLP + "experts.down_proj", "expert: hidden <- ffn", per="expert"),
)

MIXTRAL = Family(
    name="mixtral",
    prefix="model",
    norm="rms",
    rows=pre_norm_rows(attention_rows(), _EXPERTS),
    heads=decoder_heads("Mixtral"),
    defaults={
        **DEFAULTS,
        "vocab_size": 32000,
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "head_dim": None,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-05,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "sliding_window": None,
        "num_experts_per_tok": 2,
        "num_local_experts": 8,
        "output_router_logits": False,
        "router_aux_loss_coef": 0.001,
        "router_jitter_noise": 0.0,
        "rope_parameters": {**ROPE, "rope_theta": 1000000.0},
    },
    native={"num_experts": "num_local_experts"},
    last_norm="norm",
    head_dim="optional",
    rotary=True,
    whole_heads=False,
    buffers=ROTARY_BUFFERS,
)


def _window(config: Mapping[str, Any]) -> Any:
    return config["sliding_window"] if config["use_sliding_window"] else 0


def _lower_layers_alternate(config: Mapping[str, Any], layer: int) -> str:
    slides = config["use_sliding_window"] and layer % 2 == 0 and layer < config["max_window_layers"]
    return "sliding_attention" if slides else "full_attention"


_DENSE = "it has blocks without experts; choose a checkpoint with experts in every block"

QWEN2_MOE = Family(
    name="qwen2_moe",
    prefix="model",
    norm="rms",
    rows=pre_norm_rows(
        attention_rows(qkv_bias="qkv_bias"),
        (
            *_EXPERTS,
            *mlp_rows(name="mlp.shared_expert", axis="shared"),
            Row(_MLP + "shared_expert_gate.weight", "one <- hidden"),
        ),
    ),
    heads=decoder_heads("Qwen2Moe"),
    defaults={
        **DEFAULTS,
        "vocab_size": 151936,
        "hidden_size": 2048,
        # Of blocks without experts, which no line covers: nothing reads it.  The canonical intermediate_size is the
        # experts'.
        "intermediate_size": 5632,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "max_position_embeddings": 32768,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": 28,
        "decoder_sparse_step": 1,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
        "num_experts_per_tok": 4,
        "num_experts": 60,
        "norm_topk_prob": False,
        "output_router_logits": False,
        "router_aux_loss_coef": 0.001,
        "mlp_only_layers": None,
        "qkv_bias": True,
        "layer_types": None,
        "bos_token_id": None,
        "eos_token_id": None,
    },
    derived={"mlp_only_layers": lambda config: config["mlp_only_layers"] or [], "sliding_window": _window},
    lists={"layer_types": _lower_layers_alternate},
    keep_ratio=("shared_expert_intermediate_size",),
    native={"intermediate_size": "moe_intermediate_size"},
    last_norm="norm",
    head_dim="optional",
    rotary=True,
    whole_heads=False,
    buffers=ROTARY_BUFFERS,
    refuses={"mlp_only_layers": _DENSE, "decoder_sparse_step != 1": _DENSE},
)


def has_experts(family: Family) -> bool:
    """Whether the blocks have experts."""
    return "num_experts_per_tok" in family.defaults


def fitting_width(width: int, step: int = 1) -> int:
    """The nearest width from ``width`` on that grouped kernels take in every dtype, in whole steps."""
    whole = math.lcm(GROUPED_ROWS, step)
    return -(-width // whole) * whole


def width_notes(family: Family, sizes: Mapping[str, int]) -> tuple[str, ...]:
    """What to know of a model with experts whose rows grouped kernels do not take.

    Args:
        family: of the model.
        sizes: its canonical sizes.
    """
    hidden, heads = sizes["hidden_size"], sizes["num_attention_heads"]
    steps = {"hidden_size": hidden // math.gcd(hidden, heads), "intermediate_size": 1}
    notes = []
    for key, step in steps.items() if has_experts(family) else ():
        width = sizes[key]
        if width % GROUPED_ROWS:
            where = "" if width % (GROUPED_ROWS // 2) else "in bfloat16 and float16 "
            notes.append(
                f"{family.key(key)} {width} is no multiple of {GROUPED_ROWS}: {where}only "
                f'experts_implementation="eager" runs these experts; the nearest that runs without is '
                f"{fitting_width(width, step)}"
            )
    return tuple(notes)
