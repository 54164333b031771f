"""Comparing rows: what is independent is the seed, and pairs are never silently made."""

from __future__ import annotations

import random
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import evidence_support as made
from bequest.measures.intervals import interval
from lab.experiments import resolving
from lab.experiments.comparing import Arm, OutcomeTable, informative, outcome_table, paired, pairing, unequal_tokens
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


# -- means over seeds --------------------------------------------------------------------------------------------------


def test_orders_are_averaged_within_their_seed_first(toy: Experiment) -> None:
    rows = made.rows_of(toy)
    found = outcome_table(made.compared(toy, rows), "general_drop")
    value = {(row.method, row.order, row.seed): _drop(row) for row in rows}
    of_seed = {
        (method, seed): statistics.fmean(value[method, order, seed] for order in "AB")
        for method in ("kd", "sequential")
        for seed in (1, 2, 3)
    }
    kd = line_of(found, "kd")
    alone = interval([of_seed["kd", seed] for seed in (1, 2, 3)])
    by_hand = interval([of_seed["kd", seed] - of_seed["sequential", seed] for seed in (1, 2, 3)])
    for seen, wanted in ((kd.mean, alone), (kd.difference, by_hand)):
        assert (seen.mean, seen.low) == pytest.approx((wanted.mean, wanted.low), abs=2e-4)
        assert (seen.n, seen.over) == (3, "seeds, mean of 2 orders")
    assert line_of(found, "sequential").difference is None


def test_orders_that_differ_much_are_no_spread_over_seeds(toy: Experiment) -> None:
    # Every seed loses the same within an order, and the orders differ by a nat: six cells would make it ± 0.6.
    rows = []
    for row in made.rows_of(toy, ["sequential"]):
        lift = (1.0 if row.order == "B" else 0.0) + row.seed / 100
        rows.append(_ending_with(row, 3.0 + lift))
    mean = line_of(outcome_table(made.compared(toy, rows), "general_drop"), "sequential").mean
    assert mean.mean == pytest.approx(0.52) and mean.n == 3 and mean.half_width < 0.03


def _ending_with(row: Row, loss: float) -> Row:
    losses = row.measures["perplexity"]
    s2 = {**losses["s2"], "general": {"loss": loss, "unigram": 6.8}}
    return made.with_measures(row, perplexity={**losses, "s2": s2})


def _drop(row: Row) -> float:
    losses = row.measures["perplexity"]
    return float(losses["s2"]["general"]["loss"] - losses["base"]["general"]["loss"])


def test_a_seed_that_lacks_an_order_does_not_count_and_is_named(toy: Experiment) -> None:
    rows = [row for row in made.rows_of(toy) if (row.method, row.seed, row.order) != ("kd", 2, "B")]
    line = line_of(outcome_table(made.compared(toy, rows), "forget"), "kd")
    assert line.mean.n == line.difference.n == 2 and not line.concludes
    assert "seed 2 left out: nothing in order B" in line.remarks
    one_order = [row for row in rows if row.order == "A"]
    nothing = line_of(outcome_table(made.compared(toy, one_order), "forget"), "kd")
    assert nothing.mean is None and len(nothing.remarks) == 3


def test_values_that_differ_by_rounding_have_no_interval(tmp_path: Path) -> None:
    toy = made.experiment_of(tmp_path, made.ONE_ORDER)
    row = made.row_of(toy, "sequential", 1)
    equal = outcome_table(made.compared(toy, [row, replace(row, seed=2)]), "forget")
    assert line_of(equal, "sequential").mean.missing == "all 2 seeds equal, no interval"
    losses = row.measures["perplexity"]
    lifted = {**losses, "s2": {**losses["s2"], "one": {"loss": losses["s2"]["one"]["loss"] + 2e-7, "unigram": 7.0}}}
    almost = replace(made.with_measures(row, perplexity=lifted), seed=2)
    found = outcome_table(made.compared(toy, [row, almost]), "forget")
    assert line_of(found, "sequential").mean.low is None


def test_one_order_is_over_seeds(tmp_path: Path) -> None:
    toy = made.experiment_of(tmp_path, made.ONE_ORDER)
    found = outcome_table(made.compared(toy, made.rows_of(toy)), "forget")
    assert line_of(found, "sequential").mean.over == "seeds" and line_of(found, "kd").difference.n == 3


# -- pairs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, remark",
    [
        ({"batches": "other"}, "order A seed 2: other batches"),
        ({"bases": {"base": "bbbbbbbbbbbb"}}, "order A seed 2: other base weights"),
        ({"bases": {}}, "order A seed 2: other base weights"),
        ({"bases": {"base": "aaaaaaaaaaaa", "more": "cccccccccccc"}}, "order A seed 2: other base weights"),
    ],
    ids=["other-batches", "other-base", "no-base", "one-base-more"],
)
def test_an_unpaired_row_is_not_silently_paired(tmp_path: Path, change: dict[str, Any], remark: str) -> None:
    toy = made.experiment_of(tmp_path, made.ONE_ORDER)
    rows = [*made.rows_of(toy), *made.pilots_of(toy)]
    control = line_of(outcome_table(made.compared(toy, rows), "forget"), "kd")
    assert control.difference.n == 3 and control.concludes
    rows = [replace(row, **change) if (row.method, row.seed) == ("kd", 2) else row for row in rows]
    line = line_of(outcome_table(made.compared(toy, rows), "forget"), "kd")
    assert line.difference.n == 2 and remark in line.remarks and not line.concludes
    assert line.mean.n == 3  # its own mean still has it


