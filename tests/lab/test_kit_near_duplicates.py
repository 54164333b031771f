"""Near-duplicates: a test text that is mostly training text is counted, one that shares a phrase is not."""

from __future__ import annotations

import random

import pytest

from lab.kit.near_duplicates import WORDS, across


def text(seed: int, words: int = 60) -> list[str]:
    draw = random.Random(seed)
    return [f"w{draw.randrange(5000)}" for _ in range(words)]


@pytest.mark.parametrize(
    ("kept", "found"),
    # Of 60 words there are 48 runs of 13; a text whose first n words are another's shares n - 12 of them.
    [(60, 1), (37, 1), (36, 0), (12, 0), (0, 0)],
    ids=["all", "just-over-half", "half", "less-than-a-run", "none"],
)
def test_a_text_counts_when_more_than_half_of_its_runs_are_in_training(kept: int, found: int) -> None:
    other = text(1)[:kept] + text(2)[kept:]
    counted = across([" ".join(text(1)), " ".join(text(3))], [" ".join(other), " ".join(text(4))])
    assert counted == {"words": WORDS, "share": 0.5, "test": found, "test_examined": 2}


def test_case_and_punctuation_do_not_matter_and_short_texts_are_not_examined() -> None:
    words = text(1)
    assert across([" ".join(words)], [", ".join(words).upper() + "!"])["test"] == 1
    assert across([" ".join(words)], [" ".join(words[: WORDS - 1])])["test_examined"] == 0
