"""Did the methods of an experiment see the same batches?  Two cells of one seed and order must, bit for bit.

A method whose batches differ by design says ``changes_batches: true``; any other difference is an alarm: what the
methods are then compared on is not the method alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from lab.experiments.rows import Row


def unpaired_with(row: Row, others: Iterable[Row], free: Collection[str], recipes: Collection[str]) -> list[str]:
    """The methods whose batches differ from a row's although they should not.

    Args:
        row: a reported row; one that came to nothing recorded no batches.
        others: rows of the same file.
        free: the methods that change batches by design; they are compared with nobody.
        recipes: the recipe hashes of the experiment as it is now; rows of an earlier wording are left aside.

    Returns:
        names, sorted; empty where everything agrees, or where there is nothing to compare.
    """
    if row.role != "final" or row.failed is not None or row.method in free or row.recipe not in recipes:
        return []
    found = set()
    for other in others:
        together = (other.experiment, other.scale, other.size, other.seed, other.sequence, other.order, other.code) == (
            row.experiment,
            row.scale,
            row.size,
            row.seed,
            row.sequence,
            row.order,
            row.code,
        )
        reported = other.role == "final" and other.failed is None and other.recipe in recipes
        if together and reported and other.method not in (row.method, *free) and other.batches != row.batches:
            found.add(other.method)
    return sorted(found)
