"""The order of training: token-exact mixtures of packed corpora, and samplers that carry the epoch.

All blocks have one length, so shares of blocks are shares of tokens.  A mixture deals its places to the parts in a
fixed cycle whose counts are the shares exactly, spread evenly; within a part the blocks come in a new permutation for
every pass over it.  Where a place leads follows from (seed, epoch, index) by arithmetic alone: nothing is stored, so
a mixture of any size resumes at any place in O(1) and is the same in every worker and rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt

from bequest.data.blocks import Blocks
from bequest.errors import InputError

#: The longest cycle; shares that are no multiples of 1/CYCLE are rounded to it (an error below 2e-5 of all tokens).
CYCLE = 2**16
_MASK = 2**64 - 1
_ROUNDS = 8

Place = tuple[int, int]


class MixedSample(TypedDict):
    """A block with the pass over its corpus (for the mask variant) and its domain."""

    input_ids: npt.NDArray[np.int64]
    digest: int
    epoch: int
    domain: int


def _mix(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def permuted(index: int, length: int, *key: int) -> int:
    """Where ``index`` goes in the permutation of ``range(length)`` that ``key`` names, in O(1) time and memory.

    A Feistel network over the next power of four, walked until it lands inside (fewer than four steps on average).
    """
    if length <= 1:
        return 0
    half = (max(2, (length - 1).bit_length()) + 1) // 2
    low = (1 << half) - 1
    seed = 0
    for part in key:
        seed = _mix(seed ^ (part & _MASK))
    while True:
        left, right = index >> half, index & low
        for number in range(_ROUNDS):
            left, right = right, left ^ (_mix(seed ^ (right * _ROUNDS + number)) & low)
        index = (left << half) | right
        if index < length:
            return index


class EpochSampler:
    """Yields ``(epoch, index)`` for a map-style dataset, epoch after epoch, without end unless ``epochs`` is given.

    The epoch reaches neither dataset nor collator otherwise.  It can begin anywhere: place ``start`` is epoch
    ``start // length``, and skipping to it costs nothing.

    Args:
        length: places of one epoch.
        seed: names the permutations; None keeps the dataset's own order (what a ``Mixture`` wants: it shuffles by
            itself, and in its own order its shares are exact at every prefix).
        start: the first place.
        epochs: how many epochs to yield, counted from place 0; None: no end.
    """

    def __init__(self, length: int, seed: int | None, start: int = 0, epochs: int | None = 1) -> None:
        self.length, self.seed, self.start, self.epochs = length, seed, start, epochs

    def at(self, place: int) -> Place:
        """The ``place``-th pair."""
        epoch, index = divmod(place, self.length)
        return epoch, index if self.seed is None else permuted(index, self.length, self.seed, epoch)

    def __iter__(self) -> Iterator[Place]:
        place = self.start
        while self.epochs is None or place < self.epochs * self.length:
            yield self.at(place)
            place += 1

    def __len__(self) -> int:
        if self.epochs is None:
            raise TypeError("this sampler has no end")
        return max(0, self.epochs * self.length - self.start)


class _Slot(NamedTuple):
    part: int
    rank: int


class Mixture:
    """Packed corpora mixed by shares of tokens; map-style over places ``index`` or ``(epoch, index)``.

    Args:
        parts: (blocks, share) pairs; shares are relative and are normalised.
        seed: names the permutations.
        domains: the domain id of each part; by default 0, 1, ...
        length: places of one epoch; by default as many as there are blocks in all parts.

    Over any whole number of cycles (``len(cycle)`` places in order) each part has exactly its share, and in between it
    is less than one block per part away from it.  A part that is used up begins again in another permutation, with
    ``epoch`` one higher.

    Raises:
        InputError: no part, a share that is not positive, or blocks of different lengths.
    """

    def __init__(
        self,
        parts: Sequence[tuple[Blocks, float]],
        *,
        seed: int,
        domains: Sequence[int] | None = None,
        length: int | None = None,
    ) -> None:
        if not parts:
            raise InputError("a mixture needs at least one corpus", key="corpus")
        if any(not share > 0 or not math.isfinite(share) for _, share in parts):
            raise InputError("shares must be positive numbers", key="corpus", remedy="leave out corpora with share 0")
        sizes = {blocks.block for blocks, _ in parts}
        if len(sizes) > 1:
            raise InputError(f"cannot mix blocks of {sorted(sizes)} tokens", key="block", remedy="pack them alike")
        self.blocks = [blocks for blocks, _ in parts]
        self.seed = seed
        self.domains = list(range(len(parts))) if domains is None else [int(domain) for domain in domains]
        if len(self.domains) != len(parts):
            raise InputError(f"{len(self.domains)} domains for {len(parts)} corpora", key="domains")
        self.counts = _cycle_counts([share for _, share in parts])
        self.cycle = _spread(self.counts)
        self._length = sum(len(blocks) for blocks in self.blocks) if length is None else length

    @property
    def block(self) -> int:
        """Tokens per block."""
        return self.blocks[0].block

    @property
    def shares(self) -> list[float]:
        """The shares that are kept, summing to one."""
        return [count / len(self.cycle) for count in self.counts]

    def __len__(self) -> int:
        return self._length

    def taken(self, places: int) -> list[int]:
        """How many of the first ``places`` places lead to each part."""
        cycles, rest = divmod(places, len(self.cycle))
        begun = [slot.part for slot in self.cycle[:rest]]
        return [cycles * count + begun.count(part) for part, count in enumerate(self.counts)]

    def locate(self, place: int | Place) -> tuple[int, int, int]:
        """(part, pass over that part, block of that part) of a place."""
        epoch, index = place if isinstance(place, tuple) else (0, place)
        cycle, slot = divmod(epoch * self._length + index, len(self.cycle))
        part, rank = self.cycle[slot]
        size = len(self.blocks[part])
        turn, position = divmod(cycle * self.counts[part] + rank, size)
        return part, turn, permuted(position, size, self.seed, part, turn)

    def __getitem__(self, place: int | Place) -> MixedSample:
        if not 0 <= (place[1] if isinstance(place, tuple) else place) < self._length:
            raise IndexError(f"place {place} of {self._length}")
        part, turn, number = self.locate(place)
        sample = self.blocks[part][number]
        return {
            "input_ids": sample["input_ids"],
            "digest": sample["digest"],
            "epoch": turn,
            "domain": self.domains[part],
        }


def _cycle_counts(shares: Sequence[float]) -> list[int]:
    """Whole counts in the ratio of the shares, exactly where the cycle can be at most CYCLE long, else rounded."""
    exact = [Fraction(str(float(share))) for share in shares]
    scale = math.lcm(*(share.denominator for share in exact))
    counts = [int(share * scale) for share in exact]
    divisor = math.gcd(*counts)
    counts = [count // divisor for count in counts]
    if sum(counts) <= CYCLE:
        return counts
    ideal = [share / sum(exact) * CYCLE for share in exact]
    counts = [max(1, int(value)) for value in ideal]
    by_remainder = sorted(range(len(ideal)), key=lambda part: counts[part] - ideal[part])
    for part in by_remainder[: max(0, CYCLE - sum(counts))]:
        counts[part] += 1
    return counts


def _spread(counts: Sequence[int]) -> list[_Slot]:
    """A cycle in which the n uses of a part stand at the even times (rank + 1/2) / n."""
    slots = [((2 * rank + 1) / (2 * count), part, rank) for part, count in enumerate(counts) for rank in range(count)]
    return [_Slot(part, rank) for _, part, rank in sorted(slots)]
