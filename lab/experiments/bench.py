"""The cells of an experiment worked off one after the other: which is next, what becomes of it, what is told.

Done is what has a row.  Several processes share the cells of one experiment: each holds the lock of the cell's
directory while it is at it.  Called by :func:`lab.experiments.running.run_experiment`.
"""

from __future__ import annotations

import fcntl
import functools
import statistics
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from bequest.errors import BequestError, InputError, Interrupted, RunError
from bequest.storage import disk_errors
from lab.experiments import resolving
from lab.experiments.cells import SMOKE, Cell
from lab.experiments.harvesting import failed, machine
from lab.experiments.made_up import MadeUp
from lab.experiments.one_cell import LOG, diverged, run_cell, tidy
from lab.experiments.outcomes import compute
from lab.experiments.pairing import unpaired_with
from lab.experiments.revisions import commit_file, differs_from_head
from lab.experiments.rows import Row, append_row, check_writable, read_rows
from lab.experiments.schema import Experiment
from lab.experiments.tuning import chosen

if TYPE_CHECKING:
    from rich.console import Console

LOOK_AGAIN = 2.0
"""Seconds between two looks at cells that another process holds."""


@dataclass(frozen=True)
class Failure:
    """A cell without a row, and why."""

    cell: Cell
    line: str


