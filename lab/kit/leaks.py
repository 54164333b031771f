"""Does one printed mark give the label away?  A one-rule classifier over marks must stay near the majority guess.

A mark is what an editor or a reader left in the text, not what the text means: a bracketed token, a parenthesised
abbreviation, a heading, a rating, a signature, the label's own name.  For each kind of mark the rule learns one value
per text and answers with that value's commonest label (R. C. Holte, Very simple classification rules perform well on
most commonly used datasets, Machine Learning 11, 1993: 1R).  Every kind is scored on the test side and the worst is
reported, so the check errs on the strict side.

Try it: ``check([Labelled("<a> x", "a", "1")] * 9, [Labelled("<a> y", "a", "2")])``.
"""

from __future__ import annotations

import functools
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bequest.errors import InputError
from lab.kit.documents import Labelled

#: One rule may beat the majority guess by less than this share of the test examples.
MARGIN = 0.05
#: A value that stands in fewer training texts than this predicts the majority: 1R's guard against learning by heart.
FEWEST = 6
#: What stands where a label's own name stood.
CONCEALED = "…"

_NUMBERS = {
    "zero": 0,
    "one": 1,
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
}
_NUMBERS["ten"] = 10
_NUMBER = rf"(?:\d{{1,3}}(?:[.,]\d+)?|{'|'.join(_NUMBERS)})"
_HALF = r"(?:\s*(?:½|1/2|and\s+(?:a|one)\s+half))?"
_LETTER = r"(?:(?-i:A)(?![\w'])|[b-f](?![\w'])|[a-f](?:[+-]|\s(?:plus|minus))(?!\w))"

#: A grade that a reviewer printed: ``8/10``, ``7 out of ten``, ``4 stars``, ``***``, ``grade: B+``, ``give it a 6.``
RATING = re.compile(
    rf"(?<![\w/.])(?P<points>-?{_NUMBER}){_HALF}\s*\+?\s*(?:/|out\s+of(?:\s+(?:a|the)\s+(?:possible|total|max\w*))?)\s*"
    rf"(?P<scale>4|5|6|10|20|100|four|five|ten)(?![\w/]|[.,]\d)(?:\s*stars?\b)?"
    rf"|(?<![\w/.])(?P<stars>{_NUMBER}){_HALF}[\s-]*(?:gold\s+)?stars?\b"
    r"|(?<![*\w])(?P<asterisks>\*{1,10})(?:\s*1/2|½)?(?:\s*(?:/|out\s+of)\s*(?:\*{3,10}|\d+|four|five))?(?![*\w])"
    rf"|\b(?:grade|rating|score|vote|verdict)\s*(?:(?:is|was|of|:|=|-)\s*)+(?:an?\s+)?(?P<grade>{_LETTER}|{_NUMBER}\b)"
    r"|(?<![\w+-])(?P<letter>(?-i:[A-F])[+-])(?![\w+-])"
    rf"|\b(?:giv(?:e|es|ing)|gave|given|rated?|rating|deserves?)\s+(?:(?!{_NUMBER}\b)[\w'-]+\s+){{0,5}}?(?P<given>{_NUMBER})"
    r"(?=\s*(?:[.!?,;)(]|\Z|\n|(?:because|for|and|but|only|just|since|as|if)\b))"
    r"|\b(?P<thumbs>thumbs?\s+(?:way\s+)?(?:up|down))\b",
    re.IGNORECASE,
)
_BRACKETS = {
    "angled token": re.compile(r"<([^<>\n]{1,60})>"),
    "bracketed token": re.compile(r"\[([^\[\]\n]{1,60})\]"),
    "braced token": re.compile(r"\{([^{}\n]{1,60})\}"),
    "parenthesised abbreviation": re.compile(r"\(([A-Za-z]{1,12}\.(?:\s*(?:&|and|,)?\s*[A-Za-z]{1,12}\.)*)\)"),
}
_HEADINGS = {
    "heading with a colon": re.compile(r"\A\W*(\w[^:.\n]{0,58}):"),
    "heading in capitals": re.compile(r"\A\W*([A-Z]{3,}(?:[ ,/&-]+[A-Z]{2,})*)\b"),
    "heading on a line": re.compile(r"\A\W*([^\n]{1,60}?)\W*\n"),
}
_SIGNATURES = {
    "signature after dashes": re.compile(r"(?:--|—|–)\s*([^\n]{1,60}?)\W*\Z"),
    "last line": re.compile(r"\n\W*([^\n]{1,60}?)\W*\Z"),
}
_ENDINGS = (
    *("ologies", "ology", "ations", "ation", "sions", "sion", "tions", "tion", "ments", "ment", "ities", "ings"),
    *("ical", "ics", "ies", "ing", "ity", "ous", "ers", "er", "ed", "es", "al", "ic", "y", "e", "s"),
)


