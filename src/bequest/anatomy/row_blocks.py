"""Growth of one tensor by blocks of rows: the same values as ``surgery.py``, bit for bit, for files of any size.

A block of source rows is turned into every row of the target that is made from it, so that the source is read once and
no more than a few blocks are held.  Most maps are long runs that are only scaled, or not even that:

* a block is scaled in its source's width, ``(t * row) * column`` in float64, cast once, and then laid out by copying
  runs of columns; a unit that is copied k times is computed once;
* what has no factor and keeps its dtype is copied without conversion;
* means, fresh values, noise and ``1 + w`` norms go row by row through the reference's own operators.

A vector counts as one row; a 3-D tensor (experts) as slabs of rows.  One sum is not the reference's: a mean of more
than 64 source rows is added up in groups, so that it does not depend on the blocks: float64's last bits may differ.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from bequest.anatomy.anatomy import Anatomy, Tensor
from bequest.anatomy.draws import fresh_rows, fresh_vector, noise_rows, reader_noise
from bequest.anatomy.fills import Assembly, Fill, assembled, fills
from bequest.anatomy.maps import Maps
from bequest.anatomy.runs import Copy, Factors, column_layout, row_runs, total
from bequest.anatomy.surgery import along
from bequest.errors import RunError

#: Elements of a block of source rows: in float64 they fit into a processor's last cache, and threads seldom meet.
BLOCK_ELEMENTS = 1 << 20
# Rows that a mean sums at once; fixed, so that the sum does not depend on the blocks.
_SUMMED = 64

_ONE = (Fill(0, 1, 0, 1.0),)


@dataclass(frozen=True)
class Piece:
    """Rows of a target tensor, made: ``values`` [rows, columns], contiguous; ``row`` counts through the slabs."""

    row: int
    values: torch.Tensor


@dataclass(frozen=True)
class Use:
    """Source tensors that are read side by side: the layer's own, the donor layer's (AKI), or both."""

    own: str | None
    donor: str | None


class Filling:
    """How one target tensor is filled.  Feed it the source's rows in order, then take the rest.

    Args:
        made: the tensor and what decides its values.
        source: the source's anatomy.
        maps: the growth's.
        dtype: of the target.

    Attributes:
        uses: what must be fed, one after the other; nothing where no source is read.
        slabs, rows, columns: of the target (a vector is one row).
        source_shape: (slabs, rows, columns) of the source's tensor.
    """

    def __init__(self, made: Assembly, source: Anatomy, maps: Maps, dtype: torch.dtype) -> None:
        runs = [fills(made, number, source, maps) for number in range(len(made.tensor.line.dims))]
        self.made, self.seed, self.dtype = made, maps.seed, dtype
        self.column_runs = runs[-1]
        self.row_runs = runs[-2] if len(runs) > 1 else _ONE
        self.slab_runs = runs[0] if len(runs) > 2 else _ONE
        self.slabs, self.rows, self.columns = total(self.slab_runs), total(self.row_runs), total(self.column_runs)
        self.source_shape = matrices(source.tensors[made.origin].shape)
        self.noise = reader_noise(made, source, maps)
        self.by_rows = made.donated is not None and made.donated == len(runs) - 2
        self.uses = self._uses()
        self._means: dict[tuple[int, int, int, bool], _RowMean] = {}
        zeros = all(run.source is not None or run.pad == "zero" for run in self.column_runs)
        self._plain = zeros and self.noise is None and not made.tensor.line.one_plus
        # Prepared once for all tensors of the same runs, and looked up once a tensor: runs may be thousands.
        self._slab_copies, self._copies = row_runs(self.slab_runs), row_runs(self.row_runs)
        self._layout = column_layout(self.column_runs)

    @property
    def drawn(self) -> bool:
        """Whether its values depend on its name: two that have the same runs and are not drawn are equal."""
        fresh = any(run.pad == "fresh" for run in (*self.row_runs, *self.column_runs))
        return self.noise is not None or self.made.fresh or fresh

    def feed(self, slab: int, first: int, own: torch.Tensor | None, donor: torch.Tensor | None) -> Iterator[Piece]:
        """The target rows made from the source rows ``first``, ``first + 1``, ... of a slab.

        Args:
            slab: of the source.
            first: the first row.
            own, donor: [rows, columns] of the tensors that the use names, in their stored dtype.
        """
        self._sum(slab, first, own, donor)
        make = self._copied if self._plain else self._computed
        for copy in self._slab_copies.over(slab, slab + 1):
            assert copy.run.scale == 1.0, "slabs are copied, never scaled"
            yield from make(copy.run.start + slab - copy.source, first, own, donor)

    def rest(self) -> Iterator[Piece]:
        """The rows that are no copies of source rows: pads, and whole tensors that are silent or fresh."""
        everything = self.made.silent or self.made.fresh
        step = max(1, BLOCK_ELEMENTS // self.columns)
        for slab_run in self.slab_runs:
            assert slab_run.source is not None, "slabs are copied, never padded"
            for place in range(slab_run.length):
                slab = slab_run.start + place
                for run in (Fill(0, self.rows, None, 1.0),) if everything else self.row_runs:
                    for row in range(run.start, run.start + run.length, step) if run.source is None else ():
                        count = min(step, run.start + run.length - row)
                        yield self._finished(self._padded(run, slab_run.source + place, slab, row, count), slab, row)

    # --- copies

    def _copied(self, slab: int, first: int, own: torch.Tensor | None, donor: torch.Tensor | None) -> Iterator[Piece]:
        """Runs that are only scaled: each source row is computed once per factor, however often it is copied."""
        copies = list(self._wanted(first, own, donor))
        for version, factors in enumerate(self._copies.factors):
            wanted = [(copy, low, high) for copy, low, high in copies if copy.version == version]
            if not wanted:
                continue
            begin, end = min(low for _, low, _ in wanted), max(high for _, _, high in wanted)
            main = own if own is not None else donor
            assert main is not None
            blocks = [None if t is None else t[begin - first : end - first] for t in (main, donor)]
            assert blocks[0] is not None
            scaled = functools.partial(self._scaled, None if factors is None else factors[begin:end, None])
            made = self._layout.lay(blocks[0], blocks[1], scaled)
            for copy, low, high in wanted:
                row = slab * self.rows + copy.run.start + low - copy.source
                yield Piece(row, made[low - begin : high - begin])

    def _scaled(self, rows: Factors, t: torch.Tensor, columns: Factors) -> torch.Tensor:
        """A block times its factors, in float64, a dimension at a time, cast once; the bytes where there are none."""
        if rows is None and columns is None:
            return narrowed(t, self.dtype, self.made.tensor.name)
        wide = t.to(torch.float64, copy=True)
        for factors in (rows, columns):
            if factors is not None:
                wide *= factors.to(t.device)
        return narrowed(wide, self.dtype, self.made.tensor.name)

    # --- everything else

    def _computed(self, slab: int, first: int, own: torch.Tensor | None, donor: torch.Tensor | None) -> Iterator[Piece]:
        """Runs whose rows need more than a factor, in float64 and in the target's width."""
        for copy, low, high in self._wanted(first, own, donor):
            part = slice(low - first, high - first)
            main = donor if self.by_rows and copy.run.donor else own
            assert main is not None
            beside = None if donor is None or self.by_rows else donor[part]
            grown = self._widened(main[part], beside, copy.run.scale)
            yield self._finished(grown, slab, copy.run.start + low - copy.source)

    def _widened(self, t: torch.Tensor, donor: torch.Tensor | None, scale: float) -> torch.Tensor:
        """Rows in the target's width, float64; ``1 + w`` norms as 1 + w; columns of the donor (AKI) in their place."""
        grown = self._along(t, scale)
        if donor is None:
            return grown
        flags = [run.donor for run in self.column_runs for _ in range(run.length)]
        return torch.where(torch.tensor(flags, device=t.device), self._along(donor, scale), grown)

    def _along(self, t: torch.Tensor, scale: float) -> torch.Tensor:
        grown = t.to(torch.float64)
        if self.made.tensor.line.one_plus:
            grown = grown + 1
        return along(grown if scale == 1.0 else grown * scale, 1, self.column_runs)

    def _padded(self, run: Fill, source_slab: int, slab: int, row: int, count: int) -> torch.Tensor:
        """Rows that copy none, float64."""
        if run.pad == "mean":
            assert run.mean_of is not None
            own, donor = (self._means.get((source_slab, *run.mean_of, donor)) for donor in (False, True))
            assert own is not None, "the source's rows have been fed"
            beside = None if donor is None else donor.value()
            return self._widened(own.value(), beside, run.scale).expand(count, -1)
        if self.made.silent or not (self.made.fresh or run.pad == "fresh"):
            return torch.zeros(count, self.columns, dtype=torch.float64)
        return self._fresh(slab, row, count)

    def _finished(self, grown: torch.Tensor, slab: int, row: int) -> Piece:
        """Fresh columns, noise, the norm's 1, the cast."""
        fresh = [run for run in self.column_runs if run.pad == "fresh"]
        if fresh and not self.made.silent:
            grown, values = grown.clone(), self._fresh(slab, row, len(grown)).to(grown.device)
            for run in fresh:
                part = slice(run.start, run.start + run.length)
                grown[:, part] = values[:, part]
        if self.noise is not None:
            wide = grown.cpu().contiguous().numpy()
            added = noise_rows(self.noise, range(row, row + len(wide)), wide, slab=slab)
            grown = grown + torch.from_numpy(added).to(grown.device)
        if self.made.tensor.line.one_plus:
            grown = grown - 1
        cast = narrowed(grown, self.dtype, self.made.tensor.name)
        return Piece(slab * self.rows + row, cast.contiguous())

    def _fresh(self, slab: int, row: int, count: int) -> torch.Tensor:
        """What a new model would hold, float64."""
        tensor = self.made.tensor
        if tensor.line.kind == "vector":
            return torch.full((count, self.columns), fresh_vector(self.made.roles[-1]), dtype=torch.float64)
        rows = range(row, row + count)
        return torch.from_numpy(fresh_rows(tensor.name, self.seed, rows, self.columns, slab=slab))

    # --- bookkeeping

    def _uses(self) -> tuple[Use, ...]:
        if self.made.silent or self.made.fresh:
            return ()
        if self.made.donor is None or not self.by_rows:
            return (Use(self.made.origin, self.made.donor),)
        return (Use(self.made.origin, None), Use(None, self.made.donor))

    def _wanted(
        self, first: int, own: torch.Tensor | None, donor: torch.Tensor | None
    ) -> Iterator[tuple[Copy, int, int]]:
        """The runs that copy rows of a block, and which of its rows (first, stop)."""
        block = own if own is not None else donor
        assert block is not None
        stop = first + len(block)
        for copy in self._copies.over(first, stop):
            if (donor if self.by_rows and copy.run.donor else own) is not None:
                yield copy, max(first, copy.source), min(stop, copy.stop)

    def _sum(self, slab: int, first: int, own: torch.Tensor | None, donor: torch.Tensor | None) -> None:
        """Add a block's rows to the means that pads of this dimension hold."""
        for mean_of in {run.mean_of for run in self.row_runs if run.pad == "mean" and own is not None}:
            assert mean_of is not None
            for t, is_donor in ((own, False), (donor, True)):
                if t is not None:
                    mean = self._means.setdefault((slab, *mean_of, is_donor), _RowMean(*mean_of))
                    mean.add(first, t)


