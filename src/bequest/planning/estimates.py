"""What a stage takes: memory while it runs, disk while it runs and after.  Formulas, not measurements; no torch.

Memory in bytes, training P parameters of which A are trainable, T tokens in a micro-batch, block s (float32 master
weights; bf16 autocast takes less, so this is an upper estimate)::

    weights 4 P  +  gradients 4 A  +  Adam's two moments 8 A  +  activations  +  teachers 4 P_t each
    activations = 4 T [ L (8 D + 2 Q + 2 KV + 3 F)  +  3 share V ]

where L layers, D hidden, Q and KV the widths of queries and keys, F the FFN, V the vocabulary, and ``share`` the share
of positions that go through the LM head (three copies there: logits, log-softmax, gradient).  Attention is PyTorch's
fused one, which keeps no s x s matrix.  The activations' constant counts what a pre-norm block keeps for its backward
pass: the inputs of norms and matrices, the two residual sums, and the gated FFN's three products.

Disk: a generation is its parameters in its dtype.  While a stage trains it also has ``keep`` checkpoints, and one more
for the moment before the oldest goes: float32 weights and Adam's two moments each, 12 A + 4 (P - A).  An adapt stage
also keeps the float32 model of every domain that it has finished.
"""

from __future__ import annotations

from bequest.anatomy import Anatomy

ADAM = 8
FLOAT = 4
MASKED_SHARE = 0.15
DTYPE_BYTES = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2}
PACKED_BYTES_PER_TEXT_BYTE = 1.5  # about 4 bytes of text to a token, 4 bytes to a packed token, and slack


def activation_bytes(anatomy: Anatomy, tokens: int, head_share: float) -> int:
    """Bytes of the activations that one micro-batch of ``tokens`` tokens keeps for its backward pass."""
    sizes = anatomy.sizes
    queries, keys, ffn = (sizes.get(axis, sizes["hidden"]) for axis in ("q", "kv", "ffn"))
    layer = 8 * sizes["hidden"] + 2 * queries + 2 * keys + 3 * ffn
    return round(FLOAT * tokens * (anatomy.layers * layer + 3 * head_share * sizes["vocab"]))


def training_bytes(
    anatomy: Anatomy, *, trainable: int, micro_tokens: int, head_share: float, teachers: tuple[int, ...] = ()
) -> int:
    """Memory of a training stage; ``teachers`` are their parameter counts."""
    states = FLOAT * anatomy.parameters() + (FLOAT + ADAM) * trainable
    return states + activation_bytes(anatomy, micro_tokens, head_share) + FLOAT * sum(teachers)


def inference_bytes(anatomy: Anatomy, tokens: int, head_share: float) -> int:
    """Memory of measuring: the weights and one layer's activations and the head's."""
    widest = activation_bytes(anatomy, tokens, head_share) // max(1, anatomy.layers)
    return FLOAT * anatomy.parameters() + widest


def growing_bytes(source: int, target: int) -> int:
    """Memory of growing in memory: both models in float32 (single tensors are widened to float64 one at a time)."""
    return FLOAT * (source + target)


def checkpoint_bytes(parameters: int, trainable: int) -> int:
    """Disk of one checkpoint."""
    return FLOAT * (parameters - trainable) + (FLOAT + ADAM) * trainable


def lora_parameters(anatomy: Anatomy, rank: int) -> int:
    """Trainable parameters of LoRA on the query and value projections (PEFT's choice for most families)."""
    sizes = anatomy.sizes
    hidden, queries, keys = sizes["hidden"], sizes.get("q", sizes["hidden"]), sizes.get("kv", sizes["hidden"])
    return anatomy.layers * rank * ((hidden + queries) + (hidden + keys))
