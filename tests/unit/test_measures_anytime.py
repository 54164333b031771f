from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import find, given
from hypothesis import strategies as st

from bequest.errors import InputError
from bequest.measures.anytime import FIGURES, Matrix, drift, drop, figure, frontier_gap

STAGES, DOMAINS = ["base", "s1", "s2", "s3"], ["a", "b", "c"]
ACCURACIES = [[0.50, 0.40, 0.30], [0.90, 0.45, 0.20], [0.80, 0.85, 0.35], [0.70, 0.90, 0.75]]
"""Worked by hand below; b improves after its own stage, a forgets."""
BY_HAND = {
    "adaptability": (0.90 + 0.85 + 0.75) / 3,
    "final": (0.70 + 0.90 + 0.75) / 3,
    "anytime": (0.90 + 0.45 + 0.20 + 0.80 + 0.85 + 0.35 + 0.70 + 0.90 + 0.75) / 9,
    "out_of_domain": (0.45 + 0.20 + 0.35) / 3,
    "learning": (0.40 + 0.40 + 0.40) / 3,
    "learning_min": 0.40,
    "forget": ((0.90 - 0.70) + (0.85 - 0.90)) / 2,
    "forget_max": ((0.90 - 0.70) + (0.85 - 0.90)) / 2,
    "bwt": -((0.90 - 0.70) + (0.85 - 0.90)) / 2,
    "fwt": ((0.45 - 0.40) + (0.35 - 0.30)) / 2,
    "unseen_drop": ((0.40 - 0.45) + (0.30 - 0.20) + (0.30 - 0.35)) / 3,
    "unseen_drop_max": 0.10,
}
LOSSES = [[5.0, 6.0, 7.0], [3.0, 6.5, 7.5], [3.5, 4.0, 8.0], [4.5, 4.4, 3.0]]
LOSSES_BY_HAND = {
    "adaptability": (3.0 + 4.0 + 3.0) / 3,
    "final": (4.5 + 4.4 + 3.0) / 3,
    "learning": ((5.0 - 3.0) + (6.5 - 4.0) + (8.0 - 3.0)) / 3,
    "learning_min": 2.0,
    "forget": ((4.5 - 3.0) + (4.4 - 4.0)) / 2,
    "bwt": -((4.5 - 3.0) + (4.4 - 4.0)) / 2,
    "fwt": ((6.0 - 6.5) + (7.0 - 8.0)) / 2,
    "unseen_drop": (0.5 + 0.5 + 1.0) / 3,
    "unseen_drop_max": 1.0,
}


def matrix(cells: list[list[float]], *, losses: bool) -> Matrix:
    measured = {stage: dict(zip(DOMAINS, row, strict=True)) for stage, row in zip(STAGES, cells, strict=True)}
    return Matrix.of(measured, STAGES, DOMAINS, losses=losses)


@pytest.mark.parametrize("name", sorted(BY_HAND))
def test_figures_of_accuracies_by_hand(name: str) -> None:
    assert FIGURES[name].compute(matrix(ACCURACIES, losses=False)) == pytest.approx(BY_HAND[name])


@pytest.mark.parametrize("name", sorted(LOSSES_BY_HAND))
def test_figures_of_losses_by_hand(name: str) -> None:
    assert FIGURES[name].compute(matrix(LOSSES, losses=True)) == pytest.approx(LOSSES_BY_HAND[name])


def test_every_figure_is_worked_by_hand() -> None:
    assert set(BY_HAND) == set(FIGURES)


def test_levels_keep_their_sign_and_everything_else_turns_with_it() -> None:
    as_accuracy = matrix([[-value for value in row] for row in LOSSES], losses=False)
    for name, one in FIGURES.items():
        sign = -1.0 if one.sense == "level" else 1.0
        assert one.compute(matrix(LOSSES, losses=True)) == pytest.approx(sign * one.compute(as_accuracy)), name


def test_better_says_the_direction() -> None:
    assert figure("final").better(losses=True) == "lower" and figure("final").better(losses=False) == "higher"
    assert figure("forget").better(losses=True) == figure("forget").better(losses=False) == "lower"
    assert figure("learning").better(losses=True) == "higher"


def test_forget_max_counts_from_the_best_earlier_stage() -> None:
    cells = [row[:] for row in ACCURACIES]
    cells[2][0] = 0.95  # a is at its best one stage after its own
    found = matrix(cells, losses=False)
    assert found.forget_max() == pytest.approx(((0.95 - 0.70) + (0.85 - 0.90)) / 2)
    assert found.forget() == pytest.approx(BY_HAND["forget"])


def test_forget_max_leaves_the_last_stage_out() -> None:
    # b is best at the very end: counted from there it would be 0 instead of −0.05, and backward transfer would vanish.
    assert matrix(ACCURACIES, losses=False).forget_max() == pytest.approx(BY_HAND["forget_max"])


