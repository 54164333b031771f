"""Plan -> generations.  Reads as a table of contents: open the run, then each stage in turn, then the report.

Run one small: ``bequest new --template minimal > recipe.yaml && bequest run recipe.yaml --out runs/x``.
Running the same command again resumes: finished stages are skipped, an interrupted one goes on bit for bit.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bequest import processes, storage
from bequest.errors import BequestError, InputError, Interrupted, RunError
from bequest.planning import Plan, check_disk, make_plan
from bequest.recipe import Measure, Recipe, Section, load_recipe, stage_hash
from bequest.stages import RUNNERS, Context, Life
from bequest.stages.life import STAGE_FILE
from bequest.stages.measure import remember_all

if TYPE_CHECKING:
    from rich.console import Console

RUN_FILE = "run.json"


@dataclass(frozen=True)
class RunReport:
    """What a run left behind.

    ``out`` is the run directory, ``report`` the path of its ``report.html``; ``ran`` and ``skipped`` name the stages
    that were done now and those that stood already; ``seconds`` is the wall time of this call.
    """

    out: Path
    report: Path
    ran: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def directory(self, stage: str) -> Path:
        """The directory of a stage."""
        return self.out / stage


def run(
    recipe: str | os.PathLike[str] | Recipe,
    out: str | os.PathLike[str] | None = None,
    *,
    overrides: Sequence[str] = (),
    console: Console | None = None,
) -> RunReport:
    """Do what a recipe says, or go on doing it.

    Args:
        recipe: the path of a recipe, or a loaded one.
        out: the run directory; by default the recipe's ``out``, else ``runs/<name>`` in the working directory.
        overrides: ``key=value`` changes, as on the command line; only with a path.
        console: where progress goes; by default standard error.

    Raises:
        InputError: the recipe, a corpus, a task or the run directory cannot be used.
        RunError: the disk is full, memory ran out or a loss is not a number; finished stages stay usable.
        Interrupted: the user stopped it.
    """
    started = time.monotonic()
    wanted = recipe if isinstance(recipe, Recipe) else load_recipe(Path(recipe), list(overrides))
    directory = Path(out or wanted.out or Path("runs") / wanted.name)
    plan = make_plan(wanted)
    console = console or _console()
    with _one_run(directory, wanted):
        check_disk(plan, directory)
        context = Context(wanted, plan, directory, console)
        record_run(wanted, directory)
        ran, skipped = _run_stages(context, plan)
        if ran:
            record_run(wanted, directory, summary=())  # what was said of the stages before is not true of these
        report = _report(directory)
    return RunReport(directory, report, ran, skipped, time.monotonic() - started)


def _run_stages(context: Context, plan: Plan) -> tuple[list[str], list[str]]:
    """Every stage in order; returns the names of those run and of those that stood already."""
    ran: list[str] = []
    skipped: list[str] = []
    for number, section in enumerate(context.recipe.stages, start=1):
        with processes.main_first():  # fingerprints are cached on the disk
            digest = _hash(context, section)
        life = Life(context.out, section.name, section.kind, digest)
        label = f"[{number}/{len(context.recipe.stages)}] {section.kind} {section.name}"
        processes.wait()
        finished = life.finished()
        processes.wait()
        if finished:
            context.say(f"{label}: already done")
            if isinstance(section, Measure):
                remember_all(context, section)
            skipped.append(section.name)
            continue
        resuming = life.open_work()
        context.say(f"{label}{': resuming' if resuming else ''}")
        with _explained(context, section):
            RUNNERS[section.kind](context, section, life)
        processes.wait()
        ran.append(section.name)
    return ran, skipped


def _hash(context: Context, section: Section) -> str:
    return stage_hash(section, context.parent_ids(section), context.fingerprints(section))


@contextlib.contextmanager
def _explained(context: Context, section: Section) -> Iterator[None]:
    """Name the stage in what goes wrong, and say how to go on."""
    again = "run the same command again to resume"
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"stopped in stage {section.name!r}", where=context.out, remedy=again) from None
    except Interrupted as error:
        raise Interrupted(error.message, where=context.out, key=section.name, remedy=again) from None
    except BequestError as error:
        # What knows no file of its own was found in a value of this stage.
        stage = f"stages.{section.name}"
        if error.where is None:
            known = error.key is not None and error.key.startswith(("stages.", "corpora.", "tasks."))
            error.where = context.recipe.source
            error.key = error.key if known else f"{stage}.{error.key or ''}".rstrip(".")
        elif error.key is None:
            error.key = stage
        raise
    except MemoryError as error:
        raise RunError(
            f"memory ran out ({error})",
            where=context.out,
            key=section.name,
            remedy="lower micro_batch_tokens; finished stages are kept",
        ) from error


@contextlib.contextmanager
def _one_run(directory: Path, recipe: Recipe) -> Iterator[None]:
    """Hold the run directory: refuse one that is something else, or that another process works in.

    The lock is the operating system's: it goes with the process, however that ends.
    """
    if not processes.is_main():
        yield
        return
    _check_directory(directory, recipe)
    with storage.disk_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                "another process is running in this directory",
                where=directory,
                remedy="wait for it, or give another --out",
            ) from None
        yield


def _check_directory(directory: Path, recipe: Recipe) -> None:
    """Refuse a directory that is not a run's, or is another recipe's."""
    if directory.exists() and not directory.is_dir():
        raise InputError("is a file, not a run directory", where=directory, remedy="give another --out")
    if not directory.is_dir():
        return
    record = directory / RUN_FILE
    if not record.is_file():
        # Hidden names are what a run killed at its very beginning leaves; a stage says itself that it is one.
        if any(not entry.name.startswith(".") and not is_ours(entry) for entry in directory.iterdir()):
            raise InputError("is not empty and is not a run of bequest", where=directory, remedy="give another --out")
        return
    try:
        found = storage.read_json(record)
    except InputError:
        found = None
    if not isinstance(found, dict):
        raise InputError("is damaged", where=record, remedy="remove it (the stages are kept) and run again")
    name = found.get("name")
    if name != recipe.name:
        raise InputError(f"holds the run {name!r}, not {recipe.name!r}", where=directory, remedy="give another --out")


def is_ours(entry: Path) -> bool:
    """Whether an entry of a run directory without its record is a run's."""
    return (entry / STAGE_FILE).is_file() or entry.name in ("recipe.yaml", "report.html")


