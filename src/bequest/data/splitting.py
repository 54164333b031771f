"""Who is held out: by hash of the group, never by row; and what counts as the same text.

A group (file, article, author) is held out when its hash falls below the held-out share, so the side of a group never
depends on the other groups: text that is added later moves nothing.
"""

from __future__ import annotations

import hashlib
import unicodedata

#: A file is a group by itself only where this many files are expected on the held-out side (the chance that none is
#: there is then e^-8); with fewer files each document is its own group.
EXPECTED_HELD_OUT_FILES = 8.0


def text_digest(text: str) -> int:
    """64-bit hash of the normalised text (NFKC, case folded, runs of white space as one space)."""
    normal = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return int.from_bytes(hashlib.blake2b(normal.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def group_digest(group: str, seed: int = 0) -> int:
    """64-bit hash of a group's name; another ``seed`` deals the groups anew."""
    salted = f"{seed}\x1f{group}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(salted, digest_size=8, person=b"bequest/held-out").digest(), "little")


def is_held_out(group: str, share: float, seed: int = 0) -> bool:
    """Whether a group is on the held-out side, for a held-out ``share`` of the groups in (0, 1)."""
    return group_digest(group, seed) < share * 2.0**64


def spread(count: int, limit: int | None) -> list[int]:
    """At most ``limit`` of ``count`` places, evenly spread: the first alone would be the first documents."""
    taken = count if limit is None else min(limit, count)
    return [number * count // taken for number in range(taken)]
