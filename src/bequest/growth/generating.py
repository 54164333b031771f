"""Greedy generation of two models, token for token, with the key-value cache and without it.

Growth that is exact up to rounding may still part where two tokens are equally likely: such a parting is a tie, counted
on its own and not held against the larger model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bequest.checkpoints.quiet import quiet
from bequest.growth.comparing import Batch


@dataclass(frozen=True)
class Generation:
    """What two models said after the same prompts.

    Attributes:
        prompts: how many there were.
        tokens: how many tokens each was continued by.
        same: prompts with the same continuation.
        ties: prompts that part where two tokens are equally likely up to the gate.
        cached: prompts that the larger model continues the same way without a cache (ties included).
    """

    prompts: int
    tokens: int
    same: int
    ties: int
    cached: int

    @property
    def preserved(self) -> bool:
        """Whether nothing but a tie parts the two models, or the cache from no cache."""
        return self.same + self.ties == self.prompts == self.cached

    def words(self) -> str:
        """In words."""
        tied = f" ({self.ties} parted at a tie)" if self.ties else ""
        cache = "" if self.cached == self.prompts else f", {self.prompts - self.cached} differ without the cache"
        return f"{self.same} of {self.prompts} prompts continued by the same {self.tokens} tokens{tied}{cache}"


def generated(
    model: Any, bigger: Any, batch: Batch, tokens: int, padding: int, gate: float, done: Callable[[], None]
) -> Generation:
    """Continue prompts (padded on the left) greedily with both models.

    Args:
        model, bigger: causal language models in eval mode.
        batch: ``input_ids`` and ``attention_mask``.
        tokens: by how many.
        padding: the padding id.
        gate: two logits nearer than twice this share of the largest one are a tie.
        done: called after each of the three generations.
    """
    said = []
    for speaker, cache in ((model, True), (bigger, True), (bigger, False)):
        said.append(_greedy(speaker, batch, tokens, padding, cache=cache))
        done()
    prompts = [row[mask.bool()].tolist() for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    ours = [_parting(model, *row, gate) for row in zip(prompts, said[0], said[1], strict=True)]
    own = [_parting(bigger, *row, gate) for row in zip(prompts, said[1], said[2], strict=True)]
    return Generation(len(prompts), tokens, ours.count("none"), ours.count("tie"), len(own) - own.count("other"))


def _greedy(model: Any, batch: Batch, tokens: int, padding: int, *, cache: bool) -> list[list[int]]:
    """The tokens said for each prompt."""
    from transformers import GenerationConfig

    config = GenerationConfig(
        do_sample=False, max_new_tokens=tokens, min_new_tokens=tokens, pad_token_id=padding, use_cache=cache
    )
    given = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask")}
    with quiet():
        made = model.generate(**given, generation_config=config)
    said: list[list[int]] = made[:, given["input_ids"].shape[1] :].tolist()
    return said


def _parting(model: Any, prompt: Sequence[int], ours: Sequence[int], theirs: Sequence[int], gate: float) -> str:
    """``none``, ``tie`` or ``other``: how two continuations part; later tokens follow other words and mean nothing."""
    place = next((step for step, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b), None)
    if place is None:
        return "none"
    ids = torch.tensor([[*prompt, *ours[:place]]], device=model.device)
    logits = model(input_ids=ids, use_cache=False).logits[0, -1].double()
    apart = float(logits[ours[place]] - logits[theirs[place]])
    return "tie" if abs(apart) <= 2 * gate * float(logits.abs().max()) else "other"
