"""The isometric map: RMSNorm families grow to any width exactly, eps and ties unchanged (growth.md §6, derived there).

    x'_i = a_i x_g(i),  a_i = sqrt(N / (n k_i))        =>  sum over copies of a_i² = N / n  =>  RMS(x') = RMS(x)

The gain gamma_g / a_i makes the norm's output a plain copy, which readers share (1 / k_i); a tied head keeps its tie,
and the last norm carries gamma n / N.  At whole multiples a = 1: plain HyperCloning (Samragh et al. 2024).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bequest.anatomy import Anatomy
from bequest.anatomy.maps import Maps, circular_index, isometric
from bequest.errors import InputError
from bequest.growth.method import Growth, Verdict
from bequest.growth.widths import uneven_stream, width_maps

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Isometric(Growth):
    """Width that keeps the stream's mean square: exact at any width for RMSNorm families."""

    def maps(
        self,
        source: Anatomy,
        target: Anatomy,
        *,
        weights: Mapping[str, torch.Tensor] | None = None,
        rng: random.Random,
    ) -> Maps:
        """Circular maps; the stream's carry the factors a_i."""
        refuse_uneven_layer_norm(source, target)
        return width_maps(
            source, target, lambda _, n, wide: isometric(circular_index(n, wide), n), {"method": "isometric"}
        )

    def verdict(self, source: Anatomy, target: Anatomy) -> Verdict:
        """Exact, where it applies."""
        return Verdict(True, "the isometric map keeps the stream's mean square, so every RMSNorm gives plain copies")


def refuse_uneven_layer_norm(source: Anatomy, target: Anatomy) -> None:
    """A LayerNorm subtracts the mean as well, which only whole multiples of copies keep."""
    uneven = uneven_stream(source, target)
    if source.family.norm != "rms" and uneven is not None:
        pre = source.family.norm == "layer" and not source.family.normed_embeddings
        raise InputError(
            f"the isometric map keeps mean squares, and {source.family.name} has LayerNorms",
            key="method",
            remedy="use scaled_average" if pre else f"choose a width of {uneven[1]}, or fpi (approximate)",
        )
