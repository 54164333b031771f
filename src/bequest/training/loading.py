"""The order of the data and the last touch on a batch.

The whole run is one pass of the loader over its places: place p is place ``p mod n`` of epoch ``p div n``.  So an
update is never cut short at the end of an epoch, a token budget is exact, and resuming means to start at a later place.
The data set turns a place into (epoch, index), because the epoch reaches neither data set nor collator otherwise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from bequest.data.mixtures import EpochSampler, Mixture

# Keys of a batch that are ours and never reach a model.
OURS = ("targets", "positions", "domain", "digest", "epoch")


@dataclass(frozen=True)
class TrainingData:
    """What a run trains and is measured on.

    ``train`` is map-style; a sample is what ``collator`` takes, gains ``epoch``, and ``domain`` 0 if it has none.
    The collator returns tensors: the model's inputs and ``targets`` ([B, T] with -100 where there is none, or [B]).
    """

    train: Any
    collator: Callable[[Sequence[Mapping[str, Any]]], Mapping[str, Tensor]]
    eval: Mapping[str, Any] = field(default_factory=dict)
    unigram: Mapping[str, float] = field(default_factory=dict)


class Run(Dataset[dict[str, Any]]):
    """The samples of a whole run by place: ``total`` of them, epoch after epoch, each epoch in its own order.

    A mixture shuffles by itself and knows the pass over each of its corpora; any other map-style data set is permuted
    here by (seed, epoch), and its samples gain ``epoch`` and, where they have none, ``domain`` 0.
    """

    def __init__(self, samples: Any, total: int, seed: int) -> None:
        self.samples, self.total = samples, total
        self.mixed = isinstance(samples, Mixture)
        self.order = EpochSampler(len(samples), None if self.mixed else seed, epochs=None)

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, place: int) -> dict[str, Any]:
        epoch, index = self.order.at(place)
        if self.mixed:
            return dict(self.samples[epoch, index])
        return {"domain": 0, **self.samples[index], "epoch": epoch}


class PreparedCollator:
    """The corpus' own collator, then: where the targets are (so that no device has to look), and no idle mask.

    An attention mask of ones only costs time, and hides from attention that it may take its fast path.
    """

    def __init__(self, collator: Callable[[Sequence[Mapping[str, Any]]], Mapping[str, Tensor]]) -> None:
        self.collator = collator

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """One batch of tensors; ``positions`` [N] is added where ``targets`` is [B, T]."""
        batch = dict(self.collator(samples))
        targets = batch["targets"]
        if targets.dim() == 2:
            batch["positions"] = (targets.reshape(-1) != -100).nonzero().squeeze(-1)
        mask = batch.get("attention_mask")
        if mask is not None and bool(mask.all()):
            del batch["attention_mask"]
        return batch


def model_inputs(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The part of a batch that the model receives."""
    return {key: value for key, value in batch.items() if key not in OURS}


def target_count(batch: Mapping[str, Tensor]) -> int:
    """Number of targets in a batch, without asking the device."""
    return int(batch["positions"].numel() if "positions" in batch else batch["targets"].numel())


def batch_digest(batches: Sequence[Mapping[str, Tensor]]) -> str:
    """16 hex digits of the ids and targets of one update, however it is cut into micro-batches of one length.

    With several processes it is of this process's own part.
    """
    parts = [hashlib.sha256(), hashlib.sha256()]
    for batch in batches:
        for part, key in zip(parts, ("input_ids", "targets"), strict=True):
            part.update(batch[key].detach().cpu().contiguous().numpy().tobytes())
    return hashlib.sha256(parts[0].digest() + parts[1].digest()).hexdigest()[:16]


def worker_seed(worker: int) -> None:
    """One thread per worker; nothing random happens in one."""
    torch.set_num_threads(1)
