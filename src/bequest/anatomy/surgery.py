"""The one operator that changes tensors' shapes (growth.md §1).

    grow(t): for each dimension of t: t <- tensordot(M[axis][role], t), along that dimension

Differentiable and pure; float64 inside, one cast at the end.  M has at most one entry per row but for mean pads, so the
product is an index and a scale, or a whole matrix where it is learned (LiGO).  There is no branch on the model type:
everything stands in the table.  ``row_blocks.py`` computes the same, bit for bit, for files of any size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch

from bequest.anatomy.anatomy import Anatomy, Tensor
from bequest.anatomy.axes import Role
from bequest.anatomy.draws import fresh_rows, fresh_vector, noise_rows, reader_noise
from bequest.anatomy.fills import Assembly, Fill, assembled, check_maps, fills, role_of
from bequest.anatomy.maps import PAD, AxisMap, Maps
from bequest.errors import AnatomyError

Read = Callable[[str], torch.Tensor]


def grow_tensors(
    weights: Mapping[str, torch.Tensor], source: Anatomy, target: Anatomy, maps: Maps
) -> dict[str, torch.Tensor]:
    """Every parameter of the target, from the source's.

    Args:
        weights: the source's parameters by their names in memory; tied aliases may be absent or equal to their owners.
        source, target: the two anatomies, of the same family and head.
        maps: a map for each axis that grows, and the order of layers.

    Returns:
        The target's parameters in the source's dtypes, tied aliases left out.

    Raises:
        AnatomyError: a tensor that no line names, one that is missing, a size that disagrees, a stored alias that
            differs from its owner, or a map that does not lead to the target's size; nothing has been made then.
    """
    check_weights(weights, source)
    check_maps(source, target, maps)
    return {name: make_tensor(weights.__getitem__, tensor, source, maps) for name, tensor in target.tensors.items()}


def check_weights(weights: Mapping[str, torch.Tensor], source: Anatomy) -> None:
    """Refuse parameters that are not what the source's anatomy says.

    Raises:
        AnatomyError: a tensor too many or too few, a size that disagrees, or an alias that differs from its owner.
    """
    source.check({name: tuple(tensor.shape) for name, tensor in weights.items()})
    for alias, owner in source.tied.items():
        if (
            alias in weights
            and weights[alias] is not weights[owner]
            and not torch.equal(weights[alias], weights[owner])
        ):
            raise AnatomyError(f"the config ties this tensor to {owner}, but they differ", key=alias)


def make_tensor(read: Read, tensor: Tensor, source: Anatomy, maps: Maps) -> torch.Tensor:
    """One target tensor with everything that decides its values: layer, donor, width, noise.

    Args:
        read: the source's parameter of a name.
        tensor: the target's.
        source: the source's anatomy.
        maps: the growth's.

    Returns:
        The tensor in its source tensor's dtype.
    """
    made = assembled(tensor, source, maps)
    t = read(made.origin)
    grown = _widened(t, made, source, maps)
    if made.donor is not None:
        grown = _chosen(grown, _widened(read(made.donor), made, source, maps), made, source, maps)
    grown = _with_fresh(grown, made, source, maps)
    if made.silent:
        grown = torch.zeros_like(grown)
    noise = reader_noise(made, source, maps)
    if noise is not None:
        slabs = grown.detach().cpu().reshape(-1, *grown.shape[-2:]).numpy()
        added = [noise_rows(noise, range(len(one)), one, slab=slab) for slab, one in enumerate(slabs)]
        grown = grown + torch.stack([torch.from_numpy(one) for one in added]).reshape(grown.shape).to(grown.device)
    if tensor.line.one_plus:
        grown = grown - 1
    return grown.to(t.dtype).contiguous()


def grow_tensor(t: torch.Tensor, tensor: Tensor, source: Anatomy, maps: Maps) -> torch.Tensor:
    """The width of one tensor ``t`` alone: no layer is chosen, no noise added; cast once to the dtype of ``t``.

    The linear part M of growth, for whatever else follows a weight through its maps (differences, adapters, states).
    ``1 + w`` norms: see :func:`grow_difference`.
    """
    made = Assembly(
        tensor, tensor.name, None, tuple(role_of(tensor, d, source) for d in tensor.line.dims), None, False, False
    )
    grown = _widened(t, made, source, maps)
    if tensor.line.one_plus:
        grown = grown - 1
    return grown.to(t.dtype).contiguous()


def grow_difference(t: torch.Tensor, tensor: Tensor, source: Anatomy, maps: Maps) -> torch.Tensor:
    """The width of a difference between two weights: the linear part, without the 1 of ``1 + w`` norms."""
    return grow_tensor(t, replace(tensor, line=replace(tensor.line, one_plus=False)), source, maps)


def dense(axis_map: AxisMap, role: Role) -> torch.Tensor:
    """The matrix of a map in a role, float64 [target, source]; rows of pads that copy nothing are zero."""
    scale = torch.tensor(axis_map.scale(role) or (1.0,) * axis_map.target, dtype=torch.float64)
    index = torch.tensor(axis_map.index)
    matrix = torch.zeros(axis_map.target, axis_map.source, dtype=torch.float64)
    copies = (index != PAD).nonzero().squeeze(-1)
    matrix[copies, index[copies]] = scale[copies]
    if axis_map.pad(role) == "mean":
        pads = (index == PAD).nonzero().squeeze(-1)
        matrix[pads] = (scale[pads] / axis_map.source)[:, None]
    return matrix


def expand_tensor(
    t: torch.Tensor, tensor: Tensor, source: Anatomy, matrices: Mapping[tuple[str, Role], torch.Tensor]
) -> torch.Tensor:
    """The width of one tensor by whole matrices, as the formula above says it; differentiable in both.

    Args:
        t: the source's tensor, or a mixture of several blocks' (of ``1 + w`` norms the 1 is not mixed away).
        tensor: which one it is.
        source: the source's anatomy.
        matrices: (axis, role) -> [target, source] in the dtype of ``t``; an axis in a role not named stays as it is.
    """
    grown = t + 1 if tensor.line.one_plus else t
    for number, dim in enumerate(tensor.line.dims):
        role = role_of(tensor, dim, source)
        parts = torch.split_with_sizes(grown, [source.sizes[axis] for axis in dim.axes], number)
        made = [
            torch.tensordot(matrices[axis, role], part, dims=([1], [number])).movedim(0, number)
            if (axis, role) in matrices
            else part
            for axis, part in zip(dim.axes, parts, strict=True)
        ]
        grown = made[0] if len(made) == 1 else torch.cat(made, number)
    return grown - 1 if tensor.line.one_plus else grown


def along(grown: torch.Tensor, number: int, runs: Sequence[Fill]) -> torch.Tensor:
    """One dimension filled by its runs: an index, a scale, and means or zeros at the pads."""
    size = grown.shape[number]
    if len(runs) == 1 and runs[0].source == 0 and runs[0].length == size and runs[0].scale == 1.0:
        return grown
    index: list[int] = []
    scale: list[float] = []
    pads: list[Fill] = []
    for run in runs:
        index += [0] * run.length if run.source is None else range(run.source, run.source + run.length)
        scale += [run.scale] * run.length
        if run.source is None:
            pads.append(run)
    filled = grown.index_select(number, torch.tensor(index, device=grown.device))
    for pad in pads:
        place = torch.arange(pad.start, pad.start + pad.length, device=grown.device)
        if pad.pad == "mean":
            assert pad.mean_of is not None
            start, stop = pad.mean_of
            mean = grown.narrow(number, start, stop - start).mean(number, keepdim=True)
            filled = filled.index_copy(number, place, mean.expand(*_sized(mean, number, pad.length)))
        else:
            filled = filled.index_fill(number, place, 0.0)
    if any(factor != 1.0 for factor in scale):
        shape = [1] * grown.ndim
        shape[number] = len(scale)
        filled = filled * torch.tensor(scale, dtype=torch.float64, device=grown.device).reshape(shape)
    return filled


def _widened(t: torch.Tensor, made: Assembly, source: Anatomy, maps: Maps) -> torch.Tensor:
    """All dimensions, in float64; ``1 + w`` norms come out as ``1 + w``."""
    grown = t.to(torch.float64)
    if made.tensor.line.one_plus:
        grown = grown + 1
    for number in range(len(made.tensor.line.dims)):
        grown = along(grown, number, fills(made, number, source, maps))
    return grown


def _chosen(own: torch.Tensor, donor: torch.Tensor, made: Assembly, source: Anatomy, maps: Maps) -> torch.Tensor:
    """AKI: along one dimension original units from the layer itself, new ones from the donor."""
    assert made.donated is not None
    flags = [run.donor for run in fills(made, made.donated, source, maps) for _ in range(run.length)]
    shape = [1] * own.ndim
    shape[made.donated] = len(flags)
    return torch.where(torch.tensor(flags, device=own.device).reshape(shape), donor, own)


def _with_fresh(grown: torch.Tensor, made: Assembly, source: Anatomy, maps: Maps) -> torch.Tensor:
    """What a new model would hold, at fresh pads or throughout."""
    where = torch.full(grown.shape, made.fresh, device=grown.device)
    for number in range(grown.ndim):
        for run in fills(made, number, source, maps):
            if run.pad == "fresh":
                where.narrow(number, run.start, run.length).fill_(True)
    if not bool(where.any()):
        return grown
    return torch.where(where, fresh_values(made, tuple(grown.shape), maps.seed).to(grown.device), grown)


def fresh_values(made: Assembly, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """A new model's tensor, float64 (``1 + w`` norms as 1 + w)."""
    if made.tensor.line.kind == "vector":
        role: Role = made.roles[-1]
        return torch.full(shape, fresh_vector(role), dtype=torch.float64)
    rows, columns = shape[-2:]
    slabs = [
        torch.from_numpy(fresh_rows(made.tensor.name, seed, range(rows), columns, slab=slab))
        for slab in range(made.tensor.elements // (rows * columns))
    ]
    return torch.stack(slabs).reshape(shape)


def _sized(t: torch.Tensor, number: int, size: int) -> list[int]:
    shape = list(t.shape)
    shape[number] = size
    return shape