def test_a_teacher_that_only_one_recipe_takes_from_outside_is_its_own(tmp_path: Path) -> None:
    text = made.ONE_ORDER.replace("  kd: {", "  kd: {teacher: teacher, ")
    for method in ("sequential", "replay-5"):
        text = text.replace(f"  {method}: {{", f"  {method}: {{teacher: base, ")
    more = '    - measure: {name: taught, models: ["${model:${method.teacher}}"], corpora: all}\nstudent:'
    toy = made.experiment_of(tmp_path, text.replace("student:", more))
    base = {"base": "aaaaaaaaaaaa"}
    taught = {"kd": {**base, "teacher": "cccccccccccc"}}
    rows = [replace(row, bases=taught.get(row.method, base)) for row in made.rows_of(toy)]
    found = made.compared(toy, rows)
    assert len(paired(found, Arm("kd"), Arm("sequential")).pairs) == 3
    other = [replace(row, bases={**row.bases, "base": "bbb"}) if row.method == "kd" else row for row in rows]
    assert paired(made.compared(toy, other), Arm("kd"), Arm("sequential")).pairs == ()


def test_batches_that_differ_by_design_pair_and_unknown_ones_do_not(toy: Experiment) -> None:
    left, right = made.row_of(toy, "replay-5", 1), made.row_of(toy, "sequential", 1)
    assert pairing([left], [right], other_batches=True).pairs == ((left, right),)
    assert pairing([left], [right]).pairs == ()
    for design in (True, False):
        for pair in ((replace(left, batches=""), right), (right, replace(left, batches=""))):
            blank = pairing([pair[0]], [pair[1]], other_batches=design)
            assert blank.pairs == () and blank.remarks == ("order A seed 1: batches not recorded",)
    both = made.rows_of(toy, ["replay-5", "sequential"])
    assert line_of(outcome_table(made.compared(toy, both), "forget"), "replay-5").difference.n == 3


def test_revisions_pair_where_equal_batches_show_that_the_text_is_the_same(toy: Experiment) -> None:
    right = made.row_of(toy, "sequential", 1)
    kd = replace(made.row_of(toy, "kd", 1), code="ffffffffffff")
    assert pairing([kd], [right]).pairs == ((kd, right),)
    replay = replace(made.row_of(toy, "replay-5", 1), code="ffffffffffff")
    found = pairing([replay], [right], other_batches=True)
    assert found.pairs == () and found.remarks[0].startswith("order A seed 1: other code")


def test_a_row_that_lacks_a_measure_is_no_zero(toy: Experiment) -> None:
    rows = made.rows_of(toy)
    bare = made.with_measures(rows[-1], tasks={})
    line = line_of(outcome_table(made.compared(toy, [*rows[:-1], bare]), "role"), "kd")
    assert line.mean is None and "not measured" in line.remarks[0]
    assert line_of(outcome_table(made.compared(toy, [*rows[:-1], bare]), "role"), "sequential").mean.n == 3


@pytest.mark.parametrize("tokens, unequal", [(600_000, False), (605_000, False), (630_000, True), (570_000, True)])
def test_other_tokens_than_the_baseline_are_seen(toy: Experiment, tokens: int, unequal: bool) -> None:
    rows = [replace(row, tokens=tokens) if row.method == "kd" else row for row in made.rows_of(toy)]
    assert unequal_tokens(made.compared(toy, rows), Arm("kd")) is unequal


# -- the unigram line --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("margin, informs", [(1.2, True), (0.8, False)])
def test_the_uninformative_rule_looks_at_the_best_cell(toy: Experiment, margin: float, informs: bool) -> None:
    rows = made.rows_of(toy)
    best = outcome_table(made.compared(toy, rows), "final_loss").margin("-")
    assert best is not None
    found = outcome_table(made.compared(toy, made.rows_of(toy, lift=best - margin)), "final_loss")
    assert found.margin("-") == pytest.approx(margin) and found.informative("-") is informs
    assert line_of(found, "kd").margin < margin  # not the worst cell, nor the mean, decides


def test_the_threshold_itself_is_enough() -> None:
    assert informative(1.0) and informative(0.999999) and not informative(0.99998) and informative(None)


def test_outcomes_that_read_no_loss_are_not_under_the_rule(toy: Experiment) -> None:
    found = outcome_table(made.compared(toy, made.rows_of(toy, lift=4.0)), "role")
    assert found.margin("-") is None and found.informative("-")


def test_the_order_of_the_rows_does_not_matter(toy: Experiment) -> None:
    rows = made.rows_of(toy)
    shuffled = random.Random(3).sample(rows, len(rows))
    assert outcome_table(made.compared(toy, rows), "forget") == outcome_table(made.compared(toy, shuffled), "forget")
