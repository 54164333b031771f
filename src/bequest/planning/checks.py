"""Checks before a run: every corpus and task is there, positions suffice, the disk has room.  No torch."""

from __future__ import annotations

from pathlib import Path

from bequest import storage
from bequest.anatomy import Anatomy
from bequest.data.corpora import open_corpus
from bequest.data.specs import TaskSpec
from bequest.errors import InputError, RunError
from bequest.planning import estimates
from bequest.planning.plan import Plan
from bequest.recipe.quantities import short_bytes
from bequest.recipe.references import key_of
from bequest.recipe.sections import Recipe, Section


def check_disk(plan: Plan, out: Path) -> None:
    """Check that a run fits on the disk; finished stages in ``out`` are not counted again.

    Raises:
        RunError: it does not (exit code 3), with what is needed and what is free.
    """
    standing, peak = 0, 0
    for stage in plan.stages:
        if not (out / stage.name).is_dir():
            peak = max(peak, standing + stage.disk_bytes + stage.checkpoint_bytes)
            standing += stage.disk_bytes
    for place, needed in ((out, peak), (storage.cache_directory(), plan.packed_bytes)):
        free = storage.free_bytes(place)
        if needed > free:
            raise RunError(
                f"about {short_bytes(needed)} of disk are needed and {short_bytes(free)} are free",
                where=place,
                remedy="free some space, lower keep, or choose another place (--out, BEQUEST_CACHE)",
            )


def check_data(recipe: Recipe) -> int:
    """Find every corpus and task that a stage reads; returns about how many bytes the packed corpora take."""
    packed = 0.0
    for name in dict.fromkeys(corpus for stage in recipe.stages for corpus in stage.corpora_used()):
        spec = recipe.corpora[name]
        try:
            corpus = open_corpus(name, spec, recipe.root)
            # A Hub data set is not touched before the run: its size is not known.
            packed += corpus.bytes * estimates.PACKED_BYTES_PER_TEXT_BYTE if corpus.files or spec.demo else 0
        except InputError as error:
            raise in_recipe(recipe, f"corpora.{name}", error) from None
    for name in dict.fromkeys(task for stage in recipe.stages for task in stage.tasks_used()):
        _check_task(recipe, name, recipe.tasks[name])
    return round(packed)


def _check_task(recipe: Recipe, name: str, spec: TaskSpec) -> None:
    for key in ("train", "test", "dev"):
        value = getattr(spec, key)
        file = recipe.root / value if value else None
        if file is not None and not file.is_file():
            raise InputError("no such file", where=recipe.source, key=f"tasks.{name}.{key}", remedy=f"make {value}")
        if file is not None and file.stat().st_size == 0:
            raise InputError(
                f"{value} is empty", where=recipe.source, key=f"tasks.{name}.{key}", remedy="put examples in it"
            )


def in_recipe(recipe: Recipe, key: str, error: InputError) -> InputError:
    """An error from below, with the recipe's file and the dotted key put on it."""
    place = f"{error.where}: " if error.where not in (None, "", recipe.source) else ""
    inner = "" if error.key is None or error.key in key else f".{error.key.rpartition('.')[2]}"
    return InputError(f"{place}{error.message}", where=recipe.source, key=f"{key}{inner}", remedy=error.remedy)


def examples_of(recipe: Recipe, task: str) -> int | None:
    """The number of training examples of a task in a plain jsonl file; None where counting would need a parser."""
    spec = recipe.tasks[task]
    file = recipe.root / spec.train if spec.train else None
    if file is None or file.suffix != ".jsonl" or file.stat().st_size > 1 << 28:
        return None
    with file.open("rb") as stream:
        return sum(1 for line in stream if line.strip())


def check_positions(recipe: Recipe, section: Section, key: str, length: int, anatomy: Anatomy) -> None:
    """Learnt positions end somewhere; roberta's start behind the padding index."""
    limit = anatomy.config.get(anatomy.family.key("max_position_embeddings"))
    if isinstance(limit, int) and anatomy.family.name == "roberta":
        limit -= 2
    if isinstance(limit, int) and length > limit:
        raise InputError(
            f"{length} is longer than the {limit} positions of the model",
            where=recipe.source,
            key=key_of(section, key),
            remedy=f"use at most {limit}, or give a new model max_position_embeddings",
        )
