"""The rows of an upcycled model, a block at a time: the same in memory and from disk to disk.

Each source tensor is read once, in order, and its rows are handed on to every expert that they belong to; no more than
one block is held.  Re-initialising neurons reads the FFN's tensors a second time, for the mean and the spread of the
weights that go.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch

from bequest.anatomy.draws import FRESH_STD, fresh_rows
from bequest.anatomy.row_blocks import narrowed
from bequest.checkpoints.shards import ShardWriter
from bequest.checkpoints.stored import RowReader
from bequest.errors import AnatomyError
from bequest.growth.plan import GrowthPlan
from bequest.growth.upcycle import Part, Upcycle, dropped_neurons, parts_of

#: (source tensor, first row, number of rows) -> [rows, columns] in the dtype it is stored in; a vector is one row.
ReadRows = Callable[[str, int, int], torch.Tensor]
#: Elements of a block.
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Rows:
    """Rows of a target tensor: ``values`` [rows, columns]; ``first`` counts through all its matrices."""

    tensor: str
    first: int
    values: torch.Tensor


def expert_rows(plan: GrowthPlan, read: ReadRows) -> Iterator[Rows]:
    """Every row of the target once, in the source's dtypes.

    Args:
        plan: of an upcycling.
        read: rows of the source's tensors.
    """
    method = plan.upcycling
    assert method is not None
    wanted: dict[str, list[Part]] = {}
    for tensor in plan.target.tensors.values():
        for part in parts_of(tensor, plan.source):
            wanted.setdefault(part.origin, []).append(part)
    for origin, tensor in plan.source.tensors.items():
        rows, columns = (1, *tensor.shape)[-2:]
        parts = wanted.get(origin, [])
        step = max(1, _BLOCK // columns)
        blocks = [(first, min(step, rows - first)) for first in range(0, rows, step)]
        changes = {part: _Change(part, method, plan) for part in parts if part.expert is not None}
        for first, count in blocks if method.drop and changes else ():
            block = read(origin, first, count)
            for change in changes.values():
                change.look(block, first)
        for first, height in blocks:
            block = read(origin, first, height)
            for part in parts:
                count = min(len(block), part.rows - first)
                if part.fill == "copy" and count > 0:
                    values = block[:count]
                    yield Rows(part.tensor, part.first + first, _changed(changes.get(part), values, first))
            for part in parts if first == 0 else ():
                if part.fill != "copy":
                    yield from _made(part, plan.seed, block.dtype)


def upcycled_tensors(weights: Mapping[str, torch.Tensor], plan: GrowthPlan) -> dict[str, torch.Tensor]:
    """Every parameter of the target, from the source's by their names in memory."""

    def read(name: str, first: int, count: int) -> torch.Tensor:
        t = weights[name]
        return t.reshape(-1, t.shape[-1])[first : first + count]

    made: dict[str, torch.Tensor] = {}
    for rows in expert_rows(plan, read):
        if rows.tensor not in made:
            shape = plan.target.tensors[rows.tensor].shape
            made[rows.tensor] = torch.empty(shape, dtype=rows.values.dtype, device=rows.values.device)
        made[rows.tensor].view(-1, rows.values.shape[-1])[rows.first : rows.first + len(rows.values)] = rows.values
    return made


