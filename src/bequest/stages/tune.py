"""``tune``: tuned weights for a task: an adapter on a base, or the whole base fine-tuned."""

from __future__ import annotations

from bequest import processes
from bequest.planning import train_settings
from bequest.recipe import Tune
from bequest.stages.context import Context
from bequest.stages.life import Life
from bequest.stages.publishing import Made, base_parent, finish


def run_tune(context: Context, section: Tune, life: Life) -> None:
    """Tune and publish."""
    from bequest.training.tuning import tune

    tuned = tune(
        context.local_directory(section.from_),
        context.task(section.task),
        adapter=section.adapter.model_dump() if section.adapter is not None else None,
        settings=train_settings(section),
        directory=life.work / "training",
        max_length=section.max_length,
        seed=section.seed,
        called=context.hub_id(section.from_),
        console=context.console,
    )
    made = Made(
        section=section,
        method=section.adapter.type if section.adapter is not None else "full",
        parents=[base_parent(context, section.from_, "base", life.final)],
        tasks=[section.task],
        results=[tuned.training],
        directories=[life.work / "training"],
        parameters=tuned.parameters(),
    )
    if processes.is_main():
        with life.publish() as directory:
            tuned.save(directory)
            finish(context, directory, made)
