"""How each axis of a larger model is filled from the smaller one's: an index and a scale for each role.

An :class:`AxisMap` stands for one matrix per role, ``M[i, index[i]] = scale[i]``; a pad copies no single unit.  With n
source units, N target units, ``k_i`` the number of copies of unit ``index[i]``, q = N // n and e = sqrt(n / N)
(growth.md §1)::

    role               duplicate   isometric (RMSNorm)            average (pre-LN): tiles      pads
    write              1           a_i = sqrt(N / (n k_i))        a = sqrt(N / (q n))          a mean
    read               1 / k_i     1 / k_i                        1 / q                        0 (free)
    raw read           1 / k_i     1 / (k_i a_i)                  1 / (q a)                    0
    gain               1           1 / a_i                        1 / a                        mean / a (free)
    shift              1           -                              1                            0
    post gain          1           1                              -                            -
    last gain, tied    1 / k_i     n / N                          n / N                        mean n / N (free)
    last shift, tied   1 / k_i     1 / (k_i a_i)                  1 / (q a)                    0
    tied read          = write     = write                        = write                      = write
    scaled write       e           e a_i                          (embeddings that the model multiplies by sqrt(hidden))
    scaled last gain   1 / (k e)   n / (N e)

At whole multiples all three coincide, since a = 1 and k = N / n.  Imports neither torch nor transformers.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from bequest.anatomy.axes import Role
from bequest.errors import AnatomyError

#: In an index: a target unit that copies no single source unit.
PAD = -1
#: What stands at a pad: the mean of all source units, nothing, or what a new model would hold.
Pad = Literal["mean", "zero", "fresh"]
#: Which units AKI takes from the layer above: whole inner units, or every output unit as the paper prints it.
Scope = Literal["transplant", "formula"]

#: Axes of units inside a block; nothing outside the block sees them.
INNER = frozenset({"q", "k", "kv", "qkv", "attn", "ffn", "shared"})


@dataclass(frozen=True, eq=False)
class AxisMap:
    """How one axis is filled.

    Args:
        source: the source's size n.
        index: for each of the N target units the source unit it copies, or ``PAD``.
        scales: role -> one factor per target unit; a role that is not named copies unscaled.
        pads: role -> what stands at the pads; ``zero`` where a role is not named.
    """

    source: int
    index: tuple[int, ...]
    scales: Mapping[Role, tuple[float, ...]] = field(default_factory=dict)
    pads: Mapping[Role, Pad] = field(default_factory=dict)

    def __post_init__(self) -> None:
        used = set(self.index) - {PAD}
        unused = set(range(self.source)) - used
        if unused or not used <= set(range(self.source)):
            raise AnatomyError(f"a map must use every source unit and no other (unit {min(unused, default=-1)})")
        for role, scale in self.scales.items():
            if len(scale) != len(self.index):
                raise AnatomyError(f"{len(scale)} factors for {len(self.index)} units in the role {role}")

    @property
    def target(self) -> int:
        """The target's size N."""
        return len(self.index)

    @cached_property
    def identity(self) -> bool:
        """Whether the axis stays as it is."""
        return self.index == tuple(range(self.source))

    @cached_property
    def copies(self) -> tuple[int, ...]:
        """k: for each target unit the number of target units that copy the same source unit; 0 at pads."""
        counts = Counter(self.index)
        return tuple(0 if unit == PAD else counts[unit] for unit in self.index)

    @cached_property
    def originals(self) -> tuple[bool, ...]:
        """For each target unit whether it is the first copy of its source unit; pads count as originals."""
        seen: set[int] = set()
        found = []
        for unit in self.index:
            found.append(unit == PAD or unit not in seen)
            seen.add(unit)
        return tuple(found)

    def scale(self, role: Role) -> tuple[float, ...] | None:
        """The factors of a role, or None where it copies unscaled."""
        return self.scales.get(role)

    def pad(self, role: Role) -> Pad:
        """What stands at the pads in a role."""
        return self.pads.get(role, "zero")

    def expanded(self, width: int) -> AxisMap:
        """The same map of units of ``width`` rows each (whole heads)."""
        index = tuple(PAD if unit == PAD else unit * width + row for unit in self.index for row in range(width))
        scales = {role: tuple(value for value in scale for _ in range(width)) for role, scale in self.scales.items()}
        return AxisMap(self.source * width, index, scales, self.pads)


