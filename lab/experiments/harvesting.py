"""What a finished cell came to, as a row: costs from lineages, numbers from ``measures.json``, curves from metrics.

Models that the recipe takes from outside appear under the name that the lab gives them, never by a path.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bequest import lineage, storage
from bequest.recipe import Recipe, load_recipe
from lab.experiments.cells import Cell
from lab.experiments.resolving import Resolved
from lab.experiments.revisions import commit_name
from lab.experiments.rows import Row

DIGITS = 12
TUNED = ":tune"
LONG_LISTS = ("blocks", "correct", "perplexity")
"""Left out of the CSV: long, or another form of the loss."""


def harvest(cell: Cell, resolved: Resolved, recipe_file: Path, run: Path, seconds: float) -> Row:
    """The row of a cell whose run has finished.

    Args:
        cell: the cell, with its tuned value.
        resolved: its recipe as it was run.
        recipe_file: that recipe, as a file.
        run: the run directory.
        seconds: what the cell took, attempts before an interruption included.
    """
    recipe = load_recipe(recipe_file)
    trained = [section.name for section in recipe.stages if section.kind != "measure"]
    student = [name for name in trained if name in resolved.student]
    costs = {name: lineage.read_lineage(run / name).cost for name in trained}
    bases = dict(outside(recipe, resolved.models))
    made_from = {name: place for name, place in bases.items() if place in set(stood_on(recipe))}
    return Row(
        **_identity_columns(cell),
        **_circumstances(),
        batches=batches_digest(run / name for name in student),
        tokens=sum(costs[name].tokens for name in student),
        train_flops=int(sum(costs[name].train_flops for name in student)),
        teacher_flops=int(sum(costs[name].teacher_flops for name in student)),
        source_flops=int(
            sum(costs[name].train_flops + costs[name].teacher_flops for name in trained if name not in student)
            + sum(known_cost(place) for place in made_from.values())
        ),
        wall_seconds=round(seconds, 1),
        bases={name: lineage.weights_digest(place)[:DIGITS] for name, place in bases.items()},
        measures={
            **measured(recipe, run, {str(place): name for name, place in bases.items()} | resolved.models),
            "curves": {name: curve for name in trained if (curve := curve_of(run / name / "metrics.jsonl"))},
            "costs": [
                *(_cost(name, lineage.Cost(train_flops=known_cost(place))) for name, place in made_from.items()),
                *(_cost(name, costs[name], own=name in student) for name in trained),
            ],
            **symmetries(recipe, run),
            "order": list(cell.sequence),
            "versions": versions(),
        },
    )


def failed(cell: Cell, line: str, seconds: float) -> Row:
    """The row of a cell that diverged: a pilot counts as the worst, a final one is shown; neither is run again."""
    return Row(
        **_identity_columns(cell),
        **_circumstances(),
        batches="",
        tokens=0,
        train_flops=0,
        teacher_flops=0,
        source_flops=0,
        wall_seconds=round(seconds, 1),
        bases={},
        measures={"failed": line, "order": list(cell.sequence), "versions": versions()},
    )


def versions() -> dict[str, str]:
    """The libraries that a number can depend on."""
    import torch
    import transformers

    return {"torch": torch.__version__, "transformers": transformers.__version__}


def _identity_columns(cell: Cell) -> dict[str, Any]:
    names = ("experiment", "tier", "scale", "recipe", "method", "size", "order", "seed", "role", "code")
    return {name: getattr(cell, name) for name in names} | {"tuned": dict(cell.tuned or {})}


def _circumstances() -> dict[str, Any]:
    import torch

    return {
        "commit": commit_name(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        "threads": torch.get_num_threads(),
    }


def machine() -> str:
    """The accelerator, else the processor, and how many of them this process may use; never a host's name."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name(0)} x {torch.cuda.device_count()}"
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    return f"{_processor()} x {cores}"


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return " ".join(value.split())
    return platform.processor() or platform.machine()


