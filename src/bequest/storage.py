"""Durable writes: whole or not at all.

Every file and directory that bequest leaves behind goes through here: it is written under a temporary name, flushed to
the disk, and renamed when whole, so that a process killed at any moment leaves either the old thing or the new one.
At the bottom of the import order; no torch.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bequest.errors import BequestError, InputError, RunError

PARTIAL = ".partial"
#: Random bytes in a temporary file's name.
_TOKEN = 6
TORCH_WRITER = "inline_container.cc"


def cache_directory() -> Path:
    """Where packed corpora and other derived data live: ``$BEQUEST_CACHE``, else ``~/.cache/bequest``."""
    base = os.environ.get("BEQUEST_CACHE")
    if base:
        return Path(base)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bequest"


def sync_file(path: Path) -> None:
    """Flush one file or directory entry to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(directory: Path) -> None:
    """Flush every file below ``directory``, and the directories themselves, to the disk."""
    for root, _, files in os.walk(directory):
        for name in files:
            sync_file(Path(root) / name)
        sync_file(Path(root))


def replace(source: Path, target: Path) -> None:
    """Rename ``source`` to ``target`` (which may be an existing file) and make the rename durable."""
    source.replace(target)
    sync_file(target.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; of several writers at once each writes it whole, and the last one stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with disk_errors(path):
        _sweep(path)
        temporary, descriptor = _own_file(path)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                replace(temporary, path)  # before the file is closed, which ends its lock
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _own_file(path: Path) -> tuple[Path, int]:
    """A new file beside ``path`` that no other writer has; its descriptor holds a lock until it is closed."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(_TOKEN)}{PARTIAL}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            _lock(descriptor, fcntl.LOCK_EX)
            if _is_at(descriptor, temporary):  # not swept between the two calls
                return temporary, descriptor
        except BaseException:
            os.close(descriptor)
            temporary.unlink(missing_ok=True)
            raise
        os.close(descriptor)


def _sweep(path: Path) -> None:
    """Remove what killed writers of ``path`` left: nobody holds a lock on it.  Where locks do not work it stays."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 2 * _TOKEN}{PARTIAL}"):
        with contextlib.suppress(OSError):
            descriptor = os.open(left, os.O_WRONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.unlink()
            finally:
                os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file (sorted keys, two-space indent) whole or not at all."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("no such file", where=path) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"not valid JSON ({error})", where=path) from None
    except RecursionError:
        raise InputError("not JSON that can be read (nested too deeply)", where=path) from None


@contextlib.contextmanager
def atomic_directory(target: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield a fresh temporary directory beside ``target`` that becomes ``target`` when the block ends without an error.

    The temporary directory is locked while it is filled, so that one run at a time makes ``target``; a killed process's
    lock is gone with it, and the next run empties what it left.

    Args:
        target: the directory to make.  Its parent is made when missing.
        force: replace an existing ``target``; the old one is moved aside first and removed last.

    Raises:
        InputError: ``target`` exists, is not empty, and ``force`` is not set.
        RunError: the disk is full, or another run is making ``target``.
    """
    _check_free(target, force)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}{PARTIAL}")
    with disk_errors(target):
        lock = _claimed(temporary, target)
        try:
            _check_free(target, force)  # another run may have made it since
            _empty(temporary)
            yield temporary
            sync_tree(temporary)
            if not _is_at(lock, temporary):
                raise RunError("was moved or removed by another process", where=temporary, remedy="run it again")
            with _waited_for(target):
                swap_directory(temporary, target)
        except BaseException:
            if _is_at(lock, temporary):
                shutil.rmtree(temporary, ignore_errors=True)
            raise
        finally:
            os.close(lock)


def _check_free(target: Path, force: bool) -> None:
    if target.exists() and not force and (not target.is_dir() or any(target.iterdir())):
        raise InputError("already exists", where=target, remedy="pass --force to replace it, or name another directory")


def _claimed(temporary: Path, target: Path) -> int:
    """A descriptor of the temporary directory, made or found; it holds the lock until it is closed."""
    while True:
        with contextlib.suppress(FileExistsError):
            temporary.mkdir()
        try:
            descriptor = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:  # the run that held it has just ended
            continue
        except NotADirectoryError:
            raise InputError("is in the way", where=temporary, remedy="remove it") from None
        try:
            _lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(descriptor, temporary):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            remedy = "wait for it to end, or name another directory"
            raise RunError("another run is making this", where=target, remedy=remedy) from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(descriptor: int, how: int) -> None:
    """Lock a directory.  Some network file systems cannot; then the look before the rename has to do."""
    try:
        fcntl.flock(descriptor, how)
    except OSError as error:
        if error.errno not in (errno.EBADF, errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
            raise


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether ``path`` is the open directory, and no other of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _empty(directory: Path) -> None:
    """Remove what a killed run left."""
    for entry in directory.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


@contextlib.contextmanager
def _waited_for(target: Path) -> Iterator[None]:
    """Wait for the run that has just renamed its directory to ``target`` and still removes the one it replaced."""
    if not target.is_dir():
        yield
        return
    descriptor = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _lock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def swap_directory(new: Path, target: Path) -> None:
    """Rename the directory ``new`` to ``target``; an existing one is moved aside first and removed afterwards."""
    old = old_path(target)
    if old.exists():
        shutil.rmtree(old)
    if target.exists():
        target.replace(old)
    replace(new, target)
    if old.exists():
        shutil.rmtree(old)


def old_path(target: Path) -> Path:
    """Where a replaced directory lies until it is removed."""
    return target.with_name(f".{target.name}.old")


@contextlib.contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turn "no space left" and "file too large" into a one-line RunError that names the place."""
    try:
        yield
    except BequestError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            raise disk_full(where, error) from error
        raise
    except Exception as error:
        # safetensors and tokenizers write from Rust and report the OS error only inside their own error's text;
        # torch.save's writer says no more than where in its own source it could not go on.
        text = str(error)
        codes = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
        if TORCH_WRITER in text or any(f"os error {code}" in text for code in codes):
            raise disk_full(where, error) from error
        raise


def disk_full(where: Path, error: BaseException) -> RunError:
    """The RunError for a write that the disk refused."""
    return RunError(
        f"the disk is full or a file-size limit was met ({error})",
        where=where,
        remedy="nothing half-written was left; free some space and run the same command again",
    )


def free_bytes(path: Path) -> int:
    """Bytes free on the file system that holds ``path`` or its nearest existing parent."""
    probe = path.absolute()
    while not probe.exists():
        probe = probe.parent
    return shutil.disk_usage(probe).free


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def value_digest(value: Mapping[str, Any] | list[Any]) -> str:
    """SHA-256 of a JSON-like value in canonical form (sorted keys, no spaces), as hex."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
