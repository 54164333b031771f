"""Run an experiment, or go on running it: every cell whose row does not stand, one after the other.

What is done is what stands in the CSV, so an experiment goes on on another machine from the file alone; several
processes, on one machine, share the cells of one experiment.  Small, at the smoke scale::

    run_experiment("lab/stream.yaml", "smoke", results=Path("r"), work=Path("w"), console=Console())
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bequest.errors import InputError, Interrupted
from lab.experiments.bench import Bench, Summary
from lab.experiments.cells import cells_of
from lab.experiments.reading import load_experiment

if TYPE_CHECKING:
    from rich.console import Console


def run_experiment(
    path: str | os.PathLike[str],
    scale: str,
    *,
    seeds: int | None = None,
    methods: Collection[str] = (),
    max_hours: float | None = None,
    results: Path,
    work: Path,
    console: Console,
    commit: bool = False,
    any_code: bool = False,
    keep_models: bool = False,
    made_of_rows: Callable[[], Sequence[Path]] = tuple,
) -> Summary:
    """Run the cells of an experiment whose rows do not stand, and append their rows.

    Args:
        path: the experiment file.
        scale: one of its scales.
        seeds: only the first so many of the scale's seeds.
        methods: only these methods; all of them if none is named.
        max_hours: do not start a cell that would not be finished by then, going by the longest so far on this machine,
            else by the scale's ``cell_minutes``; the first cell always starts where neither is known.
        results: the directory of the CSV, ``<experiment>.csv``.
        work: where run directories go: ``<work>/<experiment>/<scale>/<cell>/``.
        console: one line per cell.
        commit: commit the CSV, and nothing else, after each row.
        any_code: rows that other code made count as done too.
        keep_models: keep the weights of cells whose rows stand.
        made_of_rows: writes what is made of the rows, before they are committed, and says which files these are.

    Raises:
        InputError: the experiment, its CSV or what it names cannot be used, or ``max_hours`` is no time.
        Interrupted: the user stopped it; rows stand, and the cell in hand resumes.
    """
    started = time.monotonic()
    if max_hours is not None and not 0 < max_hours < math.inf:
        message = f"{max_hours} is no number of hours above 0"
        raise InputError(message, key="--max-hours", remedy="leave it out for no limit")
    experiment = load_experiment(path)
    cells = cells_of(experiment, scale, seeds, methods)
    bench = Bench(
        experiment=experiment,
        scale=scale,
        cells=cells,
        file=results / f"{experiment.name}.csv",
        place=work / experiment.name / scale,
        made_up=work / "made-up",
        console=console,
        commit=commit,
        any_code=any_code,
        keep_models=keep_models,
        made_of_rows=made_of_rows,
        deadline=None if max_hours is None else started + 3600 * max_hours,
        summary=Summary(results / f"{experiment.name}.csv", len(cells)),
    )
    with _told_how_to_go_on(bench):
        bench.work_off()
    bench.summary.seconds = time.monotonic() - started
    return bench.summary


@contextlib.contextmanager
def _told_how_to_go_on(bench: Bench) -> Iterator[None]:
    """Turn a Ctrl-C, wherever it came, into the line that says what stands and how to resume."""
    try:
        yield
    except (Interrupted, KeyboardInterrupt) as error:
        said = error.message if isinstance(error, Interrupted) else "interrupted"
        raise Interrupted(
            f"{said}; {len(bench.summary.ran)} cells were finished",
            where=bench.experiment.source,
            remedy="run the same command again: what has a row is passed over, and the cell in hand resumes",
        ) from None
