"""The one operator that changes tensors' shapes (growth.md §1).

    grow(t): for each dimension of t: t <- tensordot(M[axis][role], t), along that dimension

Differentiable and pure; float64 inside, one cast at the end.  M has one entry per row, so the product is an index and a
scale.  There is no branch on the model type: everything stands in the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from bequest.anatomy.anatomy import Anatomy, Tensor
from bequest.anatomy.axes import Dim, Role
from bequest.anatomy.maps import Maps, origin_of
from bequest.errors import AnatomyError


def grow_tensors(
    weights: Mapping[str, torch.Tensor], source: Anatomy, target: Anatomy, maps: Maps, order: Sequence[int]
) -> dict[str, torch.Tensor]:
    """Every parameter of the target, from the source's.

    Args:
        weights: the source's parameters by their names in memory; tied aliases may be absent or equal to their owners.
        source, target: the two anatomies, of the same family and head.
        maps: a map for each axis that grows.
        order: for each target layer its source layer.

    Returns:
        The target's parameters in the source's dtypes, tied aliases left out.

    Raises:
        AnatomyError: a tensor that no line names, one that is missing, a size that disagrees, a stored alias that
            differs from its owner, or a map that does not lead to the target's size; nothing has been made then.
    """
    source.check({name: tuple(tensor.shape) for name, tensor in weights.items()})
    _check_aliases(weights, source)
    _check_maps(source, target, maps, order)
    return {
        name: grow_tensor(weights[origin_of(name, tensor.layer, order)], tensor, source, maps)
        for name, tensor in target.tensors.items()
    }


def grow_tensor(t: torch.Tensor, tensor: Tensor, source: Anatomy, maps: Maps) -> torch.Tensor:
    """One target tensor from one source tensor ``t``; float64 inside, cast once to the dtype of ``t``."""
    grown = t.to(torch.float64)
    if tensor.line.one_plus:
        grown = grown + 1
    for number, dim in enumerate(tensor.line.dims):
        grown = _along(grown, number, dim, role_of(tensor, dim, source), source, maps)
    if tensor.line.one_plus:
        grown = grown - 1
    return grown.to(t.dtype).contiguous()


def role_of(tensor: Tensor, dim: Dim, anatomy: Anatomy) -> Role:
    """The role of one dimension, after what a tied head changes.

    A tied output embedding cannot both be written like the stream and read in shares, so the last norm before it
    carries the shares, and any other reader of that norm reads like the tied head.
    """
    if not anatomy.tie or anatomy.last_norm is None:
        return dim.role
    if tensor.name.rpartition(".")[0] == anatomy.last_norm:
        if dim.role == "gain":
            return "last_gain"
        if dim.role == "shift":
            return "last_shift"
    if tensor.name in anatomy.reads_last and dim.role == "read":
        return "tied_read"
    return dim.role


def _along(grown: torch.Tensor, number: int, dim: Dim, role: Role, source: Anatomy, maps: Maps) -> torch.Tensor:
    """One dimension: the block-diagonal of its axes' maps, as an index and a scale."""
    if all(axis not in maps.axes or maps.axes[axis].identity for axis in dim.axes):
        return grown
    index: list[int] = []
    scale: list[float] = []
    offset = 0
    for axis in dim.axes:
        size = source.sizes[axis]
        found = maps.axes.get(axis)
        units = found.index if found is not None else tuple(range(size))
        factors = found.scale(role) if found is not None else None
        index += [offset + unit for unit in units]
        scale += list(factors) if factors is not None else [1.0] * len(units)
        offset += size
    grown = grown.index_select(number, torch.tensor(index, device=grown.device))
    if any(factor != 1.0 for factor in scale):
        shape = [1] * grown.ndim
        shape[number] = len(scale)
        grown = grown * torch.tensor(scale, dtype=torch.float64, device=grown.device).reshape(shape)
    return grown


def _check_aliases(weights: Mapping[str, torch.Tensor], source: Anatomy) -> None:
    for alias, owner in source.tied.items():
        if (
            alias in weights
            and weights[alias] is not weights[owner]
            and not torch.equal(weights[alias], weights[owner])
        ):
            raise AnatomyError(f"the config ties this tensor to {owner}, but they differ", key=alias)


def _check_maps(source: Anatomy, target: Anatomy, maps: Maps, order: Sequence[int]) -> None:
    if len(order) != target.layers or not all(0 <= layer < source.layers for layer in order):
        raise AnatomyError(f"an order of {len(order)} layers for {target.layers} of {source.layers}")
    for axis, size in target.sizes.items():
        if axis not in source.sizes:
            raise AnatomyError(f"the source has no axis {axis!r}")
        found = maps.axes.get(axis)
        made = found.target if found is not None else source.sizes[axis]
        if made != size or (found is not None and found.source != source.sizes[axis]):
            raise AnatomyError(f"the map of the axis {axis!r} leads to {made}, not {size}")
