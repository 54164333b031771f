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
from lab.experiments.outcomes import FAILED, HOLDS, UNDECIDED, expectation
from lab.experiments.rows import Row
from lab.experiments.schema import Claim, Experiment


@pytest.fixture(autouse=True)
def names_stand_for_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolving, "identities", lambda: resolving.UNCHECKED)


@pytest.fixture
def toy(tmp_path: Path) -> Experiment:
    return made.experiment_of(tmp_path)


def judged(toy: Experiment, rows: Sequence[Row], **claim: Any) -> Judged:
    given = {"says": "so", "outcome": "forget", "of": "sequential", "expect": "above 0", **claim}
    return judge(Claim(**given), made.compared(toy, rows), "-")


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
    assert judged(toy, rows[:1]).verdict == UNDECIDED  # one seed, whatever its mean
    assert "n = 1" in judged(toy, rows[:1]).ours


def test_a_claim_against_another_method_counts_pairs_only(toy: Experiment) -> None:
    rows = made.rows_of(toy)
    against = {"outcome": "final_loss", "of": "kd", "against": "sequential"}
    assert judged(toy, rows, **against).verdict == HOLDS
    strange = [replace(row, batches="other") if row.method == "kd" else row for row in rows]
    found = judged(toy, strange, **against)
    assert found.verdict == UNDECIDED and "other batches" in found.remark and found.rows == ()
    some = [replace(row, batches="other") if row.method == "kd" and row.order == "B" else row for row in rows]
    assert len(judged(toy, some, **against).rows) == 6  # three pairs


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


@pytest.mark.parametrize("margin, verdict", [(1.2, HOLDS), (0.8, UNINFORMATIVE)])
def test_near_the_unigram_line_nothing_is_claimed(toy: Experiment, margin: float, verdict: str) -> None:
    # The best last stage of sequential training lies about 3.53 nats below the unigram line.
    assert judged(toy, made.rows_of(toy, lift=3.53 - margin)).verdict == verdict


def test_a_method_not_concerned_does_not_make_a_claim_informative(toy: Experiment) -> None:
    rows = [made.row_of(toy, m, s, lift=0.0 if m == "kd" else 3.0) for m in made.FINAL for s in (1, 2, 3)]
    found = judged(toy, rows, of="replay-5", against="sequential", expect="below 0")
    assert found.verdict == UNINFORMATIVE


def test_what_was_not_measured_is_said(toy: Experiment) -> None:
    rows = made.rows_of(toy, ["sequential"])
    assert judged(toy, rows, of="kd").verdict == UNMEASURED
    bare = [made.with_measures(row, tasks={}) for row in rows]
    found = judged(toy, bare, outcome="role", expect="above 0.5")
    assert found.verdict == UNMEASURED and "'s2' was not measured" in found.remark


def test_a_verdict_from_an_earlier_recipe_says_so(toy: Experiment) -> None:
    rows = [replace(row, recipe="0ld0ld0ld0ld") for row in made.rows_of(toy)]
    assert "earlier recipe" in judged(toy, rows).remark and "earlier" not in judged(toy, made.rows_of(toy)).remark
