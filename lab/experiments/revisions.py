"""Which code made a row: a digest of every source file that can change a number, and the revision for the reader.

Try it: ``code_digest()``, ``commit_name()``.
"""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Iterable
from pathlib import Path

import bequest
from bequest import storage
from lab import places

DIGITS = 12
# What shows, starts or compares changes no number of a cell.  Which cells there are and which value was chosen stands
# in the row, and what data and models are stands in the recipe's hash by their identities, which change with their
# makers: an edited converter makes the rows anew of those experiments that read its corpus, and no others.
SHOWING = {
    "bequest": ("reports", "commands", "cli.py", "demonstration"),
    "lab": (
        *("evidence", "cli.py", "__main__.py", "places.py", "cache", "results", "corpora", "models"),
        *("kit/identities.py", "kit/leaks.py", "kit/packages.py", "kit/registries.py"),
        "experiments/bench.py",
        "experiments/cells.py",
        "experiments/columns.py",
        "experiments/comparing.py",
        "experiments/curve_outcomes.py",
        "experiments/curves.py",
        "experiments/measured.py",
        "experiments/outcomes.py",
        "experiments/pairing.py",
        "experiments/reading.py",
        "experiments/recipe_checks.py",
        "experiments/revisions.py",
        "experiments/rows.py",
        "experiments/running.py",
        "experiments/schema.py",
        "experiments/tuning.py",
    ),
}


@functools.cache
def code_digest() -> str:
    """Twelve hex digits of the Python files of bequest and the lab that can change a number of a cell."""
    roots = {"bequest": Path(bequest.__file__).parent, "lab": Path(__file__).resolve().parents[1]}
    return digest_of({name: list(sources(root, SHOWING[name])) for name, root in roots.items()}, roots)


def sources(root: Path, left_out: Iterable[str]) -> Iterable[Path]:
    """The Python files below ``root`` without those of ``left_out``, which names files and directories."""
    skipped = [root / name for name in left_out]
    for path in sorted(root.rglob("*.py")):
        if not any(path == place or place in path.parents for place in skipped):
            yield path


def digest_of(files: dict[str, list[Path]], roots: dict[str, Path]) -> str:
    """Twelve hex digits of the files' places below their roots and of their contents."""
    found = [
        [name, path.relative_to(roots[name]).as_posix(), storage.file_digest(path)]
        for name, paths in sorted(files.items())
        for path in paths
    ]
    return storage.value_digest(found)[:DIGITS]


def commit_name() -> str:
    """The short revision of the checkout, ``+dirty`` where its code was changed since; ``unknown`` without git."""
    top = places.checkout()
    revision = _git(top, "rev-parse", "--short=12", "HEAD")
    if revision is None or revision.returncode != 0:
        return "unknown"
    changes = _git(top, "status", "--porcelain", "--", "src", "lab", ":(exclude)lab/results")
    dirty = changes is None or changes.returncode != 0 or changes.stdout.strip()
    return revision.stdout.strip() + ("+dirty" if dirty else "")


def commit_file(path: Path, message: str, *beside: Path) -> str | None:
    """Commit one file, and those that are made of it, and nothing else; returns a remark where that failed, or None.

    What else is changed, or staged, stays as it is.
    """
    files = [str(file.resolve()) for file in (path, *beside)]
    for arguments in (("add", "--", *files), ("commit", "-q", "--only", "-m", message, "--", *files)):
        done = _git(path.parent, *arguments)
        if done is None or done.returncode != 0:
            said = " ".join((done.stderr or done.stdout).split())[-200:] if done is not None else "git cannot be run"
            return f"{path}: the row stands but was not committed ({said})"
    return None


def differs_from_head(path: Path) -> bool:
    """Whether a file holds what is not committed; true also where git cannot say."""
    if not path.is_file():
        return False
    said = _git(path.parent, "status", "--porcelain", "--untracked-files=all", "--", path.name)
    return said is None or said.returncode != 0 or bool(said.stdout.strip())


def _git(place: Path, *arguments: str) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(["git", *arguments], cwd=place, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
