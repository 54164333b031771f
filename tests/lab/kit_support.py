"""Miniature packages, registries that are shell scripts, and a source made of them."""

from __future__ import annotations

import dataclasses
import io
import json
import tarfile
import types
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from bequest import storage
from lab.kit import documents, fetching, identities, packages

GROUPS = 60
CONVERTER = "lab.corpora.kjv"  # a real file, because identities are made of its bytes; its ``convert`` is replaced


def console() -> Console:
    """A console whose text can be read."""
    return Console(file=io.StringIO(), width=1000)


def told(console: Console) -> str:
    """What was printed on it."""
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def npm_archive(path: Path, members: Mapping[str, bytes]) -> Path:
    """A ``.tgz`` with these members."""
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def wheel(path: Path, members: Mapping[str, bytes]) -> Path:
    """A ``.whl`` with these members."""
    with zipfile.ZipFile(path, "w") as zipped:
        for name, data in members.items():
            zipped.writestr(name, data)
    return path


def package_of(path: Path, registry: packages.Registry = "npm", rolling: bool = False) -> packages.Package:
    """A pinned package ``mini 1.0.0`` whose file is ``path``."""
    return packages.Package(registry, "mini", "1.0.0", storage.file_digest(path), path.name, rolling)


def tool(folder: Path, name: str, script: str) -> None:
    """An executable shell script called ``name``."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def rows() -> list[dict[str, str]]:
    """Texts of ``GROUPS`` groups in two classes, with nothing that gives the class away but the words."""
    words = {"warm": ["sun", "sand", "fire", "desert", "oven"], "cold": ["snow", "frost", "winter", "glacier", "ice"]}
    return [
        {"text": f"The {words[label][number % 5]} of place {'abcdefghij'[number % 10] * (number // 10 + 1)}",
         "label": label, "group": f"group {number}"}
        for number in range(GROUPS)
        for label in words
    ]  # fmt: skip


def convert(root: Path) -> documents.Converted:
    """Rows of the first half of the groups are examples; every row is a document."""
    given: Sequence[Mapping[str, str]] = json.loads((root / "package/rows.json").read_text())
    return documents.Converted(
        corpora={"temperatures": [documents.Document(row["text"] + ".", row["group"], {"n": 1}) for row in given]},
        tasks={
            "warmth": [
                documents.Labelled(row["text"], row["label"], row["group"])
                for row in given
                if int(row["group"].split()[1]) < GROUPS // 2
            ]
        },
        notes={"rows": len(given)},
    )


@dataclasses.dataclass(frozen=True)
class Registry:
    """A registry with one package and the cache that it is fetched into."""

    cache: Path
    archive: Path
    calls: Path

    def downloads(self) -> int:
        """How often the registry was asked."""
        return len(self.calls.read_text().splitlines()) if self.calls.exists() else 0


def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, converter: object = convert) -> Registry:
    """An ``npm`` that packs the miniature package, and ``SOURCES`` with the one source ``mini``."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    archive = npm_archive(shelf / "mini-1.0.0.tgz", {"package/rows.json": json.dumps(rows()).encode()})
    calls = tmp_path / "calls"
    tool(tmp_path / "bin", "npm", f'echo "$@" >> {calls}\ncp {archive} "$5/" && echo mini-1.0.0.tgz')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("BEQUEST_LAB_CACHE", str(tmp_path / "cache"))
    source = packages.Source(
        "mini", package_of(archive), ("temperatures",), ("warmth",), ("package/*.json",), "none", False, CONVERTER
    )
    for module in (packages, identities, fetching):
        monkeypatch.setattr(module, "SOURCES", {"mini": source})
    module = types.SimpleNamespace(convert=converter)
    monkeypatch.setattr(fetching, "importlib", types.SimpleNamespace(import_module=lambda name: module))
    return Registry(tmp_path / "cache", archive, calls)
