"""AKI, advanced knowledge initialisation (bert2BERT, Chen et al., ACL 2022, §3.3).

    U^l[:, j] = U~^l[:, j]                      for the original units, j <= d_out
              = U~^{l+1}[:, g^{l+1}(j)]         for the new ones, from the layer above; the last layer is FPI's

It is a selection between two ordinary growths along one dimension of a tensor (growth.md §3), in two scopes:

* ``transplant`` (default): inner units (heads, FFN neurons) move whole, their rows and the columns that read them;
* ``formula``: the printed formula taken literally: every output unit, the stream's included; what reads never.

It starts at a higher loss than FPI and learns faster.  Width first, then depth.  Deviations: the stream's map is the
family's exact one (isometric, scaled average) wherever it has one, so that all that is lost is what AKI replaces;
``stream="duplicate"`` gives the paper's copies.  Under ``transplant`` residual duplicates stay equal for ever: add
``noise``, as ``auto`` does when training follows.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from bequest.anatomy import Anatomy
from bequest.anatomy.maps import Maps, Scope
from bequest.growth.exact import exact_or_copies
from bequest.growth.fpi import duplicated
from bequest.growth.method import FAR, Growth, Verdict
from bequest.growth.widths import MapKind

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class AKI(Growth):
    """Width whose new units come from the layer above: does not preserve the function, and trains faster."""

    scope: Scope = "transplant"
    """``transplant`` moves whole inner units, ``formula`` every output row."""
    map: MapKind = "circular"
    """How the new units choose their source unit: ``circular`` or ``random``."""
    stream: Literal["exact", "duplicate"] = "exact"
    """``exact`` uses the family's exact map for the residual stream, ``duplicate`` plain copies."""

    def __post_init__(self) -> None:
        if self.scope not in ("transplant", "formula"):
            raise ValueError(f"scope must be transplant or formula, not {self.scope!r}")
        if self.map not in ("circular", "random"):
            raise ValueError(f"map must be circular or random, not {self.map!r}")
        if self.stream not in ("exact", "duplicate"):
            raise ValueError(f"stream must be exact or duplicate, not {self.stream!r}")

    def maps(
        self,
        source: Anatomy,
        target: Anatomy,
        *,
        weights: Mapping[str, torch.Tensor] | None = None,
        rng: random.Random,
    ) -> Maps:
        """FPI's maps, and for every layer but the last the layer above as donor."""
        plain = self.map == "random" or self.stream == "duplicate"
        rule = {"method": "aki", "map": self.map, "scope": self.scope, "stream": self.stream}
        width = duplicated(source, target, self.map, rng, rule) if plain else exact_or_copies(source, target, rule)
        donors = {layer: layer + 1 for layer in range(source.layers - 1)}
        return replace(width, donors=donors, scope=self.scope)

    def verdict(self, source: Anatomy, target: Anatomy) -> Verdict:
        """Never exact: that is the point of it."""
        return Verdict(False, "AKI takes new units from the layer above and does not preserve the function", None, FAR)
