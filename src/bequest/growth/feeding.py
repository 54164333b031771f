"""In which order a source's rows are read, so that each is read once and only a few blocks are held.

A source tensor is read once for all target tensors that are made from it: the layers that copy its layer, and the layer
that takes new units from it (AKI).  Where one row of the target needs rows of two layers at once, the layers' tensors
are read side by side, block by block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch

from bequest.anatomy.fills import assembled, check_maps
from bequest.anatomy.row_blocks import BLOCK_ELEMENTS, Filling, Use
from bequest.checkpoints.shards import ShardWriter
from bequest.checkpoints.stored import ReadAhead, RowReader
from bequest.errors import AnatomyError
from bequest.growth.plan import GrowthPlan

#: (bytes written, bytes in all) -> nothing.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Alike:
    """Target tensors that have the same values, and the filling that makes them."""

    filling: Filling
    names: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """Source tensors that are read side by side, block by block, and what is made of them.

    Args:
        feeds: what is fed and to whom, in the order of the source's layers.
        twins: owner -> a stored alias that must equal it.
    """

    feeds: tuple[tuple[Alike, Use], ...]
    twins: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """The tensors to read, in the order in which a block of each is needed."""
        own = [name for _, use in self.feeds for name in (use.own, use.donor) if name is not None]
        return tuple(dict.fromkeys(one for name in own for one in (name, self.twins.get(name)) if one is not None))

    def blocks(self) -> Iterator[tuple[int, int, int]]:
        """(slab, first row, count) of every block."""
        slabs, rows, columns = self.feeds[0][0].filling.source_shape
        step = max(1, BLOCK_ELEMENTS // columns)
        for slab in range(slabs):
            for first in range(0, rows, step):
                yield slab, first, min(step, rows - first)

    def reads(self) -> Iterator[tuple[str, int, int]]:
        """(tensor, first row, count) of everything that is read, in order."""
        rows = self.feeds[0][0].filling.source_shape[1]
        for slab, first, count in self.blocks():
            for name in self.sources:
                yield name, slab * rows + first, count


def alike(plan: GrowthPlan, dtypes: Mapping[str, torch.dtype]) -> list[Alike]:
    """The target's tensors, those of equal values together.

    Args:
        plan: of the growth.
        dtypes: target tensor -> what it is stored in.

    Raises:
        AnatomyError: the maps do not lead from the source to the target.
    """
    assert plan.maps is not None
    check_maps(plan.source, plan.target, plan.maps)
    found: dict[object, tuple[Filling, list[str]]] = {}
    for name, tensor in plan.target.tensors.items():
        made = assembled(tensor, plan.source, plan.maps)
        filling = Filling(made, plan.source, plan.maps, dtypes[name])
        runs = (filling.slab_runs, filling.row_runs, filling.column_runs)
        key = name if filling.drawn else (filling.uses, runs, filling.dtype, tensor.line, made.silent)
        found.setdefault(key, (filling, []))[1].append(name)
    return [Alike(filling, tuple(names)) for filling, names in found.values()]


def jobs(fillings: Iterable[Alike], layers: Sequence[str], files: Sequence[str], twins: Mapping[str, str]) -> list[Job]:
    """Everything that is read, as jobs: first those with a stored alias to be compared, then in the files' order.

    Args:
        fillings: what :func:`alike` returned.
        layers: source tensors in the order of their layers, so that a layer and its donor are neighbours.
        files: source tensors as they lie in the files.
        twins: owner -> its stored alias.
    """
    rank, place = ({name: number for number, name in enumerate(order)} for order in (layers, files))
    feeds = [(one, use) for one in fillings for use in one.filling.uses]
    group = {name: name for name in layers}

    def root(name: str) -> str:
        while group[name] != name:
            name = group[name]
        return name

    for _, use in feeds:
        if use.own is not None and use.donor is not None:
            group[root(use.own)] = root(use.donor)
    members: dict[str, list[tuple[Alike, Use]]] = {}
    for one, use in sorted(feeds, key=lambda feed: rank[feed[1].own or feed[1].donor or ""]):
        members.setdefault(root(use.own or use.donor or ""), []).append((one, use))
    made = [
        Job(tuple(held), {owner: alias for owner, alias in twins.items() if any(use.own == owner for _, use in held)})
        for held in members.values()
    ]
    return sorted(made, key=lambda job: (not job.twins, min(place[name] for name in job.sources if name in place)))


def carry_out(
    fillings: Sequence[Alike], todo: Sequence[Job], reader: RowReader, writer: ShardWriter, progress: Progress | None
) -> None:
    """Read, fill, write.

    Raises:
        AnatomyError: a stored alias differs from its owner.
    """
    left = {id(one): len(one.filling.uses) for one in fillings}
    output = _Output(writer, progress)
    for one in fillings:
        if not one.filling.uses:
            output.close(one)
    reads = (block for job in todo for block in job.reads())
    with ReadAhead(reader, reads) as ahead:
        for job in todo:
            _feed(job, ahead, output)
            for one, _ in job.feeds:
                left[id(one)] -= 1
                if not left[id(one)]:
                    output.close(one)


def _feed(job: Job, ahead: ReadAhead, output: _Output) -> None:
    last = {name: number for number, (_, use) in enumerate(job.feeds) for name in (use.own, use.donor)}
    for slab, first, _ in job.blocks():
        waiting = iter(job.sources)
        held: dict[str | None, torch.Tensor] = {}
        for number, (one, use) in enumerate(job.feeds):
            for name in (use.own, use.donor):
                while name is not None and name not in held:
                    held[next(waiting)] = ahead.take()
                    _compare(job, name, waiting, held, ahead)
            for piece in one.filling.feed(slab, first, held.get(use.own), held.get(use.donor)):
                output.put(one, piece.row, piece.values)
            for name in (use.own, use.donor):
                if last[name] == number:
                    held.pop(name, None)


def _compare(
    job: Job, name: str, waiting: Iterator[str], held: Mapping[str | None, torch.Tensor], ahead: ReadAhead
) -> None:
    """A stored alias is read beside its owner and must be the same."""
    if name not in job.twins or name not in held:
        return
    alias, twin, owner = next(waiting), ahead.take(), held[name]
    if twin.dtype != owner.dtype or not torch.equal(twin.view(torch.uint8), owner.view(torch.uint8)):
        raise AnatomyError(f"the config ties this tensor to {name}, but they differ", key=alias)


class _Output:
    """The writer, and how far it is."""

    def __init__(self, writer: ShardWriter, progress: Progress | None) -> None:
        self._writer, self._progress, self._done = writer, progress, 0

    def put(self, one: Alike, row: int, values: torch.Tensor) -> None:
        """Rows of all tensors that are alike."""
        for name in one.names:
            self._writer.write(name, row, values)
        self._done += values.nbytes * len(one.names)
        if self._progress is not None:
            self._progress(self._done, self._writer.total)

    def close(self, one: Alike) -> None:
        """The rows that copy none; then the tensors are complete."""
        for piece in one.filling.rest():
            self.put(one, piece.row, piece.values)
        self._writer.complete(one.names)