@dataclass(frozen=True)
class LeakReport:
    """What the check found.

    Attributes:
        majority: test accuracy of the best guess that never changes, the commonest test label.  The commonest training
            label may do worse by chance where classes are of one size, and any rule would then seem to know something.
        one_rule: test accuracy of the most telling single mark; the majority's when no mark beats it.
        mark: that mark in words with the value it leans on most, or ``none``.
        passed: ``one_rule < majority + MARGIN``.
    """

    majority: float
    one_rule: float
    mark: str
    passed: bool


def check(train: Sequence[Labelled], test: Sequence[Labelled], extra_marks: Sequence[str] = ()) -> LeakReport:
    """Scores each kind of mark by its one rule, learnt on ``train`` and tried on ``test``.

    Args:
        train: the labelled examples to learn from.
        test: the examples to score on, of other groups.
        extra_marks: regular expressions (case ignored) of further marks; a mark's value is its first group or, without
            groups, the whole match.

    Raises:
        InputError: a side is empty or an extra mark is not a regular expression.
    """
    if not train or not test:
        raise InputError("the leak check needs training and test examples", remedy="give the task more examples")
    labels = sorted({example.label for example in train})
    majority = max(Counter(example.label for example in test).values()) / len(test)
    worst, mark = majority, "none"
    for name, values in _kinds(labels, extra_marks):
        found_train = [values(example.text) for example in train]
        found_test = [values(example.text) for example in test]
        for scope, learnt, asked in _attributes(found_train, found_test):
            accuracy, telling = _one_rule(learnt, [e.label for e in train], asked, [e.label for e in test])
            if accuracy > worst:
                worst, mark = accuracy, f"{name}, {scope}{telling}"
    return LeakReport(majority=majority, one_rule=worst, mark=mark, passed=worst < majority + MARGIN)


def name_pattern(label: str) -> str:
    """A regular expression (for ``re.IGNORECASE``) of a label's own name with its inflections and abbreviations.

    ``networking`` is also found in *networks* and *networked*, ``botany`` in *botanical* and *Bot.*, ``operating
    system`` in *operating systems* and, as capitals, *OS*.
    """
    words = re.findall(r"\w+", label.replace("_", " "))
    if not words:
        return re.escape(label)
    patterns = [r"\b" + r"[\s_-]+".join([*map(re.escape, words[:-1]), _inflected(words[-1])])]
    if len(words) > 1:
        patterns.append(rf"\b(?-i:{re.escape(''.join(word[0] for word in words).upper())})\b")
    elif len(label) > 4 and label.isalpha():
        prefixes = "|".join(label[:length] for length in range(len(label) - 1, 2, -1))
        patterns.append(rf"\b(?:{prefixes})(?=\.)")
    return "|".join(patterns)


def conceal(text: str, labels: Sequence[str]) -> str:
    """The text with every label's own name, as :func:`name_pattern` finds it, replaced by one sign for all labels."""
    return _any_name(tuple(labels)).sub(CONCEALED, text)


@functools.cache
def _any_name(labels: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(name_pattern, labels)), re.IGNORECASE)


def _inflected(word: str) -> str:
    """The word's stem and what may follow it; a word of up to three letters or with digits only takes a plural."""
    lower = word.lower()
    if len(lower) <= 3 or not lower.isalpha():
        return rf"{re.escape(lower)}s?\b"
    stem = lower
    for ending in _ENDINGS:
        if lower.endswith(ending) and not lower.endswith("ss") and len(lower) - len(ending) >= 4:
            stem = lower[: -len(ending)]
            break
    if len(stem) > 4 and stem[-1] == stem[-2] and stem[-1] not in "ls":
        stem = stem[:-1]
    return rf"{re.escape(stem)}\w*"


