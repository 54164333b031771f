"""What a converter makes: documents, labelled examples, and what it wants said about them.

Try it: ``Converted(corpora={"general": [Document("Some text.", "an article")]}, tasks={})``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple


class Document(NamedTuple):
    """One text of a corpus.

    Attributes:
        text: paragraphs are separated by blank lines.
        group: the article, address, page or thread that must stay on one side of every split.
        extra: further keys kept beside ``text`` and ``group`` in the corpus file, such as ``{"year": 1861}``.
    """

    text: str
    group: str
    extra: Mapping[str, str | int] = MappingProxyType({})


class Labelled(NamedTuple):
    """One example of a task.

    Attributes:
        text: what is classified.
        label: its class, as it is printed.
        group: named as in :class:`Document`: a group that has examples in a task is held out of the corpora.
    """

    text: str
    label: str
    group: str


@dataclass(frozen=True)
class Converted:
    """Everything that one source holds.

    Attributes:
        corpora: corpus name -> its documents.
        tasks: task name -> its examples, not yet split.
        notes: counts of what was dropped and why, and choices worth knowing; printed in the manifest.
        marks: task name -> regular expressions of leaked marks that the leak check tries besides the general ones.
    """

    corpora: Mapping[str, Sequence[Document]]
    tasks: Mapping[str, Sequence[Labelled]]
    notes: Mapping[str, Any] = field(default_factory=dict)
    marks: Mapping[str, Sequence[str]] = field(default_factory=dict)
