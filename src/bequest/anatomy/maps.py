"""How each axis of a larger model is filled from the smaller one's: an index and a scale for each role.

An :class:`AxisMap` stands for one matrix per role, M[i, index[i]] = scale[i].  The duplicate map of growth.md §1:

    write, gain, shift, post gain, tied read: 1       read, raw read, last gain, last shift: 1 / k_i

with ``k_i`` the number of target units that copy the same source unit.  At whole multiples the isometric map (RMSNorm)
and the scaled average map (pre-LN LayerNorm) coincide with it, since their a = sqrt(N / (n k)) is 1 and k = N / n.
Imports neither torch nor transformers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bequest.anatomy.axes import Role
from bequest.errors import AnatomyError

_SHARED: tuple[Role, ...] = ("read", "raw_read", "last_gain", "last_shift")


@dataclass(frozen=True)
class AxisMap:
    """How one axis is filled.

    Args:
        source: the source's size n.
        index: for each of the N target units the source unit it copies.
        scales: role -> one factor per target unit; a role that is not named copies unscaled.
    """

    source: int
    index: tuple[int, ...]
    scales: Mapping[Role, tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unused = set(range(self.source)) - set(self.index)
        if unused or not set(self.index) <= set(range(self.source)):
            raise AnatomyError(f"a map must use every source unit and no other (unit {min(unused, default=-1)})")
        for role, scale in self.scales.items():
            if len(scale) != len(self.index):
                raise AnatomyError(f"{len(scale)} factors for {len(self.index)} units in the role {role}")

    @property
    def target(self) -> int:
        """The target's size N."""
        return len(self.index)

    @property
    def identity(self) -> bool:
        """Whether the axis stays as it is."""
        return self.index == tuple(range(self.source))

    @property
    def copies(self) -> tuple[int, ...]:
        """k: for each target unit the number of target units that copy the same source unit."""
        counts = Counter(self.index)
        return tuple(counts[unit] for unit in self.index)

    def scale(self, role: Role) -> tuple[float, ...] | None:
        """The factors of a role, or None where it copies unscaled."""
        return self.scales.get(role)

    def expanded(self, width: int) -> AxisMap:
        """The same map of units of ``width`` rows each (whole heads)."""
        index = tuple(unit * width + row for unit in self.index for row in range(width))
        scales = {role: tuple(value for value in scale for _ in range(width)) for role, scale in self.scales.items()}
        return AxisMap(self.source * width, index, scales)


@dataclass(frozen=True)
class Maps:
    """Everything that growth decides: a map per axis that grows, and the source layer of each target layer.

    Args:
        axes: axis -> map; an axis that is not named stays as it is.
        order: for each target layer its source layer.
        rule: what remakes the maps, for the lineage.
    """

    axes: Mapping[str, AxisMap]
    order: tuple[int, ...]
    rule: Mapping[str, Any] = field(default_factory=dict)


def duplicate(index: Sequence[int], source: int) -> AxisMap:
    """The duplicate map of an index: copies are written whole and read in equal shares."""
    plain = AxisMap(source, tuple(index))
    if plain.identity:
        return plain
    shares = tuple(1.0 / copies for copies in plain.copies)
    return AxisMap(source, plain.index, dict.fromkeys(_SHARED, shares))


def circular(source: int, target: int) -> AxisMap:
    """The duplicate map whose unit i copies i mod n; balanced at whole multiples."""
    return duplicate([unit % source for unit in range(target)], source)


def grouped_heads(heads: int, kv_heads: int, new_heads: int, new_kv_heads: int) -> tuple[list[int], list[int]]:
    """Index maps (query heads, key-value heads) that keep every query head with a copy of its own key-value head.

    Query head j uses key-value head j // G.  Key-value heads are copied in a circle; each target group is filled with
    the query heads of its source group, by one cyclic pointer per source group (growth.md §6).

    Raises:
        AnatomyError: a source query head finds no place.
    """
    group, new_group = heads // kv_heads, new_heads // new_kv_heads
    kv_index = [unit % kv_heads for unit in range(new_kv_heads)]
    pointer = [0] * kv_heads
    q_index = []
    for source in kv_index:
        for _ in range(new_group):
            q_index.append(source * group + pointer[source] % group)
            pointer[source] += 1
    lost = set(range(heads)) - set(q_index)
    if lost:
        raise AnatomyError(
            f"query head {min(lost)} finds no place in {new_heads} query and {new_kv_heads} key-value heads",
            key="num_key_value_heads",
            remedy="keep the number of query heads to each key-value head",
        )
    return q_index, kv_index


def origin_of(name: str, layer: int | None, order: Sequence[int]) -> str:
    """The source tensor's name from which a target tensor is made: the same, or that of the block's source layer."""
    if layer is None:
        return name
    parts = name.split(".")
    parts[parts.index(str(layer))] = str(order[layer])
    return ".".join(parts)