@dataclass(frozen=True)
class Noise:
    """Null-space noise on the readers (growth.md §8); drawn per tensor and row, see :mod:`bequest.anatomy.draws`.

    Args:
        std: the standard deviation, relative to that of the row it is added to.
        seed: of the draws.
    """

    std: float
    seed: int


@dataclass(frozen=True)
class Maps:
    """Everything that growth decides.

    Args:
        axes: axis -> map; an axis that is not named stays as it is.
        order: for each target layer its source layer.
        rule: what remakes the maps, for the lineage.
        silent: target layers that are identity blocks: they write nothing into the stream.
        fresh: target layers that are newly initialised.
        donors: source layer -> the layer from which its new units come (AKI); a layer not named keeps its own.
        scope: along which dimensions donors are read (AKI).
        noise: null-space noise on the readers.
        seed: of the values at fresh pads and in fresh layers.
    """

    axes: Mapping[str, AxisMap]
    order: tuple[int, ...]
    rule: Mapping[str, Any] = field(default_factory=dict)
    silent: frozenset[int] = frozenset()
    fresh: frozenset[int] = frozenset()
    donors: Mapping[int, int] = field(default_factory=dict)
    scope: Scope | None = None
    noise: Noise | None = None
    seed: int = 0

    @property
    def new_layers(self) -> tuple[int, ...]:
        """Target layers that are not the first copy of their source layer."""
        first = {source: target for target, source in reversed(list(enumerate(self.order))) if target not in self.fresh}
        return tuple(target for target, source in enumerate(self.order) if first.get(source) != target)

    def digest(self) -> str:
        """SHA-256 of everything that decides a value, for the lineage."""
        axes = {
            name: [found.source, found.index, sorted(found.scales.items()), sorted(found.pads.items())]
            for name, found in sorted(self.axes.items())
        }
        noise = None if self.noise is None else [self.noise.std, self.noise.seed]
        rest = [self.order, sorted(self.silent), sorted(self.fresh), sorted(self.donors.items()), self.scope, noise]
        seed = self.seed if self.fresh or any("fresh" in found.pads.values() for found in self.axes.values()) else None
        return hashlib.sha256(json.dumps([axes, *rest, seed]).encode()).hexdigest()


# --- maps of one axis


def duplicate(index: Sequence[int], source: int) -> AxisMap:
    """The duplicate map of an index: copies are written whole and read in equal shares."""
    plain = AxisMap(source, tuple(index))
    if plain.identity:
        return plain
    shares = tuple(1.0 / copies for copies in plain.copies)
    embedding = math.sqrt(source / plain.target)
    scales: dict[Role, tuple[float, ...]] = {
        "read": shares,
        "raw_read": shares,
        "last_gain": shares,
        "last_shift": shares,
        "scaled_write": (embedding,) * plain.target,
        "scaled_last_gain": tuple(share / embedding for share in shares),
    }
    return AxisMap(source, plain.index, scales)


def isometric(index: Sequence[int], source: int) -> AxisMap:
    """The isometric map of an index: the mean square of the axis stays as it was, so an RMSNorm keeps its eps.

    The copies of unit g are written with a_i = sqrt(N / (n k_i)); the sum of a_i² over them is N / n for every g.
    """
    plain = AxisMap(source, tuple(index))
    if plain.identity:
        return plain
    ratio = plain.target / source
    a = tuple(math.sqrt(ratio / copies) for copies in plain.copies)
    raw = tuple(1.0 / (copies * value) for copies, value in zip(plain.copies, a, strict=True))
    embedding = math.sqrt(1 / ratio)
    scales: dict[Role, tuple[float, ...]] = {
        "write": a,
        "tied_read": a,
        "scaled_write": tuple(embedding * value for value in a),
        "read": tuple(1.0 / copies for copies in plain.copies),
        "raw_read": raw,
        "gain": tuple(1.0 / value for value in a),
        "last_gain": (1 / ratio,) * plain.target,
        "last_shift": raw,
        "scaled_last_gain": (1 / ratio / embedding,) * plain.target,
    }
    return AxisMap(source, plain.index, scales)


