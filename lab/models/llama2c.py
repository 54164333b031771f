"""The checkpoint format of llama2.c, version 0, as a Hugging Face Llama (format: github.com/karpathy/llama2.c).

Seven little-endian int32 (dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len; a negative vocab_size
says that the output matrix is stored by itself), then float32 tensors in a fixed order, each for all layers at once,
with two rotary tables that follow from the sizes near the end.

llama2.c turns neighbouring pairs of a head's coordinates, (0, 1), (2, 3), ...; Hugging Face's Llama turns coordinate i
with i + head_dim / 2.  So the rows of the query and key matrices are brought into that order, head by head.

Try it: ``read_checkpoint(data)`` gives a config and a state dict for ``LlamaForCausalLM``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bequest.errors import InputError

if TYPE_CHECKING:
    import numpy as np

HEADER = struct.Struct("<7i")
FLOAT_BYTES = 4


@dataclass(frozen=True)
class Sizes:
    """The header: widths, counts, and whether the output matrix is the embedding."""

    dim: int
    hidden_dim: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    positions: int
    tied: bool

    @property
    def head_dim(self) -> int:
        """Coordinates of one attention head."""
        return self.dim // self.heads

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors by their names in llama2.c, in the order of the file."""
        layers, dim, hidden, kv = self.layers, self.dim, self.hidden_dim, self.kv_heads * self.head_dim
        tables = (self.positions, self.head_dim // 2)
        shapes = {
            "token_embedding": (self.vocabulary, dim),
            "rms_att": (layers, dim),
            "wq": (layers, dim, dim),
            "wk": (layers, kv, dim),
            "wv": (layers, kv, dim),
            "wo": (layers, dim, dim),
            "rms_ffn": (layers, dim),
            "w1": (layers, hidden, dim),
            "w2": (layers, dim, hidden),
            "w3": (layers, hidden, dim),
            "rms_final": (dim,),
            "rotary_cos": tables,
            "rotary_sin": tables,
        }
        return shapes if self.tied else {**shapes, "wcls": (self.vocabulary, dim)}


def sizes_of(data: bytes) -> Sizes:
    """The header of a checkpoint.

    Raises:
        InputError: the seven numbers cannot be a model's.
    """
    if len(data) < HEADER.size:
        raise InputError(f"{len(data)} bytes hold no llama2.c header", where="llama2.c checkpoint")
    dim, hidden, layers, heads, kv_heads, vocabulary, positions = HEADER.unpack_from(data)
    sizes = Sizes(dim, hidden, layers, heads, kv_heads, abs(vocabulary), positions, tied=vocabulary > 0)
    sound = min(dim, hidden, layers, heads, kv_heads, abs(vocabulary), positions) > 0
    if not sound or dim % heads or heads % kv_heads or (dim // heads) % 2:
        raise InputError(f"its header is no model's: {sizes}", where="llama2.c checkpoint")
    return sizes


def read_checkpoint(data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray], int]:
    """Read a checkpoint.

    Args:
        data: the checkpoint's bytes; more may follow it.

    Returns:
        The config of a ``LlamaForCausalLM``, its state dict (float32 arrays by parameter name), and the number of bytes
        read.

    Raises:
        InputError: the data end early, or the header is no model's.
    """
    import numpy as np

    sizes = sizes_of(data)
    at = HEADER.size
    tensors: dict[str, np.ndarray] = {}
    for name, shape in sizes.shapes().items():
        count = int(np.prod(shape))
        if len(data) < at + FLOAT_BYTES * count:
            raise InputError(f"it ends inside {name}", where="llama2.c checkpoint", key=name)
        tensors[name] = np.frombuffer(data, "<f4", count, at).reshape(shape)
        at += FLOAT_BYTES * count
    return config_of(sizes), state_of(sizes, tensors), at


def config_of(sizes: Sizes) -> dict[str, Any]:
    """The Llama config: llama2.c's norm adds 1e-5, its rotary base is 10,000, token 1 begins and token 2 ends."""
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": sizes.vocabulary,
        "hidden_size": sizes.dim,
        "intermediate_size": sizes.hidden_dim,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "head_dim": sizes.head_dim,
        "max_position_embeddings": sizes.positions,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "tie_word_embeddings": sizes.tied,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": None,
    }


def state_of(sizes: Sizes, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """llama2.c's tensors under the names and in the row order of ``LlamaForCausalLM``."""
    state = {"model.embed_tokens.weight": tensors["token_embedding"], "model.norm.weight": tensors["rms_final"]}
    if not sizes.tied:
        state["lm_head.weight"] = tensors["wcls"]
    for layer in range(sizes.layers):
        prefix = f"model.layers.{layer}"
        state |= {
            f"{prefix}.input_layernorm.weight": tensors["rms_att"][layer],
            f"{prefix}.self_attn.q_proj.weight": halves_from_pairs(tensors["wq"][layer], sizes.heads),
            f"{prefix}.self_attn.k_proj.weight": halves_from_pairs(tensors["wk"][layer], sizes.kv_heads),
            f"{prefix}.self_attn.v_proj.weight": tensors["wv"][layer],
            f"{prefix}.self_attn.o_proj.weight": tensors["wo"][layer],
            f"{prefix}.post_attention_layernorm.weight": tensors["rms_ffn"][layer],
            f"{prefix}.mlp.gate_proj.weight": tensors["w1"][layer],
            f"{prefix}.mlp.down_proj.weight": tensors["w2"][layer],
            f"{prefix}.mlp.up_proj.weight": tensors["w3"][layer],
        }
    return state


def halves_from_pairs(matrix: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key matrix [heads * head_dim, dim] from rotary pairs (0, 1), (2, 3), ... to (i, i + half)."""
    rows, columns = matrix.shape
    return matrix.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
