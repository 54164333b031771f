"""The unit of a corpus."""

from __future__ import annotations

from typing import NamedTuple


class Document(NamedTuple):
    """A text and the name of the group (file, article, author) that decides its side of the held-out split."""

    text: str
    group: str