@st.composite
def streams(draw: st.DrawFn) -> Matrix:
    length = draw(st.integers(2, 5))
    row = st.lists(st.floats(0, 20, width=32), min_size=length, max_size=length)
    cells = draw(st.lists(row, min_size=length + 1, max_size=length + 1))
    names = tuple(f"d{j}" for j in range(length))
    stages = tuple(f"s{i}" for i in range(length + 1))
    return Matrix(stages, names, tuple(tuple(row) for row in cells), draw(st.booleans()))


@given(streams())
def test_forget_max_is_never_below_forget(found: Matrix) -> None:
    assert found.forget_max() >= found.forget() - 1e-12


def test_the_law_can_fail() -> None:
    # The control: with the sign of losses forgotten, the "best" earlier stage is the worst one.
    def wrong(found: Matrix) -> float:
        last = found.length
        lost = [min(found.score(i, j) for i in range(j, last)) - found.score(last, j) for j in range(1, last)]
        return sum(lost) / len(lost)

    assert find(streams(), lambda found: wrong(found) < found.forget() - 1e-3)


@given(streams())
def test_backward_transfer_is_forgetting_turned_and_the_worst_learns_least(found: Matrix) -> None:
    assert found.bwt() == -found.forget()
    assert found.learning_min() <= found.learning() + 1e-9
    assert found.unseen_drop() <= found.unseen_drop_max() + 1e-9


def test_curves_over_stages_and_time() -> None:
    found = matrix(ACCURACIES, losses=False)
    assert found.seen(2) == pytest.approx((0.80 + 0.85) / 2)
    assert found.unseen(1) == pytest.approx((0.45 + 0.20) / 2)
    assert found.temporal(0) == pytest.approx(found.adaptability())
    assert found.temporal(1) == pytest.approx((0.45 + 0.35) / 2)
    assert found.temporal(-1) == pytest.approx((0.80 + 0.90) / 2)
    assert found.unseen_share(0.05) == pytest.approx(1 / 3)
    assert found.unseen_share(0.2) == 0.0
    with pytest.raises(InputError, match="no meaning"):
        found.unseen(3)
    with pytest.raises(InputError, match="no meaning"):
        found.temporal(3)


def test_intransigence_in_both_kinds() -> None:
    alone = {"a": 0.95, "b": 0.90, "c": 0.80}
    assert matrix(ACCURACIES, losses=False).intransigence(alone) == pytest.approx(0.05)
    assert matrix(LOSSES, losses=True).intransigence({"a": 2.5, "b": 4.0, "c": 3.0}) == pytest.approx(0.5 / 3)
    with pytest.raises(InputError, match="not measured on 'c'"):
        matrix(LOSSES, losses=True).intransigence({"a": 2.5, "b": 4.0})


def test_drop_and_drift_outside_the_stream() -> None:
    assert drop([3.0, 3.4, 3.3], losses=True) == pytest.approx(0.3)
    assert drift([3.0, 3.4, 3.3], losses=True) == pytest.approx(0.35)
    assert drop([0.9, 0.7], losses=False) == pytest.approx(0.2)
    with pytest.raises(InputError, match="no drop"):
        drop([3.0], losses=True)


def test_frontier_gap_is_read_at_the_same_learning_and_never_beyond() -> None:
    frontier = [(1.0, 0.2), (3.0, 0.6)]
    assert frontier_gap(2.0, 0.3, frontier) == pytest.approx(-0.1)
    assert frontier_gap(1.0, 0.2, frontier) == pytest.approx(0.0)
    for learning in (0.9, 3.1):
        with pytest.raises(InputError, match="outside"):
            frontier_gap(learning, 0.3, frontier)


@pytest.mark.parametrize("value", [None, math.nan, math.inf], ids=["missing", "nan", "infinite"])
def test_a_missing_cell_is_an_error_and_never_a_zero(value: float | None) -> None:
    measured: dict[str, dict[str, Any]] = {
        stage: dict(zip(DOMAINS, row, strict=True)) for stage, row in zip(STAGES, LOSSES, strict=True)
    }
    measured["s2"]["a"] = value
    with pytest.raises(InputError, match=r"'s2'.*'a'"):
        Matrix.of(measured, STAGES, DOMAINS, losses=True)
    del measured["s2"]
    with pytest.raises(InputError, match="'s2'"):
        Matrix.of(measured, STAGES, DOMAINS, losses=True)
    measured["s2"] = {"a": 0.0, "b": 0.0, "c": 0.0}  # the control: a measured zero is a number
    assert Matrix.of(measured, STAGES, DOMAINS, losses=True).score(2, 1) == 0.0


def test_a_matrix_that_does_not_fit_its_stream() -> None:
    with pytest.raises(InputError, match="do not fit"):
        Matrix.of({}, ["base", "s1"], DOMAINS, losses=True)
    with pytest.raises(InputError, match="twice"):
        Matrix.of({}, STAGES, ["a", "b", "a"], losses=True)
    with pytest.raises(InputError, match="forget"):
        Matrix.of({"base": {"a": 2.0}, "s1": {"a": 1.0}}, ["base", "s1"], ["a"], losses=True).forget()
    with pytest.raises(InputError, match="did you mean 'forget'"):
        figure("forgets")
