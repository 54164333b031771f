"""Depth by identity blocks: copies of a block that write nothing into the stream (LLaMA-Pro, Wu et al., ACL 2024).

    x + 0 = x:  every writer of the stream in a new block is zero, biases included; where a norm stands behind the
    writers (Gemma 2, OLMo 2) its gain is zero instead

Bitwise exact in pre-norm families, in every dtype.  Placement: when A blocks are added to L, one behind every L / A
layers, a copy of the layer before it.  The new blocks' indices stand in the lineage; ``train_only: new_blocks`` trains
them alone.  In post-LN families no block is an identity, since a norm of a normed stream still shifts and scales: the
verdict says so.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from bequest.anatomy import Anatomy
from bequest.anatomy.maps import Maps
from bequest.growth.method import FAR, Direction, Growth, Verdict
from bequest.growth.widths import fixed_maps

if TYPE_CHECKING:
    import torch


def placed(layers: int, new_layers: int) -> tuple[tuple[int, ...], frozenset[int]]:
    """The order of layers, and which of them are identity blocks.

    With A = new_layers - layers, the j-th block (from 1) stands behind source layer ceil(j L / A) - 1: behind every
    L / A layers where that is whole, spread as evenly elsewhere; several in a row where A > L.
    """
    added = new_layers - layers
    behind = [-(-number * layers // added) - 1 for number in range(1, added + 1)] if added else []
    order: list[int] = []
    silent: set[int] = set()
    for layer in range(layers):
        order.append(layer)
        for _ in range(behind.count(layer)):
            silent.add(len(order))
            order.append(layer)
    return tuple(order), frozenset(silent)


def with_identity_blocks(maps: Maps, source: Anatomy, target: Anatomy) -> Maps:
    """Maps whose added layers are identity blocks."""
    order, silent = placed(source.layers, target.layers)
    return replace(maps, order=order, silent=silent)


@dataclass(frozen=True)
class Identity(Growth):
    """Depth by blocks that do nothing yet: bitwise exact in pre-norm families."""

    directions: ClassVar[frozenset[Direction]] = frozenset({"depth"})

    def maps(
        self,
        source: Anatomy,
        target: Anatomy,
        *,
        weights: Mapping[str, torch.Tensor] | None = None,
        rng: random.Random,
    ) -> Maps:
        """No axis changes; the added layers are silent."""
        return with_identity_blocks(fixed_maps(source, {"method": "identity"}, ()), source, target)

    def verdict(self, source: Anatomy, target: Anatomy) -> Verdict:
        """Exact where norms stand before the blocks."""
        return identity_verdict(source, target)


def identity_verdict(source: Anatomy, target: Anatomy) -> Verdict:
    """Whether identity blocks are identities in this family."""
    if source.layers == target.layers:
        return Verdict(True, "the depth stays")
    if source.family.norm == "layer-post":
        reason = "not lossless: in post-LN a block that writes nothing still normalises the stream"
        return Verdict(False, reason, {"num_hidden_layers": source.layers}, FAR)
    switched = [switch for switch in source.family.by_index if source.config.get(switch)]
    order, silent = placed(source.layers, target.layers)
    if switched and any(origin != layer for layer, origin in enumerate(order) if layer not in silent):
        reason = f"not lossless: with {switched[0]} a block computes with its own index, and moving it changes it"
        return Verdict(False, reason, {"num_hidden_layers": source.layers}, FAR)
    return Verdict(True, f"{target.layers - source.layers} identity blocks write nothing into the stream")
