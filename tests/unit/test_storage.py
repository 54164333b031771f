"""Directories whole or not at all, by one run at a time."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bequest import storage
from bequest.errors import InputError, RunError
from bequest.storage import atomic_directory, read_json, write_text
from bequest.tensor_files import check_target

FORKED = multiprocessing.get_context("fork")


def make(target: Path, text: str, *, force: bool = False) -> None:
    with atomic_directory(target, force=force) as temporary:
        (temporary / "text").write_text(text)


@pytest.fixture
def held(tmp_path: Path) -> Iterator[int]:
    """The id of a process that is making ``tmp_path``/out and has written a part of it."""
    begun = FORKED.Event()

    def hang() -> None:
        with atomic_directory(tmp_path / "out") as temporary:
            (temporary / "half").mkdir()
            (temporary / "half" / "text").write_text("half")
            begun.set()
            signal.pause()

    child = FORKED.Process(target=hang)
    child.start()
    assert begun.wait(20) and child.pid is not None
    yield child.pid
    child.kill()
    child.join()


@pytest.mark.parametrize("force", [False, True])
def test_a_second_process_is_refused_and_touches_nothing(held: int, tmp_path: Path, force: bool) -> None:
    with pytest.raises(RunError, match=r"out: another run is making this; wait for it to end") as caught:
        make(tmp_path / "out", "second", force=force)
    assert "\n" not in caught.value.line()
    assert (tmp_path / ".out.partial" / "half" / "text").read_text() == "half"
    assert not (tmp_path / "out").exists()


def test_what_a_killed_process_left_is_cleaned(held: int, tmp_path: Path) -> None:
    os.kill(held, signal.SIGKILL)
    for child in multiprocessing.active_children():
        child.join(20)
    make(tmp_path / "out", "again")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["text"]


def test_a_second_run_of_the_same_process_is_refused(tmp_path: Path) -> None:
    with atomic_directory(tmp_path / "out") as temporary:
        (temporary / "text").write_text("first")
        with pytest.raises(RunError, match="another run"):
            make(tmp_path / "out", "second", force=True)
    assert (tmp_path / "out" / "text").read_text() == "first"
    with pytest.raises(InputError, match="already exists"):
        make(tmp_path / "out", "second")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_runs_at_once_publish_a_whole_one_or_are_refused(tmp_path: Path) -> None:
    """Eight threads of two processes, again and again: every run ends, and what stands is one run's."""
    strange: list[BaseException] = []

    def again_and_again(name: str) -> None:
        for number in range(10):
            try:
                with atomic_directory(tmp_path / "out", force=True) as temporary:
                    for part in "abc":
                        (temporary / part).write_text(f"{name} {number}")
            except RunError as error:
                assert "another run" in error.message, error
            except BaseException as error:
                strange.append(error)

    def threads(name: str) -> None:
        running = [threading.Thread(target=again_and_again, args=(f"{name}{number}",)) for number in range(4)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        if strange:
            raise strange[0]

    children = [FORKED.Process(target=threads, args=(name,)) for name in "xy"]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert len({(tmp_path / "out" / part).read_text() for part in "abc"}) == 1


def test_a_directory_that_was_exchanged_is_not_published(tmp_path: Path) -> None:
    def exchanged() -> None:
        with atomic_directory(tmp_path / "out") as temporary:
            shutil.rmtree(temporary)
            temporary.mkdir()
            (temporary / "text").write_text("another's")

    with pytest.raises(RunError, match="moved or removed by another process"):
        exchanged()
    assert not (tmp_path / "out").exists()
    assert (tmp_path / ".out.partial" / "text").read_text() == "another's"


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    def failing() -> None:
        with atomic_directory(tmp_path / "out") as temporary:
            (temporary / "text").write_text("half")
            raise KeyError("x")

    with pytest.raises(KeyError):
        failing()
    assert list(tmp_path.iterdir()) == []


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One is stopped just before its rename, another writes the same file, a third is killed; nothing is left."""
    waits, goes_on, fsync = threading.Event(), threading.Event(), os.fsync

    def slow(descriptor: int) -> None:
        if threading.current_thread().name == "first" and not waits.is_set():
            waits.set()
            assert goes_on.wait(20)
        fsync(descriptor)

    monkeypatch.setattr(storage.os, "fsync", slow)
    failed: list[BaseException] = []

    def first() -> None:
        try:
            write_text(tmp_path / "x.json", "first")
        except BaseException as error:
            failed.append(error)

    writer = threading.Thread(target=first, name="first")
    writer.start()
    assert waits.wait(20)
    (held,) = tmp_path.iterdir()
    write_text(tmp_path / "x.json", "second")
    assert (tmp_path / "x.json").read_text() == "second" and held.exists()
    goes_on.set()
    writer.join()
    assert not failed and (tmp_path / "x.json").read_text() == "first"
    # What a killed writer left, another file's, and a directory being made.
    for name in (".x.json.0123456789ab.partial", ".y.json.0123456789ab.partial"):
        (tmp_path / name).write_text("half")
    (tmp_path / ".x.json.ba9876543210.partial").mkdir()
    write_text(tmp_path / "x.json", "third")
    left = [".x.json.ba9876543210.partial", ".y.json.0123456789ab.partial", "x.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == left


def test_a_file_has_the_usual_permissions_and_an_error_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(tmp_path / "x", "old")
    (tmp_path / "usual").write_text("")
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "usual").stat().st_mode
    monkeypatch.setattr(storage, "replace", lambda *_: (_ for _ in ()).throw(KeyError("x")))
    with pytest.raises(KeyError):
        write_text(tmp_path / "x", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["usual", "x"]
    assert (tmp_path / "x").read_text() == "old"


def test_something_in_the_way_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".out.partial").symlink_to("elsewhere")
    with pytest.raises(InputError, match="is in the way; remove it"):
        make(tmp_path / "out", "x")


@pytest.mark.parametrize("kind", ["to a model", "to nothing"])
@pytest.mark.parametrize("force", [False, True])
def test_a_symbolic_link_is_not_replaced(tmp_path: Path, kind: str, force: bool) -> None:
    if kind == "to a model":
        (tmp_path / "real").mkdir()
        (tmp_path / "real" / "config.json").write_text("{}")
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(InputError, match="link: is a symbolic link, and is not replaced; name the directory"):
        check_target(tmp_path / "link", force=force)


def test_a_link_above_the_target_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert check_target(tmp_path / "link" / "out", force=False) == tmp_path / "link" / "out"


def test_json_that_is_nested_too_deeply_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match=r"config.json: not JSON that can be read \(nested too deeply\)"):
        read_json(tmp_path / "config.json")
