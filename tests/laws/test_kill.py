"""A run that is killed at any moment and started again ends with the very weights of one that was not.

SIGKILL falls at chosen durable steps (see ``kill_driver.py``): during packing, between two files of a checkpoint, in a
final save, in a stage's rename.  Causal and masked language models, a teacher, replay, tuning and recycling, with
accumulation and over several epochs.  ``bench/kill_stress.py`` does the same at many more moments.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).with_name("kill_driver.py")
KILLED = -9


def drive(place: Path, *arguments: object, cache: str = "cache") -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "BEQUEST_CACHE": str(place / cache),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    command = [sys.executable, str(DRIVER), *map(str, arguments)]
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)


def digest(place: Path, out: str) -> dict[str, str]:
    done = drive(place, "digest", out)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("kill")
    assert drive(directory, "prepare", directory).returncode == 0
    return directory


@pytest.fixture(scope="module")
def uninterrupted(place: Path) -> tuple[dict[str, str], int]:
    done = drive(place, "run", 0, "recipe.yaml", "whole", cache="cache-whole")
    assert done.returncode == 0, done.stderr[-3000:]
    steps = re.search(r"^steps (\d+)$", done.stdout, re.M)
    assert steps
    found = digest(place, "whole")
    assert sum(name.endswith(".safetensors") for name in found) == 7
    return found, int(steps[1])


# Shares of the steps that are left at each start: ten kills, from the first packing to the last rename.
SHARES = (0.02, 0.05, 0.11, 0.17, 0.23, 0.31, 0.37, 0.43, 0.61, 0.97)


def test_killed_again_and_again_equals_uninterrupted(place: Path, uninterrupted: tuple[dict[str, str], int]) -> None:
    expected, steps = uninterrupted
    kills: list[str] = []
    for share in SHARES:
        done = drive(place, "run", max(1, round(share * steps)), "recipe.yaml", "killed", cache="cache-killed")
        if done.returncode == 0:
            break
        assert done.returncode == KILLED, done.stderr[-3000:]
        kills.append(done.stderr.strip().splitlines()[-1])
    assert len(kills) >= 6, kills
    last = drive(place, "run", 0, "recipe.yaml", "killed", cache="cache-killed")
    assert last.returncode == 0, last.stderr[-3000:]
    assert digest(place, "killed") == expected, kills


def test_the_law_can_fail(place: Path, uninterrupted: tuple[dict[str, str], int]) -> None:
    """Control: a run that resumes from a tampered state does not end with the same weights."""
    expected, _ = uninterrupted
    shutil.copytree(place / "whole", place / "tampered")
    weights = place / "tampered" / "taught" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    assert digest(place, "tampered") != expected
