"""Laws of two processes: DDP and real FSDP2 over gloo train as one process does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import training_support as tiny

DRIVER = Path(__file__).with_name("training_distributed_driver.py")


def launch(place: Path, how: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    world = 1 if how == "one" else 2
    processes = []
    for rank in range(world):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        if world > 1:
            environment |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "ACCELERATE_USE_CPU": "true",
            }
        processes.append(
            subprocess.Popen(
                [sys.executable, str(DRIVER), str(place / how), how],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output[-5000:]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("distributed")
    for how in ("one", "fsdp", "ddp"):
        launch(place, how)
    return place


def found(place: Path, how: str, name: str) -> dict[str, Any]:
    return torch.load(place / how / f"{name}.pt", weights_only=False)


@pytest.mark.parametrize("name", ["masked", "causal", "taught", "protected", "adapter", "prefixes", "continued"])
@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_two_processes_equal_one(runs: Path, how: str, name: str) -> None:
    one, two = found(runs, "one", name), found(runs, how, name)
    assert two["sharded"] == (how == "fsdp")
    gradients = {key.removeprefix("module."): value for key, value in two["gradients"].items()}
    assert tiny.relative(one["gradients"], gradients) < 1e-5
    assert len(two["losses"]) == 20
    assert max(abs(a - b) for a, b in zip(one["losses"], two["losses"], strict=True)) < 1e-4
    assert max(abs(a - b) for a, b in zip(one["held_out"], two["held_out"], strict=True)) < 1e-4
    assert one["books"] == two["books"]
    assert tiny.relative(one["weights"], two["weights"]) < 1e-4
    # What comes out is the model that went in: its class, its names, its settings.
    assert [one[key] for key in ("kind", "state", "max_new_tokens")] == [
        two[key] for key in ("kind", "state", "max_new_tokens")
    ]
    assert one["max_new_tokens"] == (7 if name == "causal" else None)
    if name in ("prefixes", "continued"):
        assert one["optimizer"].keys() == two["optimizer"].keys()
        for part in ("step", "exp_avg", "exp_avg_sq"):
            states = [
                {key: run["optimizer"][key] for key in one["optimizer"] if key.endswith(part)} for run in (one, two)
            ]
            assert tiny.relative(*states) < (1e-3 if part != "step" else 1e-7)


def test_the_law_sees_a_mean_of_processes(runs: Path) -> None:
    assert tiny.relative(found(runs, "one", "masked")["gradients"], found(runs, "ddp", "wrong")["gradients"]) > 1e-3


@pytest.mark.parametrize("how", ["one", "ddp", "fsdp"])
def test_protected_units_stay_and_others_move(runs: Path, how: str) -> None:
    run = found(runs, how, "protected")
    up, down = "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight"
    norm = "model.layers.1.input_layernorm.weight"
    moved = {key: run["weights"][key] != run["before"][key] for key in (up, down, norm)}
    assert not moved[up][:7].any()
    assert moved[up][7:].any(dim=1).all()
    assert not moved[down][:, 3:30].any()
    assert moved[down][:, :3].any()
    assert moved[down][:, 30:].any()
    assert not moved[norm].any()


@pytest.mark.parametrize("how", ["one", "ddp", "fsdp"])
def test_what_is_frozen_stays_and_an_optimizer_goes_on(runs: Path, how: str) -> None:
    run = found(runs, how, "continued")
    for name, value in run["weights"].items():
        assert torch.equal(value, run["before"][name]) == ("layers.1." not in name), name
    assert {name.rpartition(".")[0] for name in run["optimizer"]} == {n for n in run["before"] if "layers.1." in n}
    assert {float(value) for name, value in run["optimizer"].items() if name.endswith(".step")} == {50.0}


@pytest.mark.parametrize("name", ["taught", "prefixes", "continued"])
@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_resumed_runs_are_bitwise_equal(runs: Path, how: str, name: str) -> None:
    whole, again = found(runs, how, name), found(runs, how, f"{name}-again")
    assert again["notes"] == ["resumed checkpoint-8, exactly"]
    assert again["losses"] == whole["losses"]
    for name, value in whole["weights"].items():
        assert torch.equal(value, again["weights"][name]), name
