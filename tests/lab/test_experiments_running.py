"""The runner: tuning, going on from the CSV alone, sharing cells, stopping in time, cells that fail, pairing."""

from __future__ import annotations

import math
import multiprocessing
import sys
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from experiments_support import Cells, made_row, run, written

from bequest.errors import InputError, Interrupted, RunError
from lab.experiments import bench, one_cell
from lab.experiments.cells import Cell
from lab.experiments.rows import read_rows
from lab.experiments.schema import Experiment

UNSAID = (", changes_batches: true", "")


def best_at(*, sequential: float, replay: float) -> Cells:
    """Cells whose loss is least at one candidate of each method."""
    best = {"sequential": sequential, "replay-20": replay}

    def loss(cell: Cell) -> float:
        assert cell.tuned is not None
        return 3.0 + abs(math.log(cell.tuned["lr"] / best[cell.method]))

    return Cells(loss)


def test_tuning_picks_the_best_and_the_pilot_is_not_reported(tmp_path: Path) -> None:
    cells = best_at(sequential=0.01, replay=0.003)
    summary, told = run(written(tmp_path), tmp_path, cells)
    rows, _ = read_rows(summary.file)
    assert len(rows) == len(cells.ran) == summary.total == 10
    finals = [row for row in rows if row.role == "final"]
    assert {(row.method, row.tuned["lr"]) for row in finals} == {("sequential", 0.01), ("replay-20", 0.003)}
    assert {row.seed for row in finals} == {1, 2} and {row.seed for row in rows if row.role == "pilot"} == {0}
    assert "[10/10] replay-20, order A, seed 2 (lr 0.003): final_loss 3.0000" in told


def test_of_equals_the_first_is_chosen_and_higher_may_be_better(tmp_path: Path) -> None:
    higher = ("choose: {outcome: final_loss, best: lower}", "choose: {outcome: margin, best: higher}")
    margin = ("outcomes:\n", "outcomes:\n  margin: {kind: margin, model: s2, corpus: general}\n")
    for name, change, expected in (("lower", [], 0.001), ("higher", [higher, margin], 0.003)):
        place = tmp_path / name
        place.mkdir()
        cells = best_at(sequential=0.003, replay=0.003) if change else Cells()
        summary, _ = run(written(place, *change), place, cells)
        found = {row.tuned["lr"] for row in read_rows(summary.file)[0] if row.role == "final"}
        assert found == {expected}, name


def test_it_goes_on_from_the_rows_alone(tmp_path: Path) -> None:
    file, whole = written(tmp_path), tmp_path / "whole"
    run(file, whole, best_at(sequential=0.01, replay=0.003))

    def stop(cell: Cell) -> float:
        if len(cells.ran) == 5:
            raise KeyboardInterrupt
        return first.loss(cell)

    first, cells = best_at(sequential=0.01, replay=0.003), Cells(stop)
    with pytest.raises(Interrupted) as caught:
        run(file, tmp_path / "one", cells)
    assert "4 cells were finished" in caught.value.line() and "run the same command again" in caught.value.line()
    results = tmp_path / "one" / "results"
    again = best_at(sequential=0.01, replay=0.003)
    summary, _ = run(file, tmp_path / "another", again, results=results)
    assert len(again.ran) == len(summary.ran) == 6, "only what is missing, in another work directory"
    assert sorted(read_rows(results / "two.csv")[0], key=str) == sorted(
        read_rows(whole / "results" / "two.csv")[0], key=str
    )
    third = Cells()
    assert run(file, tmp_path / "third", third, results=results)[0].exit_code == 0
    assert third.ran == []


def test_a_torn_row_runs_again(tmp_path: Path) -> None:
    file = written(tmp_path)
    summary, _ = run(file, tmp_path, Cells())
    before = summary.file.read_bytes()
    summary.file.write_bytes(before[:-7])
    cells = Cells()
    summary, told = run(file, tmp_path, cells)
    assert [cell.label() for cell in cells.ran] == ["replay-20, order A, seed 2 (lr 0.001)"]
    assert summary.file.read_bytes() == before
    assert told.count("line is torn") == 1