@dataclass
class Summary:
    """What one call of :func:`run_experiment` came to.

    Attributes:
        file: the CSV.
        total: cells of the experiment at this scale, pilots included.
        ran: cells whose rows this call wrote.
        failures: cells that came to nothing.
        left: cells that time was too short for.
        remarks: what the user should know, in order.
        seconds: wall time of the call.
    """

    file: Path
    total: int
    ran: list[Cell] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    left: int = 0
    remarks: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether a cell came to nothing."""
        return bool(self.failures)

    @property
    def exit_code(self) -> int:
        """0, or 3 when a cell failed."""
        return RunError.exit_code if self.failed else 0

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "file": str(self.file),
            "cells": self.total,
            "ran": [cell.label() for cell in self.ran],
            "failed": {failure.cell.label(): failure.line for failure in self.failures},
            "left": self.left,
            "remarks": self.remarks,
            "seconds": round(self.seconds, 1),
        }


@dataclass(frozen=True)
class Taken:
    """A cell that this process holds: as it waited, as it runs (its tuned value chosen), and the lock."""

    waiting: Cell
    ready: Cell
    lock: IO[str]


@dataclass
class Bench:
    """One call of :func:`run_experiment`: where things go, and what has come of it so far."""

    experiment: Experiment
    scale: str
    cells: list[Cell]
    file: Path
    place: Path
    made_up: Path
    console: Console
    commit: bool
    any_code: bool
    keep_models: bool
    deadline: float | None
    summary: Summary
    made_of_rows: Callable[[], Sequence[Path]] = tuple

    @functools.cached_property
    def sources(self) -> resolving.Sources:
        """Where corpora, tasks and models lie."""
        return MadeUp(self.made_up).sources() if self.scale == SMOKE else resolving.places(self.console)

    def work_off(self) -> None:
        """Every cell in turn; those that another process holds, or that wait for their pilots, are looked at again."""
        pending = list(self.cells)
        self.prune(pending, self.rows())
        if pending:
            check_writable(self.file)
        done = len(self.cells) - len(pending)
        self.say(
            f"{self.experiment.name} at {self.scale}: {len(self.cells)} cells, {done} have their row in "
            f"{self.file.name}, {len(pending)} to run"
        )
        waits = False
        while pending:
            taken = self.take(pending)
            if taken is None:
                if pending and not waits:
                    self.say(f"another process is at the {len(pending)} cells that are left; waiting for its rows")
                waits = bool(pending)
                if waits and self.deadline is not None and time.monotonic() > self.deadline:
                    self.summary.left = len(pending)
                    break
                time.sleep(LOOK_AGAIN if waits else 0)
                continue
            waits = False
            with taken.lock:
                if self.too_late(taken.ready.role):
                    self.summary.left = len(pending)
                    break
                pending.remove(taken.waiting)
                self.do(taken.ready, number=len(self.cells) - len(pending), left=len(pending))
        self.finish()

    # -- which cell is next -------------------------------------------------------------------------------------------

    def take(self, pending: list[Cell]) -> Taken | None:
        """The first cell that has no row and that nobody holds; cells that need no running leave ``pending``."""
        rows = self.rows()
        self.prune(pending, rows)
        for cell in pending:
            ready = self.settled(cell, rows)
            if ready is None:
                continue
            lock = hold(self.place / ready.directory_name)
            if lock is None:
                continue
            if self.row_of(ready, self.rows()) is None:
                return Taken(cell, ready, lock)
            lock.close()  # its row came between the two looks; the next look prunes it
        return None

    def prune(self, pending: list[Cell], rows: list[Row]) -> None:
        """Take out the cells whose rows stand, and those that can never run because their pilots came to nothing."""
        for cell in list(pending):
            try:
                ready = self.settled(cell, rows)
            except RunError as error:
                pending.remove(cell)
                self.fail(cell, error.line())
                continue
            if ready is not None and self.row_of(ready, rows) is not None:
                pending.remove(cell)
                self.clear(ready)

    def settled(self, cell: Cell, rows: list[Row]) -> Cell | None:
        """The cell with its tuned value; None while a pilot of its method and size has no row.

        Raises:
            RunError: a pilot failed here without a row, or all of them diverged.
        """
        if cell.tuned is not None:
            return cell
        found = []
        for pilot in self.cells:
            if pilot.role != "pilot" or (pilot.method, pilot.size) != (cell.method, cell.size):
                continue
            row = self.row_of(pilot, rows)
            if row is None:
                if any(failure.cell == pilot for failure in self.summary.failures):
                    raise RunError(f"its pilot cell failed: {pilot.label()}")
                return None
            found.append(row)
        return cell.with_tuned(chosen(self.experiment, cell.method, found))

    def row_of(self, cell: Cell, rows: list[Row]) -> Row | None:
        """The row of a cell: of this code, else (where that counts) of other code."""
        same = next((row for row in rows if row.is_of(cell)), None)
        if same is None and self.any_code:
            return next((row for row in rows if row.is_of(cell, any_code=True)), None)
        return same

    def rows(self) -> list[Row]:
        """Every row that stands now; a torn line is remarked on once."""
        rows, remarks = read_rows(self.file)
        for remark in remarks:
            self.remark(remark)
        return rows

    def too_late(self, role: str) -> bool:
        """Whether a cell, if it takes as long as the longest so far, would end after the deadline."""
        if self.deadline is None:
            return False
        known = [row for row in self.rows() if row.scale == self.scale and row.machine == machine()]
        alike = [row.wall_seconds for row in known if row.role == role]
        guide = 60 * (self.experiment.scales[self.scale].cell_minutes or 0)
        estimate = max(alike) if alike else max([guide, *(row.wall_seconds for row in known)])
        return time.monotonic() + estimate > self.deadline

    # -- doing it -----------------------------------------------------------------------------------------------------

    def do(self, cell: Cell, *, number: int, left: int) -> None:
        """Run one cell that this process holds; what goes wrong in it does not stop the others."""
        directory = self.place / cell.directory_name
        started = time.monotonic()
        try:
            row = run_cell(self.experiment, cell, self.sources, directory)
        except Interrupted:
            raise
        except BequestError as error:
            if not diverged(error):
                self.fail(cell, error.line())
                return
            # It is a result, and would come out the same again: a cell left out would flatter its method.
            row = failed(cell, f"{error.key or cell.method}: {error.message}", time.monotonic() - started)
        except Exception as error:  # a fault in one cell must not cost the others; the whole of it is in the log
            directory.mkdir(parents=True, exist_ok=True)
            with (directory / LOG).open("a", encoding="utf-8") as log:
                log.write(traceback.format_exc())
            self.fail(cell, f"{type(error).__name__}: {error} (see {directory / LOG})")
            return
        self.keep(cell, row)
        mean = statistics.fmean(self.seconds_of_cells() or [row.wall_seconds])
        self.say(
            f"[{number}/{len(self.cells)}] {cell.label()}: {self.told(row)} in {duration(row.wall_seconds)}"
            + (f"; {left} to go, about {duration(mean * left)}" if left else "")
        )

    def keep(self, cell: Cell, row: Row) -> None:
        """Append a row, say what is odd about it, commit it, and let the weights go."""
        unpaired = self.unpaired(row, self.rows())
        if unpaired:
            row = replace(row, measures={**row.measures, "unpaired": unpaired})
            self.remark(
                f"UNPAIRED: {cell.label()} did not see the batches that {', '.join(unpaired)} saw with the same seed; "
                "find out why, or, where its batches differ by design, say changes_batches: true of the method"
            )
        for remark in append_row(self.file, row):
            self.remark(remark)
        self.summary.ran.append(cell)
        if self.commit:
            self.commit_rows(f"Lab: {self.experiment.name} at {self.scale}, {cell.role} cell {cell.label()}")
        if not self.keep_models:
            tidy(self.place / cell.directory_name)

    def unpaired(self, row: Row, rows: list[Row]) -> list[str]:
        """The methods whose batches differ from a row's although they should not."""
        recipes = {cell.recipe for cell in self.cells}
        return unpaired_with(row, rows, self.experiment.free_of_pairing(), recipes)

    def clear(self, cell: Cell) -> None:
        """Let the weights go that a process left which was killed after it had written its row."""
        directory = self.place / cell.directory_name
        if self.keep_models or not directory.is_dir():
            return
        lock = hold(directory)
        if lock is not None:
            with lock:
                tidy(directory)

    def commit_rows(self, message: str) -> None:
        """Commit the CSV and what is made of it; where that fails it is tried again with the next row, and last."""
        try:
            beside = self.made_of_rows()
        except BequestError as error:
            beside = []
            self.remark(f"what is made of the rows could not be made: {error.line()}")
        if (remark := commit_file(self.file, message, *beside)) is not None:
            self.remark(remark)

    def fail(self, cell: Cell, line: str) -> None:
        """Note a cell that came to nothing."""
        self.summary.failures.append(Failure(cell, line))
        self.say(f"FAILED {cell.label()}: {line}")

    # -- telling ------------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """What is left, what failed, and whether the rows that stand are paired."""
        if self.commit and differs_from_head(self.file):  # a commit failed, or rows of an earlier call had none
            self.commit_rows(f"Lab: {self.experiment.name} at {self.scale}, rows")
        rows = [row for row in self.rows() if row.scale == self.scale]
        torn = sorted({"/".join(sorted({row.method, *found})) for row in rows if (found := self.unpaired(row, rows))})
        if torn:
            self.remark(f"UNPAIRED rows stand in {self.file}: {', '.join(torn)}")
        if self.summary.left:
            mean = statistics.fmean(self.seconds_of_cells() or [0.0])
            self.say(
                f"stopped for want of time: {self.summary.left} cells are left, about "
                f"{duration(mean * self.summary.left)}; run the same command again to go on"
            )
        for failure in self.summary.failures:
            self.say(f"no row for {failure.cell.label()}: {failure.line}")
        self.say(f"{len(self.summary.ran)} rows written to {self.file}")

    def told(self, row: Row) -> str:
        """The main outcome of a row in words."""
        name = self.experiment.main_outcome
        if row.failed is not None:
            return f"diverged ({row.failed})"
        try:
            return f"{name} {compute(self.experiment.outcomes[name], row.measures, order=row.sequence):.4f}"
        except InputError:
            return f"{name} is not measured here"

    def seconds_of_cells(self) -> list[float]:
        """What this call's cells took."""
        mine = {cell.key for cell in self.summary.ran}
        return [row.wall_seconds for row in self.rows() if row.key in mine]

    def remark(self, text: str) -> None:
        """One remark to the user, once."""
        if text not in self.summary.remarks:
            self.summary.remarks.append(text)
            self.say(f"remark: {text}")

    def say(self, text: str) -> None:
        """One line to the user."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


def hold(directory: Path) -> IO[str] | None:
    """The lock of a cell's directory, held until it is closed; None where another process holds it."""
    with disk_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
    lock = (directory / ".lock").open("a", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


def duration(seconds: float) -> str:
    """Seconds as people say them: ``41 s``, ``12 min``, ``3.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
