"""Registries: a package is a file with a digest; what has another digest is refused, with both, and not kept."""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
import kit_support as mini

from bequest import storage
from bequest.errors import RunError
from lab import places
from lab.kit import registries
from lab.kit.packages import MODEL_PACKAGES, SOURCES
from lab.kit.registries import obtain, receive


def test_a_package_is_downloaded_once_and_hashed_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = mini.registry(tmp_path, monkeypatch)
    package = mini.package_of(registry.archive)
    first = obtain(package, mini.console())
    assert first == places.packages() / "mini-1.0.0.tgz"
    assert obtain(package, mini.console()) == first
    assert registry.downloads() == 1
    assert "--ignore-scripts" in registry.calls.read_text()
    found = storage.file_digest(registry.archive)
    first.write_bytes(first.read_bytes()[:-1] + b"!")
    with pytest.raises(RunError) as caught:
        obtain(package, mini.console())
    assert f"expected SHA-256 {found}, found {storage.file_digest(first)}" in caught.value.line()
    assert f"rm {first}" in caught.value.line()
    first.unlink()
    assert receive(package, mini.console()).pinned
    assert registry.downloads() == 2


def test_a_tampered_download_is_refused_and_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = mini.registry(tmp_path, monkeypatch)
    package = mini.package_of(registry.archive)
    with registry.archive.open("ab") as file:
        file.write(b"more")
    with pytest.raises(RunError, match=f"expected SHA-256 {package.sha256}, found") as caught:
        obtain(package, mini.console())
    assert storage.file_digest(registry.archive) in caught.value.line()
    assert list(places.packages().iterdir()) == []


def test_pip_is_asked_for_a_wheel_and_never_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    members = {
        "mini/__init__.py": b"raise SystemExit('imported')",
        "mini-1.0.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: mini\nVersion: 1.0.0\nRequires-Python: <3\n",
        "mini-1.0.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "mini-1.0.0.dist-info/RECORD": b"",
    }
    archive = mini.wheel(shelf / "mini-1.0.0-py3-none-any.whl", members)
    monkeypatch.setenv("BEQUEST_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    package = mini.package_of(archive, "pypi")
    assert storage.file_digest(obtain(package, mini.console())) == package.sha256
    source_only = dataclasses.replace(package, name="other", file="other-1.0.0.whl")
    mini.npm_archive(shelf / "other-1.0.0.tar.gz", {"other-1.0.0/setup.py": b"raise SystemExit('built')"})
    with pytest.raises(RunError, match="pip could not get it from pypi"):
        obtain(source_only, mini.console())


def test_a_missing_tool_is_named_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = mini.registry(tmp_path, monkeypatch)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RunError, match="npm is not installed; needs apt-get install npm"):
        obtain(mini.package_of(registry.archive), mini.console())
    with pytest.raises(RunError, match="apt-get is not installed; needs a Debian system"):
        obtain(mini.package_of(registry.archive, "debian"), mini.console())


def debian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, indexed: str) -> Path:
    """An apt that has only version 2.0.0 any more, whose index names the digest ``indexed`` (or the true one)."""
    deb = tmp_path / "mini_2.0.0_all.deb"
    deb.write_bytes(b"a newer package")
    sha256 = indexed or storage.file_digest(deb)
    script = (
        f'case "$*" in update*) exit 0;; *mini=2.0.0) cp {deb} .;; *) echo "E: Version not found" >&2; exit 100;; esac'
    )
    mini.tool(tmp_path / "bin", "apt-get", script)
    record = f"printf 'Package: mini\\nVersion: 2.0.0\\nDescription: one\\n two\\nSHA256: {sha256}\\n'"
    mini.tool(tmp_path / "bin", "apt-cache", record)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("BEQUEST_LAB_CACHE", str(tmp_path / "cache"))
    return deb


def test_a_rolling_package_takes_the_version_that_the_index_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deb = debian(tmp_path, monkeypatch, "")
    pinned = dataclasses.replace(mini.package_of(deb, "debian"), file="mini_1.0.0_all.deb", sha256="0" * 64)
    with pytest.raises(RunError, match="Version not found"):
        receive(pinned, mini.console())
    rolling = dataclasses.replace(pinned, rolling=True)
    received = receive(rolling, mini.console())
    assert (received.version, received.sha256, received.pinned) == ("2.0.0", storage.file_digest(deb), False)
    mini.tool(tmp_path / "bin", "apt-get", "exit 1")  # from the cache now
    assert receive(rolling, mini.console()) == received
    received.path.write_bytes(b"changed")
    with pytest.raises(RunError, match="refused: expected SHA-256"):
        receive(rolling, mini.console())


def test_a_rolling_package_with_another_digest_than_its_index_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deb = debian(tmp_path, monkeypatch, "f" * 64)
    rolling = mini.package_of(deb, "debian", rolling=True)
    with pytest.raises(RunError, match=r"refused: expected SHA-256 f{64}"):
        receive(dataclasses.replace(rolling, file="mini_1.0.0_all.deb"), mini.console())
    assert list(places.packages().iterdir()) == []


