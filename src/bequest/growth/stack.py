"""Depth by stacking copies of the whole stack (StackBERT, Gong et al., ICML 2019; bert2BERT §3.4; G_stack).

    order = [0 .. L-1] repeated floor(L'/L) times, then the top L' mod L layers        5 -> 12: 0..4, 0..4, 3, 4

Stacking preserves nothing; it is the depth map that trains best among the simple ones (G_stack, Du et al., NeurIPS
2024, which stacks once by a factor of 2 to 4).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bequest.anatomy import Anatomy
from bequest.anatomy.maps import Maps
from bequest.growth.method import FAR, Direction, Growth, Verdict
from bequest.growth.widths import fixed_maps

if TYPE_CHECKING:
    import torch


def stacked(layers: int, new_layers: int) -> tuple[int, ...]:
    """For each of ``new_layers`` layers its source layer; a remainder is taken from the top."""
    repeats, rest = divmod(new_layers, layers)
    return tuple(range(layers)) * repeats + tuple(range(layers - rest, layers))


@dataclass(frozen=True)
class Stack(Growth):
    """Depth by stacking the source on itself; the remainder comes from its top."""

    directions: ClassVar[frozenset[Direction]] = frozenset({"depth"})

    def maps(
        self,
        source: Anatomy,
        target: Anatomy,
        *,
        weights: Mapping[str, torch.Tensor] | None = None,
        rng: random.Random,
    ) -> Maps:
        """No axis changes; only the order of layers."""
        return fixed_maps(source, {"method": "stack"}, stacked(source.layers, target.layers))

    def verdict(self, source: Anatomy, target: Anatomy) -> Verdict:
        """Exact only where the depth stays."""
        return repeated_verdict(source, target, "stacking")


def repeated_verdict(source: Anatomy, target: Anatomy, doing: str) -> Verdict:
    """The verdict on depth made by running layers a second time."""
    if source.layers == target.layers:
        return Verdict(True, "the depth stays")
    reason = f"{doing} {source.layers} layers to {target.layers} does not preserve the function"
    if source.family.norm != "layer-post":
        reason += "; identity blocks would"
    return Verdict(False, reason, {"num_hidden_layers": source.layers}, FAR)
