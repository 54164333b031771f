"""The demo, small: it ends with five lines about effects, and a sabotaged method makes them say so."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from rich.console import Console

from bequest.demonstration import Demonstration, run_demo

SMALL = (
    "corpora.general.held_out=0.03",
    "stages.small.model.hidden_size=64",
    "stages.small.model.num_hidden_layers=2",
    "stages.small.model.num_attention_heads=2",
    "stages.small.tokens=60k",
    "stages.big.to.hidden_size=128",
    "stages.scratch.model.hidden_size=128",
    "stages.scratch.model.num_hidden_layers=2",
    "stages.scratch.model.num_attention_heads=4",
    *(f"stages.{name}.tokens=8192" for name in ("v1", "scratch", "v2", "v3", "v2-no-replay", "v3-no-replay")),
    "stages.areas-v1.epochs=1",
    "stages.areas-v3-retrained.epochs=1",
    "stages.encoder.tokens=8192",
)

SABOTAGE = '''
"""Methods that do not do what they say."""

import dataclasses

import safetensors.torch
import torch

from bequest.growth.fpi import FPI
from bequest.recycling import Direct, Recycler


@dataclasses.dataclass(frozen=True)
class Doubled(FPI):
    """FPI whose readers do not share: the stream doubles at every read."""

    def maps(self, source, target, *, weights=None, rng=None):
        made = super().maps(source, target, weights=weights, rng=rng)
        axes = {axis: dataclasses.replace(entry, scales={}) for axis, entry in made.axes.items()}
        return dataclasses.replace(made, axes=axes)


@dataclasses.dataclass(frozen=True)
class Noise(Recycler):
    """Recycles nothing: the adapter and its head are replaced by noise."""

    def __call__(self, tuned, old, new, task, *, out, tuning=None):
        made = Direct()(tuned, old, new, task, out=out)
        path = out / "adapter_model.safetensors"
        torch.manual_seed(0)
        noise = {name: torch.randn_like(value) for name, value in safetensors.torch.load_file(path).items()}
        safetensors.torch.save_file(noise, path)
        return made
'''


def demo(out: Path, *overrides: str) -> Demonstration:
    return run_demo(out, console=Console(file=io.StringIO()), overrides=(*SMALL, *overrides))


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Demonstration:
    return demo(tmp_path_factory.mktemp("demo") / "run")


def test_the_demo_names_five_effects(honest: Demonstration) -> None:
    heading, *lines, time = honest.summary
    assert "intervals" in heading
    assert len(lines) == 5
    for line, start in zip(lines, ("pretrain", "grow", "grow + inherit", "recycle", "adapt"), strict=True):
        assert line.startswith(start), line
        assert " against " in line, line
        assert re.search(r"better|worse|no effect seen|nothing can be concluded", line), line
    assert "preserved" in lines[1]
    assert "NOT preserved" not in lines[1]
    assert "minutes" in time
    assert honest.report.is_file()
    assert json.loads((honest.out / "run.json").read_text())["summary"] == list(honest.summary)


def test_sabotage_is_said(
    honest: Demonstration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sabotage.py").write_text(SABOTAGE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "sabotage", raising=False)
    shutil.copytree(honest.out, tmp_path / "run")
    spoilt = demo(
        tmp_path / "run",
        "stages.big.method=sabotage:Doubled",
        "stages.areas-v3.method=sabotage:Noise",
        "stages.v2.method.0.share=0.0",
        "stages.v3.method.0.share=0.0",
    )
    _, _, grown, _, recycled, replayed, _ = spoilt.summary
    assert "NOT preserved" in grown
    assert not recycled.split(";")[0].endswith("better"), recycled
    assert not replayed.endswith("better"), replayed
