"""`train_only: new_blocks`: only what a growth in depth added is trained, found through the bases' lineages."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import training_support as tiny
from bequest import lineage
from bequest.errors import InputError, RunError
from bequest.planning import make_plan
from bequest.recipe import load_recipe, new_blocks
from bequest.training import train
from bequest.training.freezing import freeze_but


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_what_is_frozen_has_no_gradient_and_does_not_move(family: str, tmp_path: Path) -> None:
    model, anatomy = tiny.tiny(family, layers=3, tie_word_embeddings=True)
    only = {name for name, tensor in anatomy.tensors.items() if tensor.layer in (0, 2)}
    before, seen = tiny.copy_of(model), []
    handle = register_optimizer_step_pre_hook(
        lambda *_: seen.append({name for name, p in model.named_parameters() if p.grad is not None})
    )
    chosen = tiny.settings(4, micro=4, weight_decay=0.5, schedule="constant", warmup=0)
    result = train(model, tiny.data_for(family, tmp_path), None, chosen, tmp_path / "r", anatomy=anatomy, only=only)
    handle.remove()
    assert seen == [only] * 4
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == (name not in only), name
        assert parameter.requires_grad and (parameter.grad is None or name in only)
    assert result.model is model
    # A frozen weight costs half of a backward pass: forward 1, backward between 1 and 2.
    whole = train(model, tiny.data_for(family, tmp_path), None, chosen, tmp_path / "whole", anatomy=anatomy)
    assert 2 / 3 < result.train_flops / whole.train_flops < 1
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == set(before)  # the negative control: everything moves where nothing is frozen


def test_names_that_are_not_there_are_refused() -> None:
    model, _ = tiny.tiny("llama")
    with pytest.raises(RunError, match="no such parameter") as caught:
        freeze_but(model, {"model.layers.7.mlp.up_proj.weight"})
    assert caught.value.key == "model.layers.7.mlp.up_proj.weight"
    with pytest.raises(RunError, match="no parameter is left"):
        freeze_but(model, set())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert freeze_but(model, None) == frozenset()


# --- where the new blocks stand


def generation(place: Path, base: Path | None = None, maps: dict[str, Any] | None = None) -> Path:
    """A model directory with a lineage; its weights are one number."""
    from safetensors.numpy import save_file

    place.mkdir()
    tiny_weights = {"w": torch.full((1,), float(len(place.name))).numpy()}
    save_file(tiny_weights, place / "model.safetensors")
    (place / "config.json").write_text(json.dumps({"model_type": "llama"}))
    parents = [lineage.parent_of(base, "base", child=place)] if base is not None else []
    kind = "grow" if maps else "pretrain"
    record = lineage.make_lineage(place, name=place.name, stage=kind, maps=maps, parents=parents)
    lineage.write_lineage(place, record)
    return place


def test_new_blocks_are_found_through_the_bases(tmp_path: Path) -> None:
    small = generation(tmp_path / "small")
    deep = generation(tmp_path / "deep", small, {"order": [0, 0, 1, 1], "new_layers": [1, 3]})
    trained = generation(tmp_path / "trained", deep)
    wide = generation(tmp_path / "wide", trained, {"order": [0, 1, 2, 3], "new_layers": []})
    again = generation(tmp_path / "again", wide, {"order": [0, 1, 2, 3, 3], "new_layers": [4]})
    assert [new_blocks(place) for place in (small, deep, trained, wide, again)] == [(), (1, 3), (1, 3), (1, 3), (4,)]
    older = generation(tmp_path / "older", small, {"order": [0, 1, 0, 1, 1]})
    assert new_blocks(older) == (2, 3, 4)
    assert new_blocks(tmp_path) == ()
    shutil.rmtree(deep)  # the line is broken: nobody knows any more
    assert new_blocks(wide) == ()


RECIPE = """
name: blocks
corpora: {general: {files: general.txt}}
stages:
  - pretrain: {name: small, model: {family: llama, hidden_size: 64, num_hidden_layers: 2, vocab_size: 500},
               corpus: general, tokens: 40k}
  - grow: {name: deep, from: small, to: {num_hidden_layers: 4}, method: stack}
  - pretrain: {name: added, from: deep, corpus: general, tokens: 40k, train_only: new_blocks}
  - grow: {name: wide, from: added, to: {hidden_size: 128}, method: fpi}
  - adapt: {name: domains, from: wide, domains: [general], tokens: 20k, train_only: new_blocks}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "general.txt").write_text("words " * 1000)
    (tmp_path / "plan.yaml").write_text(RECIPE)
    return tmp_path / "plan.yaml"


def test_a_plan_says_how_many_parameters_train(recipe: Path) -> None:
    plan = make_plan(load_recipe(recipe))
    for name, width in (("added", 64), ("domains", 128)):
        stage = plan.stage(name)
        assert stage.config is not None
        ffn = stage.config["intermediate_size"]
        assert stage.trainable == 2 * (4 * width * width + 3 * width * ffn + 2 * width)
        assert "the new blocks (layers 2, 3, from 0)" in stage.notes[0]
        full = plan.stage("small" if width == 64 else "wide").params or 0
        assert stage.trainable < full
    small, added = plan.stage("small"), plan.stage("added")
    assert 4 / 3 < (added.train_flops or 0) / (small.train_flops or 1) < 2  # twice the depth, less than twice the work


@pytest.mark.parametrize(
    ("overrides", "key", "message"),
    [
        (["stages.deep.to={hidden_size: 128}", "stages.wide.to={hidden_size: 256}"], "added", "has no new blocks"),
        (["stages.added.from=small"], "added", "has no new blocks"),
        (["stages.small.train_only=new_blocks"], "small", "needs a base"),
        (["stages.added.train_only=[2]"], "added", "not known here"),
        (["stages.added.two_stage={block: 1}"], "added", "does not go with two_stage"),
    ],
)
def test_a_plan_refuses_what_cannot_be_trained(recipe: Path, overrides: list[str], key: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        make_plan(load_recipe(recipe, [*overrides, *(["stages.deep.method=fpi"] if "hidden" in overrides[0] else [])]))
    assert caught.value.key == f"stages.{key}.train_only"
