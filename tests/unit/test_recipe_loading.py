"""The recipe's schema, its numbers and overrides, and what the stage hash depends on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bequest.errors import InputError
from bequest.recipe import Adapt, Measure, Pretrain, Recipe, Tune, load_recipe, stage_hash
from bequest.recipe.quantities import ExplainedError, parse_count, short, short_bytes

CLINIC = """
name: clinic
seed: 0
corpora:
  general: {files: data/general/*.jsonl}
  cardiology: {files: data/cardio/*.txt}
tasks:
  triage: {train: triage/train.jsonl, test: triage/test.jsonl, text: text, label: label}
stages:
  - pretrain: {name: small, model: {family: llama, hidden_size: 128, num_hidden_layers: 4}, corpus: general,
               tokens: 20M, block: 128, batch_tokens: 4096, lr: 3e-3, schedule: wsd}
  - grow:     {name: big, from: small, to: {hidden_size: 256, num_hidden_layers: 8}, method: [fpi, stack]}
  - pretrain: {name: v1, from: big, corpus: general, tokens: 20M, teachers: [{model: small, until: 0.3}]}
  - tune:     {name: triage-v1, from: v1, task: triage, adapter: {type: lora, r: 8}}
  - adapt:    {name: v2, from: v1, domains: [cardiology], tokens: 5M, method: [{name: replay, share: 0.05}, sequential]}
  - recycle:  {name: triage-v2, tuned: triage-v1, onto: v2, method: initialise}
  - measure:  {models: [v1, v2, triage-v2], corpora: all, tasks: all}
"""


@pytest.fixture
def clinic(tmp_path: Path) -> Path:
    file = tmp_path / "clinic.yaml"
    file.write_text(CLINIC)
    return file


def stage(recipe: Recipe, name: str) -> Any:
    found = recipe.stage(name)
    assert found is not None
    return found


def test_the_example_recipe_is_understood(clinic: Path) -> None:
    recipe = load_recipe(clinic)
    assert [section.name for section in recipe.stages][-2:] == ["triage-v2", "measure"]
    small, v1, tuned, v2 = (stage(recipe, name) for name in ("small", "v1", "triage-v1", "v2"))
    assert isinstance(small, Pretrain) and (small.tokens, small.lr, small.schedule) == (20_000_000, 3e-3, "wsd")
    assert v1.from_ == "big" and v1.teachers[0].until == 0.3 and v1.teachers[0].schedule == "linear"
    assert isinstance(tuned, Tune) and tuned.adapter is not None and tuned.adapter.model_extra == {"r": 8}
    assert isinstance(v2, Adapt) and [call.name for call in v2.method] == ["replay", "sequential"]
    assert v2.method[0].options == {"share": 0.05}
    measure = stage(recipe, "measure")
    assert (
        isinstance(measure, Measure) and measure.corpora == ("general", "cardiology") and measure.tasks == ("triage",)
    )
    assert recipe.root == clinic.parent


def test_a_recipe_is_frozen(clinic: Path) -> None:
    recipe = load_recipe(clinic)
    with pytest.raises(Exception, match="frozen"):
        stage(recipe, "v1").tokens = 5


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("20M", 20_000_000),
        ("4k", 4000),
        ("1.5B", 1_500_000_000),
        ("3e6", 3_000_000),
        (7, 7),
        (2e3, 2000),
        ("1_000", 1000),
    ],
)
def test_numbers_as_people_write_them(written: Any, number: int) -> None:
    assert parse_count(written) == number


@pytest.mark.parametrize("written", ["x", "1.5", "20 Mio", True, None, [], "", "-5", "1.2345k5"])
def test_what_is_no_whole_number(written: Any) -> None:
    with pytest.raises(ExplainedError):
        parse_count(written)


def test_numbers_for_people() -> None:
    assert [short(n) for n in (0, 999, 1500, 20_000_000, 1.26e15, None)] == ["0", "999", "1.5k", "20M", "1.26P", "-"]
    assert [short_bytes(n) for n in (10, 2048, 3 * 2**30, 1023 * 2**20)] == ["10 B", "2 KiB", "3 GiB", "1023 MiB"]


def test_overrides_address_stages_by_name(clinic: Path) -> None:
    overrides = ["stages.v1.tokens=5M", "seed=3", "stages.triage-v1.adapter.r=16", "stages.v2.method.0.share=0.2"]
    recipe = load_recipe(clinic, [*overrides, "corpora.general.held_out=0.1", "stages.measure.seeds=5"])
    assert stage(recipe, "v1").tokens == 5_000_000
    assert {section.seed for section in recipe.stages} == {3} and stage(recipe, "v1").mask_seed == 3
    assert stage(recipe, "triage-v1").adapter.r == 16
    assert stage(recipe, "v2").method[0].options == {"share": 0.2}
    assert recipe.corpora["general"].held_out == 0.1
    assert stage(recipe, "measure").seeds == 5
    assert stage(load_recipe(clinic, ["stages.v2.method=replay", "stages.v2.method.share=0.3"]), "v2").method[0].options
    assert stage(load_recipe(clinic, ["stages.0.tokens=1M"]), "small").tokens == 1_000_000


def test_a_stage_name_may_hold_dots(clinic: Path) -> None:
    clinic.write_text(
        CLINIC.replace("name: v2,", "name: v1.5,").replace("onto: v2", "onto: v1.5").replace("v1, v2,", "v1, v1.5,")
    )
    assert stage(load_recipe(clinic, ["stages.v1.5.tokens=1M"]), "v1.5").tokens == 1_000_000


def test_stages_without_a_name_take_their_kind(clinic: Path) -> None:
    clinic.write_text(CLINIC + "  - measure: {models: [small], corpora: [general]}\n")
    assert [section.name for section in load_recipe(clinic).stages][-2:] == ["measure", "measure-2"]


# -- the stage hash ---------------------------------------------------------------------------------------------------

DATA = {"general": "g1", "cardiology": "c1", "triage": "t1"}


def hash_of(
    file: Path, name: str, overrides: tuple[str, ...] = (), ids: dict[str, str] | None = None, **data: str
) -> str:
    recipe = load_recipe(file, overrides)
    section = stage(recipe, name)
    known = {"small": "id-small", "big": "id-big", "v1": "id-v1", **(ids or {})}
    parents = [known.get(reference.target, "id-of-" + reference.target) for reference in section.references()]
    used = {key: {**DATA, **data}[key] for key in (*section.corpora_used(), *section.tasks_used())}
    return stage_hash(section, parents, used)


def test_the_hash_is_about_meaning_not_text(clinic: Path, tmp_path: Path) -> None:
    before = hash_of(clinic, "v1")
    text = CLINIC.replace(
        "{name: v1, from: big, corpus: general, tokens: 20M, teachers: [{model: small, until: 0.3}]}",
        "{corpus: {general: 2}, block: 128, teachers: [{until: 30%, model: small, temperature: 2}], tokens: 2e7,"
        " from: big, seed: 0, name: v1, lr: 0.0003, training: {}}  # defaults written out, other order, other spelling",
    )
    assert text != CLINIC
    other = tmp_path / "other.yaml"
    other.write_text(text)
    assert hash_of(other, "v1") == before
    assert hash_of(clinic, "v1", ("out=/elsewhere", "name=other")) == before


def test_the_hash_ignores_names_of_stages(clinic: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "renamed.yaml"
    renamed.write_text(CLINIC.replace("name: big", "name: grown").replace("from: big", "from: grown"))
    assert hash_of(renamed, "v1", ids={"grown": "id-big"}) == hash_of(clinic, "v1")
    renamed.write_text(CLINIC.replace("v1", "v3"))
    assert hash_of(renamed, "v3") == hash_of(clinic, "v1")
    # What is measured is told by name, so a measure stage runs again when a model is renamed.
    assert hash_of(renamed, "measure", ids={"v3": "id-v1"}) != hash_of(clinic, "measure")


@pytest.mark.parametrize(
    "override",
    [
        "stages.v1.keep=5",
        "stages.v1.checkpoint_every=7",
        "stages.v1.micro_batch_tokens=128",
        "stages.v1.training={report_to: none}",
    ],
)
def test_the_hash_ignores_how_a_stage_is_worked_off(clinic: Path, override: str) -> None:
    assert hash_of(clinic, "v1", (override,)) == hash_of(clinic, "v1")


@pytest.mark.parametrize(
    "override",
    [
        "stages.v1.tokens=21M",
        "stages.v1.lr=1e-3",
        "seed=1",
        "stages.v1.teachers.0.until=0.4",
        "stages.v1.training={optim: sgd}",
    ],
)
def test_the_hash_sees_every_parameter(clinic: Path, override: str) -> None:
    assert hash_of(clinic, "v1", (override,)) != hash_of(clinic, "v1")


def test_the_hash_sees_parents_and_data_and_nothing_of_other_stages(clinic: Path) -> None:
    before = hash_of(clinic, "v1")
    assert hash_of(clinic, "v1", ids={"small": "another"}) != before
    assert hash_of(clinic, "v1", general="g2") != before
    assert hash_of(clinic, "v1", cardiology="c2") == before
    assert hash_of(clinic, "v1", ("stages.small.tokens=1M", "stages.v2.tokens=1M")) == before


def test_swapped_parents_are_another_stage(clinic: Path) -> None:
    section = stage(load_recipe(clinic), "v1")
    assert stage_hash(section, ["a", "b"], {}) != stage_hash(section, ["b", "a"], {})
    with pytest.raises(ValueError, match="2 parent ids"):
        stage_hash(section, ["a"], {})


def test_defaults_that_depend_on_other_keys_are_filled_in(clinic: Path) -> None:
    recipe = load_recipe(clinic)
    assert stage(recipe, "small").tokenizer.model_dump() == {"kind": "byte-bpe", "vocab_size": 8000}
    encoder = load_recipe(clinic, ["stages.small.model={family: bert, vocab_size: 4k}"])
    assert stage(encoder, "small").tokenizer.model_dump() == {"kind": "wordpiece", "vocab_size": 4000}
    assert stage(recipe, "triage-v1").lr == 1e-3
    assert stage(load_recipe(clinic, ["stages.triage-v1.adapter=null"]), "triage-v1").lr == 5e-5


def test_a_method_from_outside_is_taken_as_it_is(clinic: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (clinic.parent / "my_package").mkdir()
    (clinic.parent / "my_package" / "module.py").write_text("class Class: ...")
    monkeypatch.syspath_prepend(clinic.parent)
    method = '{name: "my_package.module:Class", strength: 3}'
    recipe = load_recipe(clinic, [f"stages.v2.method={method}"])
    assert stage(recipe, "v2").method[0].options == {"strength": 3}


def test_interpolation_is_omegaconf_s(clinic: Path) -> None:
    clinic.write_text(CLINIC.replace("tokens: 5M", "tokens: '${stages[0].pretrain.tokens}'"))
    assert stage(load_recipe(clinic), "v2").tokens == 20_000_000


def test_the_remedy_is_part_of_the_error(clinic: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_recipe(clinic, ["stages.v1.tokns=5M"])
    assert (caught.value.key, caught.value.remedy) == ("stages.v1.tokns", "did you mean 'tokens'?")
