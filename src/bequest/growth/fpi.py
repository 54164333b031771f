"""FPI, function-preserving initialisation (bert2BERT, Chen et al., ACL 2022, §3.2; Net2Net, Chen et al. 2016).

    U[i, :] = W[g_in(i), :] / C(i)   (an input that was copied C times is read in shares)      U[:, j] = U[:, g_out(j)]

One index map g stands behind the residual stream of the whole network; heads are copied whole, with their own key-value
heads.  Where a tied output embedding cannot be read in shares, the last norm before it carries them.

Deviations.  The map is circular by default; the paper's, drawn at random, is ``map="random"``: it is not balanced, so
it is not exact even at whole multiples.  Norms are copied with unchanged eps, as in the paper; queries and keys that
one norm reads over all heads (OLMo 2) follow the isometric map, the only one that keeps their norm.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bequest.anatomy import Anatomy
from bequest.anatomy.maps import Maps, duplicate
from bequest.growth.method import Growth, Verdict, uneven_error
from bequest.growth.widths import MapKind, index_of, is_even, uneven_stream, uneven_verdict, width_maps

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class FPI(Growth):
    """Width by copies that are read in equal shares: exact at whole multiples of the stream, for every family."""

    map: MapKind = "circular"
    """How the new units choose their source: ``circular``, or ``random`` as in the paper."""

    def __post_init__(self) -> None:
        if self.map not in ("circular", "random"):
            raise ValueError(f"map must be circular or random, not {self.map!r}")

    def maps(
        self,
        source: Anatomy,
        target: Anatomy,
        *,
        weights: Mapping[str, torch.Tensor] | None = None,
        rng: random.Random,
    ) -> Maps:
        """One index map per axis, copies read in shares; heads in groups."""
        return duplicated(source, target, self.map, rng, {"method": "fpi", "map": self.map})

    def verdict(self, source: Anatomy, target: Anatomy) -> Verdict:
        """Exact when every channel of the stream gets equally many copies."""
        return duplicate_verdict(source, target, self.map)


def duplicated(
    source: Anatomy, target: Anatomy, kind: MapKind, rng: random.Random | None, rule: Mapping[str, Any]
) -> Maps:
    """The maps of plain copies."""
    return width_maps(
        source,
        target,
        lambda _, n, wide: duplicate(index_of(kind, n, wide, rng), n),
        rule,
        kind=kind,
        rng=rng,
    )


def duplicate_verdict(source: Anatomy, target: Anatomy, kind: MapKind) -> Verdict:
    """Whether plain copies preserve the function."""
    streams = duplicated(source, target, kind, random.Random(0), {}).axes  # any draw: no random map is even but by luck
    if uneven_stream(source, target) is not None:
        return uneven_verdict(source, target, streams)
    uneven = [axis for axis in ("hidden", "embed") if axis in streams and not is_even(streams[axis])]
    if uneven:
        reason = "not lossless: a random map copies some channels more often than others; use map: circular"
        return Verdict(False, reason, predicted=uneven_error(streams[uneven[0]], source))
    return Verdict(True, "the stream grows by a whole multiple, and copies are read in equal shares")
