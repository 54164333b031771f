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

from pydantic import BaseModel, ConfigDict

from bequest import storage
from bequest.errors import BequestError
from lab.kit.documents import Document, Labelled
from lab.kit.holding_out import Dealt, Sides
from lab.kit.locking import clear_for_directory
from lab.kit.packages import Source

MANIFEST = "MANIFEST.json"
SIDES = ("train", "test", "probe-train", "probe-test")


class _Form(BaseModel):
    """What is read out of a manifest, at its least; whatever else it says is for people."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class _Words(_Form):
    words: int


class _Examples(_Form):
    train: int
    test: int


class _Check(_Form):
    majority: float
    one_rule: float


class _Task(_Form):
    examples: _Examples
    leak_check: _Check


class _File(_Form):
    bytes: int
    sha256: str


class _Manifest(_Form):
    identity: str
    registry: str
    sha256: str
    pinned: bool
    corpora: dict[str, _Words]
    tasks: dict[str, _Task]
    files: dict[str, _File]


def write(
    target: Path, dealt: Dealt, head: Mapping[str, Any], figures: Mapping[str, Mapping[str, Any]]
) -> Mapping[str, Any]:
    """Write a source's directory, replacing what is there, and return its manifest.

    Two processes must not write one target at once: :func:`lab.kit.locking.alone`.

    Args:
        target: the directory.
        dealt: what to write.
        head: what the manifest says first: source, package, licence, identity, notes.
        figures: task name -> what was measured of it: its leak check, its near-duplicates.
    """
    files: list[str] = []
    clear_for_directory(target)
    with storage.atomic_directory(target, force=True) as directory:
        for name, documents in dealt.corpora.items():
            rows = ({"text": item.text, "group": item.group, **item.extra} for item in documents)
            files.append(corpus_file(name))
            _write_rows(directory / files[-1], rows)
        for name, sides in dealt.tasks.items():
            for side, examples in zip(SIDES, _sides(sides), strict=True):
                files.append(side_file(name, side))
                _write_rows(directory / files[-1], ({"text": item.text, "label": item.label} for item in examples))
        manifest = {
            **head,
            "corpora": {
                name: {**_size_of(documents), "dropped": dict(dealt.dropped[name])}
                for name, documents in dealt.corpora.items()
            },
            "tasks": {name: {**_describe(sides), **figures[name]} for name, sides in dealt.tasks.items()},
            # Those that were written, by name: whatever else may lie there is not the source's.
            "files": {
                name: {"bytes": (directory / name).stat().st_size, "sha256": storage.file_digest(directory / name)}
                for name in sorted(files)
            },
        }
        storage.write_json(directory / MANIFEST, manifest)
    return manifest


def manifest_of(directory: Path) -> Mapping[str, Any] | None:
    """The manifest of a source's directory, or None where there is none that can be read and has a manifest's form."""
    try:
        manifest: Mapping[str, Any] = storage.read_json(directory / MANIFEST)
        _Manifest.model_validate(manifest)
    except (BequestError, OSError, ValueError):  # no such file; a directory; no JSON, or of another form
        return None
    return manifest


def damage(directory: Path, manifest: Mapping[str, Any], source: Source) -> str | None:
    """What is wrong with a source's files, or None: not all named, a missing one, another size, another digest.

    Args:
        directory: where they lie.
        manifest: what :func:`manifest_of` read there.
        source: whose every corpus and every side of every task the manifest must describe and name.
    """
    described = (set(manifest["corpora"]), set(manifest["tasks"]))
    if described != (set(source.corpora), set(source.tasks)):
        return "the manifest describes other corpora or tasks"
    wanted = {corpus_file(name) for name in source.corpora}
    wanted |= {side_file(name, side) for name in source.tasks for side in SIDES}
    if set(manifest["files"]) != wanted:
        return "the manifest names other files"
    for name, expected in manifest["files"].items():
        path = directory / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected["bytes"] or storage.file_digest(path) != expected["sha256"]:
            return f"{name} is not what the manifest says"
    return None


def corpus_file(name: str) -> str:
    """The file of a corpus, in its source's directory."""
    return f"{name}.jsonl"


def side_file(task: str, side: str) -> str:
    """The file of one side of a task, in its source's directory."""
    return f"{task}/{side}.jsonl"


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


def _describe(sides: Sides) -> dict[str, Any]:
    examples = dict(zip(SIDES, _sides(sides), strict=True))
    return {
        "classes": sorted({example.label for example in sides.train}),
        "examples": {side: len(given) for side, given in examples.items()},
        "groups": {side: len({example.group for example in given}) for side, given in examples.items()},
        "per_class": {
            side: dict(sorted(Counter(example.label for example in given).items())) for side, given in examples.items()
        },
        "words": sum(len(example.text.split()) for side in ("train", "test") for example in examples[side]),
        "dropped": dict(sides.dropped),
    }
