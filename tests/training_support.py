"""Tiny models, packed blocks and settings for the tests of training; every parameter jittered."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models

from bequest.anatomy import Anatomy, complete_config
from bequest.data.blocks import Blocks, BlockWriter
from bequest.data.masking import CausalCollator, MaskingCollator
from bequest.training import TrainingData, TrainSettings

BLOCK, VOCABULARY = 16, 64
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
MASKED = ("bert", "roberta", "distilbert", "electra")
CAUSAL = ("gpt2", "llama", "mistral", "qwen2", "qwen3")


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    words = SPECIALS + [f"w{index}" for index in range(VOCABULARY - len(SPECIALS))]
    inner = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def jitter(model: torch.nn.Module, seed: int = 1) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


def tiny(
    family: str,
    *,
    head: str | None = None,
    hidden: int = 32,
    layers: int = 2,
    dropout: float = 0.0,
    seed: int = 0,
    **more: Any,
) -> tuple[Any, Anatomy]:
    """A jittered model of a family and its anatomy."""
    head = head or ("masked-lm" if family in MASKED else "causal-lm")
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": 4, "intermediate_size": 48}
    config = complete_config(family, sizes, head=head, vocab_size=VOCABULARY, **more)
    for key in config:
        if "drop" in key and isinstance(config[key], float):
            config[key] = dropout
    torch.manual_seed(seed)
    kind = getattr(transformers, config["architectures"][0])
    model = kind(transformers.AutoConfig.for_model(**config)).float()
    return jitter(model, seed + 1), Anatomy(config, head)


def blocks(directory: Path, count: int = 40, seed: int = 0) -> Blocks:
    """Blocks of a language with something to learn: the next token is mostly twice the last one."""
    path = directory / f"blocks-{count}-{seed}.arrow"
    if not path.exists():
        random, low = np.random.default_rng(seed), len(SPECIALS)
        ids = np.empty((count, BLOCK), dtype=np.int64)
        ids[:, 0] = random.integers(low, VOCABULARY, count)
        for place in range(1, BLOCK):
            follows = low + (2 * ids[:, place - 1] + 1) % (VOCABULARY - low)
            noise = random.integers(low, VOCABULARY, count)
            ids[:, place] = np.where(random.random(count) < 0.8, follows, noise)
        with BlockWriter(path, BLOCK, VOCABULARY) as writer:
            writer.write(ids)
    return Blocks(path)


def data_for(family: str, directory: Path, *, count: int = 40, probability: float = 0.3) -> TrainingData:
    collator: Any = CausalCollator()
    if family in MASKED:
        collator = MaskingCollator(tokenizer(), 7, probability=probability)
    return TrainingData(blocks(directory, count), collator, {"toy": blocks(directory, 12, 1)}, {"toy": 4.0})


def settings(updates: int = 20, *, sequences: int = 8, micro: int | None = None, **more: Any) -> TrainSettings:
    base = TrainSettings(
        tokens=updates * sequences * BLOCK,
        block=BLOCK,
        batch_tokens=sequences * BLOCK,
        micro_batch_tokens=None if micro is None else micro * BLOCK,
        lr=5e-3,
        bf16=False,
        log_every=1,
        evaluate_every=None,
        checkpoint_every=None,
    )
    return dataclasses.replace(base, **more)


def copy_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def scratch() -> Path:
    return Path(tempfile.mkdtemp(prefix="bequest-test-"))


class FirstGradients:
    """The gradients of every parameter at the first optimizer step anywhere in the process."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model, self.found = model, {}

    def __enter__(self) -> FirstGradients:
        from torch.optim.optimizer import register_optimizer_step_pre_hook

        def take(*_: Any) -> None:
            if not self.found:
                self.found = {name: p.grad.clone() for name, p in self.model.named_parameters() if p.grad is not None}

        self.handle = register_optimizer_step_pre_hook(take)
        return self

    def __exit__(self, *_: Any) -> None:
        self.handle.remove()


def relative(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """The norm of the difference over the norm, all tensors together."""
    assert first.keys() == second.keys()
    difference = sum(float(((first[name] - second[name]).double() ** 2).sum()) for name in first)
    whole = sum(float((first[name].double() ** 2).sum()) for name in first)
    return (difference / whole) ** 0.5