def outside(recipe: Recipe, models: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
    """The models that a recipe takes from outside: the lab's name (else the directory's) and the directory."""
    seen = set()
    for section in recipe.stages:
        for reference in section.references():
            place = recipe.root / Path(reference.target).expanduser()
            if recipe.stage(reference.target) is None and reference.target not in seen and place.is_dir():
                seen.add(reference.target)
                yield models.get(reference.target, place.name), place


def stood_on(recipe: Recipe) -> Iterator[Path]:
    """The models from outside that something is trained or grown from; one that lends its tokenizer costs nothing."""
    for section in recipe.stages:
        for reference in section.references() if section.kind != "measure" else ():
            if reference.role != "tokenizer" and recipe.stage(reference.target) is None:
                yield recipe.root / Path(reference.target).expanduser()


def _cost(name: str, cost: lineage.Cost, *, own: bool = False) -> dict[str, Any]:
    """What a stage cost, or a base as far as its lineage knows; ``own`` is the student's."""
    flops = {"train_flops": int(cost.train_flops), "teacher_flops": int(cost.teacher_flops)}
    return {"of": name, "own": own, "tokens": cost.tokens, **flops}


def known_cost(place: Path) -> float:
    """The FLOPs that a base's own lineage knows of: training and teachers; 0 where it knows nothing."""
    if not (place / lineage.FILE).is_file():
        return 0.0
    cost = lineage.read_lineage(place).cost
    return cost.train_flops + cost.teacher_flops


def batches_digest(stages: Iterable[Path]) -> str:
    """One digest of the first batches (ids and targets) of every stage given; empty where none was recorded."""
    found = []
    for stage in stages:
        for line in lines_of(stage / "metrics.jsonl"):
            if line.get("kind") == "batches":
                found += [str(digest) for digest in line["digests"]]
    return hashlib.sha256("|".join(found).encode("utf-8")).hexdigest()[:DIGITS] if found else ""


def measured(recipe: Recipe, run: Path, names: Mapping[str, str]) -> dict[str, Any]:
    """``{"perplexity": {model: {corpus: ...}}, "tasks": {model: {task: ...}}}`` of all measure stages together.

    A task that was measured by tuned copies stands under ``TASK:tune``: one experiment may measure it by both.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {"perplexity": {}, "tasks": {}}
    for section in recipe.stages:
        if section.kind != "measure":
            continue
        for kind, models in storage.read_json(run / section.name / "measures.json").items():
            for model, values in models.items():
                short = {
                    f"{name}{TUNED}" if value.get("how") == "tune" else name: {
                        key: item for key, item in value.items() if key not in LONG_LISTS and item is not None
                    }
                    for name, value in values.items()
                }
                found[kind].setdefault(names.get(model, model), {}).update(short)
    return found


def symmetries(recipe: Recipe, run: Path) -> dict[str, Any]:
    """``{"symmetry": {stage: {kind: counts}}}`` of every grown model and of what was trained from one; else empty."""
    grown: set[str] = set()
    for section in recipe.stages:
        base = any(reference.role == "base" and reference.target in grown for reference in section.references())
        if section.kind == "grow" or (base and section.makes == "model"):
            grown.add(section.name)
    return {"symmetry": {name: symmetry_of(run / name) for name in sorted(grown)}} if grown else {}


def symmetry_of(place: Path) -> dict[str, Any]:
    """By kind of unit: how many there are, how many repeat another one, how many are locked to one."""
    from bequest import checkpoints
    from bequest.growth.duplicates import symmetry
    from bequest.growth.plan import source_anatomy

    model = checkpoints.load_model(place)
    return {kind: asdict(found) for kind, found in symmetry(model, source_anatomy(model)).items()}


def curve_of(file: Path) -> list[dict[str, Any]]:
    """The held-out losses of a stage while it trained, by tokens and FLOPs since the stage began.

    A stage of several domains counts anew in each; here the counts go on.
    """
    counts = ("tokens", "train_flops", "teacher_flops")
    before, last = dict.fromkeys(counts, 0), dict.fromkeys(counts, 0)
    update, seen = 0, set[object]()
    curve = []
    for line in lines_of(file):
        what = (line.get("kind"), line.get("corpus"))
        if line.get("update", 0) < update or (line.get("update") == update and what in seen):
            before = {name: before[name] + last[name] for name in counts}
            seen = set()
        if line.get("update", 0) != update:
            update, seen = line.get("update", 0), set()
        seen.add(what)
        if line.get("kind") == "eval":
            teacher = line["teacher_flops"]
            last = {"tokens": line["tokens"], "train_flops": line["flops"] - teacher, "teacher_flops": teacher}
            totals = {name: before[name] + last[name] for name in counts}
            curve.append({**totals, "corpus": line["corpus"], "loss": line["loss"]})
    return curve


def lines_of(file: Path) -> Iterator[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``; none where there is no file."""
    if file.is_file():
        for text in file.read_text(encoding="utf-8").splitlines():
            yield json.loads(text)
