"""Equal budgets: counted as by hand, read where all arms have spent the same, and for streams not read at all."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import evidence_support as made
from bequest.errors import InputError
from bequest.reports.wording import flops
from lab.evidence.budget_tables import budgets_part
from lab.evidence.budgets import corpora, curve, equal_budgets, is_stream, read_at, spending
from lab.experiments import resolving
from lab.experiments.comparing import Arm
from lab.experiments.rows import Row
from lab.experiments.schema import Experiment

ONE_CORPUS = made.ONE_ORDER.replace(
    "choose: {outcome: final_loss, best: lower}", "choose: {outcome: end, best: lower}"
).replace("  role: {kind", "  end: {kind: loss, model: s2, corpus: one}\n  role: {kind")


@pytest.fixture(autouse=True)
def names_stand_for_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolving, "identities", lambda: resolving.UNCHECKED)


@pytest.fixture
def toy(tmp_path: Path) -> Experiment:
    return made.experiment_of(tmp_path, made.ONE_ORDER)


def with_curve(row: Row, points: list[tuple[int, int, int, float]], *, source: int = 0) -> Row:
    """The row with a curve of its second stage; the first one ends at 100 tokens, 1000 FLOPs and 100 of a teacher's."""
    first = [_point(0, 0, 0, 6.0), _point(100, 1000, 100 if row.method == "kd" else 0, 5.0)]
    found = made.with_measures(row, curves={"s1": first, "s2": [_point(*point) for point in points]})
    return replace(found, source_flops=source)


def _point(tokens: int, train: int, teacher: int, loss: float) -> dict[str, Any]:
    return {"tokens": tokens, "train_flops": train, "teacher_flops": teacher, "corpus": "one", "loss": loss}


def budget_rows(toy: Experiment) -> list[Row]:
    plain = [(0, 0, 0, 5.0), (100, 1000, 0, 4.0), (300, 3000, 0, 3.0)]
    taught = [(0, 0, 0, 4.9), (100, 1000, 500, 3.5), (300, 3000, 1500, 2.5)]
    rows = []
    for seed in (1, 2):
        rows.append(with_curve(made.row_of(toy, "sequential", seed), plain))
        rows.append(with_curve(made.row_of(toy, "kd", seed), taught, source=700))
    return rows


def test_three_totals_by_hand(toy: Experiment) -> None:
    row = budget_rows(toy)[1]
    student = ("s1", "s2")
    assert curve(row, "one", student, "tokens")[-1] == (400.0, 2.5)
    assert [at for at, _ in curve(row, "one", student, "student")] == [1000.0, 2000.0, 4000.0]
    assert [at for at, _ in curve(row, "one", student, "teacher")] == [1100.0, 2600.0, 5600.0]
    assert [at for at, _ in curve(row, "one", student, "source")] == [700.0, 1800.0, 3300.0, 6300.0]


def test_methods_are_read_at_the_largest_budget_that_all_reach(toy: Experiment) -> None:
    found = {one.total: one for one in equal_budgets(made.compared(toy, budget_rows(toy)), "-", ["one"])}
    assert {total: one.budget for total, one in found.items()} == {
        "tokens": 400.0,
        "student": 4000.0,
        "teacher": 4000.0,
        "source": 4000.0,
    }
    kd = {total: one.readings[Arm("kd")] for total, one in found.items()}
    assert kd["tokens"].loss.mean == kd["student"].loss.mean == 2.5 and kd["student"].finished
    between = 3.5 - 1.0 * math.log(4000 / 2600) / math.log(5600 / 2600)
    assert kd["teacher"].loss.mean == pytest.approx(between, abs=1e-5) and not kd["teacher"].finished
    beyond = 3.5 - 1.0 * math.log(4000 / 3300) / math.log(6300 / 3300)
    assert kd["source"].loss.mean == pytest.approx(beyond, abs=1e-5)
    assert kd["source"].difference.mean == pytest.approx(beyond - 3.0, abs=1e-5)
    assert found["tokens"].best == pytest.approx(7.0 - 2.5)


def test_several_corpora_are_averaged_at_the_budget(toy: Experiment) -> None:
    rows = []
    for row in budget_rows(toy):
        curves = row.measures["curves"]
        more = [{**point, "corpus": "two", "loss": point["loss"] + 1.0} for point in curves["s2"]]
        rows.append(made.with_measures(row, curves={**curves, "s2": [*curves["s2"], *more]}))
    compared = made.compared(toy, rows)
    assert corpora(compared, "-") == ["one", "two"]
    tokens = equal_budgets(compared, "-", ["one", "two"])[0]
    assert tokens.readings[Arm("kd")].loss.mean == pytest.approx((2.5 + 3.5) / 2)
    assert tokens.unigram == pytest.approx((7.0 + 7.2) / 2)


