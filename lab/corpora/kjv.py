"""``scripture``: the King James Bible in the text of 1769, one document per chapter.

The package has one entry per verse: ``#`` at its head begins a paragraph, square brackets hold the words that the
translators supplied (printed in italics).  The words stay, the brackets go; verse numbers are not in the text.

Try it: ``chapter_text(["In the beginning ...", "# And God said, it [was] good."])``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from bequest import storage
from bequest.errors import InputError
from lab.kit.documents import Converted, Document

VERSES = "package/json/verses-1769.json"
_PLACE = re.compile(r"(.+ \d+):(\d+)")


def convert(root: Path) -> Converted:
    """Read the verses below ``root``: one document per chapter, in the order of the book, which is its group.

    Raises:
        InputError: an entry is not ``Book chapter:verse``.
    """
    chapters: dict[str, dict[int, str]] = {}
    for place, verse in storage.read_json(root / VERSES).items():
        parts = _PLACE.fullmatch(place)
        if parts is None:
            raise InputError("is not a book, chapter and verse", where=VERSES, key=place)
        chapters.setdefault(parts[1], {})[int(parts[2])] = verse
    documents = [
        Document(chapter_text([verses[number] for number in sorted(verses)]), name) for name, verses in chapters.items()
    ]
    return Converted(
        corpora={"scripture": documents},
        tasks={},
        notes={"chapters": len(chapters), "verses": sum(len(verses) for verses in chapters.values())},
    )


def chapter_text(verses: Sequence[str]) -> str:
    """The verses of a chapter as running text in paragraphs."""
    paragraphs: list[list[str]] = []
    for verse in verses:
        begins = verse.startswith("#")
        words = " ".join(verse.lstrip("# ").replace("[", "").replace("]", "").split())
        if begins or not paragraphs:
            paragraphs.append([])
        paragraphs[-1].append(words)
    return "\n\n".join(" ".join(paragraph) for paragraph in paragraphs)
