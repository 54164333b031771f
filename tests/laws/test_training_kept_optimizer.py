"""Laws of a kept optimizer: a run that starts from it goes on exactly; and its way through the stages of a recipe."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import bequest
import training_support as tiny
from bequest import checkpoints, lineage
from bequest.errors import InputError
from bequest.growth import plan_growth
from bequest.growth.optimizer import grow_optimizer
from bequest.planning import OPTIMIZER_FILE, make_plan
from bequest.recipe import load_recipe
from bequest.training import TrainingData, train


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Same:
    """A data set of one block: whatever the order, every update sees the same."""

    def __init__(self, blocks: Any) -> None:
        self.block = blocks[0]

    def __len__(self) -> int:
        return 1

    def __getitem__(self, place: int) -> dict[str, Any]:
        return dict(self.block)


def run(place: Path, model: Any, anatomy: Any, updates: int, **more: Any) -> Any:
    """Some updates at a constant rate on the one block."""
    data = tiny.data_for("llama", place.parent)
    same = TrainingData(Same(data.train), data.collator)
    chosen = tiny.settings(updates, sequences=2, schedule="constant", warmup=0, weight_decay=0.1, keep_optimizer=True)
    passed = {key: more.pop(key) for key in ("training",) if key in more}
    return train(model, same, None, dataclasses.replace(chosen, **passed), place, anatomy=anatomy, **more)


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused"])
def test_a_kept_state_goes_on_exactly(optim: str, tmp_path: Path) -> None:
    training = {"training": {"optim": optim}}
    model, anatomy = tiny.tiny("llama", tie_word_embeddings=True)
    whole = run(tmp_path / "whole", model, anatomy, 6, **training)
    model, _ = tiny.tiny("llama", tie_word_embeddings=True)
    half = run(tmp_path / "half", model, anatomy, 3, **training)
    assert {name.rpartition(".")[0] for name in half.optimizer} == {name for name, _ in model.named_parameters()}
    assert {value.dtype for value in half.optimizer.values()} == {torch.float32}
    between = {name: value.clone() for name, value in half.model.state_dict().items()}
    rest = run(tmp_path / "rest", model, anatomy, 3, optimizer=half.optimizer, **training)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, rest.model.state_dict()[name]), name
    for name, value in whole.optimizer.items():
        assert torch.equal(value, rest.optimizer[name]), name
    # Negative control: a fresh optimizer takes other steps.
    model.load_state_dict(between)
    fresh = run(tmp_path / "fresh", model, anatomy, 3, **training)
    assert tiny.relative(dict(whole.model.named_parameters()), dict(fresh.model.named_parameters())) > 1e-4
    # A finished run that is run again gives the state of its last checkpoint.
    again = run(tmp_path / "rest", model, anatomy, 3, optimizer=half.optimizer, **training)
    assert all(torch.equal(value, again.optimizer[name]) for name, value in rest.optimizer.items())


def test_a_state_of_something_else_is_refused(tmp_path: Path) -> None:
    model, anatomy = tiny.tiny("llama")
    for state, message in (
        ({"model.norm.weight.exp_avg": torch.zeros(3)}, r"has \(3,\) where the model has \(32,\)"),
        ({"other.weight.exp_avg": torch.zeros(3)}, "of no parameter of the model"),
        ({"model.norm.weight.exp_avg": torch.zeros(32)}, "lacks a part"),
    ):
        with pytest.raises(InputError, match=message):
            run(tmp_path / message[:5], model, anatomy, 2, optimizer=state)
    with pytest.raises(InputError, match="the state of SGD cannot be kept") as caught:
        run(tmp_path / "sgd", model, anatomy, 2, training={"optim": "sgd"})
    assert caught.value.key == "training.optim"


# --- through a recipe

RECIPE = """
name: kept
corpora: {general: {files: text.jsonl, held_out: 0.2}}
stages:
  - pretrain:
      name: small
      model: {family: llama, hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2, vocab_size: 300}
      corpus: general
      tokens: 1024
      block: 16
      batch_tokens: 256
      keep_optimizer: true
  - grow: {name: big, from: small, to: {hidden_size: 24, num_hidden_layers: 3}, method: [isometric, identity],
           optimizer: grow}
  - pretrain: {name: more, from: big, corpus: general, tokens: 512, block: 16, batch_tokens: 256, optimizer: inherit}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    draw = random.Random(5)
    words = ["alpha", "beta", "gamma", "delta", "river", "stone", "bird", "seven", "runs", "falls"]
    lines = [json.dumps({"text": " ".join(draw.choices(words, k=30)) + f" {number}"}) for number in range(100)]
    (tmp_path / "text.jsonl").write_text("\n".join(lines))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path / "recipe.yaml"


