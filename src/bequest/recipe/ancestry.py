"""What a stage's place in a recipe and in a line of bases tells: what came before it, and what will.  No torch."""

from __future__ import annotations

from pathlib import Path

from bequest import lineage
from bequest.recipe.references import locate
from bequest.recipe.sections import Adapt, Grow, Pretrain, Recipe, Section


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


def training_follows(recipe: Recipe, section: Section) -> bool:
    """Whether a later stage trains the model that this one makes, as it is or grown further."""
    next_stages = [
        stage for stage in recipe.stages if isinstance(stage, Pretrain | Adapt | Grow) and stage.from_ == section.name
    ]
    return any(not isinstance(stage, Grow) or training_follows(recipe, stage) for stage in next_stages)


def grown_between(recipe: Recipe, tuned: str, onto: str) -> bool | None:
    """Whether a line of bases leads from ``onto`` back to the base that ``tuned`` was made on.

    None where the line leaves the recipe before it gets there: lineages on disk tell, when the stage runs.
    """
    base = _base_of(recipe, tuned)
    if base is None:
        return None
    here: str | None = onto
    while here is not None and here != base:
        if not isinstance(locate(recipe, here), Section):
            return None
        here = _base_of(recipe, here)
    return here == base


def _base_of(recipe: Recipe, name: str) -> str | None:
    """The base of a stage, by the name the recipe calls it."""
    stage = locate(recipe, name)
    if not isinstance(stage, Section):
        return None
    return next((ref.target for ref in stage.references() if ref.role == "base"), None)


def new_blocks(place: Path) -> tuple[int, ...]:
    """The layers that the latest growth in depth added to a generation or to one of its bases; none where none did.

    Training and growing the width leave the layers where they were, so the line of bases is followed past them.
    """
    node = lineage.ancestry(place) if (place / lineage.FILE).is_file() else None
    while node is not None and node.lineage is not None:
        maps = node.lineage.operation.maps or {}
        order = maps.get("order", [])
        # Older lineages name only the order: what is no first copy is new.
        added = maps.get("new_layers", [layer for layer in range(len(order)) if order[layer] in order[:layer]])
        if added:
            return tuple(added)
        node = next((parent for parent in node.parents if parent.role == "base"), None)
    return ()
