"""What a recycling method is: tuned weights of the old base in, tuned weights for the new base out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bequest.recycling.tuned import Generation, Tuned

if TYPE_CHECKING:
    from rich.console import Console

    from bequest.data.tasks import Task
    from bequest.training.settings import TrainSettings


@dataclass(frozen=True)
class Tuning:
    """How and where a method that trains does so.

    Attributes:
        settings: budget (in epochs), batch, learning rate and so on.
        directory: where its checkpoints and ``metrics.jsonl`` go; running again with the same one resumes.
        max_length: tokens of an example.
        console: where progress is shown.
    """

    settings: TrainSettings
    directory: Path
    max_length: int = 128
    console: Console | None = None


class Recycler(ABC):
    """A method that brings tuned weights from one base to another."""

    @abstractmethod
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
        """Write the recycled weights into ``out`` (made if missing) and return them.

        Args:
            tuned: the outdated tuned weights.
            old: the base they were tuned on; adapters can do without.
            new: the base they are to work on.
            task: labelled examples, for methods that train.
            out: the directory for an ordinary PEFT adapter or ``from_pretrained`` model; no lineage is written.
            tuning: how to train, for methods that do.

        Raises:
            InputError: the weights cannot be brought onto this base by this method.
        """