def fill_tensor(
    read: Callable[[str], torch.Tensor],
    tensor: Tensor,
    source: Anatomy,
    maps: Maps,
    *,
    out: torch.Tensor | None = None,
    block_elements: int = BLOCK_ELEMENTS,
) -> torch.Tensor:
    """One target tensor, in memory.

    Args:
        read: the source's parameter of a name.
        tensor: the target's.
        source: the source's anatomy.
        maps: the growth's.
        out: where to put it; by default a new tensor in the source tensor's dtype.
        block_elements: how many source elements are worked on at once; the values do not depend on it.
    """
    made = assembled(tensor, source, maps)
    if out is None:
        origin = read(made.origin)
        out = torch.empty(tensor.shape, dtype=origin.dtype, device=origin.device)
    filling = Filling(made, source, maps, out.dtype)
    flat = out.view(-1, filling.columns)
    slabs, rows, columns = filling.source_shape
    step = max(1, block_elements // columns)
    for use in filling.uses:
        own, donor = (
            None if name is None else read(name).reshape(slabs, rows, columns) for name in (use.own, use.donor)
        )
        for slab in range(slabs):
            for first in range(0, rows, step):
                parts = [None if t is None else t[slab, first : first + step] for t in (own, donor)]
                for piece in filling.feed(slab, first, *parts):
                    flat[piece.row : piece.row + len(piece.values)] = piece.values
    for piece in filling.rest():
        flat[piece.row : piece.row + len(piece.values)] = piece.values
    return out


def narrowed(t: torch.Tensor, dtype: torch.dtype, name: str) -> torch.Tensor:
    """A cast that makes no infinity of a finite value; what keeps its dtype is not looked at.

    Raises:
        RunError: a value of the tensor ``name`` is too large for float16.
    """
    made = t.to(dtype)
    if dtype == torch.float16 and t.dtype != dtype and made.numel():
        # The extremes cost a tenth of the cast; only where they are no numbers is every value looked at.
        finite = torch.stack(torch.aminmax(made)).isfinite().all()
        if not finite and (made.isinf() & t.isfinite()).any():
            remedy = "store it in another dtype: --dtype bf16 or fp32"
            raise RunError("a value is too large for float16", key=name, remedy=remedy)
    return made


def matrices(shape: Sequence[int]) -> tuple[int, int, int]:
    """(slabs, rows, columns) of a tensor of one, two or three dimensions."""
    slabs, rows, columns = (1, 1, 1, *shape)[-3:]
    return slabs, rows, columns


class _RowMean:
    """The mean of the source rows ``start`` to ``stop``, added up in the same groups whatever the blocks."""

    def __init__(self, start: int, stop: int) -> None:
        self.start, self.stop = start, stop
        self._held: list[torch.Tensor] = []
        self._count = 0
        self._total: torch.Tensor | None = None

    def add(self, first: int, t: torch.Tensor) -> None:
        """Take what belongs to it of a block that begins at row ``first``."""
        rows = t[max(0, self.start - first) : max(0, self.stop - first)].to(torch.float64, copy=True)
        while len(rows):
            room = _SUMMED - self._count
            self._held.append(rows[:room])
            self._count += len(self._held[-1])
            rows = rows[room:]
            if self._count == _SUMMED:
                self._close()

    def value(self) -> torch.Tensor:
        """The mean, [1, columns] in float64."""
        if self._held:
            self._close()
        assert self._total is not None
        return self._total / (self.stop - self.start)

    def _close(self) -> None:
        group = torch.cat(self._held).sum(0, keepdim=True)
        self._total = group if self._total is None else self._total + group
        self._held, self._count = [], 0
