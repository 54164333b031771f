"""The leak check: a mark that was left in fails, the same text without it passes."""

from __future__ import annotations

import random
import re

import pytest

from bequest.errors import InputError
from lab.kit.documents import Labelled
from lab.kit.leaks import FEWEST, MARGIN, check, name_pattern

WORDS = ["amber", "basin", "cedar", "delta", "ember", "fjord", "grove", "heath", "inlet", "jetty", "knoll", "ledge"]


def examples(
    mark: str, labels: list[str], marks: dict[str, str], count: int = 240, share: float = 1.0
) -> list[Labelled]:
    """Sentences of words that tell nothing, with the mark of their label where ``mark`` says ``{}``."""
    dice = random.Random(7)
    made = []
    for number in range(count):
        label = labels[number % len(labels)]
        words = " ".join(dice.choices(WORDS, k=12))
        sign = mark.format(marks[label]) if dice.random() < share else ""
        made.append(Labelled(f"{sign}{words}." if mark.endswith(" ") else f"{words}.{sign}", label, str(number)))
    dice.shuffle(made)
    return made


FIELDS = {"networking": "networking", "language": "language, tool", "company": "company"}
ABBREVIATED = {"botany": "Bot.", "zoology": "Zool.", "chemistry": "Chem."}
ROLES = {"OBJECTIVE": "OBJECTIVE", "METHODS": "PATIENTS AND METHODS", "RESULTS": "Findings"}
RATINGS = {"negative": "2", "positive": "9"}

LEFT_IN = {
    "angled": ("<{}> ", FIELDS, "angled token"),
    "abbreviation": ("({}) ", ABBREVIATED, "parenthesised abbreviation"),
    "heading": ("{}: ", ROLES, "heading with a colon"),
    "bracketed": ("[{}] ", ROLES, "bracketed token"),
    "rating-at-the-start": ("{}/10 ", RATINGS, "rating"),
    "rating-in-words": (" I give it {} out of 10.", RATINGS, "rating"),
    "stars": (" {} stars", RATINGS, "rating"),
    "signature": (" --{}", {"a": "Ann", "b": "Bob", "c": "Eve"}, "signature after dashes"),
}


@pytest.mark.parametrize("case", sorted(LEFT_IN))
def test_a_mark_left_in_fails_and_stripped_passes(case: str) -> None:
    mark, marks, name = LEFT_IN[case]
    labels = sorted(marks)
    made = examples(mark, labels, marks)
    report = check(made[:160], made[160:])
    assert not report.passed
    assert report.one_rule >= report.majority + MARGIN
    assert report.mark.startswith(name)
    bare = examples("", labels, marks)
    clean = check(bare[:160], bare[160:])
    assert clean.passed
    assert (clean.one_rule, clean.mark) == (clean.majority, "none")


def test_a_rating_in_one_review_of_seven_fails() -> None:
    """As often as readers print one; negative control: a rating that does not follow the label passes."""
    made = examples(" {}/10", ["negative", "positive"], RATINGS, count=6000, share=1 / 7)
    assert not check(made[:4000], made[4000:]).passed
    made = examples(" {}/10", ["negative", "positive"], {"negative": "5", "positive": "5"}, count=6000, share=1 / 7)
    report = check(made[:4000], made[4000:])
    assert report.passed
    assert report.majority <= report.one_rule < report.majority + MARGIN


def test_the_labels_own_name_is_a_mark() -> None:
    named = examples(
        "about {} ", sorted(FIELDS), {"networking": "networks", "language": "languages", "company": "firms"}
    )
    report = check(named[:160], named[160:])
    assert not report.passed
    assert report.mark.startswith("a label's own name")
    foreign = examples("about {} ", sorted(FIELDS), {"networking": "cables", "language": "syntax", "company": "firms"})
    assert check(foreign[:160], foreign[160:]).passed  # meaning, not marks: that is what a classifier is for


@pytest.mark.parametrize(
    ("label", "found", "not_found"),
    [
        ("networking", ["networks", "Networked", "a network."], ["net", "work"]),
        ("botany", ["Botanical", "(Bot.)", "botanist"], ["both", "bot"]),
        ("programming", ["programs", "programmer", "prog. "], ["progress"]),
        ("operating system", ["operating systems", "an OS "], ["operating a system", "cos", "os"]),
        ("RESULTS", ["results", "resulting"], ["consult"]),
        ("ham", ["ham", "hams"], ["hamlet", "sham"]),
        ("business", ["businesses"], ["busy"]),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else None,
)
def test_inflections_of_a_label(label: str, found: list[str], not_found: list[str]) -> None:
    pattern = re.compile(name_pattern(label), re.IGNORECASE)
    assert [text for text in found if not pattern.search(text)] == []
    assert [text for text in not_found if pattern.search(text)] == []


def test_extra_marks_are_looked_for() -> None:
    years = {"old": "1801", "new": "1999"}
    made = examples("in {} ", sorted(years), years)
    assert check(made[:160], made[160:]).passed
    report = check(made[:160], made[160:], [r"\b(1[789]\d\d)\b"])
    assert not report.passed
    assert "extra mark" in report.mark and ("1801" in report.mark or "1999" in report.mark)


def test_a_rare_value_is_not_learnt_by_heart() -> None:
    """Each mark stands in too few texts: the rule may not answer with them, whatever they say."""
    made = [
        Labelled(f"<{number // (FEWEST - 1)}> x", "ab"[number // (FEWEST - 1) % 2], str(number))
        for number in range(100)
    ]
    report = check(made, made)
    assert report.mark == "none" and report.one_rule == report.majority


def test_the_order_of_the_examples_does_not_matter() -> None:
    made = examples("<{}> ", sorted(FIELDS), FIELDS, share=0.5)
    assert check(made[:160], made[160:]) == check(made[159::-1], made[:159:-1])


def test_what_cannot_be_checked_is_refused() -> None:
    made = examples("<{}> ", sorted(FIELDS), FIELDS)
    with pytest.raises(InputError, match="training and test"):
        check(made, [])
    with pytest.raises(InputError, match="not a regular expression"):
        check(made, made, ["("])
