"""``recycle``: weights tuned for an old base become tuned weights for a new one."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from bequest import processes
from bequest.methods import make_method
from bequest.planning import train_settings
from bequest.recipe import Recycle
from bequest.recipe.sections import DEFAULT_LENGTH
from bequest.stages.context import Context
from bequest.stages.life import Life
from bequest.stages.publishing import Made, base_parent, finish

if TYPE_CHECKING:
    from bequest.data.tasks import Task
    from bequest.recycling import Tuned


def run_recycle(context: Context, section: Recycle, life: Life) -> None:
    """Recycle and publish."""
    from bequest.recycling import METHODS, Recycler, read_tuned
    from bequest.recycling.carrying import recorded_base
    from bequest.recycling.recycler import Tuning

    (call,) = section.method  # more than one is refused when the recipe is read
    method = make_method(METHODS, call.name, call.options, kind=Recycler, verb="recycle")
    tuned = read_tuned(context.local_directory(section.tuned))
    task = task_of(context, section, tuned.task)
    work = life.work / "training"
    length = section.max_length or tuned.max_length or DEFAULT_LENGTH
    made = method(
        tuned,
        context.base_under(section.tuned) or recorded_base(tuned),
        context.generation(section.onto),
        task,
        out=life.work / "recycled",
        tuning=Tuning(train_settings(section), work, max_length=length, console=context.console),
    )
    for line in said_of(made):
        context.say(f"  {line}")
    parents = [base_parent(context, ref.target, ref.role, life.final) for ref in section.references()]
    record: dict[str, Any] = made.parameters()
    done = Made(
        section=section,
        method=call.name,
        parents=parents,
        tasks=[task.name] if task is not None and made.training is not None else [],
        results=[made.training] if made.training is not None else [],
        directories=[work],
        parameters=record,
    )
    if processes.is_main():
        with life.publish() as directory:
            shutil.copytree(life.work / "recycled", directory, dirs_exist_ok=True)
            finish(context, directory, done)


def said_of(made: Tuned) -> list[str]:
    """What carrying preserved, where weights were carried, and the method's notes; a line each."""
    verdict = [f"{made.carried.verdict}: {made.carried.reason}"] if made.carried is not None else []
    return [*verdict, *made.notes]


def task_of(context: Context, section: Recycle, recorded: str | None) -> Task | None:
    """The task of the weights: as the stage names it, else as they recorded it, where the recipe has it."""
    name = section.task or recorded
    return context.task(name) if name is not None and name in context.recipe.tasks else None
