"""Each family's own exact width map: isometric under RMSNorm, scaled average under pre-LN, copies under post-LN."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bequest.anatomy import Anatomy
from bequest.anatomy.maps import AxisMap, Maps, circular, circular_index, isometric
from bequest.growth.scaled_average import tiled
from bequest.growth.widths import even_only, uneven_stream, width_maps


def exact_name(source: Anatomy) -> str:
    """The name of the width method that is exact for this family at any width it can be, or ``fpi``."""
    if source.family.norm == "rms":
        return "isometric"
    return "fpi" if even_only(source, "hidden") else "scaled_average"


def exact_or_copies(source: Anatomy, target: Anatomy, rule: Mapping[str, Any]) -> Maps:
    """The exact maps where there are any, plain circular copies elsewhere."""
    name = exact_name(source)

    def stream(axis: str, n: int, wide: int) -> AxisMap:
        if name == "isometric":
            return isometric(circular_index(n, wide), n)
        return tiled(axis, n, wide) if name == "scaled_average" else circular(n, wide)

    return width_maps(source, target, stream, rule)


def preserves(source: Anatomy, target: Anatomy) -> bool:
    """Whether :func:`exact_or_copies` is exact."""
    uneven = uneven_stream(source, target)
    return uneven is None or not (even_only(source, uneven[0]))
