"""LiGO, learning to grow (Wang et al., ICLR 2023, arXiv 2303.00980): the maps are trained before they are used.

    vec(W') = (w ⊗ I)(A ⊗ B) vec(W),   that is  W'_l' = sum_l w_l'l B W_l Aᵀ

B maps what an axis is written by, A what reads it, w mixes the source's layers; all are trained for a few hundred steps
on the language model's own loss, through the grown model, and then used once.  Stacking, interpolation, Net2Net and FPI
are special cases (``tests/laws/test_growth_ligo.py`` holds each of them).  As in the paper one B serves everything that
writes an axis (B^o = B^fc2 = B^emb) and one A everything that reads it; norms and biases follow B; there is one w for
each kind of tensor.

Deviations, ours unless ``start="paper"``:

* The maps start from the family's exact ones, so a copy is read in shares (A is B with shares) and the loss of step 0
  is the source's.  The paper ties A = B and its released code starts from copies that are not shared: old units kept
  (B = [I; learned rows]), new rows random with norm 1, w a stack with noise 0.03 whose rows sum to 1.
* Equal copies would receive equal gradients for ever, so A starts with null-space noise, which changes nothing.
* A and B are learned apart, and a role's fixed factors (shares, the isometric a_i, a tied head's n / N) stay.
* Keys and values share one B, since they stand on one axis; a dense B may mix the dimensions of heads, as the paper's.

Training: :mod:`bequest.growth.learning`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from bequest.anatomy import Anatomy, Tensor
from bequest.anatomy.maps import Maps, in_layer
from bequest.growth.exact import exact_or_copies
from bequest.growth.identity import with_identity_blocks
from bequest.growth.interpolate import interpolated
from bequest.growth.method import FAR, Direction, Growth, Verdict
from bequest.growth.noise import refuse_std
from bequest.growth.stack import stacked

if TYPE_CHECKING:
    import torch

Start = Literal["exact", "paper"]
Depth = Literal["stack", "interpolate", "identity"]


@dataclass(frozen=True)
class LiGO(Growth):
    """Width and depth by maps that are learned on a corpus for a few hundred steps."""

    directions: ClassVar[frozenset[Direction]] = frozenset({"width", "depth", "symmetry"})
    learns: ClassVar[bool] = True
    steps: int = 100
    """Updates of the maps; 100 in the paper."""
    lr: float = 1e-3
    """Adam's largest learning rate; it rises over the first tenth of the steps and then falls to zero."""
    start: Start = "exact"
    """``exact`` (the family's exact maps, read in shares) or ``paper``."""
    depth: Depth = "stack"
    """Where the mixture of layers starts: ``stack``, ``interpolate`` or ``identity`` (new blocks write nothing)."""
    noise: float = 1.0
    """Null-space noise on the reading maps, relative to a weight's standard deviation (``exact`` only)."""

    def __post_init__(self) -> None:
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"steps must be a whole number of at least 1, not {self.steps!r}")
        if not (isinstance(self.lr, int | float) and 0 < self.lr < float("inf")):
            raise ValueError(f"lr must be a number above 0, not {self.lr!r}")
        if self.start not in ("exact", "paper"):
            raise ValueError(f"start must be exact or paper, not {self.start!r}")
        if self.depth not in ("stack", "interpolate", "identity"):
            raise ValueError(f"depth must be stack, interpolate or identity, not {self.depth!r}")
        refuse_std(self.noise, "noise")

    def maps(
        self,
        source: Anatomy,
        target: Anatomy,
        *,
        weights: Mapping[str, torch.Tensor] | None = None,
        rng: random.Random,
    ) -> Maps:
        """Where learning starts: the family's exact maps, and an order of layers."""
        wide = exact_or_copies(source, target, {"method": "ligo", "start": self.start, "depth": self.depth})
        if self.depth == "identity":
            return with_identity_blocks(wide, source, target)
        order = stacked if self.depth == "stack" else interpolated
        return replace(wide, order=order(source.layers, target.layers))

    def verdict(self, source: Anatomy, target: Anatomy) -> Verdict:
        """Never exact: the maps move away from where they start."""
        return Verdict(False, "the maps are learned on a corpus, not made to preserve the function", predicted=FAR)


def kind_of(tensor: Tensor) -> str:
    """What a tensor inside a block is called in block 0; one mixture of layers serves each kind."""
    assert tensor.layer is not None
    return in_layer(tensor.name, tensor.layer, 0)


def mixed_layers(kind: str, source: Anatomy) -> list[int]:
    """The source's blocks that have a tensor of that kind."""
    return [layer for layer in range(source.layers) if in_layer(kind, 0, layer) in source.tensors]


def expansion_flops(source: Anatomy, target: Anatomy, maps: Maps) -> int:
    """Floating-point operations of making the target's weights once: matrix products, two to a multiplication.

    Args:
        source, target: the two anatomies.
        maps: where learning starts; every axis that grows has whole matrices, and layers are mixed where the depth
            grows.
    """
    total = 0
    for tensor in target.tensors.values():
        sizes = [[source.sizes[axis] for axis in dim.axes] for dim in tensor.line.dims]
        if tensor.layer is not None and source.layers != target.layers:
            elements = math.prod(sum(parts) for parts in sizes)
            total += 2 * len(mixed_layers(kind_of(tensor), source)) * elements
        for number, dim in enumerate(tensor.line.dims):
            others = math.prod(sum(parts) for place, parts in enumerate(sizes) if place != number)
            for place, axis in enumerate(dim.axes):
                found = maps.axes.get(axis)
                if found is not None and not found.identity:
                    total += 2 * others * found.source * found.target
                    sizes[number][place] = found.target
    return total
