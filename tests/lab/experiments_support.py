"""A small experiment for the tests of the runner, and cells that are made up instead of run."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from lab.experiments import bench
from lab.experiments.cells import Cell
from lab.experiments.made_up import IDENTITIES
from lab.experiments.resolving import Sources
from lab.experiments.rows import Row
from lab.experiments.running import run_experiment
from lab.experiments.schema import Experiment

EXPERIMENT = """\
# Two domains, two methods.
name: two
question: Does the runner run?
tier: finals
baseline: sequential
methods:
  sequential: {calls: [sequential]}
  replay-20: {calls: [{name: replay, share: 0.2}], changes_batches: true}
orders:
  A: [biomedical, reviews]
tuning:
  variable: lr
  values: [1.0e-3, 3.0e-3, 1.0e-2]
  choose: {outcome: final_loss, best: lower}
scales:
  smoke: {seeds: [1, 2], pilot: 0, pilot_variables: {probes: []}, tokens: 1024, probes: [polarity]}
recipe:
  corpora:
    biomedical: {files: "${corpus:biomedical}", group: group, held_out: 0.05}
    reviews: {files: "${corpus:reviews}", group: group, held_out: 0.05}
    general: {files: "${corpus:general}", group: group, held_out: 0.05}
  tasks:
    polarity: {train: "${task:polarity}/probe-train.jsonl", test: "${task:polarity}/probe-test.jsonl"}
  stages:
    - adapt: &adapt
        name: s1
        from: "${model:minilm}"
        domains: ["${order[0]}"]
        method: "${method.calls}"
        lr: "${tuned.lr}"
        tokens: "${scale.tokens}"
        block: 32
        batch_tokens: 128
        evaluate_every: 1.0
        checkpoint_every: null
    - adapt: {<<: *adapt, name: s2, from: s1, domains: ["${order[1]}"]}
    - measure: {name: measured, models: ["${model:minilm}", s1, s2], corpora: all, tasks: "${scale.probes}", block: 32}
student: [s1, s2]
outcomes:
  final_loss: {kind: matrix, metric: final, models: [minilm, s1, s2]}
  forget: {kind: matrix, metric: forget, models: [minilm, s1, s2]}
  polarity: {kind: accuracy, model: s2, task: polarity}
claims:
  - {says: replay forgets less, outcome: forget, of: replay-20, against: sequential, expect: below 0}
"""


def written(directory: Path, *changes: tuple[str, str]) -> Path:
    """The experiment as a file, with pieces of its text replaced; each piece must be there."""
    text = EXPERIMENT
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    file = directory / "two.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def names(sources: Sources = IDENTITIES) -> Callable[[], Sources]:
    """What stands in for the lab's own identities."""
    return lambda: sources


def made_row(cell: Cell, loss: float = 4.0, **more: Any) -> Row:
    """The row of a cell whose losses are all ``loss``."""
    losses = {corpus: {"loss": loss, "unigram": 6.0} for corpus in ("biomedical", "reviews", "general")}
    columns: dict[str, Any] = {
        "experiment": cell.experiment,
        "tier": cell.tier,
        "scale": cell.scale,
        "recipe": cell.recipe,
        "method": cell.method,
        "size": cell.size,
        "order": cell.order,
        "seed": cell.seed,
        "role": cell.role,
        "tuned": dict(cell.tuned or {}),
        "code": cell.code,
        "commit": "0123456",
        "date": "2026-01-01",
        "machine": "made up x 1",
        "threads": 1,
        "batches": f"seed{cell.seed}",
        "tokens": 2048,
        "train_flops": 10**9,
        "teacher_flops": 0,
        "source_flops": 0,
        "wall_seconds": 1.5,
        "bases": {"minilm": "0" * 12},
        "measures": {
            "perplexity": dict.fromkeys(("minilm", "s1", "s2"), losses),
            "order": list(cell.sequence),
        },
    }
    return Row(**{**columns, **more})


class Cells:
    """Stands in for the runs of cells: counts them, and answers by ``loss``, which may raise."""

    def __init__(self, loss: Callable[[Cell], float] = lambda cell: 4.0, **more: Any) -> None:
        self.loss, self.more, self.ran = loss, more, list[Cell]()

    def __call__(self, experiment: Experiment, cell: Cell, sources: Sources, directory: Path) -> Row:
        self.ran.append(cell)
        stage = directory / "run" / "s1"
        stage.mkdir(parents=True, exist_ok=True)
        (stage / "model.safetensors").write_text("weights")
        (stage / "lineage.json").write_text("{}")
        return made_row(cell, self.loss(cell), **self.more)


def run(file: Path, place: Path, cells: Cells | None = None, **options: Any) -> tuple[bench.Summary, str]:
    """Run the experiment at the smoke scale below ``place``; returns the summary and what was told."""
    out = io.StringIO()
    console = Console(file=out, width=200)
    if cells is not None:
        bench.run_cell, before = cells, bench.run_cell
    try:
        options = {"results": place / "results", "work": place / "work", **options}
        return run_experiment(file, "smoke", console=console, **options), out.getvalue()
    finally:
        if cells is not None:
            bench.run_cell = before
