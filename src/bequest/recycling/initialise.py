"""Initialisation-based recycling: start from the outdated tuned weights on the new base, then tune on the task again.

Recyclable Tuning (Qin et al., Findings of ACL 2023, arXiv 2305.08702): the starting point is :mod:`direct`, or what
:mod:`through_maps` makes of the weights where the new base grew from the old one; the optimizer is fresh, the data
order that of tuning from nothing with the same seed, so that both compare pair by pair.
Deviation: the head is copied, never the sum of two heads.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bequest import processes
from bequest.errors import InputError
from bequest.recycling.recycler import Recycler, Tuning
from bequest.recycling.through_maps import Carry
from bequest.recycling.tuned import Generation, Tuned, label_map, load_tuned

if TYPE_CHECKING:
    from bequest.data.tasks import Task


@dataclass(frozen=True)
class Initialise(Recycler):
    """Tune on the task, starting from the old tuned weights; epochs, batch and lr are the stage's."""

    def __call__(
        self,
        tuned: Tuned,
        old: Generation | None,
        new: Generation,
        task: Task | None,
        *,
        out: Path,
        tuning: Tuning | None = None,
    ) -> Tuned:
        """See :class:`Recycler`; the stored label map stays, whatever order the task's file lists classes in."""
        from bequest.training.tuning import fit, padded, save_tuned

        if task is None or tuning is None:
            raise InputError(
                "initialise trains, so it needs the task's examples",
                where=tuned.path,
                key="task",
                remedy="name the task, or use method: direct",
            )
        labels = label_map(tuned, task.labels)
        start = tuning.directory / "start"
        if processes.is_main():
            shutil.rmtree(start, ignore_errors=True)
        begun = Carry()(tuned, old, new, task, out=start)
        model, tokenizer = load_tuned(begun, new, trainable=True)
        padded(tokenizer, new.path)
        length = tuning.max_length
        training = fit(
            model.train(),
            tokenizer,
            task,
            labels,
            tuning.settings,
            tuning.directory,
            max_length=length,
            console=tuning.console,
        )
        if processes.is_main():
            out.mkdir(parents=True, exist_ok=True)
            save_tuned(training.model, tokenizer, out, base=new.name)
            shutil.rmtree(start, ignore_errors=True)
        processes.wait()
        return replace(begun, path=out, task=task.name, max_length=length, training=training, carried=None)
