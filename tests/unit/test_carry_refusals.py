"""What carrying does not believe: other bases, lineages beside other weights, edited lineages, damaged adapters."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from bequest import carry, checkpoints, lineage
from bequest.cli import call
from bequest.errors import InputError
from bequest.recycling import METHODS, Carried, Generation, read_tuned
from bequest.recycling.carrying import recorded_base
from bequest.recycling.places import located
from bequest.stages.recycle import said_of
from carrying_support import Family, adapted, apart, fresh, grown, grown_from, lineage_for, on, resigned

WIDER = {"hidden_size": 48}
LORA: dict[str, Any] = {"r": 2, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"}


@pytest.fixture
def family(tmp_path: Path) -> Family:
    """A base with a lineage, its growth, and an adapter of the base in ``adapter``."""
    made = grown(tmp_path, "llama", "causal-lm", WIDER, "auto", num_hidden_layers=2)
    lineage_for(made.old, "pretrain", None)
    lineage_for(made.new, "grow", made.old, maps=made.plan.record())
    adapted(made, peft.LoraConfig(**LORA), tmp_path / "adapter")
    return made


def changed(model: Any) -> Any:
    """A model that has been trained a little."""
    moved = fresh(model)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.mul_(1.01)
    return moved


def verdict(made: Any) -> str:
    assert made.carried is not None
    return str(made.carried.verdict)


# --- the old base that is given


def test_an_old_base_is_the_recorded_one(family: Family, tmp_path: Path) -> None:
    other, onto = tmp_path / "other", tmp_path / "grown"
    checkpoints.save_model(changed(family.model), other)
    lineage_for(other, "adopt", None)
    grown_from(changed(family.model), other, onto, WIDER, "auto")
    said = r"adapter: old: tuned on old \([0-9a-f]{12}\), not on other \([0-9a-f]{12}\); leave --old-base out"
    for base in (onto, other):
        with pytest.raises(InputError, match=said):
            carry(tmp_path / "adapter", base, tmp_path / "out", old=other)
    for method in ("carry", "direct"):
        with pytest.raises(InputError, match=said):
            made = read_tuned(tmp_path / "adapter")
            METHODS[method]()(made, Generation(other), Generation(onto), None, out=tmp_path / "out2")
    words = ["carry", str(tmp_path / "adapter"), str(tmp_path / "out"), "--onto", str(onto), "--old-base", str(other)]
    assert call(words) == 2 and not (tmp_path / "out").exists()
    # The controls: the base itself, a copy of it, and weights that recorded nothing.
    shutil.copytree(family.old, tmp_path / "copy")
    assert verdict(carry(tmp_path / "adapter", family.new, tmp_path / "a", old=family.old)) == "exact"
    assert verdict(carry(tmp_path / "adapter", family.new, tmp_path / "b", old=tmp_path / "copy")) == "exact"
    (tmp_path / "adapter" / lineage.FILE).unlink()
    assert verdict(carry(tmp_path / "adapter", onto, tmp_path / "c", old=other)) == "exact"


def test_an_old_base_with_a_lineage_of_other_weights_is_another_base(family: Family, tmp_path: Path) -> None:
    shutil.copytree(family.old, tmp_path / "copy")
    checkpoints.save_model(changed(family.model), tmp_path / "copy")
    with pytest.raises(InputError, match=r"tuned on old \([0-9a-f]{12}\), not on copy"):
        carry(tmp_path / "adapter", family.new, tmp_path / "out", old=tmp_path / "copy")


def test_a_base_adopted_after_tuning_is_still_that_base(tmp_path: Path) -> None:
    family = grown(tmp_path, "llama", "causal-lm", WIDER, "auto", num_hidden_layers=2)
    adapted(family, peft.LoraConfig(**LORA), tmp_path / "adapter")
    before = lineage.identity_of(family.old)
    checkpoints.save_model(changed(family.model), tmp_path / "older")
    lineage_for(family.old, "adopt", tmp_path / "older")
    assert lineage.identity_of(family.old) != before
    assert verdict(carry(tmp_path / "adapter", family.new, tmp_path / "out", old=family.old)) == "exact"


@pytest.mark.parametrize("named", ["nowhere", "no/where", "adapter"])
def test_an_old_base_must_be_there(named: str, family: Family, tmp_path: Path) -> None:
    place = str(tmp_path / named) if named == "adapter" else named
    words = ["carry", str(tmp_path / "adapter"), str(tmp_path / "out"), "--onto", str(family.new)]
    assert call([*words, "--old-base", place]) == 2
    assert call(words) == 0  # the control


# --- lineages beside other weights


def test_a_changed_copy_of_the_grown_base_is_not_the_grown_base(family: Family, tmp_path: Path) -> None:
    shutil.copytree(family.new, tmp_path / "copy")
    assert verdict(carry(tmp_path / "adapter", tmp_path / "copy", tmp_path / "a")) == "exact"  # the control
    checkpoints.save_model(changed(family.bigger), tmp_path / "copy")
    made = carry(tmp_path / "adapter", tmp_path / "copy", tmp_path / "b")
    assert made.carried is not None and made.carried.verdict == "initialisation"
    assert "weights of copy are not those of the lineage beside them" in made.carried.reason
    assert made.carried.through == ("new",) and "adopt" in made.carried.reason
    assert made.base == lineage.proven_id(tmp_path / "copy") != lineage.identity_of(family.new)


def test_what_grew_from_a_changed_copy_did_not_grow_from_the_base(family: Family, tmp_path: Path) -> None:
    copy, onto = tmp_path / "copy", tmp_path / "onto"
    shutil.copytree(family.old, copy)
    checkpoints.save_model(changed(family.model), copy)
    grown_from(changed(family.model), copy, onto, WIDER, "auto")
    assert lineage.read_lineage(onto).parents[0].id == lineage.proven_id(copy) != lineage.identity_of(copy)
    with pytest.raises(InputError, match="shape"):
        carry(tmp_path / "adapter", onto, tmp_path / "a")
    # A lineage that was written before parents were proven names the base all the same.
    record = lineage.read_lineage(onto)
    old = record.parents[0].model_copy(update={"id": lineage.identity_of(copy)})
    lineage.write_lineage(onto, record.model_copy(update={"parents": [old]}))
    resigned(onto)
    made = carry(tmp_path / "adapter", onto, tmp_path / "b")
    assert made.carried is not None and made.carried.verdict == "initialisation"
    assert "weights of copy are not" in made.carried.reason


def test_every_generation_on_the_way_is_looked_at(family: Family, tmp_path: Path) -> None:
    last = grown_from(family.bigger, family.new, tmp_path / "last", {"hidden_size": 64}, "auto")
    assert verdict(carry(tmp_path / "adapter", last.new, tmp_path / "a")) == "exact"  # the control
    checkpoints.save_model(changed(family.bigger), family.new)
    made = carry(tmp_path / "adapter", last.new, tmp_path / "b")
    assert made.carried is not None and made.carried.verdict == "initialisation" and "of new are" in made.carried.reason


def test_what_needs_the_old_weights_is_refused_where_they_have_changed(family: Family, tmp_path: Path) -> None:
    adapted(family, peft.LoraConfig(**LORA, use_dora=True), tmp_path / "dora")
    carry(tmp_path / "dora", family.new, tmp_path / "a")  # the control
    checkpoints.save_model(changed(family.model), family.old)
    assert recorded_base(read_tuned(tmp_path / "dora")) is None
    with pytest.raises(InputError, match="not where it was, or has changed"):
        carry(tmp_path / "dora", family.new, tmp_path / "b")
    assert verdict(carry(tmp_path / "adapter", family.new, tmp_path / "c")) == "initialisation"
    # Onto the changed base itself they are applied as they are, and nothing is called exact.
    assert verdict(carry(tmp_path / "adapter", family.old, tmp_path / "d")) == "initialisation"


def test_tuned_weights_that_are_not_those_of_their_lineage(family: Family, tmp_path: Path) -> None:
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({name: value + 1 for name, value in load_file(file).items()}, file)
    with pytest.raises(InputError, match=r"lineage\.json: digests\.weights: .*not those.*bequest adopt .* --force"):
        carry(tmp_path / "adapter", family.new, tmp_path / "out")
    words = ["adopt", str(tmp_path / "adapter"), "--base", str(family.old), "--force"]
    assert call(words) == 0  # the remedy
    assert verdict(carry(tmp_path / "adapter", family.new, tmp_path / "out")) == "exact"


# --- edited lineages

EDITS: list[tuple[str, Callable[[dict[str, Any]], Any], str]] = [
    ("exact", lambda maps: maps.update(exact="yes"), r"operation\.maps\.exact: holds 'yes'"),
    ("no verdict", lambda maps: maps.pop("exact"), r"operation\.maps\.exact: is missing"),
    ("methods", lambda maps: maps.update(methods=3), r"operation\.maps\.methods: holds 3"),
    ("no methods", lambda maps: maps.pop("methods"), r"operation\.maps\.methods: is missing"),
    ("no config", lambda maps: maps.pop("source_config"), r"operation\.maps\.source_config: is missing"),
    ("config", lambda maps: maps.update(source_config=[1]), r"operation\.maps\.source_config: holds \[1\]"),
    ("width", lambda maps: maps["source_config"].update(hidden_size=40), "axis 'hidden'"),
    ("no width", lambda maps: maps["source_config"].pop("hidden_size"), "axis 'hidden'|source_config"),
    ("nonsense", lambda maps: maps["source_config"].update(num_hidden_layers="many"), "num_hidden_layers"),
]


@pytest.mark.parametrize(("change", "said"), [edit[1:] for edit in EDITS], ids=[edit[0] for edit in EDITS])
@pytest.mark.parametrize("signed", [False, True], ids=["by hand", "with its id"])
def test_edited_lineages_are_one_line(
    change: Any, said: str, signed: bool, family: Family, tmp_path: Path, capsys: Any
) -> None:
    file = family.new / lineage.FILE
    record = json.loads(file.read_text())
    change(record["operation"]["maps"])
    file.write_text(json.dumps(record))
    if signed:
        resigned(family.new)
    said = r"lineage\.json: .*" + said if signed else r"lineage\.json: id: is not the id of what stands here"
    with pytest.raises(InputError, match=said):
        carry(tmp_path / "adapter", family.new, tmp_path / "out")
    assert call(["carry", str(tmp_path / "adapter"), str(tmp_path / "out"), "--onto", str(family.new)]) == 2
    assert "bug" not in capsys.readouterr().err


def test_an_inexact_growth_cannot_be_called_exact(tmp_path: Path) -> None:
    stacked = grown(tmp_path, "llama", "causal-lm", {"num_hidden_layers": 4}, "stack", num_hidden_layers=2)
    adapted(stacked, peft.LoraConfig(**LORA), tmp_path / "adapter")
    assert verdict(carry(tmp_path / "adapter", stacked.new, tmp_path / "a")) == "approximate"  # the control
    file = stacked.new / lineage.FILE
    file.write_text(file.read_text().replace('"exact": false', '"exact": true'))
    with pytest.raises(InputError, match=r"lineage\.json: id"):
        carry(tmp_path / "adapter", stacked.new, tmp_path / "b")


def test_a_moved_generation_is_named(family: Family, tmp_path: Path) -> None:
    last = grown_from(family.bigger, family.new, tmp_path / "last", {"hidden_size": 64}, "auto")
    short = lineage.identity_of(family.new)[:12]
    family.new.rename(tmp_path / "moved")
    with pytest.raises(InputError, match=rf"last grew from new \({short}\), which is not at .*/new$"):
        carry(tmp_path / "adapter", last.new, tmp_path / "out")
    (tmp_path / "moved").rename(family.new)
    assert verdict(carry(tmp_path / "adapter", last.new, tmp_path / "out")) == "exact"  # the control


# --- damaged adapters


def cut(place: Path) -> None:
    file = place / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])


def tensors(place: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    file = place / "adapter_model.safetensors"
    stored = load_file(file)
    change(stored)
    save_file({name: value.contiguous() for name, value in stored.items()}, file)


def config(place: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    file = place / "adapter_config.json"
    value = json.loads(file.read_text())
    change(value)
    file.write_text(json.dumps(value))


def shorter(stored: dict[str, Any], word: str) -> None:
    key = next(name for name in sorted(stored) if word in name)
    stored[key] = stored[key][:-1]


def pickled(place: Path) -> None:
    torch.save(load_file(place / "adapter_model.safetensors"), place / "adapter_model.bin")
    (place / "adapter_model.safetensors").unlink()


DAMAGE: list[tuple[str, Callable[[Path], Any], str]] = [
    ("cut", cut, r"adapter_model\.safetensors: torn"),
    ("short B", lambda p: tensors(p, lambda s: shorter(s, "q_proj.lora_B")), r"q_proj\.lora_B.*shape"),
    ("short A", lambda p: tensors(p, lambda s: shorter(s, "q_proj.lora_A")), r"q_proj\.lora_[AB].*shape"),
    ("no alpha", lambda p: config(p, lambda c: c.pop("lora_alpha")), r"config\.json: lora_alpha: is missing"),
    ("alpha", lambda p: config(p, lambda c: c.update(lora_alpha="x")), r"config\.json: lora_alpha: 'x' is not a num"),
    ("rank", lambda p: config(p, lambda c: c.update(r=None)), r"config\.json: r: None is not a whole number"),
    ("part of a rank", lambda p: config(p, lambda c: c.update(rank_pattern={"q": 2.5})), r"rank_pattern\.q: 2\.5 is"),
    ("regex", lambda p: config(p, lambda c: c.update(alpha_pattern={"q(": 3})), r"alpha_pattern: 'q\(' is no regular"),
    ("pattern", lambda p: config(p, lambda c: c.update(alpha_pattern={"q": "x"})), r"alpha_pattern\.q: 'x' is not"),
    ("patterns", lambda p: config(p, lambda c: c.update(rank_pattern=[1])), r"rank_pattern: \[1\] is no mapping"),
    ("targets", lambda p: config(p, lambda c: c.update(target_modules=7)), r"target_modules: 7 names no modules"),
    ("kind", lambda p: config(p, lambda c: c.update(peft_type=None)), r"adapter"),
    ("list", lambda p: (p / "adapter_config.json").write_text("[1]"), r"config\.json: is not the config"),
    ("pickle", pickled, r"adapter_model\.safetensors: no safetensors weights; .*save it again"),
]


@pytest.mark.parametrize(("damage", "said"), [one[1:] for one in DAMAGE], ids=[one[0] for one in DAMAGE])
@pytest.mark.parametrize("onto", ["old", "new"])
def test_damaged_adapters_are_one_line(
    damage: Any, said: str, onto: str, family: Family, tmp_path: Path, capsys: Any
) -> None:
    place = tmp_path / "adapter"
    damage(place)
    (place / lineage.FILE).unlink()
    words = ["carry", str(place), str(tmp_path / "out"), "--onto", str(tmp_path / onto), "--old-base", str(family.old)]
    assert call(words) == 2
    error = capsys.readouterr().err
    assert "bug" not in error and str(place) in error and not (tmp_path / "out").exists()
    if onto == "new":
        with pytest.raises(InputError, match=said):
            carry(place, family.new, tmp_path / "out", old=family.old)


def test_whole_numbers_follow_no_map(family: Family, tmp_path: Path) -> None:
    tensors(tmp_path / "adapter", lambda stored: stored.update({name: v.int() for name, v in stored.items()}))
    lineage_for(tmp_path / "adapter", "tune", family.old)
    with pytest.raises(InputError, match=r"adapter_model\.safetensors: .*lora_A.*is stored as torch\.int32"):
        carry(tmp_path / "adapter", family.new, tmp_path / "out")


def test_a_pickled_fine_tune_is_one_line(family: Family, tmp_path: Path) -> None:
    place = tmp_path / "tuned"
    place.mkdir()
    family.model.config.save_pretrained(place)
    torch.save(family.model.state_dict(), place / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"no safetensors weights; .*save it again with save_pretrained"):
        carry(place, family.new, tmp_path / "out", old=family.old)


def test_shapes_that_differ_are_named_with_their_directory(family: Family, tmp_path: Path) -> None:
    checkpoints.save_model(fresh(family.bigger), tmp_path / "tuned")
    with pytest.raises(InputError, match=rf"{tmp_path}/tuned: .*weight: shapes differ"):
        carry(tmp_path / "tuned", family.new, tmp_path / "out", old=family.old)


def test_rules_name_the_adapter(tmp_path: Path) -> None:
    made = grown(tmp_path, "llama", "causal-lm", WIDER, "aki")
    adapted(made, peft.LoraConfig(**{**LORA, "target_modules": ["o_proj"]}, use_dora=True), tmp_path / "adapter")
    with pytest.raises(InputError, match=rf"{tmp_path}/adapter: .*o_proj.*DoRA multiplies what AKI takes"):
        carry(tmp_path / "adapter", made.new, tmp_path / "out")


def test_a_place_is_added_only_where_none_is_named() -> None:
    for inside, said in ((None, "outside: key: x; y"), ("inside", "inside: key: x; y")):
        with pytest.raises(InputError) as caught, located("outside"):
            raise InputError("x", where=inside, key="key", remedy="y")
        assert caught.value.line() == said


# --- what is said


def test_ranks_are_those_of_their_own_layers(tmp_path: Path) -> None:
    made = grown(tmp_path, "llama", "causal-lm", WIDER, "aki", num_hidden_layers=3)
    ranks = {f"layers.{layer}.self_attn.q_proj": rank for layer, rank in enumerate((2, 3, 5))}
    adapted(made, peft.LoraConfig(r=2, target_modules=["q_proj"], rank_pattern=ranks), tmp_path / "adapter")
    found = carry(tmp_path / "adapter", made.new, tmp_path / "out").carried
    assert found is not None and made.plan.maps is not None
    donors = made.plan.maps.donors
    own = (2, 3, 5)
    assert found.ranks == {
        f"model.layers.{layer}.self_attn.q_proj": (own[layer], own[layer] + own[donor])
        for layer, donor in donors.items()
        if donor != layer
    }


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_sixteen_bit_adapters_say_their_rounding(dtype: torch.dtype, family: Family, tmp_path: Path) -> None:
    place = tmp_path / "adapter"
    tensors(place, lambda stored: stored.update({name: value.to(dtype) for name, value in stored.items()}))
    lineage_for(place, "tune", family.old)
    made = carry(place, family.new, tmp_path / "out")
    notes = [note for note in made.notes if "rounding" in note]
    assert notes == [] or dtype == torch.bfloat16
    if dtype == torch.bfloat16:
        assert len(notes) == 1 and notes[0].startswith("about 0.") and "16-bit" in notes[0]
        source = peft.PeftModel.from_pretrained(fresh(family.model), str(place)).double().eval()
        assert 1e-5 < apart(source, on(family.bigger, tmp_path / "out")) < 3e-2


def test_a_recipe_says_the_verdict(family: Family, tmp_path: Path) -> None:
    tuned = read_tuned(tmp_path / "adapter")
    made = dataclasses.replace(tuned, carried=Carried("approximate", "new is no exact growth"), notes=("a", "b"))
    assert said_of(made) == ["approximate: new is no exact growth", "a", "b"]
    assert said_of(dataclasses.replace(made, carried=None)) == ["a", "b"]
