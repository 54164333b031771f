"""Depth by stacking copies of the whole stack (StackBERT, Gong et al., ICML 2019; bert2BERT §3.4; G_stack).

    order = [0 .. L-1] repeated floor(L'/L) times, then the top L' mod L layers        5 -> 12: 0..4, 0..4, 3, 4

Stacking preserves nothing; it is the depth map that trains best among the simple ones (G_stack, NeurIPS 2024).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bequest.anatomy import Anatomy
from bequest.anatomy.maps import Maps
from bequest.growth.method import Direction, Growth, Verdict

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
        rng: Any = None,
    ) -> Maps:
        """No axis changes; only the order of layers."""
        return Maps({}, stacked(source.layers, target.layers), {"method": "stack"})

    def verdict(self, source: Anatomy, target: Anatomy) -> Verdict:
        """Exact only where the depth stays."""
        if source.layers == target.layers:
            return Verdict(True, "the depth stays")
        reason = f"stacking {source.layers} layers to {target.layers} does not preserve the function"
        return Verdict(False, reason, {"num_hidden_layers": source.layers})
