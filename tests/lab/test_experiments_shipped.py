"""Every experiment in the checkout runs whole at its smoke scale, and is ready to be run at the others."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from lab import cli
from lab.experiments.cells import cells_of
from lab.experiments.outcomes import compute
from lab.experiments.reading import load_experiment
from lab.experiments.rows import read_rows
from lab.experiments.running import run_experiment

SHIPPED = cli.experiments()


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_smoke(name: str, tmp_path: Path) -> None:
    text = io.StringIO()
    summary = run_experiment(
        SHIPPED[name],
        "smoke",
        results=tmp_path / "results",
        work=tmp_path / "cells",
        console=Console(file=text, width=200),
    )
    assert summary.failures == [], text.getvalue()
    experiment = load_experiment(SHIPPED[name])
    rows = read_rows(summary.file)[0]
    finals = [row for row in rows if row.role == "final"]
    scale = experiment.scales["smoke"]
    assert len(finals) == len(experiment.methods) * len(experiment.sizes) * len(experiment.orders) * len(scale.seeds)
    assert not any("unpaired" in row.measures for row in rows)
    for row in finals:
        order = row.measures["order"]
        for outcome in experiment.outcomes.values():
            assert isinstance(compute(outcome, row.measures, order=order), float)


@pytest.mark.parametrize("name", sorted(SHIPPED))
@pytest.mark.parametrize("scale", ["cpu", "gpu"])
def test_other_scales_are_planned(name: str, scale: str) -> None:
    cells = cells_of(load_experiment(SHIPPED[name]), scale)
    assert {cell.role for cell in cells} == {"pilot", "final"}
    assert len({cell.key for cell in cells}) == len(cells)
