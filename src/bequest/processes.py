"""Who am I among the processes of a distributed run?  Answers without torch where there is only one.

The launchers (``torchrun``, ``accelerate launch``) set RANK and WORLD_SIZE; the processes meet by accelerate's state.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from bequest.errors import InputError, RunError

# The others wait while the main process packs, grows or publishes, which may take hours; torch gives up after minutes.
PATIENCE = timedelta(days=7)


def world_size() -> int:
    """The number of processes of this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process writes: the first one, or the only one."""
    return int(os.environ.get("RANK", "0")) == 0


def on_cpu() -> bool:
    """Whether processes compute and meet on the CPU: there is no accelerator, or ACCELERATE_USE_CPU asks for it."""
    import torch
    from accelerate.utils import parse_flag_from_env

    return bool(parse_flag_from_env("ACCELERATE_USE_CPU")) or not torch.accelerator.is_available()


def connect() -> Any:
    """accelerate's state of this process; the first call makes the group of processes.

    Call it before anything of transformers does: the group's timeout is set here, and without ``cpu`` said to it
    accelerate takes every process of a machine that has no accelerator for the only one.

    Raises:
        InputError: accelerate does not see the processes that the launcher started.
    """
    from accelerate import PartialState

    state = PartialState(cpu=on_cpu(), timeout=PATIENCE) if world_size() > 1 else PartialState(cpu=on_cpu())
    if state.num_processes != world_size():
        raise InputError(
            f"the launcher started {world_size()} processes and accelerate sees {state.num_processes}",
            key="WORLD_SIZE",
            remedy="start them with torchrun or accelerate launch; on a CPU beside an idle accelerator set "
            "ACCELERATE_USE_CPU=true",
        )
    return state


def wait() -> None:
    """Wait until every process is here.

    Raises:
        RunError: another process is gone.
    """
    if world_size() > 1:
        state = connect()
        with _meeting():
            state.wait_for_everyone()


@contextlib.contextmanager
def main_first() -> Iterator[None]:
    """The main process goes through the block alone, then the others do, and find its work done.

    Raises:
        RunError: on the others, when the main process failed in the block.
    """
    if world_size() == 1:
        yield
    elif is_main():
        try:
            yield
        except Exception:
            _tell(False)
            raise
        _tell(True)
    else:
        if not _tell(None):
            raise RunError("the main process failed", remedy="its own message says why")
        yield


def _tell(done: bool | None) -> bool:
    """Hand the main process' word to all; returns it on every process."""
    import torch

    state = connect()
    word = torch.tensor([float(bool(done))], device=state.device)
    with _meeting():
        torch.distributed.broadcast(word, src=0)
    return bool(word.item())


@contextlib.contextmanager
def _meeting() -> Iterator[None]:
    """What a backend says when a peer has gone, in one line; that peer's own message says why."""
    try:
        yield
    except RuntimeError as error:
        raise RunError(f"another process of this run is gone ({str(error).splitlines()[0]})") from error
