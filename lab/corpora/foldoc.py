"""The Free On-line Dictionary of Computing: a corpus, and the task of naming an entry's topic.

An entry is headwords, a blank line, and paragraphs.  The editor prints the topic as ``<networking>`` or, of several,
``<networking, standard>`` before a sense; these labels become the classes and are taken out of every text, as are the
dates of last change, the sources in brackets, addresses, and the braces of cross references.

Try it: ``convert(root)`` with the members ``usr/share/dictd/foldoc.*`` below ``root``.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from lab.corpora import dictd
from lab.kit.documents import Converted, Document, Labelled
from lab.kit.leaks import conceal

#: How many labels become classes, the most frequent first.
CLASSES = 8
#: A text of fewer words than this is a bare cross reference.
FEWEST_WORDS = 8

#: Words in angle brackets at the head of a sense.  Addresses and formulas are in angle brackets too, elsewhere.
_LABELS = re.compile(r"(?:^|(?<=\. ))<([A-Za-z][\w ,/'&.+-]{1,60})>\s*")
_SENSE = re.compile(r"^\d{1,2}\. ")
_REFERENCE = re.compile(
    r"\{\s*([^{}]*?)\s*(?:\(\s*(?:https?|ftp|news|gopher|mailto|telnet|about|[\w.-]+\.html)[^{}]*)?\}"
)
_ADDRESS = re.compile(r"<[^<>\s]+@[^<>\s]+>|\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+|\b(?:https?|ftp|gopher|telnet)://\S+")
_DATE = re.compile(r"\(\s*(?:\d{4}-\d{2}-\d{2}(?:\s*,\s*)?)+\s*\)\.?")
#: Country codes share one sentence between 250 entries of the networking class: no example of anything.
_FORMULA = re.compile(r"\bcountry code for\b", re.IGNORECASE)


class _Entry(NamedTuple):
    headword: str
    labels: tuple[str, ...]
    text: str


def convert(root: Path) -> Converted:
    """Entries as documents (group: the first headword) and those with one frequent topic as examples.

    Raises:
        InputError: the dictionary is missing or damaged.
    """
    found = [entry for text in dictd.entries(root / "usr/share/dictd", "foldoc") if (entry := _read(text))]
    entries = [entry for entry in found if len(entry.text.split()) >= FEWEST_WORDS]
    single = [entry for entry in entries if len(entry.labels) == 1 and not _FORMULA.search(entry.text)]
    counts = Counter(entry.labels[0] for entry in single if "," not in entry.labels[0])
    classes = sorted(sorted(counts, key=lambda label: (-counts[label], label))[:CLASSES])
    examples = [
        Labelled(conceal(entry.text, classes), entry.labels[0], entry.headword)
        for entry in single
        if entry.labels[0] in classes
    ]
    return Converted(
        corpora={"computing": [Document(entry.text, entry.headword) for entry in entries]},
        tasks={"computing-topic": examples},
        notes={
            "entries": len(found),
            "dropped, bare cross reference": len(found) - len(entries),
            "computing-topic": "entries with one sense and one label; the classes' names are concealed in the text",
            "left out of the task, country codes": sum(bool(_FORMULA.search(entry.text)) for entry in entries),
        },
    )


def _read(text: str) -> _Entry | None:
    head, _, body = text.partition("\n\n")
    headword = head.strip().split("\n")[0].strip()
    labels: list[str] = []
    kept = []
    for indentation, paragraph in dictd.paragraphs(body):
        if indentation > 4:  # programs, tables and drawings
            continue
        number = match.group() if (match := _SENSE.match(paragraph)) else ""
        rest = paragraph.removeprefix(number)
        while match := _LABELS.match(rest):
            labels.append(" ".join(match.group(1).split()))
            rest = rest[match.end() :]
        plain = _plain(_LABELS.sub("", rest))
        if re.search(r"\w", plain):
            kept.append(number + plain)
    if not headword or not kept:
        return None
    return _Entry(headword, tuple(labels), "\n\n".join([f"{headword}: {kept[0]}", *kept[1:]]))


def _plain(paragraph: str) -> str:
    """Without what the editor added for the reader of the web page; nothing when it is only a source or a date."""
    plain = _DATE.sub("", paragraph)
    plain = _ADDRESS.sub("", _REFERENCE.sub(r"\1", plain)).replace("__", "")
    plain = re.sub(r"\(\s*\)|<\s*>", "", plain).strip()
    plain = re.sub(r"\s+([.,;:])", r"\1", " ".join(plain.split()))
    return "" if re.fullmatch(r"\[.*\]\.?|[\W\d]*|\(?see (?:also )?[^.]*\)?\.?", plain, re.IGNORECASE) else plain
