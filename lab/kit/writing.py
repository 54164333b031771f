"""A dealt source on disk: corpora, tasks and the manifest that says what they are; whole or not at all.

``<corpus>.jsonl`` holds ``{"text", "group", ...}`` per line, ``<task>/{train,test,probe-train,probe-test}.jsonl`` holds
``{"text", "label"}``, and ``MANIFEST.json`` the source, licence, counts and the SHA-256 of every other file.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bequest import storage
from bequest.errors import BequestError
from lab.kit.documents import Document, Labelled
from lab.kit.holding_out import Dealt, Sides

MANIFEST = "MANIFEST.json"
SIDES = ("train", "test", "probe-train", "probe-test")


def write(
    target: Path, dealt: Dealt, head: Mapping[str, Any], leaks: Mapping[str, Mapping[str, Any]]
) -> Mapping[str, Any]:
    """Write a source's directory, replacing what is there, and return its manifest.

    Args:
        target: the directory.
        dealt: what to write.
        head: what the manifest says first: source, package, licence, identity, notes.
        leaks: task name -> the figures of its leak check.
    """
    with storage.atomic_directory(target, force=True) as directory:
        for name, documents in dealt.corpora.items():
            rows = ({"text": item.text, "group": item.group, **item.extra} for item in documents)
            _write_rows(directory / f"{name}.jsonl", rows)
        for name, sides in dealt.tasks.items():
            for side, examples in zip(SIDES, _sides(sides), strict=True):
                path = directory / name / f"{side}.jsonl"
                _write_rows(path, ({"text": item.text, "label": item.label} for item in examples))
        manifest = {
            **head,
            "corpora": {
                name: {**_size_of(documents), "dropped": dict(dealt.dropped[name])}
                for name, documents in dealt.corpora.items()
            },
            "tasks": {name: _describe(sides, leaks[name]) for name, sides in dealt.tasks.items()},
            "files": {
                path.relative_to(directory).as_posix(): {
                    "bytes": path.stat().st_size,
                    "sha256": storage.file_digest(path),
                }
                for path in sorted(directory.rglob("*.jsonl"))
            },
        }
        storage.write_json(directory / MANIFEST, manifest)
    return manifest


def manifest_of(directory: Path) -> Mapping[str, Any] | None:
    """The manifest of a source's directory, or None where there is none that can be read."""
    try:
        manifest = storage.read_json(directory / MANIFEST)
    except BequestError:
        return None
    return manifest if isinstance(manifest, dict) else None


def damage(directory: Path, manifest: Mapping[str, Any]) -> str | None:
    """What is wrong with the files that a manifest names, or None: a missing file, another size, another digest."""
    for name, expected in manifest.get("files", {}).items():
        path = directory / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected["bytes"] or storage.file_digest(path) != expected["sha256"]:
            return f"{name} is not what the manifest says"
    return None


def _write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    storage.write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _sides(sides: Sides) -> tuple[Sequence[Labelled], ...]:
    return sides.train, sides.test, sides.probe_train, sides.probe_test


def _size_of(documents: Sequence[Document]) -> dict[str, int]:
    return {
        "documents": len(documents),
        "groups": len({document.group for document in documents}),
        "words": sum(len(document.text.split()) for document in documents),
        "characters": sum(len(document.text) for document in documents),
    }


def _describe(sides: Sides, leak: Mapping[str, Any]) -> dict[str, Any]:
    examples = dict(zip(SIDES, _sides(sides), strict=True))
    return {
        "classes": sorted({example.label for example in sides.train}),
        "examples": {side: len(given) for side, given in examples.items()},
        "groups": {side: len({example.group for example in given}) for side, given in examples.items()},
        "per_class": {
            side: dict(sorted(Counter(example.label for example in given).items())) for side, given in examples.items()
        },
        "words": sum(len(example.text.split()) for side in ("train", "test") for example in examples[side]),
        "leak_check": dict(leak),
        "dropped": dict(sides.dropped),
    }
