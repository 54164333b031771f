"""Verdicts come from the interval, and a claim near the unigram line gets none."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import evidence_support as made
from bequest.errors import InputError
from bequest.measures.intervals import Interval, interval
from lab.evidence.verdicts import UNINFORMATIVE, UNMEASURED, Judged, judge
from lab.experiments import resolving
from lab.experiments.comparing import outcome_table
from lab.experiments.outcomes import FAILED, HOLDS, UNDECIDED, expectation
from lab.experiments.rows import Row
from lab.experiments.schema import Claim, Experiment


@pytest.fixture(autouse=True)
def names_stand_for_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolving, "identities", lambda: resolving.UNCHECKED)


@pytest.fixture
def toy(tmp_path: Path) -> Experiment:
    return made.experiment_of(tmp_path)


def judged(toy: Experiment, rows: Sequence[Row], *, pilots: Sequence[Row] | None = None, **claim: Any) -> Judged:
    """The verdict of final rows, with the pilots that chose their value unless others are given."""
    given = {"says": "so", "outcome": "forget", "of": "sequential", "expect": "above 0", **claim}
    tried = made.pilots_of(toy) if pilots is None else pilots
    return judge(Claim(**given), made.compared(toy, [*rows, *tried]), "-")


LESS = {"outcome": "general_drop", "against": "sequential", "expect": "below 0"}
"""What both other methods lose of general text is less than what sequential training loses."""


def forgetting(toy: Experiment, method: str, values: Sequence[float]) -> list[Row]:
    """Rows of order A, one seed after the other, that forget so much."""
    rows = []
    for seed, value in enumerate(values, start=1):
        row = made.row_of(toy, method, seed)
        losses = row.measures["perplexity"]
        s1 = {**losses["s1"], "one": {"loss": losses["s2"]["one"]["loss"] - value, "unigram": 7.0}}
        rows.append(made.with_measures(row, perplexity={**losses, "s1": s1}))
    return rows


@pytest.mark.parametrize(
    "text, low, high, verdict",
    [
        ("above 0", 0.1, 0.3, HOLDS),
        ("above 0", -0.1, 0.3, UNDECIDED),
        ("above 0", 0.0, 0.3, UNDECIDED),
        ("above 0", -0.3, -0.1, FAILED),
        ("below 0.5", 0.1, 0.3, HOLDS),
        ("below 0.5", 0.4, 0.6, UNDECIDED),
        ("below 0.5", 0.6, 0.7, FAILED),
        ("between -0.03 and 0.03", -0.01, 0.02, HOLDS),
        ("between -0.03 and 0.03", -0.01, 0.04, UNDECIDED),
        ("between -0.03 and 0.03", -0.09, -0.04, FAILED),
        ("above 0", 0.0, 0.0, FAILED),
        ("below 1e-2", 0.0, 0.0, HOLDS),
    ],
)
def test_an_expectation_judges_the_interval(text: str, low: float, high: float, verdict: str) -> None:
    assert expectation(text).judge(Interval((low + high) / 2, low, high, 3)) == verdict


def test_no_interval_decides_nothing() -> None:
    assert expectation("above 0").judge(interval([5.0])) == UNDECIDED
    assert expectation("above 0").judge(interval([5.0, 5.0])) == UNDECIDED


@pytest.mark.parametrize("text", ["more than 0", "above", "above zero", "between 2 and 1", ""])
def test_an_expectation_that_says_something_else(text: str) -> None:
    with pytest.raises(InputError, match="is no expectation"):
        expectation(text)


def test_a_claim_about_one_method(toy: Experiment) -> None:
    rows = made.rows_of(toy)
    assert judged(toy, rows).verdict == HOLDS
    assert judged(toy, rows, expect="above 2").verdict == FAILED
    assert "(n = 3 seeds, mean of 2 orders)" in judged(toy, rows).ours


@pytest.mark.parametrize("seeds, verdict", [("[1]", UNDECIDED), ("[1, 2, 3]", HOLDS)])
def test_one_seed_decides_nothing_however_many_orders(tmp_path: Path, seeds: str, verdict: str) -> None:
    toy = made.experiment_of(tmp_path, made.EXPERIMENT.replace("seeds: [1, 2, 3]", f"seeds: {seeds}"))
    found = judged(toy, made.rows_of(toy))
    assert found.verdict == verdict and ("n = 1, no interval" in found.ours) is (verdict == UNDECIDED)


def test_a_claim_against_another_method_counts_pairs_only(toy: Experiment) -> None:
    rows = made.rows_of(toy)
    against = {"outcome": "final_loss", "of": "kd", "against": "sequential"}
    assert judged(toy, rows, **against).verdict == HOLDS
    strange = [replace(row, batches="other") if row.method == "kd" else row for row in rows]
    found = judged(toy, strange, **against)
    assert found.verdict == UNDECIDED and "other batches" in found.remark and found.rows == ()
    based = [replace(row, bases={"base": "bbbbbbbbbbbb"}) if row.method == "kd" else row for row in rows]
    found = judged(toy, based, **against)
    assert found.verdict == UNDECIDED and "other base weights" in found.remark
    some = [replace(row, batches="other") if (row.method, row.seed) == ("kd", 3) else row for row in rows]
    found = judged(toy, some, **against)
    assert len(found.rows) == 8 and "n = 2 seeds" in found.ours  # two seeds, two orders, two methods
    assert found.verdict == UNDECIDED and "only 4 of 6 planned pairs count" in found.remark
    assert judged(toy, some, **against, expect="above 9").verdict == FAILED  # a failure needs no more


# -- what is not measured yet ------------------------------------------------------------------------------------------


def test_planned_cells_without_rows_are_not_measured_yet(toy: Experiment) -> None:
    rows = made.rows_of(toy)
    one = judged(toy, rows[1:])
    assert (one.verdict, one.ours) == (UNMEASURED, "not measured yet (5 of 6 cells)")
    two = judged(toy, rows[:-1], of="kd", against="sequential")
    assert (two.verdict, two.ours) == (UNMEASURED, "not measured yet (11 of 12 cells)")
    assert "`kd`: 5 of 6 cells" in two.remark
    assert judged(toy, rows[:-1], **LESS, of="replay-5").verdict == HOLDS


def test_rows_of_an_earlier_recipe_give_no_verdict(toy: Experiment) -> None:
    rows = made.rows_of(toy)
    old = [replace(row, recipe="0ld0ld0ld0ld") if row.method == "kd" else row for row in rows]
    found = judged(toy, old, **LESS, of="kd")
    assert found.verdict == UNMEASURED and found.remark == "rows of an earlier recipe: `kd`"
    assert judged(toy, old, of="kd").verdict == UNMEASURED
    assert judged(toy, old).verdict == HOLDS and "earlier" not in judged(toy, old).remark


def test_methods_are_not_compared_before_both_are_tuned(toy: Experiment) -> None:
    rows, against = made.rows_of(toy), {**LESS, "of": "kd"}
    assert judged(toy, rows, **against).verdict == HOLDS
    for lacking in ("kd", "sequential"):
        some = [row for row in made.pilots_of(toy) if row.method != lacking or row.tuned["lr"] > 5e-5]
        found = judged(toy, rows, pilots=some, **against)
        assert found.verdict == UNMEASURED and f"`{lacking}`: pilot rows of 2 of 3 candidates" in found.remark
    alone = judged(toy, rows, pilots=[])
    assert alone.verdict == HOLDS and "pilot rows of 0 of 3 candidates" in alone.remark


# -- cells that came to nothing, revisions, base weights ---------------------------------------------------------------


@pytest.mark.parametrize("method", ["kd", "sequential"])
def test_a_cell_that_came_to_nothing_blocks_holds(toy: Experiment, method: str) -> None:
    rows = made.rows_of(toy)
    assert judged(toy, rows, **LESS, of="kd").verdict == HOLDS  # the control
    fallen = next(row for row in rows if row.method == method)
    rows = [made.failed_of(row) if row is fallen else row for row in rows]
    found = judged(toy, rows, **LESS, of="kd")
    assert found.verdict == UNDECIDED and f"`{method}`, order A seed 1 came to nothing" in found.remark
    assert judged(toy, rows, of=method).verdict == UNDECIDED
    assert judged(toy, rows, of="replay-5").verdict == HOLDS
    every = [made.failed_of(row) if row.method == method else row for row in rows if row is not fallen]
    assert judged(toy, every, of=method).verdict == UNDECIDED


def test_a_claim_names_the_revisions_and_base_weights_it_rests_on(toy: Experiment) -> None:
    rows = made.rows_of(toy)
    assert judged(toy, rows).remark == ""
    later = [replace(row, code="ffffffffffff", commit="7654321") if row.method == "kd" else row for row in rows]
    found = judged(toy, later, **LESS, of="kd")
    assert found.verdict == HOLDS and "rows of 2 revisions" in found.remark
    assert "0123456789ab (commit 5c66b0c)" in found.remark and "ffffffffffff (commit 7654321)" in found.remark
    assert "revisions" not in judged(toy, later).remark
    other = [replace(row, bases={"base": "bbbbbbbbbbbb"}) if row.seed == 3 else row for row in rows]
    found = judged(toy, other, **LESS, of="kd")
    assert "several base weights of one name: base aaaaaaaaaaaa, bbbbbbbbbbbb" in found.remark


# -- ratios ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share, verdict", [(0.5, HOLDS), (0.25, UNDECIDED), (0.1, FAILED)])
def test_a_ratio_by_hand(toy: Experiment, share: float, verdict: str) -> None:
    # Replay forgets 0.2 where sequential training forgets 0.8: a quarter.
    rows = made.rows_of(toy)
    found = judged(toy, rows, of="replay-5", against="sequential", ratio=True, expect=f"below {share}")
    assert found.verdict == verdict and found.ours.startswith("0.25 ")


def test_a_ratio_to_nothing_is_no_ratio(toy: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(made.FORGET, "sequential", 0.0)
    rows = made.rows_of(toy)
    found = judged(toy, rows, of="replay-5", against="sequential", ratio=True, expect="below 0.5")
    assert found.verdict == UNDECIDED and "not clearly above 0" in found.remark


def test_a_denominator_that_may_be_nothing_gives_no_ratio(tmp_path: Path) -> None:
    toy = made.experiment_of(tmp_path, made.ONE_ORDER)
    rows = [*forgetting(toy, "sequential", (0.02, 0.9, 0.1)), *forgetting(toy, "replay-5", (0.001, 0.002, 0.003))]
    found = judged(toy, rows, of="replay-5", against="sequential", ratio=True, expect="below 0.5")
    assert found.verdict == UNDECIDED and found.ours == "no ratio"  # its mean is 0.34, its interval covers 0
    assert "not clearly above 0" in found.remark


def test_a_ratio_beyond_one_bound_failed_however_near_the_other(tmp_path: Path) -> None:
    toy = made.experiment_of(tmp_path, made.ONE_ORDER)
    rows = [*forgetting(toy, "sequential", (0.80, 0.81, 0.79)), *forgetting(toy, "replay-5", (0.20, 0.22, 0.18))]
    ratio = {"of": "replay-5", "against": "sequential", "ratio": True}
    assert judged(toy, rows, **ratio, expect="between 0.1 and 0.5").verdict == HOLDS
    assert judged(toy, rows, **ratio, expect="between 0.25 and 0.5").verdict == UNDECIDED
    assert judged(toy, rows, **ratio, expect="between 0.5 and 0.6").verdict == FAILED
    # All equal at the upper bound, so that nothing is known of the spread there; the lower one is missed all the same.
    less = [*forgetting(toy, "sequential", (0.80, 0.81, 0.79)), *forgetting(toy, "replay-5", (-0.1, -0.095, -0.105))]
    assert judged(toy, less, **ratio, expect="below 0.5").verdict == UNDECIDED
    assert judged(toy, less, **ratio, expect="between 0.1 and 0.5").verdict == FAILED


# -- the unigram line --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("margin, verdict", [(1.2, HOLDS), (0.8, UNINFORMATIVE)])
def test_near_the_unigram_line_nothing_is_claimed(toy: Experiment, margin: float, verdict: str) -> None:
    # What sequential training forgets is counted from a domain's own training, about 4.3 nats below the unigram line
    # where it is furthest.
    best = outcome_table(made.compared(toy, made.rows_of(toy, ["sequential"])), "forget").margin("-")
    assert best is not None and best > 4
    assert judged(toy, made.rows_of(toy, lift=best - margin)).verdict == verdict


@pytest.mark.parametrize(
    "near, verdict", [(("kd",), HOLDS), (("sequential",), HOLDS), (("kd", "sequential"), UNINFORMATIVE)]
)
def test_the_better_of_two_methods_decides_whether_they_inform(
    toy: Experiment, near: tuple[str, ...], verdict: str
) -> None:
    rows = [row for m in made.FINAL for row in made.rows_of(toy, [m], lift=3.9 if m in near else 0.0)]
    found = judged(toy, rows, outcome="general_drop", of="kd", against="sequential", expect="between -9 and 9")
    assert found.verdict == verdict


def test_a_method_not_concerned_does_not_make_a_claim_informative(toy: Experiment) -> None:
    rows = [row for m in made.FINAL for row in made.rows_of(toy, [m], lift=0.0 if m == "kd" else 3.9)]
    found = judged(toy, rows, of="replay-5", against="sequential", expect="below 0")
    assert found.verdict == UNINFORMATIVE


def test_what_was_not_measured_is_said(toy: Experiment) -> None:
    rows = made.rows_of(toy, ["sequential"])
    assert judged(toy, rows, of="kd").verdict == UNMEASURED
    bare = [made.with_measures(row, tasks={}) for row in rows]
    found = judged(toy, bare, outcome="role", expect="above 0.5")
    assert found.verdict == UNMEASURED and "'s2' was not measured" in found.remark
