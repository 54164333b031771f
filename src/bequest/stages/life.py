"""The life of one stage's directory: skipped, worked on, published.

``<out>/<stage>/`` is a finished stage: it holds ``stage.json`` with the stage's hash and appears by one rename.
``<out>/.<stage>.work/`` holds what an interrupted stage resumes from (checkpoints, a trained tokenizer, a domain
already learnt); it belongs to one hash, is discarded when the hash changed, and is removed once the stage is published.
So a process killed at any moment leaves a run that the same command completes.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bequest import lineage, processes, storage
from bequest.errors import InputError
from bequest.tensor_files import read_header, weight_files

STAGE_FILE = "stage.json"
MEASURES_FILE = "measures.json"


@dataclass(frozen=True)
class Life:
    """One stage of one run: its final directory, its working directory, and the hash that says what it is."""

    out: Path
    name: str
    kind: str
    digest: str

    @property
    def final(self) -> Path:
        """The directory that a finished stage has."""
        return self.out / self.name

    @property
    def work(self) -> Path:
        """The directory of an unfinished stage."""
        return self.out / f".{self.name}.work"

    def finished(self) -> bool:
        """Whether the stage stands, whole, with this very hash; leftovers of its making are then removed."""
        if recorded_hash(self.final) != self.digest or not whole(self.final, self.kind):
            return False
        if processes.is_main():
            for leftover in (self.work, storage.old_path(self.final)):
                shutil.rmtree(leftover, ignore_errors=True)
        return True

    def open_work(self) -> bool:
        """Make or keep the working directory; says whether there was one of the same hash to go on from."""
        resuming = recorded_hash(self.work) == self.digest
        if processes.is_main() and not resuming:
            shutil.rmtree(self.work, ignore_errors=True)
            self.work.mkdir(parents=True)
            self._sign(self.work)
        processes.wait()
        return resuming

    @contextlib.contextmanager
    def publish(self) -> Iterator[Path]:
        """Yield a temporary directory that becomes the finished stage; the working directory goes afterwards.

        Main process only.  A stage that stood there under another hash is replaced.
        """
        with storage.atomic_directory(self.final, force=True) as directory:
            yield directory
            self._sign(directory)
        shutil.rmtree(self.work, ignore_errors=True)

    def _sign(self, directory: Path) -> None:
        storage.write_json(directory / STAGE_FILE, {"hash": self.digest, "kind": self.kind, "name": self.name})


def recorded_hash(directory: Path) -> str | None:
    """The hash in a directory's ``stage.json``, or None."""
    path = directory / STAGE_FILE
    try:
        found = storage.read_json(path)
    except InputError:  # missing, or damaged: a stage that cannot say what it is, is made again
        return None
    return found.get("hash") if isinstance(found, dict) else None


def whole(directory: Path, kind: str) -> bool:
    """Whether a stage's files are still there: weights of the length that their headers give, or the numbers."""
    try:
        if kind == "measure":
            return isinstance(storage.read_json(directory / MEASURES_FILE), dict)
        lineage.read_lineage(directory)
        return all(read_header(file) for file in weight_files(directory))
    except InputError:
        return False