def average(source: int, target: int) -> AxisMap:
    """The scaled average map: whole tiles, the rest pads that hold the mean, so mean and variance stay as they were.

    A pad's LayerNorm output is 0 before the gain: what reads it is free.
    """
    tiles = target // source
    index = tuple(range(source)) * tiles + (PAD,) * (target - tiles * source)
    plain = AxisMap(source, index)
    if plain.identity:
        return plain
    a = math.sqrt(target / (tiles * source))

    def level(value: float) -> tuple[float, ...]:
        return (value,) * target

    scales: dict[Role, tuple[float, ...]] = {
        "write": level(a),
        "tied_read": level(a),
        "read": level(1 / tiles),
        "raw_read": level(1 / (tiles * a)),
        "gain": level(1 / a),
        "last_gain": level(source / target),
        "last_shift": level(1 / (tiles * a)),
        "scaled_write": level(a * math.sqrt(source / target)),
        "scaled_last_gain": level(math.sqrt(source / target)),
    }
    meant: tuple[Role, ...] = ("write", "tied_read", "gain", "last_gain", "scaled_write", "scaled_last_gain")
    pads: dict[Role, Pad] = dict.fromkeys(meant, "mean")
    return AxisMap(source, index, scales, pads)


def corner(source: int, target: int) -> AxisMap:
    """The source's units first, then units as a new model would have them."""
    roles: tuple[Role, ...] = (
        "write",
        "read",
        "raw_read",
        "gain",
        "shift",
        "post_gain",
        "last_gain",
        "last_shift",
        "tied_read",
        "scaled_write",
        "scaled_last_gain",
    )
    return AxisMap(source, (*range(source), *[PAD] * (target - source)), {}, dict.fromkeys(roles, "fresh"))


def circular_index(source: int, target: int) -> list[int]:
    """Unit i copies i mod n; balanced at whole multiples, long contiguous runs everywhere."""
    return [unit % source for unit in range(target)]


def random_index(source: int, target: int, rng: random.Random) -> list[int]:
    """bert2BERT's map: the source's units first, each further one drawn uniformly."""
    return [*range(source), *(rng.randrange(source) for _ in range(target - source))]


def circular(source: int, target: int) -> AxisMap:
    """The duplicate map whose unit i copies i mod n."""
    return duplicate(circular_index(source, target), source)


# --- heads


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


def head_axes(
    q_index: Sequence[int], kv_index: Sequence[int], heads: int, kv_heads: int, head_dim: int, normed: frozenset[str]
) -> dict[str, AxisMap]:
    """The maps of every axis that heads stand behind: q, attn, kv, k and NeoX's interleaved qkv.

    Args:
        q_index, kv_index: target head -> source head.
        heads, kv_heads: the source's.
        head_dim: rows of a head.
        normed: the axes among these that one norm reads as a whole (OLMo2's q and k): they are isometric.
    """

    def made(axis: str, index: Sequence[int], source: int, width: int) -> AxisMap:
        one: Callable[[Sequence[int], int], AxisMap] = isometric if axis in normed else duplicate
        return one(index, source).expanded(width)

    return {
        "q": made("q", q_index, heads, head_dim),
        "attn": made("attn", q_index, heads, head_dim),
        "kv": made("kv", kv_index, kv_heads, head_dim),
        "k": made("k", kv_index, kv_heads, head_dim),
        "qkv": made("qkv", q_index, heads, 3 * head_dim),
    }


def origin_of(name: str, layer: int | None, order: Sequence[int]) -> str:
    """The source tensor's name from which a target tensor is made: the same, or that of the block's source layer."""
    return name if layer is None else in_layer(name, layer, order[layer])


def in_layer(name: str, layer: int, other: int) -> str:
    """The name of the tensor that stands in another block at the place where this one stands in its own."""
    parts = name.split(".")
    parts[parts.index(str(layer))] = str(other)
    return ".".join(parts)
