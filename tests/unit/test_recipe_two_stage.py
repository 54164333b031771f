"""`two_stage` in a recipe: what the plan says and counts of it, what it refuses, and hashes of recipes without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bequest.anatomy import anatomy_of
from bequest.errors import InputError
from bequest.planning import make_plan, train_settings
from bequest.recipe import Adapt, Grow, Pretrain, Section, load_recipe, stage_hash, training_follows
from bequest.training import TrainSettings
from bequest.training.prefixes import TwoStage

RECIPE = """
name: prefixes
corpora: {general: {files: general.txt}}
stages:
  - pretrain: {name: small, model: {family: bert, hidden_size: 64, num_hidden_layers: 2, vocab_size: 500},
               corpus: general, tokens: 40k}
  - grow: {name: big, from: small, to: {num_hidden_layers: 6}, method: stack}
  - pretrain: {name: v1, from: big, corpus: general, tokens: 40k, two_stage: {block: 2, until: 25%}}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "general.txt").write_text("words " * 1000)
    (tmp_path / "plan.yaml").write_text(RECIPE)
    return tmp_path / "plan.yaml"


@pytest.mark.parametrize(("until", "share"), [("25%", 0.25), ("8k", 0.2), ("1", 1.0), ("40k", 1.0)])
def test_a_plan_counts_prefixes(recipe: Path, until: str, share: float) -> None:
    plan = make_plan(load_recipe(recipe, [f"stages.v1.two_stage.until={until}"]))
    stage = plan.stage("v1")
    anatomy = anatomy_of(stage.config or {})
    width, ffn, heads = 64, anatomy.sizes["ffn"], 0.15 * 2 * (64 * 64 + 64 * 500)
    layer = 2 * (4 * width * width + 2 * width * ffn) + 4 * 128 * width
    first = ((2 + 4 + 6) / 3 + 2 * 2) * layer + 3 * heads
    whole = 3 * (6 * layer + heads)
    assert stage.train_flops == pytest.approx(40_000 * (share * first + (1 - share) * whole))
    assert stage.trainable == stage.params
    assert f"the first {share:.3g} of the tokens train prefixes of 2, 4, 6 layers" in stage.notes[0]
    section = stage.section
    assert isinstance(section, Pretrain) and section.two_stage is not None
    assert train_settings(section).two_stage == TwoStage(2, section.two_stage.until)


def test_the_defaults_are_the_papers(recipe: Path) -> None:
    section = load_recipe(recipe, ["stages.v1.two_stage={}"]).stage("v1")
    assert isinstance(section, Pretrain) and section.two_stage is not None
    assert (section.two_stage.block, section.two_stage.until) == (TwoStage().block, TwoStage().until) == (3, 0.125)


@pytest.mark.parametrize(
    ("override", "key", "message"),
    [
        ("two_stage={block: 7}", "two_stage.block", "a block of 7 layers is more than the model's 6; use at most 3"),
        ("two_stage={block: 0}", "two_stage.block", "must be above 0"),
        ("two_stage={until: 0}", "two_stage.until", "must be above 0"),
        ("two_stage={until: 1e9}", "two_stage.until", "1000000000 tokens are more than the stage's 40000; use at most"),
        ("two_stage={blocks: 2}", "two_stage.blocks", "did you mean 'block'"),
        ("two_stage=true", "two_stage", "is not a mapping"),
        ("training={torch_compile: true}", "two_stage", "does not go with training.torch_compile"),
        ("training={deepspeed: x.json}", "two_stage", "does not go with training.deepspeed"),
        ("training={gradient_checkpointing_kwargs: {use_reentrant: true}}", "two_stage", "training.use_reentrant"),
    ],
)
def test_a_plan_refuses_what_prefixes_cannot_be(recipe: Path, override: str, key: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        make_plan(load_recipe(recipe, [f"stages.v1.{override}"]))
    assert caught.value.key == f"stages.v1.{key}"
    assert message in caught.value.line()


def test_settings_refuse_the_same() -> None:
    with pytest.raises(InputError, match="is not above zero"):
        TwoStage(until=0)
    with pytest.raises(InputError, match="cannot be trained"):
        TwoStage(block=0)
    assert TrainSettings(tokens=500, two_stage=TwoStage(until=500)).two_stage is not None
    with pytest.raises(InputError, match="501 tokens are more than the stage's 500"):
        TrainSettings(tokens=500, two_stage=TwoStage(until=501))
    with pytest.raises(InputError, match="torch_compile"):
        TrainSettings(tokens=1, two_stage=TwoStage(), training={"torch_compile": True})


@pytest.mark.parametrize(
    ("section", "values", "digest"),
    [
        (Pretrain, {"from": "x", "corpus": "general", "tokens": "40k"}, "8f647b15d0cb1ee2"),
        (Grow, {"from": "x", "to": {"hidden_size": 128}, "method": "fpi"}, "d290b9eeaee9fba5"),
        (Adapt, {"from": "x", "domains": ["general"], "tokens": "40k"}, "d3c0cbe9d5997d8a"),
    ],
)
def test_recipes_without_the_new_options_keep_their_hashes(section: type[Section], values: Any, digest: str) -> None:
    """The digests are those of the version before: finished stages of its runs are not made again."""

    def hashed(**more: Any) -> str:
        made = section.model_validate({"name": "any", **values, **more})
        return stage_hash(made, ["1"], {"corpus general": "2"})

    assert hashed().startswith(digest)
    changes: dict[type[Section], list[dict[str, Any]]] = {
        Pretrain: [{"two_stage": {}}, {"train_only": "new_blocks"}, {"keep_optimizer": True}, {"optimizer": "inherit"}],
        Grow: [{"optimizer": "grow"}, {"optimizer": "zero_new"}],
        Adapt: [{"train_only": "new_blocks"}],
    }
    digests = [hashed(**change) for change in changes[section]]
    assert len({hashed(), *digests}) == 1 + len(digests)


def test_whether_training_follows_a_growth(recipe: Path) -> None:
    def follows(*overrides: str) -> bool:
        loaded = load_recipe(recipe, overrides)
        return training_follows(loaded, loaded.stages[1])

    assert follows()
    assert not follows("stages.v1.from=small")
    text = recipe.read_text()
    between = (
        "  - grow: {name: wide, from: big, to: {hidden_size: 128}, method: fpi}\n  - pretrain: {name: v1, from: wide"
    )
    recipe.write_text(text.replace("  - pretrain: {name: v1, from: big", between))
    assert follows()
    assert not follows("stages.v1.from=small")
