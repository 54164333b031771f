"""``bequest demo``: a small decoder's whole life on text that is already on the machine, and what it showed.

The chain is ``recipe.yaml`` in this package, run like any recipe; ``summary.py`` reads the numbers it left.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Demonstration:
    """What the demo left: its run directory, its report, the five lines, and the seconds it took."""

    out: Path
    report: Path
    summary: tuple[str, ...]
    seconds: float


def run_demo(out: Path, *, console: Console, overrides: Sequence[str] = ()) -> Demonstration:
    """Run the demo, or go on with it.

    Args:
        out: the run directory.
        console: where progress goes.
        overrides: ``key=value`` changes of the demo's recipe (a smaller budget, another method).

    Raises:
        BequestError: as :func:`bequest.run`.
    """
    from bequest.data.demo import demo_missing
    from bequest.demonstration.summary import HEADING, summarise
    from bequest.recipe import load_recipe
    from bequest.running import run, summarise_run
    from bequest.stages.context import open_task

    started = time.monotonic()
    with resources.as_file(resources.files("bequest.demonstration") / "recipe.yaml") as path:
        recipe = load_recipe(path, list(overrides))
        for line in demo_missing():
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        done = run(recipe, out, console=console)
        seen = recipe.tasks["areas"].demo is not None  # an embedded task is cut out of its corpus
        lines = [HEADING, *summarise(out, open_task(recipe, "areas"), seen_text=seen)]
        seconds = time.monotonic() - started
        again = f" ({len(done.skipped)} of {len(recipe.stages)} stages stood already)" if done.skipped else ""
        lines.append(f"training and measuring took {seconds / 60:.1f} minutes{again}")
        report = summarise_run(recipe, out, lines)
    return Demonstration(out, report, tuple(lines), seconds)
