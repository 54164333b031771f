"""How one tensor of a larger model is made: from which source tensors, and along each dimension by which runs.

A run is contiguous in the target and in the source and has one scale, so that filling is copying and scaling of long
stretches.  ``surgery.py`` computes the same as a differentiable operator; ``row_blocks.py`` works from the runs.
Imports neither torch nor transformers.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bequest.anatomy.anatomy import Anatomy, Tensor
from bequest.anatomy.axes import GROWING, Dim, Role
from bequest.anatomy.maps import INNER, PAD, AxisMap, Maps, Pad, in_layer, origin_of
from bequest.errors import AnatomyError


@dataclass(frozen=True)
class Fill:
    """One run of a dimension: target indices ``start`` to ``start + length``.

    Args:
        start, length: in the target.
        source: the first source index; None at pads.
        scale: what the source's values are multiplied by (at a ``mean`` pad: the mean).
        donor: whether they come from the donor layer's tensor (AKI).
        pad: what stands there when ``source`` is None.
        mean_of: the source indices that a ``mean`` pad averages, as (start, stop).
    """

    start: int
    length: int
    source: int | None
    scale: float
    donor: bool = False
    pad: Pad | None = None
    mean_of: tuple[int, int] | None = None


@dataclass(frozen=True)
class Assembly:
    """One tensor of the target and everything that decides its values.

    Args:
        tensor: the target's.
        origin: the source tensor it is made from.
        donor: the tensor of the donor layer (AKI), or none.
        roles: of each dimension, after what a tied head changes.
        donated: the dimension along which units come from the donor, or none.
        silent: whether it is zero, so that its block writes nothing into the stream.
        fresh: whether it is newly initialised altogether.
    """

    tensor: Tensor
    origin: str
    donor: str | None
    roles: tuple[Role, ...]
    donated: int | None
    silent: bool
    fresh: bool


def assembled(tensor: Tensor, source: Anatomy, maps: Maps) -> Assembly:
    """How a target tensor is made.

    Raises:
        AnatomyError: no block of the source has such a tensor, or it would be chosen along two dimensions.
    """
    origin = origin_of(tensor.name, tensor.layer, maps.order)
    if origin not in source.tensors:
        origin = _nearest(tensor, source, maps)
    layer = source.tensors[origin].layer
    donated = _donated_dim(tensor, maps)
    donor = None
    if donated is not None and layer is not None and layer in maps.donors:
        donor = in_layer(origin, layer, maps.donors[layer])
        donor = donor if donor in source.tensors else None
    return Assembly(
        tensor,
        origin,
        donor,
        tuple(role_of(tensor, dim, source) for dim in tensor.line.dims),
        donated if donor is not None else None,
        tensor.layer in maps.silent and writes_stream(tensor, source),
        tensor.layer in maps.fresh,
    )


def role_of(tensor: Tensor, dim: Dim, anatomy: Anatomy) -> Role:
    """The role of one dimension, after what a tied head changes.

    A tied output embedding cannot both be written like the stream and read in shares, so the last norm before it
    carries the shares, and any other reader of that norm reads like the tied head.
    """
    if not anatomy.tie or anatomy.last_norm is None:
        return dim.role
    scaled = scaled_embeddings(anatomy)
    if tensor.name.rpartition(".")[0] == anatomy.last_norm:
        if dim.role == "gain":
            return "scaled_last_gain" if scaled else "last_gain"
        if dim.role == "shift":
            return "last_shift"
    if tensor.name in anatomy.reads_last and dim.role == "read":
        return "scaled_write" if scaled else "tied_read"
    return dim.role


def scaled_embeddings(anatomy: Anatomy) -> bool:
    """Whether the model multiplies its embeddings by sqrt(hidden)."""
    return any(dim.role == "scaled_write" for tensor in anatomy.tensors.values() for dim in tensor.line.dims)


def writes_stream(tensor: Tensor, anatomy: Anatomy) -> bool:
    """Whether a block that should be an identity must have zeros here.

    Where norms stand behind the writers (Gemma 2, OLMo 2) their gains are zeroed instead: a zeroed projection in front
    of a norm would be exact as well, but its gradient is amplified by 1 / sqrt(eps).
    """
    if tensor.layer is None:
        return False
    roles = [dim.role for dim in tensor.line.dims if "hidden" in dim.axes]
    return "post_gain" in roles if _post_normed(anatomy) else "write" in roles


def fills(made: Assembly, number: int, source: Anatomy, maps: Maps) -> tuple[Fill, ...]:
    """The runs of one dimension of a target tensor, in the target's order.

    Args:
        made: what :func:`assembled` returned.
        number: the dimension, in storage order.
        source: the source's anatomy.
        maps: the growth's.
    """
    found: list[Fill] = []
    start = offset = 0
    for axis in made.tensor.line.dims[number].axes:
        size = source.sizes[axis]
        axis_map = maps.axes.get(axis)
        runs = (Fill(0, size, 0, 1.0),) if axis_map is None else _runs(axis_map, made.roles[number])
        donated = number == made.donated and axis_map is not None and not axis_map.identity
        for run in _split(runs, axis_map.originals) if donated and axis_map is not None else runs:
            at = None if run.source is None else run.source + offset
            mean_of = None if run.pad != "mean" else (offset, offset + size)
            found.append(Fill(run.start + start, run.length, at, run.scale, run.donor, run.pad, mean_of))
        start += size if axis_map is None else axis_map.target
        offset += size
    return tuple(found)


def check_maps(source: Anatomy, target: Anatomy, maps: Maps) -> None:
    """Refuse maps that do not lead from the source to the target.

    Raises:
        AnatomyError: an order, an axis or a size that does not fit; nothing has been made then.
    """
    if len(maps.order) != target.layers or not all(0 <= layer < source.layers for layer in maps.order):
        raise AnatomyError(f"an order of {len(maps.order)} layers for {target.layers} of {source.layers}")
    for axis, size in target.sizes.items():
        if axis not in source.sizes:
            raise AnatomyError(f"the source has no axis {axis!r}")
        found = maps.axes.get(axis)
        made = found.target if found is not None else source.sizes[axis]
        if made != size or (found is not None and found.source != source.sizes[axis]):
            raise AnatomyError(f"the map of the axis {axis!r} leads to {made}, not {size}")


# --- parts


def _nearest(tensor: Tensor, source: Anatomy, maps: Maps) -> str:
    """A tensor that its own source block lacks comes from the nearest block that has it (ModernBERT's first norm)."""
    assert tensor.layer is not None
    wanted = maps.order[tensor.layer]
    for layer in sorted(range(source.layers), key=lambda layer: (abs(layer - wanted), -layer)):
        name = in_layer(tensor.name, tensor.layer, layer)
        if name in source.tensors:
            return name
    raise AnatomyError("no block of the source has such a tensor", key=tensor.name)


def _post_normed(anatomy: Anatomy) -> bool:
    return any(dim.role == "post_gain" for tensor in anatomy.tensors.values() for dim in tensor.line.dims)


def _donated_dim(tensor: Tensor, maps: Maps) -> int | None:
    """The one dimension along which AKI chooses the layer: inner units (transplant) or written units (formula)."""
    if maps.scope is None or tensor.layer is None:
        return None
    grown = {axis for axis, found in maps.axes.items() if not found.identity}
    chosen = []
    for number, dim in enumerate(tensor.line.dims):
        axes = set(dim.axes) & grown
        inner = maps.scope == "transplant" and axes & INNER
        written = maps.scope == "formula" and axes & GROWING and dim.role == "write"
        if inner or written:
            chosen.append(number)
    if len(chosen) > 1:
        raise AnatomyError("would be chosen from two layers along two dimensions", key=tensor.name)
    return chosen[0] if chosen else None


_Runs = dict[Role, tuple[Fill, ...]]
_known: weakref.WeakKeyDictionary[AxisMap, _Runs] = weakref.WeakKeyDictionary()


def _runs(axis_map: AxisMap, role: Role) -> tuple[Fill, ...]:
    """The runs of one axis in one role, remembered for as long as the map lives."""
    known = _known.setdefault(axis_map, {})
    if role not in known:
        known[role] = tuple(_made_runs(axis_map, role))
    return known[role]


def _made_runs(axis_map: AxisMap, role: Role) -> Iterator[Fill]:
    scale = axis_map.scale(role) or (1.0,) * axis_map.target
    index = axis_map.index
    start = 0
    for at in range(1, axis_map.target + 1):
        if at < axis_map.target and scale[at] == scale[start]:
            follows = index[at] == PAD if index[start] == PAD else index[at] == index[start] + at - start
            if follows:
                continue
        pad = axis_map.pad(role) if index[start] == PAD else None
        yield Fill(start, at - start, None if pad else index[start], scale[start], pad=pad)
        start = at


def _split(runs: Sequence[Fill], originals: Sequence[bool]) -> Iterator[Fill]:
    """Runs cut where the layer changes."""
    for run in runs:
        start = 0
        for at in range(1, run.length + 1):
            here = originals[run.start + start]
            if at < run.length and originals[run.start + at] == here:
                continue
            source = None if run.source is None else run.source + start
            yield Fill(run.start + start, at - start, source, run.scale, not here, run.pad)
            start = at
