"""How much of a grown model is the same thing twice, and whether training could ever tell the copies apart.

Two units are *duplicates* where every row that makes them is the same, bit for bit.  They are *locked* where every
column that reads them is the same too: exchanging the two then changes no parameter, so they receive equal gradients
for ever, and the width that they stand for stays unused (growth.md §8).  What unlocks them: readers that differ
(null-space noise), rows from other layers, or query heads that are distributed unevenly over copies of a key-value
head.  Dropout may unlock units too; it is not counted here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from bequest.anatomy import Anatomy
from bequest.anatomy.anatomy import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_READS = frozenset({"read", "raw_read"})
#: A norm's gain and shift are on the reading side of a stream that it stands behind, on the writing side elsewhere.
_NORMS = frozenset({"gain", "shift"})
Digests = list[bytes]
#: Numbers that are copied at a time.
_CHUNK = 2**21


@dataclass(frozen=True)
class Copies:
    """Units of one kind, over all layers: how many there are, how many repeat another one, how many are locked."""

    units: int
    duplicated: int
    locked: int


def symmetry(model: PreTrainedModel, anatomy: Anatomy) -> dict[str, Copies]:
    """Units that repeat another one of their layer, by kind.

    Kinds: ``head`` (with its own key-value head where it has one), ``kv_head`` where query heads share them, ``neuron``
    (an index of the FFN, over all experts), ``shared`` (of a shared expert), ``expert``, and ``hidden`` (a channel of
    the stream, over the whole model).
    """
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    found: dict[str, Copies] = {}
    for kind, classes in _kinds(anatomy).items():
        units = duplicated = locked = 0
        for layer in range(anatomy.layers) if kind != "hidden" else (None,):
            writes, whole = classes(parameters, anatomy, layer)
            units += len(writes)
            duplicated += len(writes) - len(set(writes))
            locked += len(whole) - len(set(whole))
        found[kind] = Copies(units, duplicated, locked)
    return found


Classes = Callable[[Mapping[str, torch.Tensor], Anatomy, int | None], tuple[Digests, Digests]]


def _kinds(anatomy: Anatomy) -> dict[str, Classes]:
    found: dict[str, Classes] = {"head": _heads}
    if anatomy.kv_heads != anatomy.heads:
        found["kv_head"] = _kv_heads
    found["neuron"] = lambda parameters, anatomy, layer: _inner(parameters, anatomy, layer, "ffn")
    if "shared" in anatomy.sizes:
        found["shared"] = lambda parameters, anatomy, layer: _inner(parameters, anatomy, layer, "shared")
    if anatomy.sizes.get("expert", 0) > 1:
        found["expert"] = _experts
    found["hidden"] = _channels
    return found


def _inner(
    parameters: Mapping[str, torch.Tensor], anatomy: Anatomy, layer: int | None, axis: str
) -> tuple[Digests, Digests]:
    size = anatomy.sizes[axis]
    writes = _digests(parameters, _parts(anatomy, layer, (axis,), lambda role: role not in _READS), size)
    reads = _digests(parameters, _parts(anatomy, layer, (axis,), lambda role: role in _READS), size)
    return writes, _joined(writes, reads)


def _heads(parameters: Mapping[str, torch.Tensor], anatomy: Anatomy, layer: int | None) -> tuple[Digests, Digests]:
    """A head is locked with another one if their key-value heads are the same one, or locked with one another."""
    own = ("q", "qkv", "kv", "k") if anatomy.kv_heads == anatomy.heads else ("q",)
    writes = _digests(parameters, _parts(anatomy, layer, own, lambda role: role not in _READS), anatomy.heads)
    reads = _digests(parameters, _parts(anatomy, layer, ("attn",), lambda role: role in _READS), anatomy.heads)
    whole = _joined(writes, reads)
    if anatomy.kv_heads != anatomy.heads:
        groups = _kv_heads(parameters, anatomy, layer)[1]
        share = anatomy.heads // anatomy.kv_heads
        whole = _joined(whole, [groups[head // share] for head in range(anatomy.heads)])
    return writes, whole


def _kv_heads(parameters: Mapping[str, torch.Tensor], anatomy: Anatomy, layer: int | None) -> tuple[Digests, Digests]:
    """A key-value head is read by its query heads: locked where these are the same ones, in whatever order."""
    writes = _digests(
        parameters, _parts(anatomy, layer, ("kv", "k"), lambda role: role not in _READS), anatomy.kv_heads
    )
    rows = _digests(parameters, _parts(anatomy, layer, ("q",), lambda role: role not in _READS), anatomy.heads)
    columns = _digests(parameters, _parts(anatomy, layer, ("attn",), lambda role: role in _READS), anatomy.heads)
    queries, share = _joined(rows, columns), anatomy.heads // anatomy.kv_heads
    groups = [b"".join(sorted(queries[head * share : (head + 1) * share])) for head in range(anatomy.kv_heads)]
    return writes, _joined(writes, groups)


def _experts(parameters: Mapping[str, torch.Tensor], anatomy: Anatomy, layer: int | None) -> tuple[Digests, Digests]:
    """Experts that compute the same are told apart by the router, if its rows differ."""
    size = anatomy.sizes["expert"]
    writes = _digests(parameters, _parts(anatomy, layer, ("expert",), lambda role: role == "batch"), size)
    router = _digests(parameters, _parts(anatomy, layer, ("expert",), lambda role: role != "batch"), size)
    return writes, _joined(writes, router)


def _channels(parameters: Mapping[str, torch.Tensor], anatomy: Anatomy, layer: int | None) -> tuple[Digests, Digests]:
    """What makes a channel: all that writes it, and in post-LN models the norms, whose output is the stream."""
    reading = _READS if anatomy.family.norm == "layer-post" else _READS | _NORMS
    size = anatomy.sizes["hidden"]
    writes = _digests(parameters, _parts(anatomy, layer, ("hidden",), lambda role: role not in reading), size)
    reads = _digests(parameters, _parts(anatomy, layer, ("hidden",), lambda role: role in reading), size)
    return writes, _joined(writes, reads)


# --- digests of units


def _parts(
    anatomy: Anatomy, layer: int | None, axes: tuple[str, ...], wanted: Callable[[str], bool]
) -> Iterator[tuple[Tensor, int, int, int]]:
    """(tensor, dimension, start, length) wherever one of the axes stands in a wanted role; of one layer or of all."""
    for tensor in anatomy.tensors.values():
        if layer is not None and tensor.layer != layer:
            continue
        for number, dim in enumerate(tensor.line.dims):
            start = 0
            for axis in dim.axes:
                if axis in axes and wanted(dim.role):
                    yield tensor, number, start, anatomy.sizes[axis]
                start += anatomy.sizes[axis]


def _digests(
    parameters: Mapping[str, torch.Tensor], parts: Iterable[tuple[Tensor, int, int, int]], units: int
) -> Digests:
    """One digest per unit over all its parts; -0 counts as 0."""
    hashes = [hashlib.blake2b(digest_size=16) for _ in range(units)]
    for tensor, dim, start, length in parts:
        part = parameters[tensor.name].narrow(dim, start, length).movedim(dim, 0)
        each = length // units
        step = max(1, _CHUNK // (part.numel() // units))
        for first in range(0, units, step):
            some = part[first * each : (first + step) * each] + 0.0
            rows = some.reshape(-1).view(torch.uint8).reshape(some.shape[0] // each, -1).cpu().numpy()
            for known, row in zip(hashes[first : first + step], rows, strict=True):
                known.update(row)
    return [known.digest() for known in hashes]


def _joined(first: Digests, second: Digests) -> Digests:
    return [a + b for a, b in zip(first, second, strict=True)]
