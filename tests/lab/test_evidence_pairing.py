"""The alarm of the runner: rows of one seed that saw other batches although nothing says that they should."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import evidence_support as made
from lab.experiments import resolving
from lab.experiments.pairing import unpaired_with
from lab.experiments.rows import Row
from lab.experiments.schema import Experiment


@pytest.fixture(autouse=True)
def names_stand_for_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolving, "identities", lambda: resolving.UNCHECKED)


@pytest.fixture
def toy(tmp_path: Path) -> Experiment:
    return made.experiment_of(tmp_path)


def alarms(row: Row, *others: Row) -> list[str]:
    return unpaired_with(row, [row, *others], ["replay-5"], {one.recipe for one in (row, *others)} - {"0ld"})


def test_other_batches_are_an_alarm_and_equal_ones_are_not(toy: Experiment) -> None:
    row, other = made.row_of(toy, "kd", 1), made.row_of(toy, "sequential", 1)
    assert alarms(row, other) == []
    assert alarms(row, replace(other, batches="other")) == ["sequential"]


@pytest.mark.parametrize(
    "change",
    [
        {"code": "ffffffffffff"},
        {"seed": 2},
        {"scale": "gpu"},
        {"size": "large"},
        {"order": "B"},
        {"role": "pilot"},
        {"method": "replay-5"},
        {"method": "kd"},
        {"recipe": "0ld"},
        {"experiment": "other"},
    ],
    ids=lambda change: f"{next(iter(change))}-{next(iter(change.values()))}",
)
def test_what_is_not_compared_raises_no_alarm(toy: Experiment, change: dict[str, Any]) -> None:
    row, other = made.row_of(toy, "kd", 1), replace(made.row_of(toy, "sequential", 1), batches="other")
    assert alarms(row, replace(other, **change)) == []


def test_a_cell_that_came_to_nothing_recorded_no_batches(toy: Experiment) -> None:
    row, other = made.row_of(toy, "kd", 1), made.row_of(toy, "sequential", 1)
    assert alarms(row, made.failed_of(other)) == [] and alarms(made.failed_of(row), other) == []
