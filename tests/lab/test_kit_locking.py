"""The lock under which things are made: one at a time, an empty place to work in, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
import kit_support as mini

from lab.kit.locking import alone, left_over

HOLDER = """
import sys, time
from pathlib import Path
from rich.console import Console
from lab.kit.locking import alone
with alone(Path(sys.argv[1]), Console()) as scratch:
    (scratch / "half").write_text("made")
    print("held", flush=True)
    time.sleep(60)
"""


def test_makers_of_one_thing_take_turns_and_makers_of_two_do_not(tmp_path: Path) -> None:
    inside: list[str] = []
    overlaps: list[str] = []

    def make(name: str) -> None:
        with alone(tmp_path / "data" / name, mini.console()):
            if name in inside:
                overlaps.append(name)
            inside.append(name)
            time.sleep(0.02)
            inside.remove(name)

    # Many short turns: each ends by removing the lock's file, which those who wait have open already.
    threads = [threading.Thread(target=make, args=(name,)) for name in ("one", "two") * 12]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert overlaps == []
    assert list((tmp_path / "data").iterdir()) == []
    with alone(tmp_path / "data/one", mini.console()), alone(tmp_path / "data/two", mini.console()):
        assert len(list((tmp_path / "data").iterdir())) == 4  # two locks, two scratch directories


def test_whoever_waits_is_told_so(tmp_path: Path) -> None:
    console = mini.console()
    with alone(tmp_path / "kjv", mini.console()):

        def wait() -> None:
            with alone(tmp_path / "kjv", console):
                pass

        waiting = threading.Thread(target=wait)
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
        assert "kjv: waiting for another process" in mini.told(console)
    waiting.join(30)
    assert not waiting.is_alive()


def test_a_killed_maker_keeps_nobody_out_and_its_rubbish_goes(tmp_path: Path) -> None:
    target = tmp_path / "data" / "kjv"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", HOLDER, str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as holder:
        assert holder.stdout is not None and holder.stdout.readline().strip() == "held"
        holder.send_signal(signal.SIGKILL)
    assert left_over(target)
    assert not left_over(target.with_name("news"))
    with alone(target, mini.console()) as scratch:
        assert list(scratch.iterdir()) == []
    assert list(target.parent.iterdir()) == []
    assert not left_over(target)


def test_a_failure_leaves_neither_lock_nor_scratch(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no"), alone(tmp_path / "kjv", mini.console()) as scratch:
        (scratch / "half").write_text("made")
        raise ValueError("no")
    assert list(tmp_path.iterdir()) == []
