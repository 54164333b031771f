"""What the bases above a stage were trained on, as far as the recipe and outside bases' lineages tell.  No torch."""

from __future__ import annotations

from pathlib import Path

from bequest import lineage
from bequest.recipe.references import locate
from bequest.recipe.sections import Recipe, Section


def earlier_corpora(recipe: Recipe, section: Section) -> list[str]:
    """The corpora of the recipe that the bases above a stage were trained on, oldest first, each once.

    A base that the recipe makes tells by its stage.  One from outside tells by its ``lineage.json`` and by those of its
    own bases, as far as they lie where they were: a corpus counts when the recipe has one of the same name.
    """
    base = next((reference.target for reference in section.references() if reference.role == "base"), None)
    place = locate(recipe, base) if base is not None else None
    found: list[str] = []
    if isinstance(place, Section):
        found = [*earlier_corpora(recipe, place), *place.corpora_used()]
    elif isinstance(place, Path) and (place / lineage.FILE).is_file():
        found = [name for name in _recorded(lineage.ancestry(place)) if name in recipe.corpora]
    return list(dict.fromkeys(found))


def _recorded(node: lineage.Ancestor) -> list[str]:
    """The corpora that a lineage and those of its bases name; tasks carry no number of tokens."""
    found = [name for parent in node.parents if parent.role == "base" for name in _recorded(parent)]
    return found + [use.name for use in node.lineage.data if use.tokens is not None] if node.lineage else found
