"""A whole experiment at the smoke scale, really run: its rows, its pairing, a pilot that diverges, going on."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from experiments_support import run, written

from bequest import lineage
from bequest.errors import Interrupted
from lab.experiments import one_cell
from lab.experiments.bench import Summary
from lab.experiments.harvesting import curve_of
from lab.experiments.made_up import MadeUp
from lab.experiments.rows import Row, read_rows

CHANGES = (
    # A method that keeps the batches, and one that changes them without saying so: the negative control of pairing.
    ("methods:\n", "methods:\n  floor: {calls: [{name: sequential, min_lr_ratio: 0.5}]}\n"),
    (", changes_batches: true", ""),
    ("[1.0e-3, 3.0e-3, 1.0e-2]", "[1.0e-2, 1.0e+30]"),
    ("seeds: [1, 2]", "seeds: [1]"),
    # The last model is measured by a probe and by a tuned copy: both must reach the row.
    (
        "student:",
        '    - measure: {name: tuned, models: [s2], tasks: "${scale.probes}", probe: tune, seeds: 1}\nstudent:',
    ),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("smoke")


@pytest.fixture(scope="module")
def done(place: Path) -> tuple[Summary, str]:
    return run(written(place, *CHANGES), place)


@pytest.fixture(scope="module")
def finals(done: tuple[Summary, str]) -> dict[str, Row]:
    return {row.method: row for row in read_rows(done[0].file)[0] if row.role == "final"}


def test_every_cell_has_its_row(done: tuple[Summary, str], finals: dict[str, Row]) -> None:
    summary, told = done
    assert summary.exit_code == 0 and len(summary.ran) == summary.total == 9
    assert {row.tuned["lr"] for row in finals.values()} == {0.01} and len(finals) == 3
    pilots = [row for row in read_rows(summary.file)[0] if row.role == "pilot"]
    diverged = {row.tuned["lr"]: row.failed for row in pilots}
    assert diverged.keys() == {0.01, 1e30} and diverged[0.01] is None and "finite" in str(diverged[1e30])
    assert all("polarity" not in row.measures.get("tasks", {}).get("s2", {}) for row in pilots)
    assert "diverged" in told


def test_what_a_row_says(finals: dict[str, Row]) -> None:
    row = finals["sequential"]
    assert row.tokens == 2 * 1024 and row.train_flops > 0 and row.teacher_flops == row.source_flops == 0
    assert list(row.bases) == ["minilm"] and re.fullmatch(r"[0-9a-f]{12}", row.bases["minilm"])
    assert re.fullmatch(r"[0-9a-f]{12}", row.batches) and row.wall_seconds > 0 and row.threads >= 1
    losses = row.measures["perplexity"]
    assert losses.keys() == {"minilm", "s1", "s2"}
    assert all(found.keys() == {"biomedical", "reviews", "general"} for found in losses.values())
    assert losses["s2"]["reviews"]["loss"] < losses["minilm"]["reviews"]["loss"]
    assert {"loss", "unigram"} <= losses["s2"]["reviews"].keys() and "blocks" not in losses["s2"]["reviews"]
    scores = row.measures["tasks"]
    assert {name: score["how"] for name, score in scores["s2"].items()} == {
        "polarity": "linear",
        "polarity:tune": "tune",
    }
    assert 0 <= scores["s2"]["polarity"]["accuracy"][0] <= 1 and scores["s1"].keys() == {"polarity"}
    curves = row.measures["curves"]
    curve = curves["s1"]
    assert curve[-1]["tokens"] == 1024 and curve[0]["corpus"] == "biomedical"
    assert sum(curves[stage][-1]["train_flops"] for stage in ("s1", "s2")) == row.train_flops


def test_the_batches_of_every_student_stage_are_in_the_digest(finals: dict[str, Row], place: Path) -> None:
    for method, row in finals.items():
        [cell] = (place / "work" / "two" / "smoke").glob(f"{method}-A-s1-final-*")
        found = []
        for stage in ("s1", "s2"):
            lines = [json.loads(line) for line in (cell / "run" / stage / "metrics.jsonl").read_text().splitlines()]
            own = [digest for line in lines if line.get("kind") == "batches" for digest in line["digests"]]
            assert own, stage
            found += own
        assert row.batches == hashlib.sha256("|".join(found).encode()).hexdigest()[:12]


def test_a_row_holds_no_path(done: tuple[Summary, str], place: Path) -> None:
    text = done[0].file.read_text()
    assert str(place) not in text and "/" not in json.dumps([row.measures for row in read_rows(done[0].file)[0]])


def test_methods_that_keep_the_batches_are_paired_and_one_that_does_not_is_told_of(
    done: tuple[Summary, str], finals: dict[str, Row]
) -> None:
    assert finals["floor"].batches == finals["sequential"].batches
    assert finals["floor"].measures["perplexity"]["s2"] != finals["sequential"].measures["perplexity"]["s2"]
    assert finals["replay-20"].batches != finals["sequential"].batches
    assert finals["replay-20"].measures["unpaired"] == ["floor", "sequential"]
    assert "unpaired" not in finals["sequential"].measures
    assert "UNPAIRED: replay-20, order A, seed 1" in done[1]


def test_weights_are_gone_and_the_record_stays(done: tuple[Summary, str], place: Path) -> None:
    work = place / "work" / "two" / "smoke"
    assert [path for path in work.rglob("*") if path.suffix in (".safetensors", ".bin", ".pt")] == []
    [cell] = work.glob("sequential-A-s1-final-*")
    assert {path.name for path in (cell / "run").iterdir()} > {"run.json", "recipe.yaml", "report.html", "s1"}
    assert lineage.read_lineage(cell / "run" / "s2").cost.tokens == 1024
    assert (cell / "run" / "s2" / "metrics.jsonl").is_file() and (cell / "run" / "measured" / "measures.json").is_file()


def test_a_cell_elsewhere_gives_the_same_row_and_an_interrupted_one_resumes(
    done: tuple[Summary, str], finals: dict[str, Row], place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = done[0].file.read_text().splitlines(keepends=True)
    results = tmp_path / "results"
    results.mkdir()
    assert ",floor,-,A,1,final," in lines[-3]
    (results / "two.csv").write_text("".join([*lines[:-3], *lines[-2:]]))

    def stop(*_: object) -> Row:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(one_cell.harvesting, "harvest", stop)
        run(place / "two.yaml", tmp_path)
    summary, _ = run(place / "two.yaml", tmp_path)
    assert [cell.method for cell in summary.ran] == ["floor"]
    [log] = (tmp_path / "work" / "two").rglob("log.txt")
    assert log.read_text().count("already done") == 4, "the stages that had finished were not run again"
    [row] = [row for row in read_rows(summary.file)[0] if row.method == "floor" and row.role == "final"]
    assert row.measures["unpaired"] == ["replay-20"], "whose row stood before, here"
    once = finals["floor"]
    assert {**row.measures, "unpaired": None} == {**once.measures, "unpaired": None}
    assert (row.batches, row.bases) == (once.batches, once.bases)


def test_curves_go_on_over_the_domains_of_a_stage(tmp_path: Path) -> None:
    def lines(corpora: list[str], updates: list[int]) -> str:
        found = [{"kind": "batches", "update": min(4, updates[-1]), "digests": ["a"]}]
        found += [
            {
                "kind": "eval",
                "update": n,
                "tokens": 10 * n,
                "flops": 7 * n,
                "teacher_flops": 2 * n,
                "corpus": c,
                "loss": 1.0,
            }
            for n in updates
            for c in corpora
        ]
        return "".join(json.dumps(line) + "\n" for line in sorted(found, key=lambda line: line["update"]))

    file = tmp_path / "metrics.jsonl"
    file.write_text(lines(["a"], [0, 4, 8]) + lines(["a", "b"], [8]) + lines(["a", "b"], [8]))
    found = [
        (point["tokens"], point["train_flops"], point["teacher_flops"], point["corpus"]) for point in curve_of(file)
    ]
    first = [(0, 0, 0, "a"), (40, 20, 8, "a"), (80, 40, 16, "a")]
    assert found == [*first, *((n * 80, n * 40, n * 16, c) for n in (2, 3) for c in ("a", "b"))]


def test_made_up_things_are_the_same_everywhere(tmp_path: Path) -> None:
    first, second = MadeUp(tmp_path / "first"), MadeUp(tmp_path / "second")
    assert first.corpus("reviews").read_bytes() == second.corpus("reviews").read_bytes()
    assert first.corpus("reviews").read_bytes() != first.corpus("general").read_bytes()
    for split in ("train", "test", "probe-train", "probe-test"):
        name = f"{split}.jsonl"
        assert (first.task("spam") / name).read_bytes() == (second.task("spam") / name).read_bytes()
    for model, family in (("minilm", "bert"), ("bench2m", "llama")):
        assert lineage.weights_digest(first.model(model)) == lineage.weights_digest(second.model(model))
        assert lineage.read_lineage(first.model(model)).digests == lineage.read_lineage(second.model(model)).digests
        assert json.loads((first.model(model) / "config.json").read_text())["model_type"] == family
    shutil.rmtree(tmp_path / "first" / "corpora")
    assert first.model("minilm").is_dir(), "made once"
