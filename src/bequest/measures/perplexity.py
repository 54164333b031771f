"""Held-out perplexity of a language model per corpus, with the loss of every block.

    loss       = mean over all targets of −log p(target), nats
    perplexity = exp(loss)
    bits/byte  = loss · tokens / (bytes · ln 2)          causal models only: a masked model predicts no text

Block losses are kept because two models are compared block by block: their difference has a far smaller spread than
either loss.  The corpus' unigram entropy stands beside every loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bequest.anatomy import anatomy_of
from bequest.data.splitting import spread
from bequest.errors import InputError, RunError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bequest.anatomy import Anatomy
    from bequest.data.packing import PackedCorpus

Collator = Callable[[Sequence[Mapping[str, Any]]], Mapping[str, "Tensor"]]


@dataclass(frozen=True)
class Perplexity:
    """What one model's held-out loss on one corpus is.

    Attributes:
        loss: nats per target.
        perplexity: exp(loss).
        bits_per_byte: None for masked models.
        unigram: the corpus' unigram entropy, nats per token.
        targets: how many targets were predicted.
        blocks: mean loss of each held-out block, nats, in the order of the blocks.
    """

    loss: float
    perplexity: float
    bits_per_byte: float | None
    unigram: float
    targets: int
    blocks: tuple[float, ...]

    def as_json(self) -> dict[str, Any]:
        """For ``measures.json``; block losses to six digits."""
        return {**asdict(self), "blocks": [round(value, 6) for value in self.blocks]}


def perplexity(
    model_dir: str | Path,
    corpora: Mapping[str, PackedCorpus],
    *,
    mask_seed: int = 0,
    limit: int | None = None,
    batch: int = 32,
    device: str | None = None,
) -> dict[str, Perplexity]:
    """The held-out perplexity of the model in ``model_dir`` on each packed corpus.

    Args:
        model_dir: a language model's directory or Hub id.
        corpora: packed with this model's tokenizer.
        mask_seed: masks of a masked model; the same seed gives the same masks for every model.
        limit: use only so many blocks of each corpus, spread evenly over its held-out side.
        batch: blocks at once.
        device: where to compute; the accelerator where there is one, by default.

    Raises:
        InputError: the model has no language-model head.
    """
    from bequest.checkpoints import load_config, load_model, load_tokenizer
    from bequest.data.masking import collator_for
    from bequest.measures.devices import pick_device

    anatomy = anatomy_of(load_config(model_dir))
    if anatomy.head not in ("causal-lm", "masked-lm"):
        raise InputError("this model has no language-model head", where=model_dir, remedy="measure it on a task")
    model = load_model(model_dir).to(pick_device(device)).eval()
    tokenizer = load_tokenizer(model_dir)
    causal = anatomy.head == "causal-lm"
    collator = collator_for(anatomy.head, tokenizer, mask_seed=mask_seed)
    return {
        name: measure_blocks(model, packed, collator, anatomy, causal=causal, limit=limit, batch=batch)
        for name, packed in corpora.items()
    }


def measure_blocks(
    model: nn.Module,
    packed: PackedCorpus,
    collator: Collator,
    anatomy: Anatomy,
    *,
    causal: bool,
    limit: int | None = None,
    batch: int = 32,
) -> Perplexity:
    """The held-out perplexity of a live model (on its device) on one packed corpus."""
    found = list(block_losses(model, packed.held_out, collator, anatomy, limit=limit, batch=batch))
    targets = sum(count for _, count in found)
    loss = sum(total for total, _ in found) / max(1, targets)
    if not math.isfinite(loss):
        remedy = "the model has diverged: make it again with a lower lr"
        raise RunError(f"the loss on {packed.name} is not a finite number", key="perplexity", remedy=remedy)
    statistics = packed.statistics
    per_byte = loss * statistics.held_out_tokens / (statistics.held_out_bytes * math.log(2)) if causal else None
    return Perplexity(
        loss=loss,
        perplexity=math.exp(min(loss, 700.0)),
        bits_per_byte=per_byte,
        unigram=statistics.unigram_entropy_nats,
        targets=targets,
        blocks=tuple(total / max(1, count) for total, count in found),
    )


def block_losses(
    model: nn.Module, blocks: Any, collator: Collator, anatomy: Anatomy, *, limit: int | None = None, batch: int = 32
) -> Iterator[tuple[float, int]]:
    """Per block: the sum of −log p over its targets (nats, fp32) and the number of targets."""
    import torch

    from bequest.training.evaluation import evaluating
    from bequest.training.head_positions import find_head, forward_positions
    from bequest.training.loading import PreparedCollator, model_inputs

    device = next(model.parameters()).device
    head = find_head(model, anatomy.lm_head) if anatomy.lm_head else None
    prepare = PreparedCollator(collator)
    chosen = spread(len(blocks), limit)
    with evaluating(model):
        for start in range(0, len(chosen), batch):
            samples = [{"domain": 0, **blocks[index]} for index in chosen[start : start + batch]]
            values = {key: value.to(device) for key, value in prepare(samples).items()}
            logits = forward_positions(model, head, model_inputs(values), values["positions"])
            ids = values["targets"].reshape(-1).index_select(0, values["positions"])
            losses = torch.nn.functional.cross_entropy(logits.float(), ids, reduction="none").double()
            rows = values["positions"] // values["targets"].shape[1]
            sums = torch.zeros(len(samples), dtype=torch.float64, device=device).index_add_(0, rows, losses)
            counts = torch.bincount(rows, minlength=len(samples))
            yield from zip(sums.tolist(), counts.tolist(), strict=True)
