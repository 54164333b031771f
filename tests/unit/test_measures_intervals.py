from __future__ import annotations

import math
import random

import pytest

from bequest.errors import InputError
from bequest.measures.intervals import effect_line, interval, paired


def test_interval_against_a_hand_computed_value() -> None:
    found = interval([1.0, 2.0, 3.0])
    half = 4.302652729911275 / math.sqrt(3)  # t(0.975, 2) · sd / √n with sd = 1
    assert found.mean == 2.0
    assert found.low == pytest.approx(2 - half) and found.high == pytest.approx(2 + half)
    assert found.text(digits=2) == "2.00 ± 2.48 (n = 3 seeds)"


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = random.Random(0)
    hits = sum(bool(interval([rng.gauss(0, 1) for _ in range(4)]).covers_zero) for _ in range(2000))
    assert 0.935 < hits / 2000 < 0.965


def test_pairing_removes_what_both_arms_share() -> None:
    rng = random.Random(1)
    shared = [rng.gauss(0, 10) for _ in range(5)]
    left, right = [s + 1 + rng.gauss(0, 0.1) for s in shared], shared
    assert paired(left, right).covers_zero is False
    turned = [right[-1], *right[:-1]]  # the control: the wrong pairs hide the same difference
    assert paired(left, turned).covers_zero is True


def test_effect_line_says_no_effect_when_the_interval_covers_zero() -> None:
    line = effect_line("replay", interval([0.1, -0.1, 0.02]), control="no replay", unit="nats", better="lower")
    assert line.endswith("against no replay: no effect seen")


@pytest.mark.parametrize(
    "values, better, verdict",
    [
        ([0.4, 0.5, 0.45], "higher", "better"),
        ([0.4, 0.5, 0.45], "lower", "worse"),
        ([-0.4, -0.5, -0.45], "lower", "better"),
    ],
)
def test_effect_line_knows_the_direction(values: list[float], better: str, verdict: str) -> None:
    assert effect_line("x", interval(values), control="c", better=better).endswith(f": {verdict}")


def test_one_value_has_no_interval_and_concludes_nothing() -> None:
    single = interval([0.7])
    assert single.low is None and single.covers_zero is None and single.half_width is None
    assert "n = 1, no interval" in single.text()
    assert effect_line("x", single, control="c").endswith("nothing can be concluded")


def test_equal_values_have_no_interval_unless_they_are_all_zero() -> None:
    assert interval([0.5, 0.5]).missing == "all 2 seeds equal, no interval"
    assert effect_line("x", interval([0.5, 0.5]), control="c").endswith("nothing can be concluded")
    assert effect_line("x", interval([0.0, 0.0]), control="c").endswith("no effect seen")


def test_scale_and_sign() -> None:
    assert interval([0.1, 0.2], over="examples").text(scale=100, digits=0, unit="points", signed=True) == (
        "+15 ± 64 points (n = 2 examples)"
    )


def test_bad_input() -> None:
    with pytest.raises(InputError, match="cannot be paired"):
        paired([1.0], [1.0, 2.0])
    with pytest.raises(InputError, match="no value"):
        interval([])
    with pytest.raises(InputError, match="not finite"):
        interval([1.0, math.nan])
    with pytest.raises(InputError, match="better="):
        effect_line("x", interval([1.0]), control="c", better="up")
