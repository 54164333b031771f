"""Who am I among the processes of a distributed run?  Answers without torch where there is only one.

The launchers (``torchrun``, ``accelerate launch``) set RANK and WORLD_SIZE; barriers are accelerate's.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


def world_size() -> int:
    """The number of processes of this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process writes: the first one, or the only one."""
    return int(os.environ.get("RANK", "0")) == 0


def wait() -> None:
    """Wait until every process is here."""
    if world_size() > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()


@contextlib.contextmanager
def main_first() -> Iterator[None]:
    """The main process goes through the block alone, then the others do, and find its work done."""
    if world_size() > 1:
        from accelerate import PartialState

        with PartialState().main_process_first():
            yield
    else:
        yield
