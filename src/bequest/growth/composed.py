"""Methods of other papers that are choices among ours: Net2Net, LEMON, HyperCloning.  One row each in the paper index.

* Net2Net (Chen et al., ICLR 2016): wider by bert2BERT's random map, deeper by identity layers, a little noise.
* LEMON (Wang et al., ICLR 2024): pads with the mean (pre-LN), unequal shares through null-space noise, silent blocks.
  Deviations: the writers are scaled instead of gamma and eps; RMSNorm families take the isometric map instead of zero
  pads, which would need another eps; post-LN at whole multiples only, as in the paper.
* HyperCloning (Samragh et al. 2024): whole multiples, noise at a signal-to-noise ratio.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bequest.anatomy import Anatomy
from bequest.anatomy.maps import Maps
from bequest.errors import InputError
from bequest.growth.exact import exact_or_copies, preserves
from bequest.growth.fpi import duplicate_verdict, duplicated
from bequest.growth.identity import identity_verdict, with_identity_blocks
from bequest.growth.method import Direction, Growth, Verdict
from bequest.growth.noise import refuse_std, with_noise
from bequest.growth.widths import STREAMS, uneven_stream

if TYPE_CHECKING:
    import torch

_WIDE: frozenset[Direction] = frozenset({"width", "symmetry"})
_LEAST_SNR = -300
_ALL: frozenset[Direction] = frozenset({"width", "depth", "symmetry"})


@dataclass(frozen=True)
class Net2Net(Growth):
    """Wider by random copies read in shares, deeper by identity blocks, a little null-space noise."""

    directions: ClassVar[frozenset[Direction]] = _ALL
    std: float = 0.05
    """Of the noise, relative to each row's own standard deviation."""

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
        """bert2BERT's random maps, silent blocks, noise."""
        wide = duplicated(source, target, "random", rng, {"method": "net2net", "std": self.std})
        return with_noise(with_identity_blocks(wide, source, target), self.std, rng)

    def verdict(self, source: Anatomy, target: Anatomy) -> Verdict:
        """Exact where nothing normalises over the widened axes."""
        return both(duplicate_verdict(source, target, "random"), identity_verdict(source, target))


@dataclass(frozen=True)
class Lemon(Growth):
    """Exact width by means or copies, silent blocks, null-space noise."""

    directions: ClassVar[frozenset[Direction]] = _ALL
    std: float = 0.5
    """Of the noise, relative to each row's own standard deviation."""

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
        """The family's exact maps, silent blocks, noise."""
        uneven = uneven_stream(source, target)
        if uneven is not None and not preserves(source, target):
            raise InputError(
                f"{source.family.name} grows exactly by whole multiples only",
                key=STREAMS[uneven[0]],
                remedy=f"choose {uneven[1]}",
            )
        wide = exact_or_copies(source, target, {"method": "lemon", "std": self.std})
        return with_noise(with_identity_blocks(wide, source, target), self.std, rng)

    def verdict(self, source: Anatomy, target: Anatomy) -> Verdict:
        """Exact, but for depth in post-LN families."""
        return both(Verdict(True, "the family's exact map"), identity_verdict(source, target))


@dataclass(frozen=True)
class HyperCloning(Growth):
    """Whole multiples of the stream, read in shares, with noise at a signal-to-noise ratio."""

    directions: ClassVar[frozenset[Direction]] = _WIDE
    snr_db: float | None = 10.0
    """The ratio of the weights' power to the noise's, in decibels; none for no noise."""

    def __post_init__(self) -> None:
        # Below the bound the noise would be more than 10^15 times the weights, and soon more than a number holds.
        if self.snr_db is not None and not (isinstance(self.snr_db, int | float) and self.snr_db >= _LEAST_SNR):
            raise ValueError(f"snr_db must be a number of at least {_LEAST_SNR}, or none, not {self.snr_db!r}")

    @property
    def std(self) -> float:
        """The noise's standard deviation relative to the weights': 10^(-snr / 20)."""
        return 0.0 if self.snr_db is None else 10 ** (-self.snr_db / 20)

    def maps(
        self,
        source: Anatomy,
        target: Anatomy,
        *,
        weights: Mapping[str, torch.Tensor] | None = None,
        rng: random.Random,
    ) -> Maps:
        """Circular copies, noise."""
        uneven = uneven_stream(source, target)
        if uneven is not None:
            axis, legal = uneven
            raise InputError(
                f"hypercloning grows by whole multiples, and {target.sizes[axis]} is none of {source.sizes[axis]}",
                key=STREAMS[axis],
                remedy=f"choose {legal}, or another method",
            )
        rule = {"method": "hypercloning", "snr_db": self.snr_db}
        return with_noise(duplicated(source, target, "circular", None, rule), self.std, rng)

    def verdict(self, source: Anatomy, target: Anatomy) -> Verdict:
        """Exact at the whole multiples it is for."""
        return duplicate_verdict(source, target, "circular")


def both(width: Verdict, depth: Verdict) -> Verdict:
    """One verdict of two."""
    nearest = {**(width.nearest or {}), **(depth.nearest or {})}
    reason = "; ".join(verdict.reason for verdict in (width, depth) if verdict.exact == (width.exact and depth.exact))
    return Verdict(width.exact and depth.exact, reason, nearest or None, max(width.predicted, depth.predicted))
