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


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> list[Cell]:
    experiment = load_experiment(written(tmp_path_factory.mktemp("experiment")))
    return [cell.with_tuned({"lr": 5e-5}) for cell in cells_of(experiment, "smoke")]


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


def test_a_last_line_that_lacks_only_its_end_is_kept(tmp_path: Path, cells: list[Cell]) -> None:
    file = tmp_path / "two.csv"
    first, second, third = (made_row(cell) for cell in cells[-3:])
    for row in (first, second):
        append_row(file, row)
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    assert read_rows(file) == ([first, second], []), "nothing of it is lost"
    assert len(append_row(file, second)) == 1, "it stands"
    assert append_row(file, third) == []
    assert read_rows(file) == ([first, second, third], [])
    assert file.read_bytes().startswith(whole)
    file.write_bytes(file.read_bytes().splitlines()[0])
    assert append_row(file, first) == []
    assert read_rows(file) == ([first], []), "a header without its end is one"


@pytest.mark.parametrize("cut", [2, 40])
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


LOSS = '""loss"": 4.0'
WRONG = {
    "order is no list": ('""order"": [""biomedical"", ""reviews""]', '""order"": 3', "measures.order"),
    "order of numbers": ('[""biomedical"", ""reviews""]', "[1, 2]", "measures.order.0"),
    "losses are no mapping": ('""perplexity"": {', '""perplexity"": 3, ""x"": {', "measures.perplexity"),
    "a model without losses": ('{""minilm"": {', '{""s0"": 3, ""minilm"": {', "measures.perplexity.s0"),
    "a word for a loss": (LOSS, '""loss"": ""x""', "measures.perplexity.minilm.biomedical.loss"),
    "a loss that is true": (LOSS, '""loss"": true', "measures.perplexity.minilm.biomedical.loss"),
    "an endless loss": (LOSS, '""loss"": 1e999', "measures"),
    "no number": (LOSS, '""loss"": NaN', "measures"),
    "a score that is no list": (
        '""order""',
        '""tasks"": {""s2"": {""polarity"": {""accuracy"": 0.5}}}, ""order""',
        "measures.tasks.s2.polarity.accuracy",
    ),
    "a score that is no number": (
        '""order""',
        '""tasks"": {""s2"": {""polarity"": {""accuracy"": [null]}}}, ""order""',
        "measures.tasks.s2.polarity.accuracy.0",
    ),
    "a curve that is none": ('""order""', '""curves"": {""s1"": {}}, ""order""', "measures.curves.s1"),
    "a point that is none": ('""order""', '""curves"": {""s1"": [3]}, ""order""', "measures.curves.s1.0"),
    "costs of nobody": ('""order""', '""costs"": {""s1"": 3}, ""order""', "measures.costs"),
    "a cost of a word's own": ('""order""', '""costs"": [{""own"": ""yes""}], ""order""', "measures.costs.0.own"),
    "copies in words": (
        '""order""',
        '""symmetry"": {""s1"": {""head"": {""locked"": ""two""}}}, ""order""',
        "measures.symmetry.s1.head.locked",
    ),
    "unpaired with a number": ('""order""', '""unpaired"": 3, ""order""', "measures.unpaired"),
    "failed is no text": ('""order""', '""failed"": {}, ""order""', "measures.failed"),
    "measures are no mapping": ('"{""order', '"[{""order', "measures"),
    "nan seconds": (",1.5,", ",nan,", "wall_seconds"),
    "endless seconds": (",1.5,", ",inf,", "wall_seconds"),
    "seconds below 0": (",1.5,", ",-5,", "wall_seconds"),
    "tokens below 0": (",2048,", ",-1,", "tokens"),
    "half a token": (",2048,", ",2048.5,", "tokens"),
    "no threads": (",1,seed", ",0,seed", "threads"),
    "a seed that is a word": (",A,2,", ",A,two,", "seed"),
    "a role": (",final,", ",x,", "role"),
    "no method": (",sequential,-", ",,-", "method"),
    "a tier": (",finals,", ",semifinals,", "tier"),
    "yesterday": ("2026-01-01", "yesterday", "date"),
    "no day": ("2026-01-01", "2026-02-30", "date"),
    "a base of numbers": ('""minilm"": ""000000000000""', '""minilm"": 0', "bases.minilm"),
    "tuned to nothing": ('""lr"": 5e-05', '""lr"": NaN', "tuned"),
    "deep": ('"{""order', '"' + "[" * 200_000 + '{""order', "measures"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_a_row_cannot_say_is_named_by_file_line_and_column(what: str, tmp_path: Path, cells: list[Cell]) -> None:
    file = tmp_path / "two.csv"
    old, new, column = WRONG[what]
    for cell in (cells[-4], cells[-2]):
        append_row(file, made_row(cell))
    lines = file.read_text().splitlines(keepends=True)
    # "measures" begins with its first key in sorted order: order, or perplexity.
    lines[-1] = lines[-1].replace('"{""order', '"{""order', 1)
    assert old in lines[-1], old
    lines[-1] = lines[-1].replace(old, new, 1)
    file.write_text("".join(lines))
    for refused in (lambda: read_rows(file), lambda: append_row(file, made_row(cells[-1]))):
        with pytest.raises(InputError) as caught:
            refused()
        line = caught.value.line()
        assert line.startswith(f"{file}: line 3: no row ({column}: "), line
        assert "remove the line" in line and len(line) < 400


def test_bytes_that_are_no_text_are_named(tmp_path: Path, cells: list[Cell]) -> None:
    file = tmp_path / "two.csv"
    append_row(file, made_row(cells[-2]))
    append_row(file, made_row(cells[-1]))
    data = file.read_bytes()
    file.write_bytes(data.replace(b"made up", b"made \xff\xfe", 1))
    with pytest.raises(InputError, match=r"line 2: no row \(not text in UTF-8\)"):
        read_rows(file)
    file.write_bytes(data[:-3] + b"\xc3")
    assert read_rows(file)[0] == [made_row(cells[-2])], "torn within a letter"


def test_what_was_not_finite_comes_back_as_none(tmp_path: Path, cells: list[Cell]) -> None:
    file = tmp_path / "two.csv"
    row = made_row(cells[-1], loss=float("inf"))
    append_row(file, row)
    assert read_rows(file)[0][0].measures["perplexity"]["s2"]["general"]["loss"] is None


def test_a_row_that_could_not_be_read_is_not_written(tmp_path: Path, cells: list[Cell]) -> None:
    file = tmp_path / "two.csv"
    append_row(file, made_row(cells[-2]))
    before = file.read_bytes()
    with pytest.raises(InputError, match="wall_seconds"):
        append_row(file, made_row(cells[-1], wall_seconds=float("nan")))
    assert file.read_bytes() == before


def test_the_rows_of_the_checkout_are_read() -> None:
    for file in sorted((Path(__file__).resolve().parents[2] / "lab" / "results").glob("*.csv")):
        rows, remarks = read_rows(file)
        assert rows and remarks == [], file


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


def test_rows_that_stand_uncommitted_are_committed_at_the_end(repository: Path) -> None:
    place, file = repository / "work", written(repository.parent)
    results = repository / "results"
    run(file, place, Cells(), results=results)
    git(repository, "add", "results/two.csv")
    run(file, place, none := Cells(), results=results)
    assert git(repository, "log", "--format=%s").splitlines() == ["start"], "it was not asked for"
    summary, _ = run(file, place, none, results=results, commit=True)
    assert none.ran == [] and summary.remarks == []
    rows = (results / "two.csv").read_text()
    assert git(repository, "show", "HEAD:results/two.csv") == rows
    assert git(repository, "log", "--format=%s").splitlines() == ["Lab: two at smoke, rows", "start"]
    summary, _ = run(file, place, none, results=results, commit=True)
    assert summary.remarks == [] and len(git(repository, "log", "--format=%s").splitlines()) == 2, "nothing to commit"
    (results / "two.csv").write_text("".join(rows.splitlines(keepends=True)[:-1]))
    git(repository, "commit", "-q", "-am", "a row fewer")
    (results / "two.csv").write_text(rows)
    run(file, place, none, results=results, commit=True)
    assert git(repository, "show", "HEAD:results/two.csv") == rows, "a killed run had appended it"


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


def test_what_is_made_of_the_rows_is_committed_with_them(repository: Path, tmp_path: Path) -> None:
    page, results = repository / "page.md", repository / "results"

    def made() -> list[Path]:
        page.write_text(f"{len(read_rows(results / 'two.csv')[0])} rows\n")
        return [page]

    run(written(tmp_path), repository, Cells(), results=results, commit=True, seeds=1, made_of_rows=made)
    for commit in git(repository, "log", "--format=%h", "--grep=^Lab:").split():
        count = len(git(repository, "show", f"{commit}:results/two.csv").splitlines()) - 1
        assert git(repository, "show", f"{commit}:page.md") == f"{count} rows\n"
    assert git(repository, "show", "HEAD:page.md") == "8 rows\n"


def test_a_page_that_cannot_be_made_does_not_keep_the_rows_from_being_committed(
    repository: Path, tmp_path: Path
) -> None:
    def broken() -> list[Path]:
        raise InputError("a claim names no method", where="lab/other.yaml")

    results = repository / "results"
    summary, _ = run(written(tmp_path), repository, Cells(), results=results, commit=True, seeds=1, made_of_rows=broken)
    assert any("could not be made" in remark for remark in summary.remarks)
    assert git(repository, "show", "HEAD:results/two.csv") == (results / "two.csv").read_text()
