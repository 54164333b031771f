"""Samples to batches: masked language modelling with deterministic masks, and causal language modelling.

The corruption of a block is a function of ``(mask_seed, variant, block digest)`` alone, by a counter-based generator
(Philox keyed by a SeedSequence), never of worker, rank or order of arrival; so workers, a resumed run, the student, a
live teacher and a cached one see the same corruption (Knowledge Inheritance, arXiv 2105.13880, trains both on the same
corrupted ids).  ``variant = epoch mod variants`` bounds how many corruptions of a block there are.

Of the words (or tokens) of a block the share ``probability`` is selected, the fraction rounded up or down at random,
and at least one; of the selected tokens 80 % become the mask token, 10 % a random token, 10 % stay.  Special tokens
are never selected and never drawn.

Batches: ``input_ids``, ``attention_mask``, ``targets`` (−100 where there is none), all ``[B, T]`` int64; ``domain`` and
``digest``, ``[B]`` int64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bequest.data.words import WordTable
from bequest.errors import InputError

if TYPE_CHECKING:
    import torch

NO_TARGET = -100
#: The variant of samples without an epoch: measured losses are always of this one, whatever the number of variants.
EVALUATION_VARIANT = 2**31 - 1

MASKED_SHARE, RANDOM_SHARE = 0.8, 0.1


def corrupt(
    ids: npt.NDArray[np.int64],
    *,
    key: tuple[int, int, int],
    selectable: npt.NDArray[np.bool_],
    starts: npt.NDArray[np.bool_] | None,
    probability: float,
    mask_id: int,
    ordinary: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Corrupt one block.

    Args:
        ids: the block, shape ``[T]``.
        key: (mask seed, variant, block digest); everything random follows from it.
        selectable: which positions may be selected, shape ``[T]``.
        starts: which positions begin a word, shape ``[T]``; None: every position is a word.
        probability: share of the words to select.
        mask_id: the mask token.
        ordinary: the ids that a random token is drawn from.

    Returns:
        The corrupted ids and the targets, both ``[T]``; no targets when nothing is selectable.
    """
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
    extra, scores, fates = generator.random(), generator.random(len(ids)), generator.random(len(ids))
    drawn = ordinary[generator.integers(0, len(ordinary), len(ids))]
    words = np.arange(len(ids)) if starts is None else np.cumsum(starts | ~selectable) - 1
    candidates = np.unique(words[selectable])
    count = min(max(1, int(probability * len(candidates) + extra)), len(candidates))
    chosen = np.zeros(len(ids) + 1, dtype=bool)
    chosen[candidates[np.argsort(scores[: len(candidates)], kind="stable")[:count]]] = True
    selected = chosen[words] & selectable
    targets = np.where(selected, ids, NO_TARGET)
    corrupted = np.where(selected & (fates < MASKED_SHARE), mask_id, ids)
    corrupted = np.where(selected & (fates >= 1 - RANDOM_SHARE), drawn, corrupted)
    return corrupted, targets


class MaskingCollator:
    """Samples to a batch for masked language modelling.

    Args:
        tokenizer: must have a mask token.
        mask_seed: another seed, other masks.
        variants: how many different corruptions of a block there are over the epochs.
        probability: share of the tokens (or words) to select, in (0, 1).
        whole_word: select whole words.

    Raises:
        InputError: the tokenizer has no mask token or (``whole_word``) does not mark words; a value out of range.
    """

    def __init__(
        self,
        tokenizer: Any,
        mask_seed: int,
        variants: int = 10,
        probability: float = 0.15,
        whole_word: bool = False,
    ) -> None:
        if tokenizer.mask_token_id is None:
            raise InputError("the tokenizer has no mask token", key="objective", remedy="use objective: causal")
        if not 0 < probability < 1:
            raise InputError(f"must lie between 0 and 1, not {probability}", key="probability")
        if variants < 1:
            raise InputError(f"must be at least 1, not {variants}", key="mask_variants")
        self.mask_seed, self.variants, self.probability = mask_seed, variants, probability
        self._mask_id = int(tokenizer.mask_token_id)
        self._special = np.zeros(len(tokenizer), dtype=bool)
        self._special[list(tokenizer.all_special_ids)] = True
        self._ordinary = np.flatnonzero(~self._special)
        self._words = WordTable(tokenizer) if whole_word else None

    def variant(self, epoch: int | None) -> int:
        """The variant of an epoch; None is the evaluation's."""
        return EVALUATION_VARIANT if epoch is None else epoch % self.variants

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate samples ``{"input_ids", "digest", "epoch"?, "domain"?}`` of equal length."""
        corrupted, targets = [], []
        for sample in samples:
            ids = np.asarray(sample["input_ids"], dtype=np.int64)
            pair = corrupt(
                ids,
                key=(self.mask_seed, self.variant(sample.get("epoch")), int(sample["digest"])),
                selectable=~self._special[ids],
                starts=None if self._words is None else self._words.starts(ids),
                probability=self.probability,
                mask_id=self._mask_id,
                ordinary=self._ordinary,
            )
            corrupted.append(pair[0])
            targets.append(pair[1])
        return _batch(samples, np.stack(corrupted), np.stack(targets))


class CausalCollator:
    """Samples to a batch for causal language modelling: a position's target is the next token, the last has none."""

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate samples ``{"input_ids", "digest", "epoch"?, "domain"?}`` of equal length."""
        ids = np.stack([np.asarray(sample["input_ids"], dtype=np.int64) for sample in samples])
        targets = np.full_like(ids, NO_TARGET)
        targets[:, :-1] = ids[:, 1:]
        return _batch(samples, ids, targets)


def collator_for(head: str, tokenizer: Any, **masking: Any) -> CausalCollator | MaskingCollator:
    """The collator that makes a head's targets: next tokens for ``causal-lm``, else masks (``masking`` as there)."""
    return CausalCollator() if head == "causal-lm" else MaskingCollator(tokenizer, **masking)


def _batch(
    samples: Sequence[Mapping[str, Any]], ids: npt.NDArray[np.int64], targets: npt.NDArray[np.int64]
) -> dict[str, torch.Tensor]:
    import torch

    return {
        "input_ids": torch.from_numpy(ids),
        "attention_mask": torch.ones(ids.shape, dtype=torch.long),
        "targets": torch.from_numpy(targets),
        "domain": torch.tensor([int(sample.get("domain", 0)) for sample in samples], dtype=torch.long),
        "digest": torch.tensor([int(sample["digest"]) for sample in samples], dtype=torch.long),
    }
