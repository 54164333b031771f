"""Made-up experiments and rows for the tests of comparing and of the evidence page; nothing is trained."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lab.evidence.gathering import compare
from lab.experiments.comparing import Comparison
from lab.experiments.reading import load_experiment
from lab.experiments.resolving import UNCHECKED, recipe_hash
from lab.experiments.rows import Row, append_row
from lab.experiments.schema import Experiment

EXPERIMENT = """\
name: toy
question: Does a little replay keep what the first domain taught?
tier: finals
baseline: sequential
methods:
  sequential: {calls: [sequential]}
  replay-5: {calls: [{name: replay, share: 0.05}], changes_batches: true}
  kd: {calls: [{name: replay, share: 0.5}]}
orders: {A: [one, two], B: [two, one]}
tuning: {variable: lr, values: [5.0e-5, 1.0e-4, 2.0e-4], choose: {outcome: final_loss, best: lower}}
scales:
  cpu: {seeds: [1, 2, 3], pilot: 0, pilot_variables: {probes: []}, tokens: 300k, probes: [role]}
  gpu: {seeds: [1, 2], pilot: 0, tokens: 3M, probes: [role]}
recipe:
  corpora:
    one: {files: "${corpus:one}"}
    two: {files: "${corpus:two}"}
    general: {files: "${corpus:general}"}
  tasks:
    role: {train: "${task:role}/train.jsonl", test: "${task:role}/test.jsonl"}
  stages:
    - adapt: {name: s1, from: "${model:base}", domains: ["${order[0]}"], method: "${method.calls}", lr: "${tuned.lr}",
              tokens: "${scale.tokens}", mask_seed: "${seed}"}
    - adapt: {name: s2, from: s1, domains: ["${order[1]}"], method: "${method.calls}", lr: "${tuned.lr}",
              tokens: "${scale.tokens}", mask_seed: "${seed}"}
    - measure: {name: measured, models: ["${model:base}", s1, s2], corpora: all, tasks: "${scale.probes}"}
student: [s1, s2]
outcomes:
  final_loss: {kind: matrix, metric: final, models: [base, s1, s2]}
  forget: {kind: matrix, metric: forget, models: [base, s1, s2]}
  general_drop: {kind: matrix, metric: general_drop, probe: general, models: [base, s1, s2]}
  role: {kind: accuracy, model: s2, task: role}
claims:
  - {says: Sequential training loses general ability., outcome: general_drop, of: sequential, expect: above 0,
     source: a paper, paper: "+0.30"}
  - {says: Replay removes half of the forgetting, outcome: forget, of: replay-5, against: sequential, ratio: true,
     expect: below 0.5, paper: 0.5 or less}
  - {says: Distillation ends lower than plain training, outcome: final_loss, of: kd, against: sequential,
     expect: below 0}
"""

ONE_ORDER = EXPERIMENT.replace("orders: {A: [one, two], B: [two, one]}", "orders: {A: [one, two]}")
UNIGRAM = {"one": 7.0, "two": 7.2, "general": 6.8}
GENERAL_DROP = {"sequential": 0.4, "replay-5": 0.1, "kd": 0.3}
FORGET = {"sequential": 0.8, "replay-5": 0.2, "kd": 0.5}
FINAL = {"sequential": 3.8, "replay-5": 3.6, "kd": 4.0}


def experiment_of(root: Path, text: str = EXPERIMENT) -> Experiment:
    """The made-up experiment, which stands as ``root/lab/toy.yaml``; of one text always the same object."""
    file = root / "lab" / "toy.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    if text not in LOADED:
        LOADED[text] = load_experiment(file)
    return LOADED[text]


LOADED: dict[str, Experiment] = {}
HASHES: dict[tuple[int, str, str, str, str], str] = {}


def hash_of(experiment: Experiment, scale: str, method: str, order: str, role: str = "final") -> str:
    """The recipe's hash, computed once: an experiment of ``LOADED`` stays the object that it is."""
    key = (id(experiment), scale, method, order, role)
    if key not in HASHES:
        HASHES[key] = recipe_hash(experiment, scale, method, "-", order, UNCHECKED, role)
    return HASHES[key]


