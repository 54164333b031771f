"""What a row takes from a finished run: the student's costs are its own, everything else that trained is a source."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from experiments_support import written

from bequest import lineage, storage
from bequest.recipe import load_recipe
from lab.experiments import harvesting, resolving
from lab.experiments.cells import cells_of
from lab.experiments.harvesting import batches_digest, curve_of, harvest
from lab.experiments.reading import load_experiment
from lab.experiments.rows import Row

# A source stage before the student's two; every number is a power of ten of its own, so that a sum says what is in it.
SOURCE = (
    "    - adapt: &adapt\n",
    '    - adapt: {name: teacher, from: "${model:minilm}", domains: [general], lr: 1.0e-3, tokens: 1024, block: 32,'
    " batch_tokens: 128}\n    - adapt: &adapt\n",
)
COSTS = {
    "teacher": lineage.Cost(tokens=1, train_flops=10, teacher_flops=100),
    "s1": lineage.Cost(tokens=1000, train_flops=10**4, teacher_flops=10**5),
    "s2": lineage.Cost(tokens=10**6, train_flops=10**7, teacher_flops=10**8),
    "minilm": lineage.Cost(tokens=5, train_flops=2 * 10**9, teacher_flops=3 * 10**10),
}


def stage_at(directory: Path, name: str, lines: list[Mapping[str, object]]) -> None:
    """A stage that has finished, as far as a row reads it."""
    directory.mkdir(parents=True)
    made = lineage.Lineage(
        id="0" * 64,
        name=name,
        digests=lineage.Digests(weights=name, config=name),
        operation=lineage.Operation(stage="adapt"),
        cost=COSTS[name],
    )
    lineage.write_lineage(directory, made)
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Row:
    """The row of a made-up run whose stages have the costs above."""
    experiment = load_experiment(written(tmp_path, SOURCE))
    cell = cells_of(experiment, "smoke")[-1].with_tuned({"lr": 0.001})
    base, run = tmp_path / "base", tmp_path / "run"
    stage_at(base, "minilm", [])
    (base / "config.json").write_text("{}")
    for name in ("teacher", "s1", "s2"):
        stage_at(run / name, name, [{"kind": "batches", "update": 4, "digests": [f"{name}0", f"{name}1"]}])
    losses = {"general": {"loss": 3.0, "unigram": 6.0, "blocks": [1.0]}}
    found = {"perplexity": {str(base): losses, "s1": losses, "s2": losses}, "tasks": {}}
    (run / "measured").mkdir()
    storage.write_json(run / "measured" / "measures.json", found)
    resolved = resolving.resolve(
        experiment,
        scale="smoke",
        role="final",
        method="sequential",
        size="-",
        order=cell.sequence,
        seed=1,
        tuned={"lr": 0.001},
        sources=resolving.Sources(lambda name: name, lambda name: name, lambda name: str(base)),
    )
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({"name": "two", "seed": 1, **resolved.recipe}))
    monkeypatch.setattr(harvesting.lineage, "weights_digest", lambda place: "f" * 64)
    return harvest(cell, resolved, recipe, run, 2.0)


def test_only_the_students_costs_are_the_methods_own(row: Row) -> None:
    assert row.tokens == 1_001_000, "no source's and no base's"
    assert row.train_flops == 10_010_000
    assert row.teacher_flops == 100_100_000


def test_sources_cost_what_they_and_their_teachers_did(row: Row) -> None:
    assert row.source_flops == 10 + 100 + 2 * 10**9 + 3 * 10**10, "the stage before, and the base"


def test_costs_are_listed_stage_by_stage(row: Row) -> None:
    costs = row.measures["costs"]
    assert [(cost["of"], cost["own"]) for cost in costs] == [
        ("minilm", False),
        ("teacher", False),
        ("s1", True),
        ("s2", True),
    ]
    own = [cost for cost in costs if cost["own"]]
    assert sum(cost["train_flops"] for cost in own) == row.train_flops
    assert sum(cost["teacher_flops"] for cost in own) == row.teacher_flops
    assert sum(cost["tokens"] for cost in own) == row.tokens
    others = [cost["train_flops"] + cost["teacher_flops"] for cost in costs if not cost["own"]]
    assert sum(others) == row.source_flops


@pytest.mark.parametrize(
    "start, paid",
    [
        ("model: {family: llama}, tokenizer: ./base", False),
        ("from: ./base", True),
        ("model: {family: llama}, tokenizer: ./base, teachers: [{model: ./base, until: 0.5}]", True),
    ],
    ids=["lends its tokenizer and is measured", "base", "teacher"],
)
def test_only_what_a_model_is_made_from_is_paid_for(tmp_path: Path, start: str, paid: bool) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "recipe.yaml").write_text(
        f"""name: x
