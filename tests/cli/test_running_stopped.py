"""Runs that are stopped from outside: Ctrl-C, a disk that takes no more, a loss that is no number.

Each ends with its exit code and one line, leaves nothing half-written, and the same command goes on to the very weights
of a run that was not stopped.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LAWS = Path(__file__).resolve().parents[1] / "laws"


def start(place: Path, out: str, *overrides: str, limit: int | None = None) -> subprocess.Popen[str]:
    """``bequest run`` on the two first stages of the kill laws; ``limit``: the most bytes that a file may have."""

    def small_files() -> None:
        # A suite that runs in the background of a script inherits an ignored Ctrl-C, and its children would too.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.Popen(
        [sys.executable, "-m", "bequest", "run", "two.yaml", "--out", out, *overrides],
        cwd=place,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=small_files,  # the child does nothing else before it becomes another program
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code, and what it said last on standard error."""
    _, errors = process.communicate(timeout=300)
    assert "Traceback" not in errors, errors
    return process.returncode, (errors.strip().splitlines() or [""])[-1]


def half_written(out: Path) -> list[str]:
    """Everything in a run directory that has a temporary name."""
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.name.endswith((".partial", ".old")))


def weights(out: Path) -> dict[str, bytes]:
    return {stage: (out / stage / "model.safetensors").read_bytes() for stage in ("causal", "wide")}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("stopped")
    subprocess.run([sys.executable, str(LAWS / "kill_driver.py"), "prepare", str(directory)], check=True)
    recipe = (directory / "recipe.yaml").read_text()
    (directory / "two.yaml").write_text(recipe[: recipe.index("  - pretrain: {name: taught")])
    return directory


@pytest.fixture(scope="module")
def whole(place: Path) -> Path:
    code, line = finish(start(place, "whole"))
    assert code == 0, line
    return place / "whole"


def test_ctrl_c(place: Path) -> None:
    longer = "stages.causal.tokens=32k"
    process = start(place, "interrupted", longer)
    checkpoints = place / "interrupted" / ".causal.work" / "training" / "checkpoints"
    while not (checkpoints / "checkpoint-10").is_dir():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    code, line = finish(process)
    assert code == 130, line
    assert "interrupted after update" in line
    assert "run the same command again to resume" in line
    assert half_written(place / "interrupted") == []
    assert list(checkpoints.glob("checkpoint-*"))
    for out in ("interrupted", "patient"):
        code, line = finish(start(place, out, longer))
        assert code == 0, line
    assert weights(place / "interrupted") == weights(place / "patient")


def test_a_full_disk_in_a_checkpoint(place: Path, whole: Path) -> None:
    size = (whole / "causal" / "model.safetensors").stat().st_size
    code, line = finish(start(place, "full", limit=size * 3 // 2))  # the optimizer has twice the weights' size
    assert code == 3, line
    assert "disk is full" in line
    assert "checkpoint-5" in line
    assert half_written(place / "full") == []
    assert list((place / "full" / ".causal.work" / "training" / "checkpoints").iterdir()) == []
    assert not (place / "full" / "causal").exists()
    code, line = finish(start(place, "full"))
    assert code == 0, line
    assert weights(place / "full") == weights(whole)


def test_a_full_disk_in_a_final_save(place: Path, whole: Path) -> None:
    size = (whole / "wide" / "model.safetensors").stat().st_size
    assert size > 2.2 * (whole / "causal" / "model.safetensors").stat().st_size  # so that all of causal can be written
    code, line = finish(start(place, "late", limit=size - 1))
    assert code == 3, line
    assert "disk is full" in line
    assert "wide" in line
    assert half_written(place / "late") == []
    assert not (place / "late" / "wide").exists()
    assert weights_of_causal(place / "late") == weights_of_causal(whole)
    code, line = finish(start(place, "late"))
    assert code == 0, line
    assert weights(place / "late") == weights(whole)


def weights_of_causal(out: Path) -> bytes:
    return (out / "causal" / "model.safetensors").read_bytes()


def test_a_loss_that_is_no_number(place: Path) -> None:
    code, line = finish(start(place, "diverged", "stages.causal.lr=1e9"))
    assert code == 3, line
    assert re.search(r"loss term 'lm': is not a finite number in update \d+; lower lr", line), line
    assert half_written(place / "diverged") == []
    assert not (place / "diverged" / "causal").exists()


def test_a_smaller_micro_batch_goes_on_and_says_that_it_is_not_bitwise(place: Path) -> None:
    """What the remedy of a memory error asks for must not throw the work away, nor call itself exact."""

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "BEQUEST_CACHE": str(place / "cache")}
        command = [sys.executable, *words]
        return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)

    killed = call(str(LAWS / "kill_driver.py"), "run", r"os\.rename .*/\.checkpoint-15", "two.yaml", "smaller")
    assert killed.returncode == -9, killed.stderr
    done = call("-m", "bequest", "run", "two.yaml", "stages.causal.micro_batch_tokens=128", "--out", "smaller")
    assert done.returncode == 0, done.stderr
    assert "resumed checkpoint-10, not bitwise: micro_batch 4 -> 8" in done.stdout + done.stderr
