"""One cell: write its recipe, run it as any bequest run, take its row out of what it left.

An interrupted cell resumes by itself: its directory is the same as long as its key and the code are.  Everything that
the run prints goes to ``log.txt`` there.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

from bequest import storage
from bequest.errors import BequestError, InputError, RunError
from lab.experiments import harvesting, resolving
from lab.experiments.cells import Cell
from lab.experiments.resolving import Sources
from lab.experiments.rows import Row
from lab.experiments.schema import Experiment

RECIPE, RUN, LOG, SECONDS = "recipe.yaml", "run", "log.txt", "seconds.json"
KEPT = {"lineage.json", "measures.json", "metrics.jsonl", "stage.json", "README.md"}
"""What stays of a stage when its weights go."""


def run_cell(experiment: Experiment, cell: Cell, sources: Sources, directory: Path) -> Row:
    """Run one cell, or go on with it, and return its row.

    Args:
        experiment: the experiment.
        cell: a cell with its tuned value.
        sources: where corpora, tasks and models lie.
        directory: the cell's own; made when missing.

    Raises:
        BequestError: as :func:`bequest.run`, or a corpus, task or model that cannot be had.
    """
    from rich.console import Console

    import bequest

    started = time.monotonic()
    resolved = resolving.resolve(
        experiment,
        scale=cell.scale,
        role=cell.role,
        method=cell.method,
        size=cell.size,
        order=cell.sequence,
        seed=cell.seed,
        tuned=cell.tuned or {},
        sources=sources,
    )
    directory.mkdir(parents=True, exist_ok=True)
    _write_recipe(experiment, cell, resolved.recipe, directory / RECIPE)
    before = spent(directory)
    try:
        with (directory / LOG).open("a", encoding="utf-8") as log:
            bequest.run(directory / RECIPE, out=directory / RUN, console=Console(file=log, width=120))
    finally:
        seconds = before + time.monotonic() - started
        storage.write_json(directory / SECONDS, {"seconds": round(seconds, 1)})
    return harvesting.harvest(cell, resolved, directory / RECIPE, directory / RUN, seconds)


def spent(directory: Path) -> float:
    """Seconds that earlier attempts at a cell took; those of a process that was killed outright are not known."""
    file = directory / SECONDS
    try:
        found = storage.read_json(file) if file.is_file() else None
    except InputError:  # as a killed machine left it: the seconds are forgotten, and the cell still runs
        return 0.0
    seconds = found.get("seconds") if isinstance(found, dict) else None
    return float(seconds) if isinstance(seconds, int | float) and 0 <= seconds <= sys.float_info.max else 0.0


def diverged(error: BequestError) -> bool:
    """Whether a cell failed because its training did: a loss, or a weight, that is not a finite number."""
    return isinstance(error, RunError) and "finite" in error.message


def tidy(directory: Path) -> None:
    """Remove the weights of a cell whose row stands; recipe, report, lineages, measures and metrics stay."""
    run = directory / RUN
    (directory / SECONDS).unlink(missing_ok=True)  # they stand in the row; a cell made again counts anew
    if not run.is_dir():
        return
    for stage in [place for place in run.iterdir() if place.is_dir()]:
        if stage.name.startswith("."):
            shutil.rmtree(stage, ignore_errors=True)
            continue
        for entry in stage.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            elif entry.name not in KEPT:
                entry.unlink(missing_ok=True)


def _write_recipe(experiment: Experiment, cell: Cell, recipe: object, path: Path) -> None:
    from omegaconf import OmegaConf

    assert isinstance(recipe, dict)
    whole = OmegaConf.create({"name": experiment.name, "seed": cell.seed, **recipe})
    storage.write_text(path, f"# {experiment.name} at {cell.scale}: {cell.label()}\n{OmegaConf.to_yaml(whole)}")
