"""Training a model of the kit by an ordinary bequest recipe, and publishing what came out.

The recipe is written beside the run, so it can be read and run by hand; a run that was interrupted resumes.  Held-out
text is dealt by bequest's own rule (by group, seed 0): a recipe that gives the same corpus the same or a smaller
``held_out`` share holds out nothing that these models have read.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bequest import lineage, storage
from bequest.errors import RunError
from lab.models.making import Job


def corpus_sections(job: Job) -> dict[str, Any]:
    """The ``corpora`` of a recipe: every corpus of the job, with the share that the settings hold out."""
    share = job.settings["held_out"]
    return {name: {"files": str(path), "group": "group", "held_out": share} for name, path in job.corpora.items()}


def run_recipe(job: Job, recipe: Mapping[str, Any]) -> Path:
    """Run a recipe over the job's corpora in its working directory, or resume it; returns the run directory."""
    import yaml

    import bequest

    path = job.work / "recipe.yaml"
    whole = {**recipe, "corpora": corpus_sections(job)}
    storage.write_text(path, yaml.safe_dump(whole, sort_keys=False, allow_unicode=True))
    return bequest.run(path, job.work / "run", console=job.console).out


def publish(generation: Path, target: Path) -> None:
    """Copy a finished stage to where the model will stand; its parents are known by name and id only from there."""
    shutil.copytree(generation, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("stage.json"))
    record = lineage.read_lineage(target)
    parents = [parent.model_copy(update={"path": None}) for parent in record.parents]
    lineage.write_lineage(target, record.model_copy(update={"parents": parents}))


def held_out_figures(generation: Path, corpus: str) -> Mapping[str, float]:
    """The closing ``loss`` and the ``unigram`` entropy on a corpus's held-out text, in nats per token, and the
    ``tokens_per_second`` and ``tokens`` of the training.

    Raises:
        RunError: the stage measured nothing there.
    """
    record = lineage.read_lineage(generation)
    measured = record.measures.get("held_out", {}).get(corpus)
    if not measured:
        raise RunError("its training measured no held-out text", where=generation, key=corpus)
    cost = record.cost
    return {
        "loss": measured["loss"],
        "unigram": measured["unigram"],
        "tokens": cost.tokens,
        "tokens_per_second": round(cost.tokens / max(cost.wall_seconds, 0.1)),
    }