def test_a_state_is_kept_grown_and_inherited(recipe: Path, tmp_path: Path) -> None:
    report = bequest.run(recipe, out=tmp_path / "run")
    small, big, more = (report.directory(stage) for stage in ("small", "big", "more"))
    state = load_file(small / OPTIMIZER_FILE)
    model = checkpoints.load_model(small)
    assert {name.rpartition(".")[0] for name in state} == {name for name, _ in model.named_parameters()}
    maps = lineage.read_lineage(big).operation.maps or {}
    plan = plan_growth(model, maps["to"], maps["calls"], seed=maps["seed"])
    wanted, grown = grow_optimizer(state, plan, "grow"), load_file(big / OPTIMIZER_FILE)
    assert wanted.keys() == grown.keys() and all(torch.equal(wanted[name], grown[name]) for name in wanted)
    assert not (more / OPTIMIZER_FILE).exists()
    assert checkpoints.load_model(big).num_parameters() > model.num_parameters()  # the file is no part of the weights
    assert bequest.run(recipe, out=tmp_path / "run").ran == []
    # Another state is another stage, all the way down; so is a fresh start.
    save_file({name: value + 1 for name, value in grown.items()}, big / OPTIMIZER_FILE)
    assert bequest.run(recipe, out=tmp_path / "run").ran == ["more"]
    zero = bequest.run(recipe, out=tmp_path / "run", overrides=["stages.big.optimizer=zero_new"])
    assert zero.ran == ["big", "more"]
    (zero.directory("big") / OPTIMIZER_FILE).unlink()  # to save room: the finished stage stays a finished stage
    with pytest.raises(InputError, match="keeps no optimizer state") as caught:
        bequest.run(recipe, out=tmp_path / "run", overrides=["stages.big.optimizer=zero_new", "stages.more.lr=1e-3"])
    assert caught.value.where == zero.directory("big")
    overrides = ["stages.big.optimizer=zero_new", "stages.more.optimizer=fresh"]
    assert bequest.run(recipe, out=tmp_path / "run", overrides=overrides).ran == ["more"]
    shutil.rmtree(tmp_path / "run")


@pytest.mark.parametrize(
    ("overrides", "key", "message"),
    [
        (["stages.small.keep_optimizer=false"], "big.optimizer", "small keeps no optimizer state"),
        (["stages.big.optimizer=reset"], "more.optimizer", "big keeps no optimizer state"),
        (["stages.small.optimizer=inherit"], "small.optimizer", "needs a base"),
        (["stages.small.training={optim: sgd}"], "small.keep_optimizer", "does not go with training.optim=sgd"),
        (["stages.more.training={deepspeed: x.json}"], "more.optimizer", "does not go with training.deepspeed"),
    ],
)
def test_a_plan_refuses_a_state_that_is_not_there(recipe: Path, overrides: list[str], key: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        make_plan(load_recipe(recipe, overrides))
    assert caught.value.key == f"stages.{key}"


def test_a_plan_counts_the_room_that_a_state_takes(recipe: Path) -> None:
    with_state, without = (
        make_plan(load_recipe(recipe)),
        make_plan(
            load_recipe(
                recipe,
                ["stages.small.keep_optimizer=false", "stages.big.optimizer=reset", "stages.more.optimizer=fresh"],
            )
        ),
    )
    for name in ("small", "big", "more"):
        more = 8 * (with_state.stage(name).params or 0) if name != "more" else 0
        assert with_state.stage(name).disk_bytes - without.stage(name).disk_bytes == more