def test_a_pinned_version_with_another_digest_does_not_fall_back_to_a_newer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deb = debian(tmp_path, monkeypatch, "")
    mini.tool(tmp_path / "bin", "apt-get", f"cp {deb} mini_1.0.0_all.deb")
    tampered = dataclasses.replace(mini.package_of(deb, "debian", rolling=True), sha256="0" * 64)
    with pytest.raises(RunError, match=r"refused: expected SHA-256 0{64}"):
        receive(tampered, mini.console())


def test_every_package_is_pinned_by_a_full_digest() -> None:
    every = [source.package for source in SOURCES.values()] + list(MODEL_PACKAGES.values())
    for package in every:
        assert len(package.sha256) == 64 and set(package.sha256) <= set("0123456789abcdef")
        assert package.version in package.file
    assert len({package.sha256 for package in every}) == len(every)
    made = [name for source in SOURCES.values() for name in (*source.corpora, *source.tasks)]
    assert len(set(made)) == len(made)
    assert all(source.licence for source in SOURCES.values())


def test_updates_are_tried_by_root_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deb = debian(tmp_path, monkeypatch, "")
    missing = dataclasses.replace(mini.package_of(deb, "debian"), file="mini_1.0.0_all.deb")
    for user, updates in ((1000, False), (0, True)):
        monkeypatch.setattr(registries.os, "geteuid", lambda user=user: user)
        console = mini.console()
        with pytest.raises(RunError, match="run apt-get update as root"):
            receive(missing, console)
        assert ("apt-get update" in mini.told(console)) == updates
    assert os.environ["BEQUEST_LAB_CACHE"] == str(places.cache())


def test_a_tool_that_is_slow_is_named_while_it_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = mini.registry(tmp_path, monkeypatch)
    monkeypatch.setattr(registries, "REMINDER", 0.2)
    console = mini.console()
    obtain(mini.package_of(registry.archive), console)
    assert "waiting" not in mini.told(console)
    (places.packages() / registry.archive.name).unlink()
    mini.tool(tmp_path / "bin", "npm", f'sleep 0.7\ncp {registry.archive} "$5/"')
    assert obtain(mini.package_of(registry.archive), console).is_file()
    assert "mini 1.0.0: waiting for npm, " in mini.told(console)
    mini.tool(tmp_path / "bin", "npm", "exec sleep 60")
    (places.packages() / registry.archive.name).unlink()
    monkeypatch.setattr(registries, "PATIENCE", 0.5)
    with pytest.raises(RunError, match="npm took longer than"):
        obtain(mini.package_of(registry.archive), console)
    assert list(places.packages().iterdir()) == []


@pytest.mark.parametrize(
    ("complaints", "line"),
    [
        (("npm warn x", "npm error code E1", "npm error syscall connect", "npm error errno E1", "npm error reason: E1",
          "npm error", "npm error see the proxy", "npm error A complete log of this run is in: x"),
         "npm error reason: E1"),
        (("npm ERR! code E404", "npm ERR! 404 Not Found", "npm ERR! A complete log: x"), "npm ERR! 404 Not Found"),
        (("npm error code E1",), "npm error code E1"),
        (("oh", "no"), "no"),
    ],
    ids=["npm", "older-npm", "only-a-code", "anything"],
)  # fmt: skip
def test_a_failure_is_told_by_the_line_that_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, complaints: tuple[str, ...], line: str
) -> None:
    registry = mini.registry(tmp_path, monkeypatch)
    mini.tool(tmp_path / "bin", "npm", "\n".join(f"echo '{each}' >&2" for each in complaints) + "\nexit 1")
    with pytest.raises(RunError, match=rf"npm could not get it from npm: {re.escape(line)}; needs"):
        obtain(mini.package_of(registry.archive), mini.console())


def test_npm_tries_a_registry_that_does_not_answer_only_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = mini.registry(tmp_path, monkeypatch)
    obtain(mini.package_of(registry.archive), mini.console())
    assert "--fetch-retries=1" in registry.calls.read_text().split()


@pytest.mark.parametrize("note", ["{", "[]", "{}", '{"name": "mini"}', '{"name": "mini", "version": 2, "sha256": 3}'])
def test_a_note_on_a_newer_version_that_cannot_be_read_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, note: str
) -> None:
    deb = debian(tmp_path, monkeypatch, "")
    rolling = dataclasses.replace(mini.package_of(deb, "debian", rolling=True), file="mini_1.0.0_all.deb")
    received = receive(rolling, mini.console())
    path = received.path.with_name(received.path.name + ".json")
    whole = path.read_text()
    path.write_text(note)
    assert receive(rolling, mini.console()) == received
    assert path.read_text() == whole
