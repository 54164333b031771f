"""Which rows count: those that the file plans as it is now; the others are counted, never silently dropped."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import evidence_support as made
from lab.evidence.gathering import NEWER, PILOT, SEED, UNKNOWN, VALUE
from lab.experiments import resolving
from lab.experiments.comparing import Arm
from lab.experiments.schema import Experiment

KD, SEQUENTIAL = Arm("kd"), Arm("sequential")


@pytest.fixture(autouse=True)
def names_stand_for_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolving, "identities", lambda: resolving.UNCHECKED)


@pytest.fixture
def toy(tmp_path: Path) -> Experiment:
    return made.experiment_of(tmp_path)


def test_all_that_is_planned_counts(toy: Experiment) -> None:
    found = made.compared(toy, [*made.rows_of(toy), *made.pilots_of(toy)])
    assert found.left_out == {} and found.earlier == () and found.failed == {}
    assert all(found.ran(arm) == found.planned == 6 and found.settled(arm) for arm in found.arms)
    assert found.choices[KD].tuned == {"lr": 0.0001}


def test_rows_of_an_earlier_recipe_are_named_and_newer_rows_stand(toy: Experiment) -> None:
    rows = made.rows_of(toy, ["sequential"])
    old = [replace(row, recipe="0ld0ld0ld0ld", date="2026-04-01") for row in rows]
    alone = made.compared(toy, old)
    assert alone.earlier == (SEQUENTIAL,) and alone.ran(SEQUENTIAL) == 0 and len(alone.cells[SEQUENTIAL]) == 6
    both = made.compared(toy, [*old, *rows])
    assert both.earlier == () and both.left_out == {NEWER: 6}
    assert {row.recipe for row in both.rows} == {rows[0].recipe}


def test_of_two_rows_for_a_cell_the_later_counts_whatever_their_order(toy: Experiment) -> None:
    rows = made.rows_of(toy)
    again = replace(rows[0], date="2026-05-02", code="ffffffffffff", tokens=1)
    for shuffled in ([again, *rows], [*rows, again]):
        found = made.compared(toy, shuffled)
        assert found.left_out == {NEWER: 1} and found.cells[SEQUENTIAL][0].tokens == 1
    tie = replace(rows[0], code="ffffffffffff", tokens=1)  # on one day, the code that more rows are of
    for shuffled in ([tie, *rows], [*rows, tie]):
        assert made.compared(toy, shuffled).cells[SEQUENTIAL][0].tokens == 600_000


@pytest.mark.parametrize(
    "change",
    [{"method": "gone"}, {"size": "large"}, {"order": "C"}, {"order": "A"}],
    ids=["method", "size", "order", "other-order-of-the-same-name"],
)
def test_rows_that_the_file_no_longer_names_are_counted(toy: Experiment, change: dict[str, Any]) -> None:
    strange = replace(made.row_of(toy, "sequential", 1, "B"), **change)
    found = made.compared(toy, [strange, made.row_of(toy, "sequential", 2)])
    assert found.left_out == {UNKNOWN: 1} and [row.seed for row in found.rows] == [2]


@pytest.mark.parametrize("seed", [0, 9], ids=["the-pilot-seed", "another"])
def test_reported_rows_of_seeds_that_the_scale_does_not_list(toy: Experiment, seed: int) -> None:
    found = made.compared(toy, [*made.rows_of(toy), made.row_of(toy, "kd", seed)])
    assert found.left_out == {SEED: 1} and {row.seed for row in found.rows} == {1, 2, 3}


def test_pilots_are_never_reported_nor_reported_rows_pilots(toy: Experiment) -> None:
    rows = made.rows_of(toy)
    pilot = replace(rows[0], role="pilot")  # of a listed seed, and of the reported cells' own recipe
    found = made.compared(toy, [pilot, *rows[1:]])
    assert found.ran(SEQUENTIAL) == 5 and {row.role for row in found.rows} == {"final"}
    assert found.left_out == {PILOT: 1} and found.choices[SEQUENTIAL].tried == ()


# -- the tuned value ---------------------------------------------------------------------------------------------------


def test_only_rows_of_the_value_that_the_pilots_choose_count(toy: Experiment) -> None:
    rows = [replace(row, tuned={"lr": 2e-4}) if row.method == "kd" else row for row in made.rows_of(toy)]
    found = made.compared(toy, [*rows, *made.pilots_of(toy)])
    assert KD not in found.cells and found.left_out == {VALUE: 6} and found.ran(SEQUENTIAL) == 6
    more = made.compared(toy, [*rows, *made.rows_of(toy, ["kd"]), *made.pilots_of(toy)])
    assert found.left_out == more.left_out and {row.tuned["lr"] for row in more.cells[KD]} == {1e-4}


def test_a_pilot_that_is_no_candidate_any_more_chooses_nothing(tmp_path: Path) -> None:
    now = made.EXPERIMENT.replace("values: [5.0e-5, 1.0e-4, 2.0e-4]", "values: [5.0e-5, 1.0e-4, 3.0e-4]")
    toy = made.experiment_of(tmp_path, now)
    pilots = [*made.pilots_of(toy, ["sequential", "replay-5"])]
    pilots += [made.pilot_of(toy, "kd", value, loss) for value, loss in ((5e-5, 3.9), (1e-4, 3.8), (2e-4, 1.0))]
    found = made.compared(toy, [*made.rows_of(toy), *pilots])
    assert not found.settled(KD) and found.left_out == {PILOT: 3}
    assert found.pilots_wanting(KD) == "`kd`: pilot rows of 2 of 3 candidates"
    settled = made.compared(toy, [*made.rows_of(toy), *pilots, made.pilot_of(toy, "kd", 3e-4, 3.85)])
    assert settled.settled(KD) and settled.choices[KD].tuned == {"lr": 1e-4}


@pytest.mark.parametrize(
    "change", [{"seed": 7}, {"recipe": "0ld0ld0ld0ld"}, {"order": "B"}], ids=lambda change: next(iter(change))
)
def test_pilots_of_another_seed_recipe_or_order_do_not_count(toy: Experiment, change: dict[str, Any]) -> None:
    pilots = made.pilots_of(toy, ["kd"])
    if "order" in change:
        change = {**change, "measures": {**pilots[0].measures, "order": ["two", "one"]}}
    found = made.compared(toy, [*made.rows_of(toy), replace(pilots[0], **change), *pilots[1:]])
    assert len(found.choices[KD].tried) == 2 and not found.settled(KD) and found.left_out == {PILOT: 1}


def test_a_pilot_that_diverged_was_tried(toy: Experiment) -> None:
    pilots = made.pilots_of(toy, ["kd"])
    one = made.compared(toy, [*made.rows_of(toy), made.failed_of(pilots[0]), *pilots[1:]])
    assert one.settled(KD)
    none = made.compared(toy, [*made.rows_of(toy), *map(made.failed_of, pilots)])
    assert not none.settled(KD) and none.pilots_wanting(KD) == "`kd`: no candidate came through its pilot"


def test_without_pilots_the_value_of_most_rows_stands_alone(toy: Experiment) -> None:
    rows = made.rows_of(toy, ["kd"])
    found = made.compared(toy, [replace(rows[0], tuned={"lr": 2e-4}), *rows[1:]])
    assert {row.tuned["lr"] for row in found.rows} == {1e-4} and found.left_out == {VALUE: 1}
    never = made.compared(toy, [replace(row, tuned={"lr": 7.0}) for row in rows])
    assert never.rows == () and never.left_out == {VALUE: 6}


def test_nothing_tuned_needs_no_pilots(tmp_path: Path) -> None:
    lines = [line for line in made.EXPERIMENT.splitlines() if not line.startswith("tuning:")]
    untuned = "\n".join(lines).replace('lr: "${tuned.lr}"', "lr: 0.0001") + "\n"
    toy = made.experiment_of(tmp_path, untuned)
    found = made.compared(toy, [replace(row, tuned={}) for row in made.rows_of(toy)])
    assert found.settled(KD) and found.left_out == {} and found.wanting((KD, SEQUENTIAL)) == ()


# -- cells that came to nothing ----------------------------------------------------------------------------------------


def test_a_cell_that_came_to_nothing_ran_and_is_not_compared(toy: Experiment) -> None:
    rows = made.rows_of(toy)
    found = made.compared(toy, [made.failed_of(row) if row == rows[-1] else row for row in rows])
    assert found.ran(KD) == 6 and len(found.cells[KD]) == 5 and len(found.failed[KD]) == 1
    assert found.fallen([KD]) == ("`kd`, order B seed 3 came to nothing (s2: the loss is not finite)",)
    assert found.fallen([SEQUENTIAL]) == ()