def test_other_code_runs_everything_again_unless_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path)
    run(file, tmp_path, Cells())
    monkeypatch.setattr("lab.experiments.cells.code_digest", lambda: "0123456789ab")
    assert run(file, tmp_path, spared := Cells(), any_code=True)[0].exit_code == 0
    assert spared.ran == []
    summary, _ = run(file, tmp_path, repeated := Cells())
    assert len(repeated.ran) == 10 and len(read_rows(summary.file)[0]) == 20


def test_an_edited_method_runs_alone(tmp_path: Path) -> None:
    run(written(tmp_path), tmp_path, Cells())
    run(written(tmp_path, ("share: 0.2", "share: 0.3")), tmp_path, cells := Cells())
    assert [cell.method for cell in cells.ran] == ["replay-20"] * 5


def test_weights_go_when_the_row_stands(tmp_path: Path) -> None:
    file = written(tmp_path)
    run(file, tmp_path, Cells(), keep_models=True)
    work = tmp_path / "work" / "two" / "smoke"
    assert len(list(work.rglob("*.safetensors"))) == 10
    run(file, tmp_path, cells := Cells())
    assert cells.ran == []
    assert list(work.rglob("*.safetensors")) == [] and len(list(work.rglob("lineage.json"))) == 10


# -- several processes ------------------------------------------------------------------------------------------------


class Marked(Cells):
    """Cells that leave a mark, across processes; the first of each process waits for that of the other."""

    def __init__(self, marks: Path, both_are_there: Barrier) -> None:
        super().__init__()
        self.marks, self.both_are_there = marks, both_are_there

    def __call__(self, experiment: Experiment, cell: Cell, sources: object, directory: Path) -> object:
        with (self.marks / cell.directory_name).open("x"):  # a cell that runs twice fails here
            if not self.ran:
                self.both_are_there.wait(60)
        self.ran.append(cell)
        return made_row(cell)


def _share(file: Path, place: Path, marks: Path, both_are_there: Barrier) -> None:
    bench.LOOK_AGAIN = 0.02
    summary, _ = run(file, place, Marked(marks, both_are_there))
    sys.exit(0 if not summary.failures and summary.ran else 1)


def test_two_processes_share_the_cells(tmp_path: Path) -> None:
    file, marks, context = written(tmp_path), tmp_path / "marks", multiprocessing.get_context("fork")
    marks.mkdir()
    arguments = (file, tmp_path, marks, context.Barrier(2))
    both = [context.Process(target=_share, args=arguments) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(100)
    assert [process.exitcode for process in both] == [0, 0], "both ran some, and no cell ran twice"
    rows, remarks = read_rows(tmp_path / "results" / "two.csv")
    assert len(rows) == len({row.key for row in rows}) == 10 and remarks == []


def test_a_cell_that_is_held_is_passed_over_and_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, held = written(tmp_path), []

    def sleep(seconds: float) -> None:
        if held:
            held.pop().close()

    monkeypatch.setattr(bench.time, "sleep", sleep)
    run(file, tmp_path, first := Cells(), results=tmp_path / "other")
    lock = bench.hold(tmp_path / "work" / "two" / "smoke" / first.ran[0].directory_name)
    assert lock is not None
    held.append(lock)
    _, told = run(file, tmp_path, cells := Cells())
    assert [cell.key for cell in cells.ran].index(first.ran[0].key) == 7, "after all that did not wait for it"
    assert sorted(cell.key for cell in cells.ran) == sorted(cell.key for cell in first.ran)
    assert "another process is at the 3 cells that are left" in told


# -- time -------------------------------------------------------------------------------------------------------------


def test_no_cell_is_started_that_would_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "machine", lambda: "made up x 1")
    file = written(tmp_path)
    cells = Cells(wall_seconds=3600.0)
    summary, told = run(file, tmp_path, cells, max_hours=0.5)
    assert len(cells.ran) == 1, "nothing is known of the first"
    assert summary.left == 9 and summary.exit_code == 0
    assert "9 cells are left, about 9.0 h; run the same command again to go on" in told
    assert run(file, tmp_path, Cells(), max_hours=0.5)[0].left == 9, "what is known stands in the rows"
    assert run(file, tmp_path, Cells(), max_hours=2)[0].left == 0


