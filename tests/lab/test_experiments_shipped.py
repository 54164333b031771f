"""Every experiment in the checkout runs whole at its smoke scale, and is ready to be run at the others."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from bequest.errors import InputError
from lab import cli
from lab.experiments.cells import cells_of
from lab.experiments.curve_outcomes import SavingOutcome, UnitsOutcome
from lab.experiments.outcomes import GapOutcome, compute
from lab.experiments.reading import load_experiment
from lab.experiments.rows import read_rows
from lab.experiments.running import run_experiment

SHIPPED = cli.experiments()
# Some methods do not grow; and where nothing is saved, as in a smoke run, no share of it can be lost.
NOT_OF_EVERY_METHOD = (GapOutcome, UnitsOutcome, SavingOutcome)


def shortened(path: Path, target: Path) -> Path:
    """A copy of an experiment with its first candidate value alone: every method and every order stays."""
    value = yaml.safe_load(path.read_text(encoding="utf-8"))
    if "tuning" in value:
        value["tuning"]["values"] = value["tuning"]["values"][:1]
    target.write_text(yaml.safe_dump(value, sort_keys=False), encoding="utf-8")
    return target


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_smoke(name: str, tmp_path: Path) -> None:
    text = io.StringIO()
    path = shortened(SHIPPED[name], tmp_path / SHIPPED[name].name)
    summary = run_experiment(
        path,
        "smoke",
        results=tmp_path / "results",
        work=tmp_path / "cells",
        console=Console(file=text, width=200),
    )
    assert summary.failures == [], text.getvalue()
    experiment = load_experiment(path)
    rows = read_rows(summary.file)[0]
    finals = [row for row in rows if row.role == "final"]
    scale = experiment.scales["smoke"]
    assert len(finals) == len(experiment.methods) * len(experiment.sizes) * len(experiment.orders) * len(scale.seeds)
    assert not any("unpaired" in row.measures for row in rows)
    first = {(row.size, row.seed, row.order): row.measures for row in finals if row.method == experiment.baseline}
    lacking: dict[str, set[str]] = {outcome: set() for outcome in experiment.outcomes}
    for row in finals:
        partner = first[row.size, row.seed, row.order]
        for outcome, spec in experiment.outcomes.items():
            try:
                assert isinstance(compute(spec, row.measures, order=row.sequence, partner=partner), float)
            except InputError:
                lacking[outcome].add(row.method)
    for outcome, methods in lacking.items():
        spec = experiment.outcomes[outcome]
        assert not methods or isinstance(spec, NOT_OF_EVERY_METHOD), f"{outcome} of {methods}"
        assert methods < set(experiment.methods) or isinstance(spec, SavingOutcome), outcome


@pytest.mark.parametrize("name", sorted(SHIPPED))
@pytest.mark.parametrize("scale", ["cpu", "gpu"])
def test_other_scales_are_planned(name: str, scale: str) -> None:
    cells = cells_of(load_experiment(SHIPPED[name]), scale)
    tuned = load_experiment(SHIPPED[name]).tuning is not None
    assert {cell.role for cell in cells} == ({"pilot", "final"} if tuned else {"final"})
    assert len({cell.key for cell in cells}) == len(cells)
