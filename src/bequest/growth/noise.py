"""Symmetry breaking that stays exact: null-space noise on what reads copies (growth.md §8).

    W' = W[:, g] / C + (R - mean of R over the copies),   any R         (LEMON's projection; HyperCloning's +N, -N)

Copies whose outgoing shares are equal receive equal gradients for ever: the new width would be unused.  The noise
changes nothing that is computed, and everything that is learnt.  Norms, embeddings and tied heads get none.  Values:
:mod:`bequest.anatomy.draws`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from bequest.anatomy import Anatomy
from bequest.anatomy.maps import Maps
from bequest.anatomy.maps import Noise as ReaderNoise
from bequest.growth.method import Direction, Growth, Verdict
from bequest.growth.widths import fixed_maps

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Noise(Growth):
    """Null-space noise: the function stays, copies can be told apart."""

    directions: ClassVar[frozenset[Direction]] = frozenset({"symmetry"})
    std: float = 1.0
    """Relative to each row's own standard deviation.  In our lab the more noise, the lower a small decoder ended (0.2,
    0.5, 1 and 3: docs/evidence.md); at 1 a copy differs by as much as it holds."""

    def __post_init__(self) -> None:
        refuse_std(self.std)

    def maps(
        self,
        source: Anatomy,
        target: Anatomy,
        *,
        weights: Mapping[str, torch.Tensor] | None = None,
        rng: random.Random,
    ) -> Maps:
        """No axis changes; the readers get noise."""
        rule = {"method": "noise", "std": self.std}
        return with_noise(fixed_maps(source, rule, range(source.layers)), self.std, rng)

    def verdict(self, source: Anatomy, target: Anatomy) -> Verdict:
        """Always exact."""
        return Verdict(True, "null-space noise tells copies apart without changing what they compute")


def with_noise(maps: Maps, std: float, rng: random.Random) -> Maps:
    """Maps with null-space noise of a seed of their own."""
    return replace(maps, noise=ReaderNoise(std, rng.getrandbits(32)) if std else None)


def refuse_std(std: float, name: str = "std") -> None:
    """A standard deviation is a finite number of at least 0; ``name`` is the option's."""
    if not (isinstance(std, int | float) and 0 <= std < math.inf):
        raise ValueError(f"{name} must be a number of at least 0, not {std!r}")
