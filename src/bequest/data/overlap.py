"""How much of the held-out text also stands in the training text: overlap of 13-grams of words, in bounded memory.

A word is a run of ASCII letters and digits and of bytes above 127, case folded for ASCII; everything else separates.
The 13-grams of the held-out side are kept as 64-bit hashes; the training side is streamed past them.  When there are
more than ``LIMIT`` different ones, only those whose hash ends in k zero bits are kept (a sample that does not depend on
order or on batches), with the smallest k that fits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

WORDS = 13
LIMIT = 2**22

Hashes = npt.NDArray[np.uint64]

# Any odd multipliers do: odd numbers are invertible modulo 2^64.
_BYTE_BASE = 0x9E3779B97F4A7C15
_WORD_BASE = 0xD6E8FEB86659FD93

_LOWER = np.arange(256, dtype=np.uint8)
_LOWER[ord("A") : ord("Z") + 1] += 32
_IN_WORD = np.zeros(256, dtype=bool)
_IN_WORD[ord("a") : ord("z") + 1] = _IN_WORD[ord("A") : ord("Z") + 1] = True
_IN_WORD[ord("0") : ord("9") + 1] = _IN_WORD[128:] = True


def _mixed(values: Hashes) -> Hashes:
    """splitmix64's finaliser: every bit of the input reaches every bit of the output."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _powers(base: int, count: int) -> Hashes:
    steps = np.full(count, base, dtype=np.uint64)
    steps[0] = 1
    powers: Hashes = np.cumprod(steps, dtype=np.uint64)
    return powers


def gram_hashes(texts: Sequence[str]) -> Hashes:
    """64-bit hashes of the 13-grams of words of each text (none across texts), in order.

    The hash of a word is a polynomial in its bytes, and that of a gram a polynomial in its words, both modulo 2^64 and
    finished by a mixing step, all of it in whole-array operations.
    """
    encoded = [text.encode("utf-8", "replace") for text in texts]
    data = np.frombuffer(b"\n".join(encoded), dtype=np.uint8)
    if len(data) == 0:
        return np.empty(0, dtype=np.uint64)
    inside = _IN_WORD[data]
    starts = np.flatnonzero(inside & ~np.concatenate([[False], inside[:-1]]))
    if len(starts) < WORDS:
        return np.empty(0, dtype=np.uint64)
    letters = np.where(inside, _LOWER[data].astype(np.uint64) + np.uint64(1), np.uint64(0))
    sums = np.add.reduceat(letters * _powers(_BYTE_BASE, len(data)), starts)
    words = _mixed(sums * _powers(pow(_BYTE_BASE, -1, 2**64), len(data))[starts])
    count = len(words) - WORDS + 1
    grams = np.zeros(count, dtype=np.uint64)
    for place in range(WORDS):
        grams = grams * np.uint64(_WORD_BASE) + words[place : place + count]
    ends = np.cumsum([len(part) + 1 for part in encoded])
    home = np.searchsorted(ends, starts, side="right")
    within: Hashes = _mixed(grams)[home[:count] == home[WORDS - 1 :]]
    return within


class OverlapCounter:
    """The 13-grams of the held-out side, and which of them the training side has.

    Use: ``collect`` all held-out texts, ``seal``, ``look_up`` all training texts, then ask for the ``share``.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit, self.zero_bits = limit, 0
        self._known: Hashes = np.empty(0, dtype=np.uint64)
        self._found: npt.NDArray[np.bool_] = np.empty(0, dtype=bool)
        self._waiting: list[Hashes] = []
        self._waiting_count = 0

    def _sampled(self, hashes: Hashes) -> Hashes:
        mask = np.uint64((1 << self.zero_bits) - 1)
        return hashes[(hashes & mask) == 0] if self.zero_bits else hashes

    def collect(self, texts: Sequence[str]) -> None:
        """Remember the 13-grams of held-out texts."""
        hashes = self._sampled(gram_hashes(texts))
        self._waiting.append(hashes)
        self._waiting_count += len(hashes)
        if self._waiting_count > self.limit:
            self._merge()

    def _merge(self) -> None:
        self._known = np.unique(np.concatenate([self._known, *self._waiting]))
        self._waiting, self._waiting_count = [], 0
        while len(self._known) > self.limit:
            self.zero_bits += 1
            self._known = self._sampled(self._known)

    def seal(self) -> None:
        """End collecting."""
        self._merge()
        self._found = np.zeros(len(self._known), dtype=bool)

    def look_up(self, texts: Sequence[str]) -> None:
        """Mark the 13-grams that training texts have."""
        if len(self._known) == 0:
            return
        hashes = self._sampled(gram_hashes(texts))
        places = np.searchsorted(self._known, hashes)
        places[places == len(self._known)] = 0
        self._found[places[self._known[places] == hashes]] = True

    def share(self, batches: Iterable[Sequence[str]]) -> float:
        """The share of the 13-grams of these held-out texts, counted with repetition, that the training side has."""
        total = hits = 0
        for texts in batches:
            hashes = self._sampled(gram_hashes(texts))
            places = np.searchsorted(self._known, hashes)
            total += len(hashes)
            hits += int(self._found[places].sum())
        return hits / total if total else 0.0
