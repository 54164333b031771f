"""Crash-safe training checkpoints: written under a temporary name, flushed, manifest last, renamed.

``checkpoints/checkpoint-<update>/manifest.json`` lists every file with its size and SHA-256.  A directory without a
manifest, or with one that its files contradict, is torn: it is skipped with a line that says so, and the newest
complete one is resumed.  The manifest also records what bitwise resuming depends on (threads, processes, device, ...).
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bequest.errors import RunError
from bequest.storage import disk_errors, file_digest, replace, sync_tree, write_json

MANIFEST = "manifest.json"
FORMAT = 1
NAME = re.compile(r"checkpoint-(\d+)")


def checkpoint_path(directory: Path, update: int) -> Path:
    """Where the checkpoint after ``update`` updates stands."""
    return directory / f"checkpoint-{update}"


def partial_path(directory: Path, update: int) -> Path:
    """Where it is written before it is whole."""
    return directory / f".checkpoint-{update}.partial"


def complete(partial: Path, target: Path, facts: Mapping[str, Any]) -> None:
    """Turn a fully written ``partial`` directory into the checkpoint ``target``: flush, manifest, rename."""
    with disk_errors(target):
        files = sorted(path for path in partial.rglob("*") if path.is_file())
        sync_tree(partial)
        listing = {
            path.relative_to(partial).as_posix(): {"bytes": path.stat().st_size, "sha256": file_digest(path)}
            for path in files
        }
        write_json(partial / MANIFEST, {"format": FORMAT, "files": listing, "facts": dict(facts)})
        if target.exists():
            discard(target)
        replace(partial, target)


def discard(checkpoint: Path) -> None:
    """Remove a checkpoint such that a kill in between leaves nothing that looks whole."""
    trash = checkpoint.with_name(f".{checkpoint.name}.old")
    shutil.rmtree(trash, ignore_errors=True)
    replace(checkpoint, trash)
    shutil.rmtree(trash, ignore_errors=True)


def update_of(checkpoint: Path) -> int:
    """The number of updates after which a checkpoint was written."""
    return int(checkpoint.name.rsplit("-", 1)[1])


def fault(checkpoint: Path) -> str | None:
    """Why a checkpoint cannot be resumed, or ``None`` when every file is as its manifest says."""
    manifest = checkpoint / MANIFEST
    if not manifest.is_file():
        return "it has no manifest"
    try:
        listing = json.loads(manifest.read_text(encoding="utf-8"))["files"]
        for name, entry in listing.items():
            path = checkpoint / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != entry["bytes"]:
                return f"{name} has {path.stat().st_size} bytes instead of {entry['bytes']}"
            if file_digest(path) != entry["sha256"]:
                return f"{name} does not have its recorded digest"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"its manifest cannot be read ({error})"
    return None


def numbered(directory: Path) -> list[tuple[int, Path]]:
    """The checkpoints in a directory by their update, oldest first, whole or not."""
    named = [(NAME.fullmatch(path.name), path) for path in directory.glob("checkpoint-*")]
    return sorted((int(match[1]), path) for match, path in named if match)


def newest_complete(directory: Path, say: Callable[[str], None] = lambda line: None) -> Path | None:
    """The newest complete checkpoint, or ``None``; every newer one that is skipped is named with the reason."""
    for _, path in reversed(numbered(directory)):
        reason = fault(path)
        if reason is None:
            return path
        say(f"skipped {path.name}: {reason}")
    return None


def clean(directory: Path) -> None:
    """Remove what killed processes left under temporary names."""
    for leftover in [*directory.glob(".checkpoint-*.partial"), *directory.glob(".checkpoint-*.old")]:
        shutil.rmtree(leftover, ignore_errors=True)


def retain(directory: Path, keep: int) -> None:
    """Keep the newest ``keep`` checkpoints."""
    for _, path in numbered(directory)[:-keep]:
        discard(path)


def facts_of(checkpoint: Path) -> dict[str, Any]:
    """What the manifest recorded about the run that wrote it."""
    facts: dict[str, Any] = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))["facts"]
    return facts


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The recorded facts that changed, as ``threads 1 -> 2``: resuming is allowed but not bitwise."""
    return [f"{key} {then.get(key)} -> {value}" for key, value in now.items() if then.get(key) != value]


def check_same_run(then: Mapping[str, Any], now: Mapping[str, Any], checkpoint: Path) -> None:
    """Refuse to resume a checkpoint of another budget or batch: its position would mean something else.

    Raises:
        RunError: the run changed in a way that its schedule or data order depends on.
    """
    changed = differences(then, now)
    if changed:
        raise RunError(
            f"was written by another run ({', '.join(changed)})",
            where=checkpoint,
            remedy="remove it, or restore the settings it was made with",
        )