def test_a_method_whose_source_costs_more_has_no_value_there(toy: Experiment) -> None:
    dear = [replace(row, source_flops=9000) if row.method == "kd" else row for row in budget_rows(toy)]
    source = equal_budgets(made.compared(toy, dear), "-", ["one"])[-1]
    assert source.readings[Arm("kd")].loss is None and source.readings[Arm("sequential")].loss is not None


def test_only_corpora_of_the_last_stage_are_read_and_a_missing_curve_is_said(toy: Experiment) -> None:
    rows = budget_rows(toy)
    assert corpora(made.compared(toy, rows), "-") == ["one"]
    bare = made.with_measures(rows[0], curves={"s2": rows[0].measures["curves"]["s2"]})
    with pytest.raises(InputError, match="no loss curve"):
        curve(bare, "one", ("s1", "s2"), "student")
    nothing = made.with_measures(rows[0], curves={})
    assert corpora(made.compared(toy, [nothing, *rows[1:]]), "-") == []


def test_reading_a_curve() -> None:
    points = ((10.0, 4.0), (1000.0, 2.0))
    assert read_at(points, 100.0) == pytest.approx(3.0)  # halfway in the logarithm
    assert read_at(points, 10.0) == 4.0 and read_at(points, 1000.0) == 2.0
    assert read_at(points, 9.0) is None and read_at(points, 1001.0) is None and read_at((), 1.0) is None


def test_finished_means_that_every_cell_ends_there(toy: Experiment) -> None:
    rows = budget_rows(toy)
    longer = [(0, 0, 0, 4.9), (100, 1000, 500, 3.5), (300, 3000, 1500, 2.5), (400, 4000, 2000, 2.4)]
    rows = [with_curve(row, longer) if (row.method, row.seed) == ("kd", 2) else row for row in rows]
    readings = equal_budgets(made.compared(toy, rows), "-", ["one"])[0].readings
    assert readings[Arm("sequential")].finished and not readings[Arm("kd")].finished


def test_equal_budgets_are_over_seeds_and_over_whole_ones_only(tmp_path: Path) -> None:
    two = made.experiment_of(tmp_path)
    rows = []
    for row in made.rows_of(two, ["sequential", "kd"]):
        end = (2.5 if row.method == "kd" else 3.0) + row.seed / 100 + (0.5 if row.order == "B" else 0.0)
        rows.append(with_curve(row, [(0, 0, 0, 5.0), (300, 3000, 0, end)]))
    kd = equal_budgets(made.compared(two, rows), "-", ["one"])[0].readings[Arm("kd")]
    assert (kd.loss.n, kd.loss.over) == (3, "seeds, mean of 2 orders") and kd.loss.mean == pytest.approx(2.77)
    assert kd.difference.n == 3 and kd.difference.mean == pytest.approx(-0.5)
    kd = equal_budgets(made.compared(two, rows[:-1]), "-", ["one"])[0].readings[Arm("kd")]
    assert kd.loss.n == kd.difference.n == 2


# -- streams -----------------------------------------------------------------------------------------------------------


def test_a_stream_is_not_read_in_the_middle(toy: Experiment) -> None:
    compared = made.compared(toy, budget_rows(toy))
    assert is_stream(compared)
    text = "\n".join(budgets_part(compared, "-"))
    assert "No loss is read at equal FLOPs" in text and "At equal budgets" not in text
    assert f"| `kd` | {flops(1e15)} (× 1.00) | {flops(1.1e15)} (× 1.10) | {flops(1.1e15)} (× 1.10) |" in text


def test_totals_by_hand_and_their_ratios(toy: Experiment) -> None:
    rows = [replace(row, source_flops=4 * 10**14) if row.method == "kd" else row for row in budget_rows(toy)]
    found = spending(made.compared(toy, rows), "-")[Arm("kd")]
    assert found.totals == {"student": 1e15, "teacher": 1.1e15, "source": 1.5e15}
    assert found.ratios == pytest.approx({"student": 1.0, "teacher": 1.1, "source": 1.5})
    alone = spending(made.compared(toy, [row for row in rows if row.method == "kd"]), "-")[Arm("kd")]
    assert set(alone.ratios.values()) == {None}


def test_the_loss_on_one_corpus_or_after_one_stage_is_read(tmp_path: Path) -> None:
    one = made.experiment_of(tmp_path, ONE_CORPUS)
    compared = made.compared(one, budget_rows(one))
    assert not is_stream(compared) and corpora(compared, "-") == ["one"]
    assert "**At equal budgets**" in "\n".join(budgets_part(compared, "-"))
    single = made.experiment_of(tmp_path, made.ONE_ORDER.replace("student: [s1, s2]", "student: [s2]"))
    assert not is_stream(made.compared(single, budget_rows(single)))
