"""The demo, small: it ends with five lines about effects, and a sabotaged method makes them say so."""

from __future__ import annotations

import io
import json
import random
import re
import shutil
import sys
from pathlib import Path

import pytest
from rich.console import Console

from bequest.data.tasks import load_task
from bequest.demonstration import Demonstration, run_demo
from bequest.demonstration.summary import Evidence, recycling
from bequest.lineage import read_lineage
from bequest.recipe import load_recipe

SMALL = (
    *(f"corpora.{name}.held_out=0.015" for name in ("general", "tables", "algebra")),
    "stages.small.model.hidden_size=64",
    "stages.small.model.num_hidden_layers=2",
    "stages.small.model.num_attention_heads=2",
    "stages.small.tokenizer.vocab_size=1024",
    "stages.small.tokens=160k",
    "stages.big.to.hidden_size=128",
    "stages.scratch.model.hidden_size=128",
    "stages.scratch.model.num_hidden_layers=2",
    "stages.scratch.model.num_attention_heads=4",
    "stages.v1.tokens=16384",
    "stages.scratch.tokens=16384",
    *(f"stages.{name}.tokens=32k" for name in ("v2", "v3", "v2-no-replay", "v3-no-replay")),
    *(f"stages.{name}.lr=3e-3" for name in ("v2", "v3", "v2-no-replay", "v3-no-replay")),
    *(f"stages.{name}.method.0.share=0.5" for name in ("v2", "v3")),
    *(f"stages.{name}.epochs=4" for name in ("areas-v1", "areas-v3-retrained")),
    *(
        f"stages.{name}.evaluate_every=1.0"
        for name in ("small", "v1", "scratch", "v2", "v3", "v2-no-replay", "v3-no-replay")
    ),
    "stages.encoder.tokenizer.vocab_size=512",
    "stages.encoder.tokens=8192",
)
FILLER = (
    "the a value returned by this function is given when an object of that kind was passed to it and if not then some"
)
CLOSING = {"file": "path directory", "number": "integer float", "string": "bytes encoding", "class": "method module"}
"""A task that a model of this size can learn in seconds: the last word of a text tells its class."""

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


TUNED = ("areas-v1", "areas-v3", "areas-v3-retrained")


def write_task(directory: Path) -> None:
    draw = random.Random(3)
    for name, count in (("train", 240), ("test", 120)):
        labels = [sorted(CLOSING)[number % len(CLOSING)] for number in range(count)]
        rows = [
            {
                "text": " ".join(
                    [*draw.choices(FILLER.split(), k=draw.randint(8, 14)), draw.choice(CLOSING[label].split())]
                ),
                "label": label,
            }
            for label in labels
        ]
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def demo(out: Path, *overrides: str) -> Demonstration:
    files = [f"tasks.areas.{side}={out.parent / side}.jsonl" for side in ("train", "test")]
    chosen = (*SMALL, "tasks.areas.demo=null", *files, *overrides)
    return run_demo(out, console=Console(file=io.StringIO()), overrides=chosen)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Demonstration:
    directory = tmp_path_factory.mktemp("demo")
    write_task(directory)
    return demo(directory / "run")


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
    assert lines[0].endswith("better")
    assert says_better(lines[3]), lines[3]
    assert lines[4].endswith("better"), lines[4]
    assert "minutes" in time
    assert honest.report.is_file()
    assert json.loads((honest.out / "run.json").read_text())["summary"] == list(honest.summary)
    tokens = {stage: read_lineage(honest.out / stage).cost.tokens for stage in ("small", "v1", "scratch")}
    assert tokens["v1"] == tokens["scratch"]
    assert f"({tokens['scratch']:,} and " in lines[2]
    assert f"took {tokens['small'] + tokens['v1']:,} and " in lines[2]
    assert "pre-training text" not in lines[3]  # this task is not made of it


def test_the_demo_says_what_the_models_have_read(honest: Demonstration) -> None:
    task = load_task("areas", load_recipe(honest.out / "recipe.yaml", []).tasks["areas"], honest.out)
    evidence = Evidence(honest.out, {}, {name: {"areas": {"correct": [[True] * len(task.test)]}} for name in TUNED})
    assert "also stand, unlabelled, in the pre-training text" in recycling(evidence, task, seen_text=True)


def says_better(recycled: str) -> bool:
    """Whether the first half of the line on recycling, that against none at all, says that it helped."""
    return recycled.split(";")[0].endswith("better")


def test_sabotage_is_said(honest: Demonstration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The honest run says "better" of all three (above), so a method that does nothing or harm must change the line."""
    (tmp_path / "sabotage.py").write_text(SABOTAGE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "sabotage", raising=False)
    write_task(tmp_path)
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
    assert not says_better(recycled), recycled
    assert not replayed.endswith("better"), replayed
