"""DirectCopy: the source in the corner of every tensor, the rest as in a new model (bert2BERT's baseline, §4).

    U[:n, :m] = W,   elsewhere N(0, 0.02²) (our choice of std), norms 1 and biases 0; layers beyond the source's are new

It preserves nothing: what the corner computes is drowned by what surrounds it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bequest.anatomy import Anatomy
from bequest.anatomy.maps import Maps, corner
from bequest.growth.method import FAR, Direction, Growth, Verdict

if TYPE_CHECKING:
    import torch

_AXES = ("hidden", "embed", "q", "k", "kv", "qkv", "attn", "ffn", "shared")


@dataclass(frozen=True)
class DirectCopy(Growth):
    """Width and depth by copying the source into a corner of a new model: the baseline that growth must beat."""

    directions: ClassVar[frozenset[Direction]] = frozenset({"width", "depth"})

    def maps(
        self,
        source: Anatomy,
        target: Anatomy,
        *,
        weights: Mapping[str, torch.Tensor] | None = None,
        rng: random.Random,
    ) -> Maps:
        """Every axis keeps its units and gets new ones behind them."""
        axes = {
            axis: corner(source.sizes[axis], target.sizes[axis])
            for axis in _AXES
            if axis in source.sizes and source.sizes[axis] != target.sizes[axis]
        }
        order = tuple(min(layer, source.layers - 1) for layer in range(target.layers))
        fresh = frozenset(range(source.layers, target.layers))
        return Maps(axes, order, {"method": "direct_copy"}, fresh=fresh, seed=rng.getrandbits(32))

    def verdict(self, source: Anatomy, target: Anatomy) -> Verdict:
        """Never exact."""
        return Verdict(False, "a copy in the corner of a new model does not preserve the function", None, FAR)