def _kinds(labels: Sequence[str], extra_marks: Sequence[str]) -> Iterator[tuple[str, Callable[[str], list[str]]]]:
    """Each kind of mark by name, with the function that lists a text's values of it in the order they stand."""
    for name, pattern in {**_BRACKETS, **_HEADINGS, **_SIGNATURES}.items():
        yield name, _finder(pattern)
    yield "rating", _ratings
    named = {label: re.compile(name_pattern(label), re.IGNORECASE) for label in labels}

    def names(text: str) -> list[str]:
        first = [(match.start(), label) for label, pattern in named.items() if (match := pattern.search(text))]
        return [label for _, label in sorted(first)]

    yield "a label's own name", names
    for extra in extra_marks:
        try:
            yield f"extra mark {extra!r}", _finder(re.compile(extra, re.IGNORECASE))
        except re.error as error:
            raise InputError(f"{extra!r} is not a regular expression: {error}", key="marks") from error


def _finder(pattern: re.Pattern[str]) -> Callable[[str], list[str]]:
    def values(text: str) -> list[str]:
        return [_plain(match.group(1 if pattern.groups else 0) or match.group()) for match in pattern.finditer(text)]

    return values


def _plain(value: str) -> str:
    return " ".join(value.casefold().split())


def _ratings(text: str) -> list[str]:
    """Ratings as tenths of their scale, so that ``4/5``, ``8 out of 10`` and ``eight/10`` are one value."""
    values = []
    for match in RATING.finditer(text):
        found = match.groupdict()
        if found["points"]:
            share = _amount(found["points"]) / _amount(found["scale"])
            values.append(f"{round(10 * share)}/10")
        elif found["stars"]:
            values.append(f"{_amount(found['stars']):g} stars")
        elif found["asterisks"]:
            values.append(f"{len(found['asterisks'])} stars")
        else:
            values.append(_plain(next(found[kind] for kind in ("grade", "letter", "given", "thumbs") if found[kind])))
    return values


def _amount(number: str) -> float:
    word = number.lower().lstrip("-")
    return float(_NUMBERS[word]) if word in _NUMBERS else float(number.replace(",", "."))


def _attributes(
    train: Sequence[list[str]], test: Sequence[list[str]]
) -> Iterator[tuple[str, list[str | None], list[str | None]]]:
    """One value per text out of all its values that are not rare: the first, the last, or all of them together."""
    texts_with = Counter(value for values in train for value in set(values))
    kept = {value for value, count in texts_with.items() if count >= FEWEST}
    if not kept:
        return
    common = [[[value for value in values if value in kept] for values in side] for side in (train, test)]
    for scope, pick in (
        ("first", lambda values: values[0]),
        ("last", lambda values: values[-1]),
        ("all", lambda values: " + ".join(sorted(set(values)))),
    ):
        learnt, asked = ([pick(values) if values else None for values in side] for side in common)
        yield scope, learnt, asked


def _one_rule(
    learnt: Sequence[str | None], labels: Sequence[str], asked: Sequence[str | None], truth: Sequence[str]
) -> tuple[float, str]:
    """Test accuracy of one attribute's rule, and the value whose answer is right most often (``None``: no mark)."""
    counts: dict[str | None, Counter[str]] = defaultdict(Counter)
    for value, label in zip(learnt, labels, strict=True):
        counts[value][label] += 1
    commonest = _commonest(Counter(labels))
    rule = {value: _commonest(count) for value, count in counts.items() if count.total() >= FEWEST}
    right: Counter[str] = Counter()
    hits = 0
    for value, label in zip(asked, truth, strict=True):
        if rule.get(value, commonest) == label:
            hits += 1
            if value is not None and value in rule:
                right[value] += 1
    telling = _commonest(right) if right else None
    return hits / len(truth), "" if telling is None else f" ({telling!r} means {rule[telling]!r})"


def _commonest(counts: Counter[str]) -> str:
    """The commonest key; of equals the first by name, so that no order of examples matters."""
    return min(counts, key=lambda key: (-counts[key], key))
