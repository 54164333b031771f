"""What a user may pass to transformers' trainer does what it says, or is refused: FSDP, gradient checkpointing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import training_support as tiny
from bequest.errors import InputError
from bequest.training import train
from bequest.training.sharding import refuse_unsharded


def test_fsdp_that_did_not_shard_is_refused() -> None:
    model = nn.Linear(4, 4)
    with pytest.raises(InputError, match="nothing is sharded on this device") as caught:
        refuse_unsharded(True, model)
    assert caught.value.key == "training.fsdp"
    refuse_unsharded(False, model)


def test_a_sharded_model_is_not_refused() -> None:
    from torch.distributed import destroy_process_group, init_process_group
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    init_process_group("gloo", rank=0, world_size=1, store=torch.distributed.HashStore())
    try:
        model = fully_shard(nn.Linear(4, 4), mesh=init_device_mesh("cpu", (1,)))
        assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
        refuse_unsharded(True, model)
    finally:
        destroy_process_group()


def test_a_run_that_asks_for_fsdp_on_a_cpu_is_refused(tmp_path: Path) -> None:
    model, anatomy = tiny.tiny("llama")
    before = tiny.copy_of(model)
    chosen = tiny.settings(2, training={"fsdp": "full_shard", "use_cpu": True})
    with pytest.raises(InputError):
        train(model, tiny.data_for("llama", tmp_path), None, chosen, tmp_path / "run", anatomy=anatomy)
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())


def run(family: str, place: Path, name: str, **training: Any) -> tuple[list[float], dict[str, torch.Tensor], int]:
    """Losses, final weights, and how often the inside of the first layer ran."""
    model, anatomy = tiny.tiny(family, dropout=0.1)
    calls = [0]

    def count(*_: Any) -> None:
        calls[0] += int(model.training)

    layers = next(module for module in model.modules() if isinstance(module, nn.ModuleList))
    inner = next(module for module in layers[0].modules() if not list(module.children()))
    handle = inner.register_forward_pre_hook(count)  # a layer's own hooks stand outside its checkpoint
    chosen = tiny.settings(6, micro=4, training=training)
    train(model, tiny.data_for(family, place), None, chosen, place / name, anatomy=anatomy)
    handle.remove()
    lines = [json.loads(text) for text in (place / name / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "train"], tiny.copy_of(model), calls[0]


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "llama", "gpt2"])
def test_gradient_checkpointing_changes_no_loss(family: str, tmp_path: Path) -> None:
    """The head still sees target positions only when a block runs a second time in the backward pass."""
    plain, weights, once = run(family, tmp_path, "plain")
    saved, same, twice = run(family, tmp_path, "saved", gradient_checkpointing=True)
    assert once == 6 * 2
    assert twice == 2 * once  # else checkpointing was not on, and this shows nothing
    assert len(plain) == 6
    assert saved == plain
    assert all(torch.equal(value, same[name]) for name, value in weights.items())
