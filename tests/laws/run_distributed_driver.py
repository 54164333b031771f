"""What the command line does, in fp32 wherever the machine would use bf16: sums of processes are compared closely.

    torchrun --nproc_per_node 2 run_distributed_driver.py right|wrong run RECIPE --out OUT ...

``wrong`` cuts the budget as if there were one process, so that every update takes twice the batch that was asked for.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import bequest.training.session as session
from bequest.cli import main
from bequest.training.settings import TrainSettings

RIGHT = TrainSettings.batches


def for_one_process(settings: TrainSettings, *, samples: int | None = None, world: int = 1) -> Any:
    return dataclasses.replace(RIGHT(settings, samples=samples, world=1), world=world)


if __name__ == "__main__":
    session.computes_bf16 = lambda device: False
    if sys.argv.pop(1) == "wrong":
        TrainSettings.batches = for_one_process
    main()
