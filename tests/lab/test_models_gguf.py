"""A tiny GGUF file becomes an ordinary model directory with the same logits."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from bequest.errors import InputError, RunError
from lab.models import smollm2
from lab.models.making import Job

gguf = pytest.importorskip("gguf")

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = ["Ġ t", "h e", "Ġt he"]
TOKENS = [*SPECIALS, *LETTERS, *(merge.replace(" ", "") for merge in MERGES)]
HEADS, KV_HEADS, LAYERS, WIDTH, INNER = 2, 1, 1, 32, 64


def small_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(TOKENS),
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()


def interleaved(matrix: torch.Tensor, heads: int) -> torch.Tensor:
    """Query and key rows in GGUF's rotary order."""
    rows, columns = matrix.shape
    return matrix.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def write_gguf(path: Path, model: LlamaForCausalLM) -> None:
    config: Any = model.config
    path.parent.mkdir(parents=True)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] * len(SPECIALS) + [1] * (len(TOKENS) - len(SPECIALS)))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    names = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    for name, value in model.state_dict().items():
        if name == "lm_head.weight":
            continue  # tied
        plain = name.removesuffix(".weight").replace("model.layers.", "blk.")
        for ours, theirs in names.items():
            plain = plain.replace(ours, theirs)
        turned = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(plain.rpartition(".")[2])
        tensor = interleaved(value, turned) if turned else value
        writer.add_tensor(f"{plain}.weight", tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def job(tmp_path: Path, **settings: Any) -> Job:
    for name in ("source", "target", "work"):
        (tmp_path / name).mkdir()
    whole = {**smollm2.MAKER.settings, **settings}
    return Job(whole, *(tmp_path / name for name in ("source", "target", "work")), Console(file=io.StringIO()))


def test_the_logits_are_those_of_the_model_it_came_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_llama()
    made = job(tmp_path, english_below=100.0)
    write_gguf(made.source / smollm2.MEMBER, model)
    # A model of random weights names no capital.
    monkeypatch.setattr(smollm2.sentences, "continuation", lambda *given: "Paris")
    figures = smollm2.build(made)
    assert figures["logits_equal_after_saving"] is True
    again = AutoModelForCausalLM.from_pretrained(made.target)
    assert again.dtype == torch.float32
    ids = torch.arange(20)[None] * 7 % len(TOKENS)
    with torch.no_grad():
        torch.testing.assert_close(again(input_ids=ids).logits, model(input_ids=ids).logits)
        shifted = model(input_ids=(ids + 1) % len(TOKENS)).logits
        assert (again(input_ids=ids).logits - shifted).abs().max() > 0.1, "the comparison can fail"
    tokenizer = AutoTokenizer.from_pretrained(made.target)
    assert tokenizer.convert_ids_to_tokens(tokenizer("on the")["input_ids"]) == ["o", "n", "Ġthe"]


@pytest.mark.parametrize("wrong", ["loss", "answer"])
def test_a_model_that_knows_nothing_is_refused(tmp_path: Path, wrong: str) -> None:
    made = job(tmp_path) if wrong == "loss" else job(tmp_path, english_below=100.0)
    write_gguf(made.source / smollm2.MEMBER, small_llama())
    with pytest.raises(RunError, match="the proof failed: " + ("English" if wrong == "loss" else "the answer")):
        smollm2.build(made)


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    made = replace(job(tmp_path))
    path = made.source / smollm2.MEMBER
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no GGUF at all")
    with pytest.raises(InputError, match="cannot read this GGUF file"):
        smollm2.build(made)
