"""Runs of a dimension, prepared for filling by blocks: rows by the source rows they copy, columns as they are laid out.

Where all copies of a source unit have the same factor (all maps but uneven splits), a block is scaled once in its
source's width and only copied from there; further ``factors`` are for the rest.
"""

from __future__ import annotations

import bisect
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bequest.anatomy.fills import Fill

# Runs of columns shorter than this are gathered together by an index.
_SHORT = 16

#: One factor per source unit; none where all are 1.
Factors = torch.Tensor | None
#: (block, factors of its columns) -> the block scaled and cast.
Scaled = Callable[[torch.Tensor, Factors], torch.Tensor]


@dataclass(frozen=True)
class Copy:
    """A run that copies source units ``source`` to ``source + length``, and which factors are its own."""

    run: Fill
    source: int
    version: int

    @property
    def stop(self) -> int:
        """Behind its last source unit."""
        return self.source + self.run.length


@dataclass(frozen=True)
class RowRuns:
    """The runs of rows by the source rows they copy.

    Args:
        copies: by their first source row.
        factors: per version.
        longest: the length of the longest run.
    """

    copies: tuple[Copy, ...]
    factors: tuple[Factors, ...]
    longest: int

    def over(self, first: int, stop: int) -> Iterator[Copy]:
        """The runs that copy any of the source rows ``first`` to ``stop``."""
        low = bisect.bisect_right(self.copies, first - self.longest, key=lambda copy: copy.source)
        high = bisect.bisect_left(self.copies, stop, key=lambda copy: copy.source)
        return (copy for copy in self.copies[low:high] if copy.stop > first)


@functools.lru_cache(maxsize=64)
def row_runs(runs: tuple[Fill, ...]) -> RowRuns:
    """The runs of rows, ready to be asked for those of a block."""
    copies, factors = _versions(runs)
    ordered = sorted(copies, key=lambda copy: (copy.source, copy.run.start))
    return RowRuns(tuple(ordered), factors, max((copy.run.length for copy in copies), default=0))


@dataclass(frozen=True)
class Step:
    """A stretch of target columns: copied from ``source`` on or gathered by ``index``."""

    start: int
    length: int
    source: int
    version: int
    donor: bool
    index: torch.Tensor | None = None


@dataclass(frozen=True)
class Layout:
    """How columns are laid out.

    Args:
        steps: those that are copied.
        zeros: (start, length) of those that are zero.
        factors: per version.
        columns: of the target.
        whole: whether the columns stay as they are.
    """

    steps: tuple[Step, ...]
    zeros: tuple[tuple[int, int], ...]
    factors: tuple[Factors, ...]
    columns: int
    whole: bool

    def lay(self, own: torch.Tensor, donor: torch.Tensor | None, scaled: Scaled) -> torch.Tensor:
        """The target's columns of a block, each source column scaled once."""
        if self.whole:
            return scaled(own, self.factors[0])
        made: dict[tuple[int, bool], torch.Tensor] = {}
        for step in self.steps:
            if (step.version, step.donor) not in made:
                t = donor if step.donor else own
                assert t is not None
                made[step.version, step.donor] = scaled(t, self.factors[step.version])
        some = next(iter(made.values()))
        out = torch.empty(len(own), self.columns, dtype=some.dtype, device=some.device)
        for step in self.steps:
            t = made[step.version, step.donor]
            place = out[:, step.start : step.start + step.length]
            if step.index is None:
                place.copy_(t[:, step.source : step.source + step.length])
            else:
                place.copy_(t.index_select(1, step.index.to(t.device)))
        for start, length in self.zeros:
            out[:, start : start + length] = 0
        return out


@functools.lru_cache(maxsize=64)
def column_layout(runs: tuple[Fill, ...]) -> Layout:
    """The runs of columns as steps: long ones copied, short ones that follow one another gathered."""
    copies, factors = _versions(runs)
    steps: list[Step] = []
    for (short, version, donor, _), group in itertools.groupby(zip(copies, _breaks(copies), strict=True), _alike):
        members = [copy for copy, _ in group]
        if short:
            index = np.concatenate([np.arange(copy.source, copy.stop) for copy in members])
            steps.append(Step(members[0].run.start, len(index), 0, version, donor, torch.from_numpy(index)))
        else:
            steps += [Step(copy.run.start, copy.run.length, copy.source, version, donor) for copy in members]
    return Layout(
        steps=tuple(steps),
        zeros=tuple((run.start, run.length) for run in runs if run.source is None),
        factors=factors,
        columns=total(runs),
        whole=len(runs) == 1 and runs[0].source == 0,
    )


def total(runs: Sequence[Fill]) -> int:
    """The target units of all runs."""
    return sum(run.length for run in runs)


def _breaks(copies: Sequence[Copy]) -> list[int]:
    """A number per copy that changes where something else stands between it and the one before."""
    found, number, end = [], 0, 0
    for copy in copies:
        number += copy.run.start != end
        end = copy.run.start + copy.run.length
        found.append(number)
    return found


def _alike(pair: tuple[Copy, int]) -> tuple[bool, int, bool, int]:
    copy, number = pair
    return copy.run.length < _SHORT, copy.version, copy.run.donor, number


def _versions(runs: Sequence[Fill]) -> tuple[list[Copy], tuple[Factors, ...]]:
    """Factors per source unit: one list of them where all copies of a unit have one factor, more where they differ."""
    size = max((run.source + run.length for run in runs if run.source is not None), default=0)
    lists: list[NDArray[np.float64]] = []
    copies = []
    for run in runs:
        if run.source is None:
            continue
        part = slice(run.source, run.source + run.length)
        free = (
            number
            for number, factors in enumerate(lists)
            if bool((np.isnan(factors[part]) | (factors[part] == run.scale)).all())
        )
        version = next(free, len(lists))
        if version == len(lists):
            lists.append(np.full(size, np.nan))
        lists[version][part] = run.scale
        copies.append(Copy(run, run.source, version))
    filled = [np.where(np.isnan(factors), 1.0, factors) for factors in lists]
    return copies, tuple(None if bool((one == 1.0).all()) else torch.from_numpy(one) for one in filled)
