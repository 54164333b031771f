"""Checks before a run: every corpus and task is there, positions suffice, the disk has room.  No torch."""

from __future__ import annotations

from pathlib import Path

from bequest import storage
from bequest.anatomy import Anatomy
from bequest.data.corpora import open_corpus
from bequest.data.demo_tasks import TASKS as EMBEDDED_TASKS
from bequest.data.specs import TaskSpec
from bequest.data.tasks import load_task
from bequest.errors import InputError, RunError, did_you_mean
from bequest.planning import estimates
from bequest.planning.plan import Plan
from bequest.recipe.ancestry import earlier_corpora
from bequest.recipe.quantities import short_bytes
from bequest.recipe.references import key_of
from bequest.recipe.sections import Recipe, Section

EMBEDDED_BYTES = 2_000_000  # of each embedded corpus, about
READ_BELOW_BYTES = 64 << 20  # a plan answers in seconds: a larger task is read when the run starts


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


def check_data(recipe: Recipe) -> tuple[int, dict[str, int]]:
    """Find every corpus and read every task that a stage uses.

    Returns:
        About how many bytes the packed corpora take, and the training examples of each task as far as they are known
        (embedded and very large tasks are not read).
    """
    packed = 0.0
    for name in dict.fromkeys(corpus for stage in recipe.stages for corpus in corpora_read(recipe, stage)):
        spec = recipe.corpora[name]
        try:
            corpus = open_corpus(name, spec, recipe.root)
        except InputError as error:
            raise in_recipe(recipe, f"corpora.{name}", error) from None
        # The size of a Hub data set is not known before it is fetched, and reading the embedded text takes seconds.
        size = corpus.bytes if corpus.files else EMBEDDED_BYTES if spec.demo is not None else 0
        packed += size * estimates.PACKED_BYTES_PER_TEXT_BYTE
    tasks = dict.fromkeys(task for stage in recipe.stages for task in stage.tasks_used())
    examples = {name: _check_task(recipe, name, recipe.tasks[name]) for name in tasks}
    return round(packed), {name: count for name, count in examples.items() if count is not None}


def corpora_read(recipe: Recipe, section: Section) -> list[str]:
    """The corpora that a stage reads: its own, and in an adapt stage those of its ancestors."""
    return [*section.corpora_used(), *(earlier_corpora(recipe, section) if section.kind == "adapt" else [])]


def _check_task(recipe: Recipe, name: str, spec: TaskSpec) -> int | None:
    """The number of training examples, where the task is read."""
    if spec.demo is not None:
        if spec.demo not in EMBEDDED_TASKS:
            remedy = did_you_mean(spec.demo, EMBEDDED_TASKS)
            raise InputError(
                f"no embedded task {spec.demo!r}", where=recipe.source, key=f"tasks.{name}.demo", remedy=remedy
            )
        return None
    sizes = []
    for key in ("train", "test", "dev"):
        value = getattr(spec, key)
        file = recipe.root / value if value else None
        if file is not None and not (file.is_file() and file.stat().st_size):
            what = f"{value} is empty" if file.is_file() else f"{value}: no such file"
            remedy = f"paths start from {recipe.root}/"
            raise InputError(what, where=recipe.source, key=f"tasks.{name}.{key}", remedy=remedy)
        sizes.append(file.stat().st_size if file is not None else 0)
    if sum(sizes) > READ_BELOW_BYTES:
        return None
    try:
        return len(load_task(name, spec, recipe.root).train)
    except InputError as error:
        raise in_recipe(recipe, f"tasks.{name}", error) from None


def in_recipe(recipe: Recipe, key: str, error: InputError) -> InputError:
    """An error from below, with the recipe's file and the dotted key put on it."""
    place = f"{error.where}: " if error.where not in (None, "", recipe.source) else ""
    inner = "" if error.key is None or error.key in key else f".{error.key.rpartition('.')[2]}"
    return InputError(f"{place}{error.message}", where=recipe.source, key=f"{key}{inner}", remedy=error.remedy)


def check_positions(recipe: Recipe, section: Section, key: str, length: int, anatomy: Anatomy) -> None:
    """Positions end somewhere."""
    if length > anatomy.longest:
        raise InputError(
            f"{length} is longer than the {anatomy.longest} positions of the model",
            where=recipe.source,
            key=key_of(section, key),
            remedy=f"use at most {anatomy.longest}, or give a new model max_position_embeddings",
        )
