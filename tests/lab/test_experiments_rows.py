"""The CSV: rows come back as they went in, torn lines go, writers wait for each other, commits take one file."""

from __future__ import annotations

import dataclasses
import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from experiments_support import Cells, made_row, run, written

from bequest.errors import InputError
from lab.experiments.cells import Cell, cells_of
from lab.experiments.reading import load_experiment
from lab.experiments.revisions import commit_file
from lab.experiments.rows import COLUMNS, Row, append_row, read_rows


@pytest.fixture
def cells(tmp_path: Path) -> list[Cell]:
    return [cell.with_tuned({"lr": 5e-5}) for cell in cells_of(load_experiment(written(tmp_path)), "smoke")]


def test_rows_come_back(tmp_path: Path, cells: list[Cell]) -> None:
    file = tmp_path / "results" / "two.csv"
    odd = {"note": 'a "quoted", text\nof two lines', "order": ["biomedical", "reviews"], "failed": None}
    rows = [made_row(cells[-1]), made_row(cells[-2], measures=odd, train_flops=10**17)]
    for row in rows:
        assert append_row(file, row) == []
    assert read_rows(file) == (rows, [])
    assert file.read_text().count("\n") == 3, "one line each"
    assert file.read_text().splitlines()[0].split(",") == list(COLUMNS)


def test_measures_have_six_decimals_and_tuned_values_all_of_theirs(tmp_path: Path, cells: list[Cell]) -> None:
    file = tmp_path / "two.csv"
    cell = cells[-1].with_tuned({"lr": 1.23456789e-7})
    append_row(file, made_row(cell, measures={"x": 1.23456789, "y": float("nan"), "order": list(cell.sequence)}))
    [row], _ = read_rows(file)
    assert row.measures["x"] == 1.234568 and row.measures["y"] is None
    assert row.is_of(cell)


@pytest.mark.parametrize("cut", [1, 40])
def test_a_torn_line_is_dropped_with_a_remark(tmp_path: Path, cells: list[Cell], cut: int) -> None:
    file = tmp_path / "two.csv"
    first, second = made_row(cells[-1]), made_row(cells[-2])
    append_row(file, first)
    append_row(file, second)
    file.write_bytes(file.read_bytes()[:-cut])
    rows, remarks = read_rows(file)
    assert rows == [first]
    assert len(remarks) == 1 and str(file) in remarks[0] and "torn" in remarks[0]
    assert append_row(file, second) == remarks
    assert read_rows(file) == ([first, second], [])


def test_a_torn_header(tmp_path: Path, cells: list[Cell]) -> None:
    file = tmp_path / "two.csv"
    file.write_text("experiment,tie")
    assert read_rows(file)[0] == []
    append_row(file, made_row(cells[-1]))
    assert read_rows(file) == ([made_row(cells[-1])], [])


def test_other_columns_are_refused(tmp_path: Path, cells: list[Cell]) -> None:
    file = tmp_path / "two.csv"
    append_row(file, made_row(cells[-1]))
    before = file.read_text().replace("wall_seconds", "seconds")
    file.write_text(before)
    for refused in (lambda: read_rows(file), lambda: append_row(file, made_row(cells[-2]))):
        with pytest.raises(InputError) as caught:
            refused()
        assert caught.value.line().startswith(f"{file}: line 1: ") and "lacks wall_seconds" in str(caught.value)
    assert file.read_text() == before


def test_a_line_that_is_no_row_is_named(tmp_path: Path, cells: list[Cell]) -> None:
    file = tmp_path / "two.csv"
    append_row(file, made_row(cells[-1]))
    with file.open("a") as stream:
        stream.write("a,b,c\n")
    with pytest.raises(InputError, match="line 3: no row"):
        read_rows(file)


def test_a_cell_has_one_row(tmp_path: Path, cells: list[Cell]) -> None:
    file = tmp_path / "two.csv"
    append_row(file, made_row(cells[-1]))
    [remark] = append_row(file, made_row(cells[-1], loss=3.0))
    assert "another process" in remark
    assert read_rows(file)[0] == [made_row(cells[-1])]
    assert append_row(file, made_row(cells[-1], code="another")) == [], "of other code it is another row"


def _append(file: Path, row: Row, count: int, start: int) -> None:
    for number in range(count):
        append_row(file, dataclasses.replace(row, seed=start + number))


def test_writers_wait_for_each_other(tmp_path: Path, cells: list[Cell]) -> None:
    file, context = tmp_path / "two.csv", multiprocessing.get_context("fork")
    writers = [context.Process(target=_append, args=(file, made_row(cells[-1]), 20, 100 * n)) for n in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    rows, remarks = read_rows(file)
    assert remarks == []
    assert sorted(row.seed for row in rows) == sorted(100 * n + i for n in range(4) for i in range(20))


# -- commits ----------------------------------------------------------------------------------------------------------


def git(place: Path, *arguments: str) -> str:
    who = ["-c", "user.name=A", "-c", "user.email=a@b.c"]
    return subprocess.run(["git", *who, *arguments], cwd=place, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    place = tmp_path / "repository"
    place.mkdir()
    git(place, "init", "-q")
    for key, value in (("user.name", "A"), ("user.email", "a@b.c")):
        git(place, "config", key, value)
    (place / "code.py").write_text("one\n")
    git(place, "add", ".")
    git(place, "commit", "-q", "-m", "start")
    return place


def test_every_row_is_committed_and_nothing_else(repository: Path, tmp_path: Path) -> None:
    (repository / "code.py").write_text("two\n")
    git(repository, "add", "code.py")
    (repository / "stray.txt").write_text("stray\n")
    summary, _ = run(written(tmp_path), repository, Cells(), results=repository / "results", commit=True, seeds=1)
    assert summary.remarks == [] and len(summary.ran) == 8
    messages = git(repository, "log", "--format=%s", "--", "results/two.csv").splitlines()
    assert len(messages) == 8
    assert messages[0] == "Lab: two at smoke, final cell replay-20, order A, seed 1 (lr 0.001)"
    assert git(repository, "log", "--format=%s", "--", "code.py").splitlines() == ["start"]
    assert "M  code.py" in git(repository, "status", "--porcelain"), "what was staged is still staged"
    assert git(repository, "show", "HEAD:results/two.csv") == (repository / "results" / "two.csv").read_text()


def test_a_commit_that_fails_is_a_remark(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / ".git").write_text("gitdir: nowhere\n")
    summary, _ = run(written(tmp_path), tmp_path, Cells(), commit=True, seeds=1)
    assert len(summary.ran) == 8 and summary.exit_code == 0
    assert any("was not committed" in remark for remark in summary.remarks)
    assert len(read_rows(summary.file)[0]) == 8


def test_a_commit_that_failed_is_made_up_for(repository: Path) -> None:
    file = repository / "rows.csv"
    file.write_text("a\n")
    lock = repository / ".git" / "index.lock"
    lock.touch()
    assert "was not committed" in str(commit_file(file, "first"))
    lock.unlink()
    file.write_text("a\nb\n")
    assert commit_file(file, "second") is None
    assert git(repository, "show", "HEAD:rows.csv") == "a\nb\n"
