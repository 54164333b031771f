"""Laws of ``bequest run`` under a launcher: two processes make what one makes, and a failure leaves nobody waiting."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from kill_driver import prepare

import training_support as tiny
from bequest import processes
from bequest.errors import InputError

DRIVER = Path(__file__).with_name("run_distributed_driver.py")
# Dropout draws from each process' own generator.
CHANGES = ("stages.masked.model.hidden_dropout_prob=0", "stages.masked.model.attention_probs_dropout_prob=0")
TOLERANCE = 1e-4
# Launchers set these; a test run that was itself launched must not hand them on.
LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def environment(place: Path, cache: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key not in LAUNCHED}
    settings = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
    # The law is of processes on a CPU, whatever the machine has besides.
    return {**kept, **settings, "BEQUEST_CACHE": str(place / cache), "ACCELERATE_USE_CPU": "true"}


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def run(place: Path, count: int, recipe: str, out: str, how: str = "right") -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable]
    if count > 1:
        launcher += ["-m", "torch.distributed.run", "--nproc_per_node", str(count), "--master_port", free_port()]
    command = [*launcher, str(DRIVER), how, "run", recipe, *(CHANGES if recipe == "recipe.yaml" else ()), "--out", out]
    return subprocess.run(
        command, cwd=place, env=environment(place, f"cache-{out}"), capture_output=True, text=True, timeout=300
    )


def weights(place: Path, out: str) -> dict[str, Path]:
    found = {str(path.relative_to(place / out)): path for path in sorted((place / out).glob("*/*.safetensors"))}
    assert found
    return found


def distance(first: Path, second: Path) -> float:
    return tiny.relative(load_file(first), load_file(second))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("launched")
    prepare(directory)
    recipe = yaml.safe_load((directory / "recipe.yaml").read_text())
    (directory / "first.yaml").write_text(yaml.safe_dump({**recipe, "stages": recipe["stages"][:1]}))
    return directory


@pytest.fixture(scope="module")
def one(place: Path) -> Path:
    done = run(place, 1, "recipe.yaml", "one")
    assert done.returncode == 0, done.stderr[-3000:]
    return place


def test_two_processes_make_what_one_makes(one: Path) -> None:
    done = run(one, 2, "recipe.yaml", "two")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("made two/report.html") == 1
    alone, together = weights(one, "one"), weights(one, "two")
    assert alone.keys() == together.keys()
    assert {"causal", "wide", "taught", "masked", "adapted", "tuned", "recycled"} <= {
        name.partition("/")[0] for name in alone
    }
    distances = {name: distance(alone[name], together[name]) for name in alone}
    assert max(distances.values()) < TOLERANCE, distances
    for stage in {name.partition("/")[0] for name in alone}:
        books = [json.loads((one / out / stage / "lineage.json").read_text())["cost"] for out in ("one", "two")]
        assert books[0]["tokens"] == books[1]["tokens"]
        assert books[0]["train_flops"] == books[1]["train_flops"]


def test_the_law_sees_a_budget_cut_for_one_process(one: Path) -> None:
    done = run(one, 2, "first.yaml", "wrong", how="wrong")
    assert done.returncode == 0, done.stderr[-3000:]
    right, wrong = (weights(one, out)["causal/model.safetensors"] for out in ("one", "wrong"))
    assert distance(right, wrong) > 10 * TOLERANCE


def test_a_failure_of_the_main_process_ends_the_others(place: Path) -> None:
    """Both are started by hand: no launcher is there to kill the one that waits."""
    port = free_port()
    launched = [
        subprocess.Popen(
            [sys.executable, "-m", "bequest", "run", "first.yaml", "corpora.text.held_out=0.0001", "--out", "short"],
            cwd=place,
            env=environment(place, "cache-short")
            | {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    told = [process.communicate(timeout=120)[1] for process in launched]
    assert [process.returncode for process in launched] == [2, 3], told
    assert "held" in told[0]
    assert "the main process failed" in told[1]
    assert not any("Traceback" in text for text in told)


def test_processes_that_accelerate_does_not_see_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a process of two looks for an accelerator that is not there, and takes itself for the only one."""
    monkeypatch.setattr(processes, "on_cpu", lambda: False)
    processes.connect()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="started 2 processes and accelerate sees 1"):
        processes.connect()
