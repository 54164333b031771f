"""Texts that are nearly another one: how many of a task's test examples are mostly made of its training examples.

Exact duplicates never get here (:mod:`lab.kit.holding_out` drops them); a text that was cut, corrected or quoted does.
It is counted, not dropped: the manifest says how much of a score could be memory.

Try it: ``across(["a b c"], ["a b d"])``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

WORDS = 13
SHARE = 0.5
_WORD = re.compile(r"\w+")


def across(train: Iterable[str], test: Iterable[str]) -> Mapping[str, int | float]:
    """Count the test texts of which more than ``SHARE`` of the runs of ``WORDS`` words stand in training texts.

    Returns:
        ``words`` and ``share``, the rule; ``test``, how many there are; ``test_examined``, out of how many: a text that
        is shorter than a run has none and cannot be judged.
    """
    seen = {run for text in train for run in _runs(text)}
    found = examined = 0
    for text in test:
        own = _runs(text)
        examined += bool(own)
        found += sum(run in seen for run in own) > SHARE * len(own)
    return {"words": WORDS, "share": SHARE, "test": found, "test_examined": examined}


def _runs(text: str) -> list[int]:
    """A hash of every run of ``WORDS`` words of a text, case folded, without punctuation; good within this process."""
    words = _WORD.findall(text.casefold())
    return [hash(tuple(words[start : start + WORDS])) for start in range(len(words) - WORDS + 1)]
