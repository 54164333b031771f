"""One maker at a time: whoever makes a source, a model or a package file does it alone, in a scratch directory.

Beside a target lie its lock and its scratch directory, both only while somebody makes it.  The lock is the kernel's
(``flock``), so a process that was killed keeps nobody out; the scratch directory that it left is removed by the next.

Try it: ``with alone(Path("/tmp/thing"), Console()) as scratch: ...`` in two terminals.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

SCRATCH = ".scratch-"


@contextlib.contextmanager
def alone(target: Path, console: Console) -> Iterator[Path]:
    """Be the only one that makes ``target``, here and in other processes; not to be nested for one target.

    Whoever waited must look at the target again: it may be made by now.

    Args:
        target: what is made; its parent is made when missing.
        console: where it is told that somebody else is waited for.

    Yields:
        An empty directory on the target's file system, which is removed afterwards.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with _lock(target, console):
        for rubbish in _scratches(target):
            # A tool that outlived its killed caller may still write there; that is why names are not used twice.
            shutil.rmtree(rubbish, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}{SCRATCH}") as name:
            yield Path(name)


def left_over(target: Path) -> bool:
    """Whether the maker of ``target`` is at work or was killed at it."""
    return bool(_scratches(target))


def _scratches(target: Path) -> list[Path]:
    """The directories in which makers of ``target`` work, or did until they were killed."""
    return list(target.parent.glob(f".{glob.escape(target.name)}{SCRATCH}*"))


def clear_for_directory(target: Path) -> None:
    """Remove what lies where a directory is to stand and is none: a file, or a link."""
    if target.is_symlink() or not target.is_dir():
        target.unlink(missing_ok=True)


@contextlib.contextmanager
def _lock(target: Path, console: Console) -> Iterator[None]:
    path = target.with_name(f".{target.name}.lock")
    descriptor = _locked(path)
    if descriptor is None:
        console.print(f"{target.name}: waiting for another process that makes it", markup=False)
    while descriptor is None:
        descriptor = _locked(path, wait=True)
    try:
        yield
    finally:
        # Removed while it is held: whoever has it open already sees below that it is no longer the lock.
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _locked(path: Path, *, wait: bool = False) -> int | None:
    """A descriptor that holds the lock, or None when another process has it or had it until now."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None
