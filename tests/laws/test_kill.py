"""A run that is killed at any moment and started again ends with the very weights of one that was not.

SIGKILL falls at chosen durable steps (see ``kill_driver.py``): before anything is written, during packing, between two
files of a checkpoint, in a final save, in a stage's rename.  Causal and masked language models, a teacher, replay,
tuning, recycling and measuring, with accumulation and over several epochs.  ``bench/kill_stress.py`` does the same at
many more moments.
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


EARLIEST = range(1, 9)
"""The first steps of all, each in a process of its own: the run directory, its lock, its record."""
# Shares of the steps that are left at each start: ten kills, from the first packing to the last rename.
SHARES = (0.02, 0.05, 0.11, 0.17, 0.23, 0.31, 0.37, 0.43, 0.61, 0.97)


def test_killed_again_and_again_equals_uninterrupted(place: Path, uninterrupted: tuple[dict[str, str], int]) -> None:
    expected, steps = uninterrupted
    kills: list[str] = []
    for step in [*EARLIEST, *(round(share * steps) for share in SHARES)]:
        done = drive(place, "run", step, "recipe.yaml", "killed", cache="cache-killed")
        if done.returncode == 0:
            break
        assert done.returncode == KILLED, done.stderr[-3000:]
        kills.append(done.stderr.strip().splitlines()[-1])
    assert len(kills) >= len(EARLIEST) + 6, kills
    last = drive(place, "run", 0, "recipe.yaml", "killed", cache="cache-killed")
    assert last.returncode == 0, last.stderr[-3000:]
    assert digest(place, "killed") == expected, kills


MEASURING = (
    r"os\.mkdir .*/\.measured\.partial",  # all models measured, nothing published
    r"os\.rename .*/taught/\.lineage\.json\.\w+\.partial",  # the first of the lineages
    r"os\.rename .*/adapted/\.README\.md\.\w+\.partial",
    r"os\.rename .*/\.measured\.partial",  # the stage's own rename
)


def test_numbers_reach_every_lineage_however_measuring_is_killed(
    place: Path, uninterrupted: tuple[dict[str, str], int]
) -> None:
    shutil.copytree(place / "whole", place / "unmeasured", ignore=shutil.ignore_patterns("measured"))
    for stage in ("taught", "adapted", "recycled"):
        path = place / "unmeasured" / stage / "lineage.json"
        record = json.loads(path.read_text())
        record["measures"] = {key: record["measures"][key] for key in record["measures"] if key == "held_out"}
        path.write_text(json.dumps(record))
    assert digest(place, "unmeasured")["taught measures"] != uninterrupted[0]["taught measures"]
    for moment in MEASURING:
        done = drive(place, "run", moment, "recipe.yaml", "unmeasured", cache="cache-whole")
        assert done.returncode == KILLED, (moment, done.stderr[-3000:])
    assert drive(place, "run", 0, "recipe.yaml", "unmeasured", cache="cache-whole").returncode == 0
    assert digest(place, "unmeasured") == uninterrupted[0]


def test_the_law_can_fail(place: Path, uninterrupted: tuple[dict[str, str], int]) -> None:
    """Control: a checkpoint that claims to be whole but starts Adam from nothing ends with other weights."""
    recipe = (place / "recipe.yaml").read_text()
    (place / "one.yaml").write_text(recipe[: recipe.index("  - grow:")])
    done = drive(place, "run", r"os\.rename .*/\.checkpoint-15\.partial", "one.yaml", "honest", cache="cache-whole")
    assert done.returncode == KILLED, done.stderr[-3000:]
    shutil.copytree(place / "honest", place / "forged")
    newest = place / "forged" / ".causal.work" / "training" / "checkpoints" / "checkpoint-10"
    (newest / "optimizer.pt").unlink()
    manifest = json.loads((newest / "manifest.json").read_text())
    del manifest["files"]["optimizer.pt"]
    (newest / "manifest.json").write_text(json.dumps(manifest))
    weights = {}
    for name in ("honest", "forged"):
        done = drive(place, "run", 0, "one.yaml", name, cache="cache-whole")
        assert done.returncode == 0, done.stderr[-3000:]
        assert "resumed checkpoint-10, exactly" in done.stdout + done.stderr
        weights[name] = digest(place, name)["causal/model.safetensors"]
    expected = uninterrupted[0]["causal/model.safetensors"]
    assert weights["honest"] == expected
    assert weights["forged"] != expected
