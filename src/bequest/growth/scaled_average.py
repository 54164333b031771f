"""The scaled average map: pre-LN LayerNorm families grow to any width exactly, eps unchanged (growth.md §6).

    x' = a (x, ..., x, mean(x), ..., mean(x)),   a = sqrt(N / (q n)),   q = N // n

Mean and variance of x' are those of x, so gamma / a gives plain tiles and zeros at the pads: what reads a pad is free
capacity.  LEMON (Wang et al., ICLR 2024) pads with the mean too, and changes gamma and eps instead of the writers.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bequest.anatomy import Anatomy
from bequest.anatomy.maps import AxisMap, Maps, average, circular
from bequest.errors import InputError
from bequest.growth.method import Growth, Verdict
from bequest.growth.widths import STREAMS, even_only, uneven_stream, width_maps

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ScaledAverage(Growth):
    """Width that keeps the stream's mean and variance: exact at any width for pre-LN LayerNorm families."""

    def maps(
        self,
        source: Anatomy,
        target: Anatomy,
        *,
        weights: Mapping[str, torch.Tensor] | None = None,
        rng: random.Random,
    ) -> Maps:
        """Tiles and mean pads for the stream, circular copies inside the blocks."""
        refuse_uneven(source, target)
        return width_maps(source, target, tiled, {"method": "scaled_average"})

    def verdict(self, source: Anatomy, target: Anatomy) -> Verdict:
        """Exact, where it applies."""
        return Verdict(True, "the scaled average map keeps the stream's mean and variance, so LayerNorms give copies")


def tiled(axis: str, source: int, target: int) -> AxisMap:
    """Tiles and mean pads on the residual stream; an embedding's own axis grows by whole multiples."""
    return average(source, target) if axis == "hidden" else circular(source, target)


def refuse_uneven(source: Anatomy, target: Anatomy) -> None:
    """An RMSNorm has its own map; after a post-LN norm the mean of the pads is lost (growth.md §2, impossibility)."""
    uneven = uneven_stream(source, target)
    if uneven is None:
        return
    axis, legal = uneven
    why = even_only(source, axis)
    if source.family.norm == "rms":
        raise InputError(
            f"the scaled average map is for LayerNorms, and {source.family.name} has RMSNorms",
            key="method",
            remedy="use isometric",
        )
    if why:
        raise InputError(
            f"{source.family.name} grows exactly by whole multiples only ({why})",
            key=STREAMS[axis],
            remedy=f"choose {legal}, or fpi (approximate)",
        )
