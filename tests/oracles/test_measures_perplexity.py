"""Held-out perplexity against transformers' own loss, the training loop's evaluation, and arithmetic."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from bequest import checkpoints
from bequest.anatomy import anatomy_of, complete_config
from bequest.data.corpora import open_corpus
from bequest.data.masking import CausalCollator, MaskingCollator
from bequest.data.packing import PackedCorpus, pack_corpus
from bequest.data.specs import CorpusSpec
from bequest.data.tokenizer_training import train_tokenizer
from bequest.errors import InputError
from bequest.measures.perplexity import perplexity
from bequest.training.evaluation import evaluate_loss

FAMILIES = {"llama": ("causal-lm", "byte-bpe", 300), "bert": ("masked-lm", "wordpiece", 200)}
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, PackedCorpus]:
    home: Path = tmp_path_factory.mktemp(request.param)
    head, kind, vocabulary = FAMILIES[request.param]
    rng = random.Random(0)
    words = [f"{a}{b}" for a in "bcdfg" for b in "aeiou"]
    texts = "\n\n".join(" ".join(rng.choices(words, k=60)) for _ in range(200))
    (home / "text.txt").write_text(texts, encoding="utf-8")
    corpus = open_corpus("words", CorpusSpec(files="text.txt", held_out=0.3), home)
    tokenizer = train_tokenizer(kind, [corpus], vocabulary, family=request.param)
    model = checkpoints.new_model(complete_config(request.param, SIZES, head=head, vocab_size=len(tokenizer)), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    checkpoints.save_model(model, home / "model")
    checkpoints.save_tokenizer(tokenizer, home / "model")
    return request.param, home / "model", pack_corpus(corpus, tokenizer, block=32)


def live(path: Path) -> Any:
    return checkpoints.load_model(path).eval()


def test_loss_is_the_training_loops_evaluation(made: tuple[str, Path, PackedCorpus]) -> None:
    family, path, packed = made
    found = perplexity(path, {"words": packed}, batch=5, device="cpu")["words"]
    collator = CausalCollator() if family == "llama" else MaskingCollator(checkpoints.load_tokenizer(path), 0)
    oracle = evaluate_loss(live(path), packed.held_out, collator, anatomy=anatomy_of(checkpoints.load_config(path)))
    assert found.loss == pytest.approx(oracle.loss, rel=1e-6) and found.targets == oracle.targets
    assert found.perplexity == pytest.approx(math.exp(found.loss))
    assert len(found.blocks) == len(packed.held_out) and found.unigram == packed.statistics.unigram_entropy_nats


def test_block_losses_do_not_depend_on_the_batch(made: tuple[str, Path, PackedCorpus]) -> None:
    _, path, packed = made
    one = perplexity(path, {"words": packed}, batch=1, limit=7, device="cpu")["words"]
    many = perplexity(path, {"words": packed}, batch=4, limit=7, device="cpu")["words"]
    assert one.blocks == pytest.approx(many.blocks, abs=1e-5) and len(one.blocks) == 7
    assert max(one.blocks) - min(one.blocks) > 1e-4  # the control: blocks do differ


def test_causal_loss_is_transformers_own(made: tuple[str, Path, PackedCorpus]) -> None:
    family, path, packed = made
    found = perplexity(path, {"words": packed}, device="cpu")["words"]
    if family != "llama":
        assert found.bits_per_byte is None
        return
    model = live(path)
    with torch.no_grad():
        losses = []
        for index in range(len(packed.held_out)):
            ids = torch.as_tensor(packed.held_out[index]["input_ids"]).long().unsqueeze(0)
            losses.append(float(model(input_ids=ids, labels=ids).loss))
    assert found.blocks == pytest.approx(losses, abs=1e-5)
    statistics = packed.statistics
    bits = sum(losses) / len(losses) * statistics.held_out_tokens / math.log(2)
    assert found.bits_per_byte == pytest.approx(bits / statistics.held_out_bytes, rel=1e-5)


def test_measuring_twice_gives_the_same_masks(made: tuple[str, Path, PackedCorpus]) -> None:
    family, path, packed = made
    first, second = (perplexity(path, {"words": packed}, device="cpu")["words"] for _ in range(2))
    assert first == second and first.as_json()["blocks"] == [round(value, 6) for value in first.blocks]
    other = perplexity(path, {"words": packed}, mask_seed=1, device="cpu")["words"]
    assert (other.loss != first.loss) == (family == "bert")


def test_a_classifier_has_no_perplexity(tmp_path: Path) -> None:
    config = complete_config("llama", SIZES, head="sequence-classification", vocab_size=30)
    checkpoints.save_model(checkpoints.new_model(config, seed=0), tmp_path)
    with pytest.raises(InputError, match="no language-model head"):
        perplexity(tmp_path, {})
