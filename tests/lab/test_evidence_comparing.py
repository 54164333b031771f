"""Comparing rows: pairs are never silently made, earlier recipes are named, budgets are counted as by hand."""

from __future__ import annotations

import math
import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import evidence_support as made
from bequest.errors import InputError
from bequest.measures.intervals import interval
from lab.evidence.budgets import corpora, curve, equal_budgets, read_at
from lab.experiments import resolving
from lab.experiments.comparing import Arm, OutcomeTable, outcome_table, pairing, unequal_tokens
from lab.experiments.rows import Row
from lab.experiments.schema import Experiment


@pytest.fixture(autouse=True)
def names_stand_for_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolving, "identities", lambda: resolving.UNCHECKED)


@pytest.fixture
def toy(tmp_path: Path) -> Experiment:
    return made.experiment_of(tmp_path)


def line_of(found: OutcomeTable, method: str) -> Any:
    return next(line for line in found.lines if line.arm.method == method)


# -- means and pairs ---------------------------------------------------------------------------------------------------


def test_means_and_paired_differences_are_those_of_the_rows(toy: Experiment) -> None:
    rows = made.rows_of(toy)
    found = outcome_table(made.compared(toy, rows), "general_drop")
    value = {(row.method, row.order, row.seed): _drop(row) for row in rows}
    keys = [(order, seed) for order in "AB" for seed in (1, 2, 3)]
    kd = line_of(found, "kd")
    alone = interval([value["kd", *key] for key in keys])
    by_hand = interval([value["kd", *key] - value["sequential", *key] for key in keys])
    for seen, wanted in ((kd.mean, alone), (kd.difference, by_hand)):
        assert (seen.mean, seen.low) == pytest.approx((wanted.mean, wanted.low), abs=1e-5)
        assert seen.over == "cells"
    assert kd.pairs == 6 and line_of(found, "sequential").difference is None


def _drop(row: Row) -> float:
    losses = row.measures["perplexity"]
    return float(losses["s2"]["general"]["loss"] - losses["base"]["general"]["loss"])


def test_values_that_differ_by_rounding_have_no_interval(toy: Experiment) -> None:
    row = made.row_of(toy, "sequential", 1)
    equal = outcome_table(made.compared(toy, [row, replace(row, seed=2)]), "forget")
    assert line_of(equal, "sequential").mean.missing == "all 2 seeds equal, no interval"
    losses = row.measures["perplexity"]
    lifted = {**losses, "s2": {**losses["s2"], "one": {"loss": losses["s2"]["one"]["loss"] + 2e-7, "unigram": 7.0}}}
    almost = replace(made.with_measures(row, perplexity=lifted), seed=2)
    found = outcome_table(made.compared(toy, [row, almost]), "forget")
    assert line_of(found, "sequential").mean.low is None


def test_one_order_is_over_seeds(toy: Experiment) -> None:
    found = outcome_table(made.compared(toy, [made.row_of(toy, "sequential", seed) for seed in (1, 2, 3)]), "forget")
    assert line_of(found, "sequential").mean.over == "seeds"


@pytest.mark.parametrize(
    "change, remark",
    [({"batches": "other"}, "order A seed 2: other batches"), ({"seed": 9}, "order A seed 9: no partner")],
    ids=["other-batches", "other-seed"],
)
def test_an_unpaired_row_is_not_silently_paired(toy: Experiment, change: dict[str, Any], remark: str) -> None:
    rows = [made.row_of(toy, method, seed) for method in ("sequential", "kd") for seed in (1, 2, 3)]
    assert line_of(outcome_table(made.compared(toy, rows), "forget"), "kd").pairs == 3  # the control: all pair
    rows = [replace(row, **change) if (row.method, row.seed) == ("kd", 2) else row for row in rows]
    line = line_of(outcome_table(made.compared(toy, rows), "forget"), "kd")
    assert line.pairs == 2 and remark in line.remarks
    assert line.mean.n == 3  # its own mean still has it