def write_experts(
    plan: GrowthPlan,
    reader: RowReader,
    writer: ShardWriter,
    dtypes: Mapping[str, torch.dtype],
    twins: Mapping[str, str],
    progress: Callable[[int, int], None] | None,
) -> None:
    """From disk to disk.

    Args:
        plan: of an upcycling.
        reader, writer: of the source's and the target's files.
        dtypes: target tensor -> what it is stored in.
        twins: owner -> its stored alias in the source.
        progress: called with (bytes written, bytes in all).

    Raises:
        AnatomyError: a stored alias differs from its owner.
        RunError: a value is too large for float16.
    """

    def read(name: str, first: int, count: int) -> torch.Tensor:
        values, alias = reader.rows(name, first, count), twins.get(name)
        if alias is not None and not torch.equal(reader.rows(alias, first, count), values):
            raise AnatomyError(f"the config ties this tensor to {name}, but they differ", key=alias)
        return values

    left = {name: math.prod(tensor.shape[:-1]) for name, tensor in plan.target.tensors.items()}
    done = 0
    for rows in expert_rows(plan, read):
        values = narrowed(rows.values, dtypes[rows.tensor], rows.tensor)
        writer.write(rows.tensor, rows.first, values)
        left[rows.tensor] -= len(values)
        if not left[rows.tensor]:
            writer.complete([rows.tensor])
        done += values.nbytes
        if progress is not None:
            progress(done, writer.total)


def _made(part: Part, seed: int, dtype: torch.dtype) -> Iterator[Rows]:
    """Rows that copy none."""
    step = max(1, _BLOCK // part.columns)
    for first in range(0, part.rows, step):
        rows = range(first, min(first + step, part.rows))
        if part.fill == "zero":
            values = torch.zeros(len(rows), part.columns, dtype=dtype)
        else:
            values = torch.from_numpy(fresh_rows(part.tensor, seed, rows, part.columns)).to(dtype)
        yield Rows(part.tensor, part.first + first, values)


def _changed(change: _Change | None, values: torch.Tensor, first: int) -> torch.Tensor:
    return values if change is None else change(values, first)


class _Change:
    """What an expert's copy of one matrix is changed by: noise on its rows, neurons drawn anew.

    A neuron is a row of the gate and up projections and a column of the down projection.
    """

    def __init__(self, part: Part, method: Upcycle, plan: GrowthPlan) -> None:
        assert part.expert is not None
        self.part, self.perturb, self.seed = part, method.perturb, plan.seed
        self.down = part.tensor.endswith("down_proj")
        block, neurons = part.tensor.partition("experts.")[0], plan.source.sizes["ffn"]
        self.gone = torch.tensor(dropped_neurons(method, block, part.expert, neurons, plan.seed), dtype=torch.long)
        self.count, self.total, self.squares = 0, 0.0, 0.0

    def look(self, block: torch.Tensor, first: int) -> None:
        """Add a block of the source to the mean and the spread of the weights that go."""
        taken = block.to(torch.float64)
        taken = taken[:, self.gone] if self.down else taken[self._rows(first, len(block))]
        self.count += taken.numel()
        self.total += float(taken.sum())
        self.squares += float((taken * taken).sum())

    def __call__(self, values: torch.Tensor, first: int) -> torch.Tensor:
        """Rows ``first``, ``first + 1``, ... of the matrix as this expert has them."""
        if not self.perturb and not len(self.gone):
            return values
        grown = values.to(torch.float64, copy=True)
        if self.perturb:
            noise = self._normal("perturbed", first, len(grown)).to(grown.device)
            grown += noise * (self.perturb * grown.std(dim=1, keepdim=True, correction=0))
        if len(self.gone):
            mean = self.total / self.count
            std = max(0.0, self.squares / self.count - mean * mean) ** 0.5
            anew = (mean + std * self._normal("dropped", first, len(grown))).to(grown.device)
            where = (slice(None), self.gone) if self.down else (self._rows(first, len(grown)),)
            grown[where] = anew[where]
        return grown.to(values.dtype)

    def _rows(self, first: int, count: int) -> torch.Tensor:
        """The neurons that go, among those whose rows stand in a block."""
        return self.gone[(self.gone >= first) & (self.gone < first + count)] - first

    def _normal(self, what: str, first: int, count: int) -> torch.Tensor:
        """Standard normal values of some rows; those of gate and up lie in one tensor, one behind the other."""
        start = self.part.first + first
        drawn = fresh_rows(f"{what} {self.part.tensor}", self.seed, range(start, start + count), self.part.columns)
        return torch.from_numpy(drawn / FRESH_STD)
