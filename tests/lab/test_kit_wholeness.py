"""What lies in the cache is whole or is made again: by one process at a time, whatever form it was left in."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
import kit_support as mini

from bequest.errors import RunError
from lab import places
from lab.kit import fetching, identities, packages
from lab.kit.documents import Converted
from lab.kit.fetching import corpus_identity, fetch
from lab.kit.holding_out import is_test


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def at_once(make: Callable[[], object], times: int = 2) -> list[object]:
    """What ``make`` returned, or the error it ended with, in as many threads at the same time."""
    results: list[object] = []
    start = threading.Barrier(times)

    def one() -> None:
        start.wait()
        try:
            results.append(make())
        except Exception as error:
            results.append(error)

    threads = [threading.Thread(target=one) for _ in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def slow(root: Path) -> Converted:
    """The miniature converter, long enough for another process to get in between."""
    time.sleep(0.3)
    return mini.convert(root)


def test_two_fetches_at_once_make_a_source_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = mini.registry(tmp_path, monkeypatch, slow)
    consoles = [mini.console() for _ in range(3)]
    waiting = iter(consoles)
    results = at_once(lambda: fetch(["mini"], next(waiting))[0], 3)
    assert sorted(getattr(result, "from_cache", result) for result in results) == [False, True, True]
    assert registry.downloads() == 1
    assert sum("waiting for another process" in mini.told(console) for console in consoles) == 2
    manifest = json.loads((places.data("mini") / "MANIFEST.json").read_text())
    found = digests(places.data("mini"))
    assert {name: file["sha256"] for name, file in manifest["files"].items()} == {
        name: digest for name, digest in found.items() if name != "MANIFEST.json"
    }
    assert sorted(path.name for path in registry.cache.rglob(".*")) == []


def test_two_fetches_again_at_once_make_it_twice_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mini.registry(tmp_path, monkeypatch, slow)
    fetch(["mini"], mini.console())
    before = digests(places.data("mini"))
    results = at_once(lambda: fetch(["mini"], mini.console(), again=True)[0])
    assert [getattr(result, "from_cache", result) for result in results] == [False, False]
    assert digests(places.data("mini")) == before


MISSHAPEN: dict[str, Callable[[dict[str, Any]], object]] = {
    "no-files": lambda manifest: manifest.pop("files"),
    "files-empty": lambda manifest: manifest.update(files={}),
    "files-a-list": lambda manifest: manifest.update(files=[]),
    "file-without-digest": lambda manifest: manifest["files"].update({"temperatures.jsonl": {}}),
    "digest-a-number": lambda manifest: manifest["files"]["temperatures.jsonl"].update(sha256=3),
    "a-corpus-left-out": lambda manifest: manifest["files"].pop("temperatures.jsonl"),
    "a-side-left-out": lambda manifest: manifest["files"].pop("warmth/probe-test.jsonl"),
    "no-corpora": lambda manifest: manifest.pop("corpora"),
    "corpora-empty": lambda manifest: manifest.update(corpora={}),
    "corpora-words-missing": lambda manifest: manifest["corpora"].update(temperatures={}),
    "tasks-null": lambda manifest: manifest.update(tasks=None),
    "no-leak-check": lambda manifest: manifest["tasks"]["warmth"].pop("leak_check"),
    "no-registry": lambda manifest: manifest.pop("registry"),
    "pinned-a-word": lambda manifest: manifest.update(pinned="no"),
}


@pytest.mark.parametrize("harm", MISSHAPEN)
def test_a_manifest_of_another_form_is_no_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str) -> None:
    mini.registry(tmp_path, monkeypatch)
    fetch(["mini"], mini.console())
    before = digests(places.data("mini"))
    path = places.data("mini") / "MANIFEST.json"
    manifest = json.loads(path.read_text())
    MISSHAPEN[harm](manifest)
    path.write_text(json.dumps(manifest))
    console = mini.console()
    assert corpus_identity("temperatures").startswith("temperatures@")
    assert not fetch(["mini"], console)[0].from_cache
    assert "mini: made again: " in mini.told(console)
    assert digests(places.data("mini")) == before


def test_a_rolling_source_with_a_misshapen_manifest_has_its_pinned_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mini.registry(tmp_path, monkeypatch)
    source = packages.SOURCES["mini"]
    pinned = corpus_identity("temperatures")
    rolling = dataclasses.replace(source, package=dataclasses.replace(source.package, rolling=True))
    for module in (packages, identities, fetching):
        monkeypatch.setattr(module, "SOURCES", {"mini": rolling})
    places.data("mini").mkdir(parents=True)
    (places.data("mini") / "MANIFEST.json").write_text('{"pinned": false}')
    assert corpus_identity("temperatures") == pinned


@pytest.mark.parametrize("text", ["[]", "3", "null", "", "{", "1" * 5000, "\xff"], ids=lambda text: text[:4] or "empty")
def test_what_is_no_manifest_at_all_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    mini.registry(tmp_path, monkeypatch)
    places.data("mini").mkdir(parents=True)
    (places.data("mini") / "MANIFEST.json").write_bytes(text.encode("latin-1"))
    console = mini.console()
    assert not fetch(["mini"], console)[0].from_cache
    assert "mini: made again: no readable manifest" in mini.told(console)


@pytest.mark.parametrize("place", ["source", "manifest", "corpus", "package"])
def test_a_file_for_a_directory_and_a_directory_for_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    registry = mini.registry(tmp_path, monkeypatch)
    fetch(["mini"], mini.console())
    before = digests(places.data("mini"))
    target = places.data("mini")
    harmed = {
        "source": target,
        "manifest": target / "MANIFEST.json",
        "corpus": target / "temperatures.jsonl",
        "package": places.packages() / registry.archive.name,
    }[place]
    if harmed.is_dir():
        shutil.rmtree(harmed)
        harmed.write_text("a file")
    else:
        harmed.unlink()
        harmed.mkdir()
    console = mini.console()
    if place == "package":
        with pytest.raises(RunError, match=r"mini-1.0.0.tgz: refused: it is not a file; .*rm -r"):
            fetch(["mini"], console)
        return
    assert not fetch(["mini"], console)[0].from_cache
    assert "mini: made again: " in mini.told(console)
    assert digests(places.data("mini")) == before


def test_rubbish_of_a_killed_fetch_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = mini.registry(tmp_path, monkeypatch)

    def leave_rubbish() -> None:
        for target in (places.data("mini"), places.packages() / registry.archive.name):
            rubbish = target.with_name(f".{target.name}.scratch-killed")
            rubbish.mkdir(parents=True, exist_ok=True)
            (rubbish / "half").write_text("x")

    leave_rubbish()
    assert not fetch(["mini"], mini.console())[0].from_cache
    assert list(registry.cache.rglob(".*")) == []
    # Also where nothing is to be made: the process was killed while it made a whole source again.
    leave_rubbish()
    assert fetch(["mini"], mini.console())[0].from_cache
    assert list(places.data("mini").parent.iterdir()) == [places.data("mini")]


def test_the_manifest_counts_near_duplicates_and_one_without_the_count_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def quoting(root: Path) -> Converted:
        shared = " ".join(f"word{number}" for number in range(40))
        plain = mini.convert(root)
        tasks = {
            "warmth": [
                example._replace(text=f"{example.text} {shared}")
                if example.group in ("group 0", "group 1")
                else example
                for example in plain.tasks["warmth"]
            ]
        }
        return dataclasses.replace(plain, tasks=tasks)

    assert is_test("group 1") and not is_test("group 0")
    mini.registry(tmp_path, monkeypatch, quoting)
    (fetched,) = fetch(["mini"], mini.console())
    figures = fetched.manifest["tasks"]["warmth"]["near_duplicates"]
    assert figures == {"words": 13, "share": 0.5, "test": 2, "test_examined": 2}
    manifest = {**fetched.manifest, "tasks": {"warmth": {**fetched.manifest["tasks"]["warmth"]}}}
    del manifest["tasks"]["warmth"]["near_duplicates"]
    (fetched.directory / "MANIFEST.json").write_text(json.dumps(manifest))
    assert fetch(["mini"], mini.console())[0].from_cache