@pytest.mark.parametrize("hours", [0, -1, math.nan, math.inf])
def test_no_hours_are_no_limit(hours: float, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--max-hours: .* is no number of hours above 0; leave it out"):
        run(written(tmp_path), tmp_path, cells := Cells(), max_hours=hours)
    assert cells.ran == []


def test_the_guide_counts_where_no_cell_has_run(tmp_path: Path) -> None:
    file = written(tmp_path, ("smoke: {", "smoke: {cell_minutes: 60, "))
    summary, _ = run(file, tmp_path, cells := Cells(), max_hours=0.5)
    assert cells.ran == [] and summary.left == 10


# -- where things go --------------------------------------------------------------------------------------------------


def test_results_that_cannot_be_written_are_noticed_before_a_cell_runs(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    (tmp_path / "results" / "two.csv").mkdir(parents=True)
    for results in (tmp_path / "taken", tmp_path / "results"):
        with pytest.raises(InputError) as caught:
            run(written(tmp_path), tmp_path, cells := Cells(), results=results)
        assert caught.value.line().startswith(f"{results / 'two.csv'}: rows cannot be written here ("), results
        assert cells.ran == []


def test_a_directory_without_leave_to_write_is_noticed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched, pytest.raises(InputError, match="Permission denied"):
        patched.setattr("lab.experiments.rows.tempfile.TemporaryFile", refuse)
        run(written(tmp_path), tmp_path, cells := Cells())
    assert cells.ran == []
    run(written(tmp_path), tmp_path, Cells())
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["two.csv"], "the trial leaves nothing"


@pytest.mark.parametrize(
    "text",
    ["{}", "[]", '{"seconds": "x"}', '{"seconds": NaN}', '{"seconds": 1e999}', '{"seconds": -3}', "", "\x00", "3"],
)
def test_a_damaged_record_of_seconds_is_forgotten(text: str, tmp_path: Path) -> None:
    (tmp_path / one_cell.SECONDS).write_text(text)
    assert one_cell.spent(tmp_path) == 0.0


def test_seconds_of_earlier_attempts_count(tmp_path: Path) -> None:
    assert one_cell.spent(tmp_path) == 0.0
    (tmp_path / one_cell.SECONDS).write_text('{"seconds": 12.5}')
    assert one_cell.spent(tmp_path) == 12.5
    (tmp_path / one_cell.SECONDS).write_bytes(b"\xff\xfe")
    assert one_cell.spent(tmp_path) == 0.0


# -- failures ---------------------------------------------------------------------------------------------------------


def test_a_pilot_that_diverges_is_the_worst_and_is_not_run_again(tmp_path: Path) -> None:
    def loss(cell: Cell) -> float:
        if cell.tuned == {"lr": 0.001}:
            raise RunError("is not a finite number in update 3", where="/home/a/run", key="loss term 'lm'")
        return 4.0

    file = written(tmp_path)
    summary, _ = run(file, tmp_path, Cells(loss))
    rows, _ = read_rows(summary.file)
    assert summary.exit_code == 0 and len(rows) == 10
    assert {row.tuned["lr"] for row in rows if row.role == "final"} == {0.003}
    failed = [row for row in rows if row.failed]
    assert [row.failed for row in failed] == ["loss term 'lm': is not a finite number in update 3"] * 2
    assert "/home" not in summary.file.read_text()
    assert run(file, tmp_path, again := Cells(loss))[0].exit_code == 0
    assert again.ran == []


def test_a_cell_that_fails_does_not_kill_the_others(tmp_path: Path) -> None:
    def loss(cell: Cell) -> float:
        if cell.role == "final" and cell.seed == 1 and cell.method == "sequential":
            raise RunError("is not a finite number in update 3", key="loss term 'lm'")
        if cell.role == "final" and cell.seed == 2 and cell.method == "replay-20":
            raise ZeroDivisionError("a fault")
        return 4.0

    file = written(tmp_path)
    summary, told = run(file, tmp_path, Cells(loss))
    rows = read_rows(summary.file)[0]
    assert summary.exit_code == 3 and len(rows) == 9
    [diverged] = [row for row in rows if row.failed]
    assert (diverged.role, diverged.method, diverged.seed) == ("final", "sequential", 1), "left out it would flatter"
    assert "sequential, order A, seed 1 (lr 0.001): diverged (loss term 'lm': is not a finite number" in told
    assert "no row for replay-20, order A, seed 2" in told
    assert "ZeroDivisionError: a fault (see " in told and "Traceback" not in told
    assert "Traceback" in next((tmp_path / "work").rglob("*replay-20-A-s2-final*/log.txt")).read_text()
    again, _ = run(file, tmp_path, cells := Cells())
    assert again.exit_code == 0 and len(cells.ran) == 1, "a reported cell without a row is tried again"


@pytest.mark.parametrize("error", [RunError("is not a finite number in update 1"), InputError("no such key")])
def test_a_method_whose_pilots_come_to_nothing_has_no_cells(tmp_path: Path, error: Exception) -> None:
    def loss(cell: Cell) -> float:
        if cell.method == "replay-20" and cell.role == "pilot":
            raise error
        return 4.0

    summary, told = run(written(tmp_path), tmp_path, cells := Cells(loss))
    assert summary.exit_code == 3
    assert not any(cell.method == "replay-20" and cell.role == "final" for cell in cells.ran)
    assert {row.method for row in read_rows(summary.file)[0] if row.role == "final"} == {"sequential"}
    assert "replay-20, order A, seed 1: " in told


def test_an_outcome_that_pilots_do_not_measure(tmp_path: Path) -> None:
    choose = ("choose: {outcome: final_loss, best: lower}", "choose: {outcome: polarity, best: higher}")
    with pytest.raises(InputError, match=r"the pilot cells do not give polarity .*\(see pilot_variables\)"):
        run(written(tmp_path, choose), tmp_path, cells := Cells())
    assert cells.ran == []


# -- pairing ----------------------------------------------------------------------------------------------------------


class Unlike(Cells):
    """Replay sees other batches than the baseline."""

    def __call__(self, experiment: Experiment, cell: Cell, sources: object, directory: Path) -> object:
        return made_row(cell, batches=f"{cell.method}{cell.seed}")


def test_other_batches_without_saying_so_raise_an_alarm(tmp_path: Path) -> None:
    file = written(tmp_path, UNSAID)
    summary, told = run(file, tmp_path, Unlike())
    assert "UNPAIRED: replay-20, order A, seed 1 (lr 0.001) did not see the batches that sequential saw" in told
    marks = {(row.method, row.seed): row.measures.get("unpaired") for row in read_rows(summary.file)[0]}
    assert marks["replay-20", 1] == marks["replay-20", 2] == ["sequential"]
    assert marks["sequential", 1] is None and marks["replay-20", 0] is None, "pilots are not compared"
    assert "UNPAIRED rows stand" in run(file, tmp_path, Cells())[1], "and again as long as they stand"


def test_no_alarm_where_it_was_said_or_batches_are_the_same(tmp_path: Path) -> None:
    for name, changes, cells in (("said", [], Unlike()), ("same", [UNSAID], Cells())):
        summary, told = run(written(tmp_path, *changes), tmp_path / name, cells)
        assert summary.remarks == [] and "UNPAIRED" not in told, name


def test_rows_of_an_earlier_wording_are_not_compared(tmp_path: Path) -> None:
    run(written(tmp_path, UNSAID), tmp_path, Cells())
    longer = ("tokens: 1024", "tokens: 2048")
    summary, told = run(written(tmp_path, UNSAID, longer), tmp_path, Cells(batches="other"))
    assert len(summary.ran) == 10 and "UNPAIRED" not in told