corpora: {{one: {{files: one.txt}}}}
stages:
  - pretrain: {{name: v1, {start}, corpus: one, tokens: 4096}}
  - measure: {{name: measured, models: [./base, v1], corpora: all}}
"""
    )
    found = set(harvesting.stood_on(load_recipe(tmp_path / "recipe.yaml")))
    assert found == ({tmp_path / "base"} if paid else set())


def test_copies_are_counted_in_what_grew_and_in_what_was_trained_from_it(tmp_path: Path) -> None:
    import torch

    import bequest
    from bequest import checkpoints
    from bequest.anatomy import complete_config

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = complete_config("llama", sizes, head="causal-lm", vocab_size=32)
    small = checkpoints.new_model(config, seed=0)
    grown = bequest.grow(small, {"hidden_size": 32}, method="fpi")
    checkpoints.save_model(grown, tmp_path / "grown")
    with torch.no_grad():
        for parameter in grown.parameters():
            parameter.add_(torch.rand_like(parameter))
    checkpoints.save_model(grown, tmp_path / "v1")
    (tmp_path / "recipe.yaml").write_text(
        """name: x
corpora: {one: {files: one.txt}}
stages:
  - pretrain: {name: small, model: {family: llama}, corpus: one, tokens: 4096}
  - grow: {name: grown, from: small, to: {hidden_size: 32}}
  - pretrain: {name: v1, from: grown, corpus: one, tokens: 4096}
"""
    )
    found = harvesting.symmetries(load_recipe(tmp_path / "recipe.yaml"), tmp_path)["symmetry"]
    assert found.keys() == {"grown", "v1"}, "the small one has no copies to count"
    assert found["grown"]["neuron"] == {"units": 16, "duplicated": 8, "locked": 8}
    assert found["grown"]["hidden"]["locked"] == 16 and found["v1"]["hidden"]["locked"] == 0
    assert {kind["locked"] for kind in found["v1"].values()} == {0}, "trained apart"


def test_batches_are_those_of_every_student_stage_and_of_no_source(row: Row, tmp_path: Path) -> None:
    expected = hashlib.sha256(b"s10|s11|s20|s21").hexdigest()[:12]
    assert row.batches == expected
    run = tmp_path / "run"
    assert batches_digest([run / "s1"]) != batches_digest([run / "s1", run / "s2"]) == expected
    assert batches_digest([run / "s2", run / "s1"]) != expected
    assert batches_digest([]) == ""


def test_a_model_from_outside_bears_the_labs_name(row: Row) -> None:
    assert row.bases == {"minilm": "f" * 12}
    assert row.measures["perplexity"].keys() == {"minilm", "s1", "s2"}
    assert row.measures["perplexity"]["minilm"] == {"general": {"loss": 3.0, "unigram": 6.0}}


def test_the_counts_of_a_curve_go_on_where_domains_differ_in_length(tmp_path: Path) -> None:
    def evaluated(update: int, *corpora: str) -> list[dict[str, object]]:
        return [
            {
                "kind": "eval",
                "update": update,
                "tokens": 10 * update,
                "flops": 9 * update,
                "teacher_flops": 2 * update,
                "corpus": corpus,
                "loss": 1.0,
            }
            for corpus in corpora
        ]

    lines = [
        *evaluated(0, "a"),
        {"kind": "batches", "update": 2, "digests": ["x"]},
        *evaluated(5, "a"),
        *evaluated(0, "a", "b"),
        *evaluated(3, "a", "b"),
        *evaluated(0, "b"),
        *evaluated(7, "b"),
    ]
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    curve = curve_of(file)
    assert [point["tokens"] for point in curve] == [0, 50, 50, 50, 80, 80, 80, 150]
    assert [point["train_flops"] for point in curve] == [0, 35, 35, 35, 56, 56, 56, 105]
    assert [point["teacher_flops"] for point in curve] == [0, 10, 10, 10, 16, 16, 16, 30]
    assert [point["corpus"] for point in curve] == ["a", "a", "a", "b", "a", "b", "b", "b"]