def row_of(
    experiment: Experiment,
    method: str,
    seed: int,
    order: str = "A",
    *,
    scale: str = "cpu",
    lift: float = 0.0,
    **more: Any,
) -> Row:
    """One final row; ``lift`` raises every loss, so that all may lie near the unigram line."""
    noise = random.Random(f"{seed}{order}").uniform(-0.02, 0.02)
    own = random.Random(f"{method}{seed}{order}").uniform(-0.01, 0.01)
    first, second = experiment.orders[order]
    end = FINAL[method] + noise + own
    losses = {
        "base": {"one": 5.0, "two": 5.2, "general": 3.0},
        "s1": {first: end - FORGET[method] - noise, second: 5.1, "general": 3.1},
        "s2": {first: end, second: end - 0.4, "general": 3.0 + GENERAL_DROP[method] + own},
    }
    perplexity = {
        model: {corpus: {"loss": loss + lift, "unigram": UNIGRAM[corpus]} for corpus, loss in found.items()}
        for model, found in losses.items()
    }
    tasks = {"s2": {"role": {"accuracy": [0.7 + own], "macro_f1": [0.6 + own], "how": "linear"}}}
    row = Row(
        experiment="toy",
        tier="finals",
        scale=scale,
        recipe=hash_of(experiment, scale, method, order),
        method=method,
        size="-",
        order=order,
        seed=seed,
        role="final",
        tuned={"lr": 0.0001},
        code="0123456789ab",
        commit="5c66b0c",
        date="2026-05-01",
        machine="Made-up Processor x 2",
        threads=2,
        batches=f"{order}{seed}" + ("r" if method == "replay-5" else ""),
        tokens=600_000,
        train_flops=10**15,
        teacher_flops=10**14 if method == "kd" else 0,
        source_flops=0,
        wall_seconds=240.0,
        bases={"base": "aaaaaaaaaaaa"},
        measures={"perplexity": perplexity, "tasks": tasks, "curves": {}, "order": list(experiment.orders[order])},
    )
    return replace(row, **more)


def pilot_of(experiment: Experiment, method: str, value: float, loss: float) -> Row:
    """One pilot row at the lr ``value`` whose final loss is about ``loss``."""
    row = row_of(experiment, method, 0, lift=loss - FINAL[method])
    recipe = hash_of(experiment, "cpu", method, "A", "pilot")
    return replace(row, role="pilot", tuned={"lr": value}, recipe=recipe)


def rows_of(
    experiment: Experiment, methods: Iterable[str] = ("sequential", "replay-5", "kd"), **more: Any
) -> list[Row]:
    """Every seed and order of each method."""
    return [
        row_of(experiment, method, seed, order, **more)
        for method in methods
        for seed in experiment.scales["cpu"].seeds
        for order in experiment.orders
    ]


def pilots_of(experiment: Experiment, methods: Iterable[str] = ("sequential", "replay-5", "kd")) -> list[Row]:
    """Three candidates of each method; the second, with which the rows were run, is the best."""
    tried = ((5e-5, 3.9), (1e-4, 3.8), (2e-4, 3.85))
    return [pilot_of(experiment, method, value, loss) for method in methods for value, loss in tried]


def failed_of(row: Row) -> Row:
    """The row as the runner writes it when the cell diverges."""
    nothing = {"batches": "", "tokens": 0, "train_flops": 0, "teacher_flops": 0, "source_flops": 0, "bases": {}}
    measures = {"failed": "s2: the loss is not finite", "order": list(row.sequence)}
    return replace(row, **nothing, measures=measures)


def compared(experiment: Experiment, rows: Iterable[Row], scale: str = "cpu") -> Comparison:
    """The comparison with every name standing for itself."""
    return compare(experiment, scale, rows, UNCHECKED)


def written(root: Path, rows: Iterable[Row]) -> Path:
    """The rows as ``root/lab/results/toy.csv``."""
    path = root / "lab" / "results" / "toy.csv"
    path.unlink(missing_ok=True)
    for row in rows:
        append_row(path, row)
    return path


def with_measures(row: Row, **more: Mapping[str, Any]) -> Row:
    """The row with parts of its measures replaced."""
    return replace(row, measures={**row.measures, **more})
