"""Depth by repeating every layer in its place (AquilaMoE, Zhang et al. 2024; the interpolation of LiGO's related work).

    order[i] = floor(i L / L')        5 -> 12: 0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4

It preserves nothing, and its first loss is sometimes below and sometimes above stacking's (growth.md §4).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bequest.anatomy import Anatomy
from bequest.anatomy.maps import Maps
from bequest.growth.method import Direction, Growth, Verdict
from bequest.growth.stack import repeated_verdict
from bequest.growth.widths import fixed_maps

if TYPE_CHECKING:
    import torch


def interpolated(layers: int, new_layers: int) -> tuple[int, ...]:
    """For each of ``new_layers`` layers its source layer."""
    return tuple(layer * layers // new_layers for layer in range(new_layers))


@dataclass(frozen=True)
class Interpolate(Growth):
    """Depth by repeating every layer where it stands."""

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
        return fixed_maps(source, {"method": "interpolate"}, interpolated(source.layers, target.layers))

    def verdict(self, source: Anatomy, target: Anatomy) -> Verdict:
        """Exact only where the depth stays."""
        return repeated_verdict(source, target, "interpolating")
