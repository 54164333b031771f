"""What width methods share: which streams there are, which maps stand behind heads, and when a stream stays even.

Imports neither torch nor transformers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from bequest.anatomy import Anatomy
from bequest.anatomy.maps import (
    AxisMap,
    Maps,
    circular_index,
    duplicate,
    grouped_heads,
    head_axes,
    random_index,
)
from bequest.growth.method import Verdict, uneven_error

#: Which index map fills the new units: i mod n, or the paper's uniform draws.
MapKind = Literal["circular", "random"]
#: The axes that norms stand on, and the config key of each.
STREAMS = {"hidden": "hidden_size", "embed": "embedding_size"}
#: Axes inside a block that grow by any factor, besides those of heads.
INNER_WIDTHS = ("ffn", "shared")
NORMS = {"layer-post": "post-LN", "layer": "pre-LN", "rms": "RMSNorm"}

StreamMap = Callable[[str, int, int], AxisMap]


def width_maps(
    source: Anatomy,
    target: Anatomy,
    stream: StreamMap,
    rule: Mapping[str, Any],
    *,
    kind: MapKind = "circular",
    rng: random.Random | None = None,
) -> Maps:
    """The maps of a width method: streams as it says, heads in groups, inner widths by copies read in shares.

    Args:
        source, target: the two anatomies.
        stream: (axis, source size, target size) -> the map of an axis that norms stand on.
        rule: what the lineage keeps of the method.
        kind: of the maps inside a block.
        rng: for random maps.

    Raises:
        AnatomyError: a query head finds no place beside its key-value head.
    """
    axes: dict[str, AxisMap] = {}
    for axis in STREAMS:
        if axis in source.sizes and source.sizes[axis] != target.sizes[axis]:
            axes[axis] = stream(axis, source.sizes[axis], target.sizes[axis])
    for axis in INNER_WIDTHS:
        if axis in source.sizes and source.sizes[axis] != target.sizes[axis]:
            index = index_of(kind, source.sizes[axis], target.sizes[axis], rng)
            axes[axis] = duplicate(index, source.sizes[axis])
    q_index, kv_index = head_indices(source, target, kind, rng)
    if (source.heads, source.kv_heads) != (target.heads, target.kv_heads):
        heads = head_axes(
            q_index, kv_index, source.heads, source.kv_heads, source.sizes["head_dim"], normed_axes(source)
        )
        axes |= {axis: found for axis, found in heads.items() if axis in source.sizes}
    return Maps(axes, tuple(range(source.layers)), {**rule, "heads": q_index, "kv_heads": kv_index})


def index_of(kind: MapKind, source: int, target: int, rng: random.Random | None) -> list[int]:
    """An index map of that kind."""
    if kind == "circular":
        return circular_index(source, target)
    assert rng is not None
    return random_index(source, target, rng)


def head_indices(
    source: Anatomy, target: Anatomy, kind: MapKind, rng: random.Random | None
) -> tuple[list[int], list[int]]:
    """Target head -> source head, of queries and of keys and values.

    With a key-value head for every query head both follow one index map, which may be random; shared key-value heads
    are grouped whatever the kind, since a query head must keep a copy of its own.
    """
    alone = source.kv_heads == source.heads and target.kv_heads == target.heads
    if alone and kind == "random":
        index = index_of(kind, source.heads, target.heads, rng)
        return index, index
    return grouped_heads(source.heads, source.kv_heads, target.heads, target.kv_heads)


def normed_axes(anatomy: Anatomy) -> frozenset[str]:
    """The axes of heads that one norm reads as a whole (OLMo 2: queries and keys over all heads at once)."""
    return frozenset(
        axis
        for tensor in anatomy.tensors.values()
        for dim in tensor.line.dims
        if dim.role == "gain"
        for axis in dim.axes
        if axis in ("q", "k")
    )


def uneven_streams(source: Anatomy, target: Anatomy) -> dict[str, int]:
    """The stream axes that do not grow by a whole multiple -> their nearest whole multiples."""
    return {
        axis: max(2, round(target.sizes[axis] / source.sizes[axis])) * source.sizes[axis]
        for axis in STREAMS
        if axis in source.sizes and target.sizes[axis] % source.sizes[axis]
    }


def uneven_stream(source: Anatomy, target: Anatomy) -> tuple[str, int] | None:
    """The first of :func:`uneven_streams`, or none."""
    return next(iter(uneven_streams(source, target).items()), None)


def even_only(source: Anatomy, axis: str) -> str:
    """Why an axis grows exactly by whole multiples only, whatever the map; empty where that is not so."""
    family = source.family
    if axis == "embed" or family.norm == "layer-post":
        return "post-LN"
    return "its embeddings end in a norm" if family.normed_embeddings else ""


def uneven_verdict(source: Anatomy, target: Anatomy, maps: Mapping[str, AxisMap]) -> Verdict:
    """The verdict on copies whose norms see them in uneven numbers."""
    uneven = uneven_stream(source, target)
    assert uneven is not None
    axis, _ = uneven
    why = even_only(source, axis) or NORMS[source.family.norm]
    reason = f"not lossless: {why} and {target.sizes[axis]}/{source.sizes[axis]} is not an integer"
    nearest = {STREAMS[axis]: legal for axis, legal in uneven_streams(source, target).items()}
    return Verdict(False, reason, nearest, uneven_error(maps[axis], source))


def is_even(found: AxisMap) -> bool:
    """Whether every source unit has equally many copies."""
    return len(set(found.copies)) == 1


def fixed_maps(source: Anatomy, rule: Mapping[str, Any], order: Sequence[int]) -> Maps:
    """Maps that change no axis, only the order of layers."""
    return Maps({}, tuple(order), dict(rule))
