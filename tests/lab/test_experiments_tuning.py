"""Which value a method runs with: the best of all its candidates, by its own outcome, and no earlier."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from experiments_support import Cells, made_row, run, written

from bequest.errors import InputError, RunError
from lab.experiments import bench
from lab.experiments.cells import Cell, cells_of
from lab.experiments.reading import load_experiment
from lab.experiments.rows import read_rows
from lab.experiments.schema import Experiment
from lab.experiments.tuning import chosen

OWN = (
    ", changes_batches: true",
    ", changes_batches: true, tuning: {values: [0.1, 0.2, 0.3], choose: {outcome: margin, best: higher}}",
)
MARGIN = ("outcomes:\n", "outcomes:\n  margin: {kind: margin, model: s2, corpus: general}\n")


class Losses(Cells):
    """Cells whose loss on general text is apart from the others."""

    def __init__(self, stream: Mapping[float, float], general: Mapping[float, float]) -> None:
        super().__init__()
        self.stream, self.general = stream, general

    def __call__(self, experiment: Experiment, cell: Cell, sources: object, directory: Path) -> object:
        assert cell.tuned is not None
        lr = cell.tuned["lr"]
        row = made_row(cell, self.stream[lr])
        losses = {**row.measures["perplexity"]["s2"], "general": {"loss": self.general[lr], "unigram": 6.0}}
        perplexity = {**row.measures["perplexity"], "s2": losses}
        return dataclasses.replace(row, measures={**row.measures, "perplexity": perplexity})


def test_a_method_may_be_tuned_by_an_outcome_of_its_own(tmp_path: Path) -> None:
    stream = {0.001: 5.0, 0.003: 3.0, 0.01: 4.0, 0.1: 3.0, 0.2: 5.0, 0.3: 4.0}
    general = {0.001: 3.0, 0.003: 5.0, 0.01: 4.0, 0.1: 5.0, 0.2: 4.0, 0.3: 3.0}
    summary, _ = run(written(tmp_path, OWN, MARGIN), tmp_path, Losses(stream, general))
    found = {(row.method, row.tuned["lr"]) for row in read_rows(summary.file)[0] if row.role == "final"}
    assert found == {("sequential", 0.003), ("replay-20", 0.3)}, "the least loss, and the widest margin"


@pytest.mark.parametrize("best", [0, 1, 2])
@pytest.mark.parametrize("method, values", [("sequential", (0.001, 0.003, 0.01)), ("replay-20", (0.1, 0.2, 0.3))])
def test_the_best_is_chosen_wherever_it_stands(
    best: int, method: str, values: tuple[float, ...], tmp_path: Path
) -> None:
    experiment = load_experiment(written(tmp_path, OWN, MARGIN))
    cells = [cell for cell in cells_of(experiment, "smoke", methods=[method]) if cell.role == "pilot"]
    assert [cell.tuned for cell in cells] == [{"lr": value} for value in values]
    rows = [made_row(cell, 3.0 + abs(number - best)) for number, cell in enumerate(cells)]
    assert chosen(experiment, method, rows) == {"lr": values[best]}
    without = dataclasses.replace(rows[best], measures={"failed": "diverged"})
    others = [row for row in rows if row is not rows[best]]
    assert chosen(experiment, method, [without, *others]) in [dict(row.tuned) for row in others]


def test_what_a_pilot_lacks_is_told_by_the_key_that_asked_for_it(tmp_path: Path) -> None:
    experiment = load_experiment(written(tmp_path, OWN, MARGIN))
    for method, key, outcome in (
        ("sequential", "tuning.choose.outcome", "final_loss"),
        ("replay-20", "methods.replay-20.tuning.choose.outcome", "margin"),
    ):
        cell = next(cell for cell in cells_of(experiment, "smoke", methods=[method]) if cell.role == "pilot")
        bare = made_row(cell, measures={"order": list(cell.sequence)})
        with pytest.raises(
            InputError, match=rf"{key}: the pilot cells do not give {outcome} .*\(see pilot_variables\)"
        ):
            chosen(experiment, method, [bare])


def test_no_value_is_chosen_before_every_candidate_has_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path)
    run(file, tmp_path, first := Cells(), results=tmp_path / "other")
    work = tmp_path / "work" / "two" / "smoke"
    for held in [cell for cell in first.ran if cell.role == "pilot"]:
        lock = bench.hold(work / held.directory_name)
        assert lock is not None

        class Stop(Exception):
            pass

        def stop(seconds: float) -> None:
            if seconds:
                raise Stop

        with monkeypatch.context() as patched, pytest.raises(Stop):
            patched.setattr(bench.time, "sleep", stop)
            run(file, tmp_path, cells := Cells(), results=tmp_path / held.directory_name)
        lock.close()
        finals = {cell.method for cell in cells.ran if cell.role == "final"}
        assert finals == {"sequential", "replay-20"} - {held.method}, held.label()


@pytest.mark.parametrize("number", [0, 1, 2])
def test_one_pilot_without_a_row_is_enough_for_no_reported_cells(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loss(cell: Cell) -> float:
        if cell.role == "pilot" and cell.tuned == {"lr": (0.001, 0.003, 0.01)[number]}:
            raise RunError("a fault", key="s1")
        return 4.0

    def never(seconds: float) -> None:
        assert not seconds, "waits for a row that will not come"

    monkeypatch.setattr(bench.time, "sleep", never)
    summary, told = run(written(tmp_path), tmp_path, cells := Cells(loss))
    assert summary.exit_code == 3 and len(cells.ran) == 6
    assert len(summary.failures) == 2 + 4 and "its pilot cell failed: sequential, order A, pilot 0" in told
    assert {row.role for row in read_rows(summary.file)[0]} == {"pilot"}
    summary, _ = run(written(tmp_path), tmp_path, again := Cells())
    assert summary.exit_code == 0 and len(again.ran) == 2 + 4, "and the pilot is tried again"