def test_batches_that_differ_by_design_pair_and_unknown_ones_do_not(toy: Experiment) -> None:
    left, right = made.row_of(toy, "replay-5", 1), made.row_of(toy, "sequential", 1)
    assert pairing([left], [right], other_batches=True).pairs == ((left, right),)
    assert pairing([left], [right]).pairs == ()
    blank = pairing([replace(left, batches="")], [replace(right, batches="")])
    assert blank.pairs == () and blank.remarks == ("order A seed 1: batches not recorded",)
    assert line_of(outcome_table(made.compared(toy, [left, right]), "forget"), "replay-5").pairs == 1


def test_a_row_that_lacks_a_measure_is_no_zero(toy: Experiment) -> None:
    rows = made.rows_of(toy)
    bare = made.with_measures(rows[-1], tasks={})
    line = line_of(outcome_table(made.compared(toy, [*rows[:-1], bare]), "role"), "kd")
    assert line.mean is None and "not measured" in line.remarks[0]
    assert line_of(outcome_table(made.compared(toy, [*rows[:-1], bare]), "role"), "sequential").mean.n == 6


# -- which rows count --------------------------------------------------------------------------------------------------


def test_rows_of_an_earlier_recipe_are_named_and_newer_rows_stand(toy: Experiment) -> None:
    rows = made.rows_of(toy, ["sequential"])
    old = [replace(row, recipe="0ld0ld0ld0ld", date="2026-04-01") for row in rows]
    assert made.compared(toy, old).earlier == (Arm("sequential"),)
    both = made.compared(toy, [*old, *rows])
    assert both.earlier == () and both.superseded == 6
    assert {row.recipe for row in both.rows} == {rows[0].recipe}


def test_of_two_rows_for_a_cell_the_later_counts_whatever_their_order(toy: Experiment) -> None:
    rows = made.rows_of(toy)
    again = replace(rows[0], date="2026-05-02", code="ffffffffffff", tokens=1)
    for shuffled in ([again, *rows], [*rows, again]):
        found = made.compared(toy, shuffled)
        assert found.superseded == 1 and found.cells[Arm("sequential")][0].tokens == 1
    tie = replace(rows[0], code="ffffffffffff", tokens=1)  # on one day, the code that more rows are of
    for shuffled in ([tie, *rows], [*rows, tie]):
        assert made.compared(toy, shuffled).cells[Arm("sequential")][0].tokens == 600_000


def test_rows_of_another_order_of_the_same_name_are_left_out(toy: Experiment) -> None:
    turned = replace(made.row_of(toy, "sequential", 1, "B"), order="A")
    found = made.compared(toy, [turned, made.row_of(toy, "sequential", 2)])
    assert found.unknown == 1 and [row.seed for row in found.rows] == [2]


def test_other_tokens_than_the_baseline_are_seen(toy: Experiment) -> None:
    rows = made.rows_of(toy)
    more = [replace(row, tokens=630_000) if row.method == "kd" else row for row in rows]
    assert unequal_tokens(made.compared(toy, more), Arm("kd"))
    assert not unequal_tokens(made.compared(toy, rows), Arm("kd"))


# -- the unigram line --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("margin, informs", [(1.2, True), (0.8, False)])
def test_the_uninformative_rule_looks_at_the_best_cell(toy: Experiment, margin: float, informs: bool) -> None:
    rows = made.rows_of(toy)
    best = outcome_table(made.compared(toy, rows), "final_loss").margin("-")
    assert best is not None
    found = outcome_table(made.compared(toy, made.rows_of(toy, lift=best - margin)), "final_loss")
    assert found.margin("-") == pytest.approx(margin) and found.informative("-") is informs
    assert line_of(found, "kd").margin < margin  # not the worst cell, nor the mean, decides


def test_outcomes_that_read_no_loss_are_not_under_the_rule(toy: Experiment) -> None:
    found = outcome_table(made.compared(toy, made.rows_of(toy, lift=4.0)), "role")
    assert found.margin("-") is None and found.informative("-")


# -- equal budgets -----------------------------------------------------------------------------------------------------


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


def test_the_order_of_the_rows_does_not_matter(toy: Experiment) -> None:
    rows = made.rows_of(toy)
    shuffled = random.Random(3).sample(rows, len(rows))
    assert outcome_table(made.compared(toy, rows), "forget") == outcome_table(made.compared(toy, shuffled), "forget")
