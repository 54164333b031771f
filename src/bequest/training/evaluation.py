"""The pure language-model loss of held-out blocks: fixed masks, no dropout, never the mixed objective.

Sums and counts are added over batches and processes and divided once.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bequest.anatomy import Anatomy
from bequest.training.divergence import cross_entropy_sum
from bequest.training.head_positions import find_head, forward_positions
from bequest.training.loading import PreparedCollator, model_inputs, target_count


@dataclass(frozen=True)
class Evaluation:
    """The mean loss in nats per target, and what it was measured on."""

    loss: float
    targets: int
    blocks: int

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return math.exp(min(self.loss, 700.0))


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; the training mode is put back."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def autocast_for(device: torch.device, bf16: bool) -> contextlib.AbstractContextManager[Any]:
    """bf16 autocast on ``device``, or nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if bf16 else contextlib.nullcontext()


def loss_sums(
    model: nn.Module,
    head: nn.Module | None,
    blocks: Any,
    collator: Callable[[Sequence[Mapping[str, Any]]], Mapping[str, Tensor]],
    *,
    batch: int,
    count: int,
    device: torch.device,
    rank: int = 0,
    world: int = 1,
) -> tuple[float, int]:
    """This process's share of (sum of losses, number of targets) over the first ``count`` blocks.

    Every process makes the same number of forward calls, because a sharded model's forward is a collective; a process
    that has no block left sends one whose loss is not counted.
    """
    prepare = PreparedCollator(collator)
    total, targets = 0.0, 0
    for start in range(0, count, batch * world):
        first = start + rank * batch
        chosen = range(first, min(first + batch, count)) or range(1)
        samples = [{"domain": 0, **blocks[index]} for index in chosen]
        values = {key: value.to(device) for key, value in prepare(samples).items()}
        logits = forward_positions(model, head, model_inputs(values), values.get("positions"))
        ids = values["targets"]
        if "positions" in values:
            ids = ids.reshape(-1).index_select(0, values["positions"])
        if first < count:
            total += float(cross_entropy_sum(logits, ids))
            targets += target_count(values)
    return total, targets


def evaluate_loss(
    model: nn.Module,
    blocks: Any,
    collator: Callable[[Sequence[Mapping[str, Any]]], Mapping[str, Tensor]],
    *,
    anatomy: Anatomy | None,
    batch: int = 32,
    bf16: bool = False,
    limit: int | None = None,
) -> Evaluation:
    """The pure loss of ``model`` on ``blocks`` in one process.

    Args:
        model: a plain model, on its device.
        blocks: map-style samples, as the collator wants them.
        collator: makes ``input_ids`` and ``targets``; masks are its fixed ones (samples carry no epoch).
        anatomy: names the head module; ``None`` sends every position through the head.
        batch: sequences at once.
        bf16: compute under bf16 autocast.
        limit: use only the first blocks.
    """
    device = next(model.parameters()).device
    head = None if anatomy is None or anatomy.lm_head is None else find_head(model, anatomy.lm_head)
    count = len(blocks) if limit is None else min(limit, len(blocks))
    with evaluating(model), autocast_for(device, bf16):
        total, targets = loss_sums(model, head, blocks, collator, batch=batch, count=count, device=device)
    return Evaluation(total / max(1, targets), targets, count)