def record_run(recipe: Recipe, out: Path, summary: Sequence[str] | None = None) -> None:
    """Write ``run.json`` and the recipe as it is run; an earlier summary stays unless one is given."""
    if not processes.is_main():
        return
    stages: list[Mapping[str, object]] = [
        {
            "name": section.name,
            "kind": section.kind,
            "parents": [{"name": reference.target, "role": reference.role} for reference in section.references()],
        }
        for section in recipe.stages
    ]
    known = out / RUN_FILE
    before = storage.read_json(known) if known.is_file() else {}
    lines = before.get("summary", []) if summary is None else list(summary)
    value = {"name": recipe.name, "stages": stages, "summary": lines}
    if value != before:
        storage.write_json(known, value)
    text = recipe.text()
    copy = out / "recipe.yaml"
    if not copy.is_file() or copy.read_text(encoding="utf-8") != text:
        storage.write_text(copy, text)


def summarise_run(recipe: Recipe, out: Path, lines: Sequence[str]) -> Path:
    """Put summary lines on top of a finished run's report; returns the report's path."""
    record_run(recipe, out, lines)
    return _report(out)


def _report(out: Path) -> Path:
    """Write the report from what stands in the run directory; returns its path."""
    path = out / "report.html"
    if processes.is_main():
        from bequest.reports.report import write_report

        path = write_report(out)
    processes.wait()
    return path


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True)
