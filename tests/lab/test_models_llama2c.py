"""A llama2.c checkpoint written by hand gives the logits of the model that it was written from."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bequest.errors import InputError
from lab.models import llama2c

SIZES = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "vocab_size": 50}
HEADS, POSITIONS = 3, 16


def small_llama(kv_heads: int = HEADS, *, tied: bool = True) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        **SIZES,
        num_attention_heads=HEADS,
        num_key_value_heads=kv_heads,
        max_position_embeddings=POSITIONS,
        rms_norm_eps=1e-5,
        tie_word_embeddings=tied,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model


def pairs_from_halves(matrix: torch.Tensor, heads: int) -> torch.Tensor:
    """Row by row: coordinate i of a head goes to 2 i, coordinate i + half to 2 i + 1."""
    size = matrix.shape[0] // heads
    out = torch.empty_like(matrix)
    for head in range(heads):
        for i in range(size // 2):
            out[head * size + 2 * i] = matrix[head * size + i]
            out[head * size + 2 * i + 1] = matrix[head * size + size // 2 + i]
    return out


def written(model: LlamaForCausalLM) -> bytes:
    """The model as llama2.c, version 0, stores it."""
    config: Any = model.config
    state = model.state_dict()
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads

    def all_layers(name: str, turned: int | None = None) -> bytes:
        rows = [state[f"model.layers.{layer}.{name}.weight"] for layer in range(config.num_hidden_layers)]
        return b"".join((pairs_from_halves(row, turned) if turned else row).numpy().tobytes() for row in rows)

    sign = 1 if config.tie_word_embeddings else -1
    head_dim = config.hidden_size // heads
    header = (
        *(config.hidden_size, config.intermediate_size, config.num_hidden_layers, heads, kv_heads),
        *(sign * config.vocab_size, config.max_position_embeddings),
    )
    parts = [
        struct.pack("<7i", *header),
        state["model.embed_tokens.weight"].numpy().tobytes(),
        all_layers("input_layernorm"),
        all_layers("self_attn.q_proj", heads),
        all_layers("self_attn.k_proj", kv_heads),
        all_layers("self_attn.v_proj"),
        all_layers("self_attn.o_proj"),
        all_layers("post_attention_layernorm"),
        all_layers("mlp.gate_proj"),
        all_layers("mlp.down_proj"),
        all_layers("mlp.up_proj"),
        state["model.norm.weight"].numpy().tobytes(),
        np.zeros((2, config.max_position_embeddings, head_dim // 2), "<f4").tobytes(),
    ]
    if sign < 0:
        parts.append(state["lm_head.weight"].numpy().tobytes())
    return b"".join(parts)


def loaded(data: bytes) -> tuple[LlamaForCausalLM, int]:
    config, state, taken = llama2c.read_checkpoint(data)
    model = LlamaForCausalLM(LlamaConfig(**{key: value for key, value in config.items() if key != "model_type"}))
    tensors = {name: torch.from_numpy(array.copy()) for name, array in state.items()}
    if config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    model.load_state_dict(tensors, strict=True)
    return model.eval(), taken


def logits(model: LlamaForCausalLM) -> torch.Tensor:
    ids = torch.arange(2 * POSITIONS).reshape(2, POSITIONS) % SIZES["vocab_size"]
    with torch.no_grad():
        return model(input_ids=ids).logits


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("kv_heads", [HEADS, 1], ids=["all-heads", "one-kv-head"])
def test_the_logits_are_those_of_the_model_it_came_from(kv_heads: int, tied: bool) -> None:
    model = small_llama(kv_heads, tied=tied)
    data = written(model)
    again, taken = loaded(data + b"a tokenizer follows")
    assert taken == len(data)
    assert torch.equal(logits(again), logits(model))


def test_without_turning_the_rows_the_logits_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_llama()
    monkeypatch.setattr(llama2c, "halves_from_pairs", lambda matrix, heads: matrix)
    again, _ = loaded(written(model))
    assert (logits(again) - logits(model)).abs().max() > 0.1


@pytest.mark.parametrize("place", ["header", "inside"])
def test_a_checkpoint_that_ends_early_is_refused(place: str) -> None:
    data = written(small_llama())
    with pytest.raises(InputError, match=r"header|ends inside rotary_sin"):
        llama2c.read_checkpoint(data[:20] if place == "header" else data[:-1])


def test_a_header_that_is_no_models_is_refused() -> None:
    data = struct.pack("<7i", 25, 40, 2, 3, 3, 50, 16) + bytes(100_000)
    with pytest.raises(InputError, match="no model"):
        llama2c.read_checkpoint(data)
