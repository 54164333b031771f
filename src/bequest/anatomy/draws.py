"""Random values of grown models: null-space noise, and what a new model would hold.

Every row of every tensor has a generator of its own (Philox, keyed by seed, name and row), so a value does not depend
on how many rows are made at once, nor in which order: in memory and from disk to disk they are the same.

Null-space noise (growth.md §8; LEMON's projection, Wang et al., ICLR 2024): for a reader of copied inputs any R with

    W' = W + (R - mean of R over the copies)

computes what W computes, yet tells the copies apart, so that training may too.  A raw reader sees copies scaled by a_i:
(R_i - mean) / a_i.  Where a pad's input is exactly zero R itself is free.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bequest.anatomy.anatomy import Anatomy
from bequest.anatomy.axes import Role
from bequest.anatomy.fills import Assembly
from bequest.anatomy.maps import PAD, Maps

Array = NDArray[np.float64]
#: Standard deviation of a new model's matrices; bert2BERT's baseline and most configs' ``initializer_range``.
FRESH_STD = 0.02


@dataclass(frozen=True)
class ReaderNoise:
    """The null-space noise of one tensor.

    Args:
        name: of the target tensor; part of the key of its draws.
        seed: of the draws.
        dim: the reading dimension, counted from the end: -1 columns, -2 rows (Conv1D).
        groups: for each index of that dimension the group of copies it belongs to; -1 where it stays as it is.
        factors: what the centred noise is multiplied by, per index.
        std: relative to the row's own standard deviation.
    """

    name: str
    seed: int
    dim: int
    groups: NDArray[np.int64]
    factors: Array
    std: float


def reader_noise(made: Assembly, source: Anatomy, maps: Maps) -> ReaderNoise | None:
    """The noise that a target tensor gets, or None where it reads no copies."""
    if maps.noise is None or maps.noise.std == 0 or made.fresh or made.silent:
        return None
    dims = made.tensor.line.dims
    for number, (dim, role) in enumerate(zip(dims, made.roles, strict=True)):
        if role not in ("read", "raw_read") or number == made.donated:
            continue
        noisy = [axis if _equal_copies(axis, made, source, maps) else "" for axis in dim.axes]
        groups, factors = _groups(dim.axes, noisy, role, source, maps)
        if (groups >= 0).any():
            return ReaderNoise(made.tensor.name, maps.noise.seed, number - len(dims), groups, factors, maps.noise.std)
    return None


def _equal_copies(axis: str, made: Assembly, source: Anatomy, maps: Maps) -> bool:
    """Whether the copies on an axis that a tensor reads still hold equal values.

    AKI takes some of them from the layer above.  Where whole units move, what reads them moves too and is excluded by
    its own dimension; under the printed formula the copies of the stream and of the inner units differ.
    """
    if maps.scope != "formula" or not maps.donors:
        return True
    layer = source.tensors[made.origin].layer
    return axis != "hidden" and layer not in maps.donors


def _groups(
    axes: Sequence[str], noisy: Sequence[str], role: Role, source: Anatomy, maps: Maps
) -> tuple[NDArray[np.int64], Array]:
    groups: list[int] = []
    factors: list[float] = []
    offset = 0
    for axis, told in zip(axes, noisy, strict=True):
        found = maps.axes.get(told)
        if found is None:
            groups += [-1] * source.sizes[axis]
            factors += [1.0] * source.sizes[axis]
        else:
            written = found.scale("write") if role == "raw_read" else None
            free = found.pad("read") == "zero" and role == "read"
            lonely = [copies == 1 for copies in found.copies]
            for unit, index in enumerate(found.index):
                pad = index == PAD
                groups.append((_FREE if free else -1) if pad else -1 if lonely[unit] else offset + index)
                factors.append(1.0 if written is None or pad else 1.0 / written[unit])
        offset += source.sizes[axis]
    return np.array(groups, dtype=np.int64), np.array(factors)


# A pad's noise is not centred: nothing arrives there.
_FREE = 2**62


def noise_rows(noise: ReaderNoise, rows: range, grown: Array, *, slab: int = 0) -> Array:
    """The noise of some rows of a matrix.

    Args:
        noise: what :func:`reader_noise` returned.
        rows: target rows, consecutive.
        grown: these rows as they are without noise, float64 [len(rows), columns].
        slab: which matrix of a 3-D tensor.

    Returns:
        float64 [len(rows), columns], to be added to ``grown``.
    """
    columns = grown.shape[1]
    stds = np.std(np.ascontiguousarray(grown), axis=1)
    if noise.dim == -1:
        drawn = np.stack([_row(noise.name, noise.seed, slab, row, columns) for row in rows])
        centred = drawn - _means(drawn, noise.groups)
        centred[:, noise.groups < 0] = 0.0
        return np.asarray(centred * noise.factors * (noise.std * stds)[:, None])
    found = np.zeros((len(rows), columns))
    members = _members(noise)
    for place, row in enumerate(rows):
        group = int(noise.groups[row])
        if group < 0:
            continue
        own = _row(noise.name, noise.seed, slab, row, columns)
        if group != _FREE:
            # Other rows of the group may lie outside the block that is being made: draw them again.
            others = [_row(noise.name, noise.seed, slab, other, columns) for other in members[group]]
            own = own - np.mean(np.stack(others), axis=0)
        # A row that reads a pad is zero and has no deviation of its own: it takes a new model's.
        found[place] = own * noise.factors[row] * (noise.std * (FRESH_STD if group == _FREE else stds[place]))
    return found


def _members(noise: ReaderNoise) -> dict[int, list[int]]:
    members: dict[int, list[int]] = {}
    for row, group in enumerate(noise.groups.tolist()):
        if 0 <= group < _FREE:
            members.setdefault(group, []).append(row)
    return members


def _means(drawn: Array, groups: NDArray[np.int64]) -> Array:
    """For each column the mean of its group in the same row; zero for columns that are free."""
    means = np.zeros_like(drawn)
    copied = (groups >= 0) & (groups < _FREE)
    if copied.any():
        order = np.argsort(groups[copied], kind="stable")
        ordered = groups[copied][order]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        sizes = np.diff(np.r_[starts, ordered.size])
        sums = np.add.reduceat(drawn[:, copied][:, order], starts, axis=1)
        spread = np.empty((drawn.shape[0], ordered.size))
        spread[:, order] = np.repeat(sums / sizes, sizes, axis=1)
        means[:, copied] = spread
    return means


def fresh_rows(name: str, seed: int, rows: range, columns: int, *, slab: int = 0) -> Array:
    """Rows of a new model's matrix: N(0, 0.02²); float64 [len(rows), columns]."""
    return FRESH_STD * np.stack([_row(f"fresh {name}", seed, slab, row, columns) for row in rows])


def fresh_vector(role: Role) -> float:
    """What a new model's vector holds: 1 for a norm's gain (which may be stored as 0), else 0."""
    return 1.0 if role in ("gain", "post_gain", "last_gain", "scaled_last_gain") else 0.0


def _row(name: str, seed: int, slab: int, row: int, columns: int) -> Array:
    key = _key(name, seed)
    generator = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, slab, row]))
    return generator.standard_normal(columns)


@functools.lru_cache(maxsize=1024)
def _key(name: str, seed: int) -> tuple[int, int]:
    made = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return int.from_bytes(made[:8], "little"), int.from_bytes(made[8:16], "little")
