"""The shipped recipes that grow step by step, run at a tiny size: StackBERT and MSLT."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import bequest
from bequest import lineage
from bequest.commands.making import templates
from bequest.running import RunReport

SMALL = {"hidden_size": 16, "num_attention_heads": 2, "vocab_size": 200, "intermediate_size": 24}


def run(name: str, place: Path) -> RunReport:
    draw = random.Random(5)
    words = ["alpha", "beta", "gamma", "delta", "river", "stone", "bird", "seven", "runs", "falls"]
    lines = [json.dumps({"text": " ".join(draw.choices(words, k=30)) + f" {number}"}) for number in range(100)]
    (place / "text.jsonl").write_text("\n".join(lines))
    (place / "recipe.yaml").write_text(templates()[name])
    first = {"stackbert": "quarter", "mslt": "shallow"}[name]
    layers = {"family": "bert", "num_hidden_layers": 2, **SMALL}
    trained = {"stackbert": ("quarter", "half", "full"), "mslt": ("shallow", "middle", "top", "full")}[name]
    overrides = [
        f"stages.{stage}.{key}" for stage in trained for key in ("tokens=1024", "block=16", "batch_tokens=256")
    ]
    overrides += [
        "corpora.general={files: text.jsonl, held_out: 0.2}",
        f"stages.{first}.model={layers}".replace("'", ""),
    ]
    return bequest.run(place / "recipe.yaml", out=place / "run", overrides=[*overrides, "stages.measure.block=16"])


def weights(report: RunReport, stage: str) -> dict[str, torch.Tensor]:
    return load_file(report.directory(stage) / "model.safetensors")


def layer_of(name: str) -> int | None:
    return int(name.split("encoder.layer.")[1].split(".")[0]) if "encoder.layer." in name else None


@pytest.mark.parametrize(("name", "depths"), [("stackbert", [2, 4, 8]), ("mslt", [2, 4, 6])])
def test_a_progressive_recipe_runs(name: str, depths: list[int], tmp_path: Path) -> None:
    report = run(name, tmp_path)
    models = {"stackbert": ["quarter", "half", "full"], "mslt": ["shallow", "middle", "full"]}[name]
    for stage, depth in zip(models, depths, strict=True):
        assert {layer_of(tensor) for tensor in weights(report, stage)} == {None, *range(depth)}
    kinds = [lineage.read_lineage(report.directory(stage)).operation.stage for stage in models]
    assert kinds == ["pretrain"] * 3
    if name == "stackbert":
        before, after = weights(report, "half"), weights(report, "restacked")
        for tensor, value in after.items():
            layer = layer_of(tensor)
            source = tensor if layer is None else tensor.replace(f"layer.{layer}.", f"layer.{layer % 4}.")
            assert torch.equal(value, before[source]), tensor
        return
    for grown, trained, added in (("deeper", "middle", {2, 3}), ("deepest", "top", {4, 5})):
        before, after = weights(report, grown), weights(report, trained)
        moved = {layer_of(tensor) for tensor in after if not torch.equal(before[tensor], after[tensor])}
        assert moved == added
    before, after = weights(report, "top"), weights(report, "full")
    assert {layer_of(t) for t in after if not torch.equal(before[t], after[t])} == {None, *range(6)}
