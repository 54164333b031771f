"""Carrying: what it says, what it refuses, what it needs of lineages; the arithmetic is in tests/laws."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file

from bequest import carry, checkpoints, lineage
from bequest.cli import call
from bequest.errors import InputError
from bequest.recycling import METHODS, Generation, read_tuned
from bequest.recycling.lineage_route import route_to
from bequest.recycling.through_maps import Carry
from carrying_support import Family, adapted, apart, fresh, grown, grown_from, lineage_for, on, resigned

WIDER = {"hidden_size": 48}
LORA = {"r": 2, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"}


@pytest.fixture
def family(tmp_path: Path) -> Family:
    return grown(tmp_path, "llama", "causal-lm", WIDER, "auto", num_hidden_layers=2)


def rerecorded(directory: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change what the lineage of a grown base says of its growth, with the id that such a lineage has."""
    file = directory / lineage.FILE
    record = json.loads(file.read_text())
    change(record["operation"]["maps"])
    file.write_text(json.dumps(record))
    resigned(directory)


# --- routes


def test_routes_follow_ids_and_not_names(family: Family, tmp_path: Path) -> None:
    old = lineage.identity_of(family.old)
    route = route_to(old, family.new)
    assert route is not None and [growth.name for growth in route.growths] == ["new"] and route.start is not None
    assert route.start.resolve() == family.old.resolve() and route.trained == () and route.inexact == ()
    assert route_to("0" * 64, family.new) is None
    assert route_to(lineage.identity_of(family.new), family.new) is not None  # no step at all
    second = grown_from(family.bigger, family.new, tmp_path / "third", {"hidden_size": 64}, "aki")
    found = route_to(old, second.new)
    assert found is not None and [growth.name for growth in found.growths] == ["new", "third"]
    assert [growth.name for growth in found.inexact] == ["third"]
    family.new.rename(tmp_path / "elsewhere")
    assert route_to(old, second.new) is None  # the maps of the first growth are out of reach


def test_a_base_whose_parent_has_changed_breaks_the_route(family: Family, tmp_path: Path) -> None:
    second = grown_from(family.bigger, family.new, tmp_path / "third", {"hidden_size": 64}, "auto")
    record = json.loads((family.new / lineage.FILE).read_text())
    (family.new / lineage.FILE).write_text(json.dumps({**record, "id": "f" * 64}))
    assert route_to(lineage.identity_of(family.old), second.new) is None


def test_a_plain_adapter_needs_the_old_base_named(family: Family, tmp_path: Path) -> None:
    source = adapted(family, peft.LoraConfig(**LORA), tmp_path / "adapter")
    (tmp_path / "adapter" / lineage.FILE).unlink()
    with pytest.raises(InputError, match=r"shape \(.*growth map.*--old-base"):
        carry(tmp_path / "adapter", family.new, tmp_path / "out")
    made = carry(tmp_path / "adapter", family.new, tmp_path / "out", old=family.old)
    assert made.carried is not None and made.carried.verdict == "exact"
    assert apart(source, on(family.bigger, tmp_path / "out")) < 1e-12


def test_the_old_base_may_be_gone_for_additive_adapters(family: Family, tmp_path: Path) -> None:
    source = adapted(family, peft.LoraConfig(**LORA), tmp_path / "adapter")
    adapted(family, peft.LoraConfig(**LORA, use_dora=True), tmp_path / "dora")
    shutil.rmtree(family.old)
    carry(tmp_path / "adapter", family.new, tmp_path / "out")
    assert apart(source, on(family.bigger, tmp_path / "out")) < 1e-12
    with pytest.raises(InputError, match=r"DoRA's magnitudes are relative to the base.*--old-base"):
        carry(tmp_path / "dora", family.new, tmp_path / "out2")


# --- what is written


def test_the_carried_adapter_is_plain_and_knows_its_history(family: Family, tmp_path: Path) -> None:
    adapted(family, peft.LoraConfig(**LORA, revision="main"), tmp_path / "adapter")
    made = carry(tmp_path / "adapter", family.new, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "new" and config["revision"] is None
    assert sorted(config["target_modules"]) == ["down_proj", "q_proj"] and config["rank_pattern"] == {}
    record = lineage.read_lineage(tmp_path / "out")
    assert [(parent.role, parent.name) for parent in record.parents] == [("tuned", "adapter"), ("base", "new")]
    assert record.operation.method == "carry" and made.base == lineage.identity_of(family.new)
    assert record.operation.parameters["carried"]["verdict"] == "exact"
    assert record.operation.parameters["carried"]["through"] == ["new"]
    assert str(tmp_path) not in json.dumps([config, record.model_dump(mode="json")])
    assert load_file(tmp_path / "out" / "adapter_model.safetensors").popitem()[1].dtype == torch.float64
    assert "growth maps" not in str(made.notes) and "grew from it" in made.notes[0]
    # What was carried can be carried on.
    third = grown_from(family.bigger, family.new, tmp_path / "third", {"num_hidden_layers": 3}, "auto")
    again = carry(tmp_path / "out", third.new, tmp_path / "again")
    assert again.carried is not None and again.carried.through == ("third",)


def test_applying_directly_has_a_verdict_too(family: Family, tmp_path: Path) -> None:
    adapted(family, peft.LoraConfig(**LORA), tmp_path / "adapter")
    same = carry(tmp_path / "adapter", family.old, tmp_path / "same")
    assert same.carried is not None and (same.carried.verdict, same.carried.through) == ("exact", ())
    moved = fresh(family.model)
    with torch.no_grad():
        moved.model.norm.weight.mul_(1.1)
    checkpoints.save_model(moved, tmp_path / "moved")
    other = carry(tmp_path / "adapter", tmp_path / "moved", tmp_path / "other")
    assert other.carried is not None and other.carried.verdict == "initialisation"
    assert lineage.read_lineage(tmp_path / "other").operation.method == "direct"


def test_a_language_model_is_tuned_weights_where_its_base_is_named(family: Family, tmp_path: Path) -> None:
    checkpoints.save_model(fresh(family.model).float(), tmp_path / "tuned")
    with pytest.raises(InputError, match="a base, not tuned weights"):
        carry(tmp_path / "tuned", family.new, tmp_path / "out")
    made = carry(tmp_path / "tuned", family.new, tmp_path / "out", old=family.old)
    assert made.kind == "full" and made.carried is not None
    assert lineage.read_lineage(tmp_path / "out").operation.parameters["head"] == "causal-lm"


def test_the_method_and_initialise_begin_with_carried_weights(family: Family, tmp_path: Path) -> None:
    source = adapted(family, peft.LoraConfig(**LORA), tmp_path / "adapter")
    tuned = read_tuned(tmp_path / "adapter")
    made = Carry()(tuned, None, Generation(family.new), None, out=tmp_path / "out")
    assert made.carried is not None and made.base_name == "new"
    assert apart(source, on(family.bigger, tmp_path / "out")) < 1e-12
    with pytest.raises(InputError, match="growth map"):  # the control: without the maps it does not fit
        METHODS["direct"]()(tuned, None, Generation(family.new), None, out=tmp_path / "direct")


# --- refusals


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (lambda: peft.VeraConfig(r=2, target_modules=["q_proj"]), "peft_type: VERA cannot be carried.*merge it"),
        (lambda: peft.LoHaConfig(r=2, target_modules=["q_proj"]), "peft_type: LOHA cannot be carried.*merge it"),
        (
            lambda: peft.LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices=[1, 2]),
            "trainable_token_indices: LoRA of this kind.*merge it",
        ),
    ],
    ids=["vera", "loha", "tokens"],
)
def test_other_kinds_are_refused_by_name(config: Any, said: str, family: Family, tmp_path: Path) -> None:
    wrapped = peft.get_peft_model(fresh(family.model), config())
    wrapped.save_pretrained(str(tmp_path / "adapter"), save_embedding_layers=False)
    lineage_for(tmp_path / "adapter", "tune", family.old)
    with pytest.raises(InputError, match=said):
        carry(tmp_path / "adapter", family.new, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda maps: maps.pop("maps"),
            r"json: operation\.maps: it does not hold the maps of its growth \(isometric\)",
        ),
        (lambda maps: maps.update(digest="0" * 64), r"lineage\.json: maps\.digest: .*not those of their digest"),
        (
            lambda maps: maps["source_config"].update(model_type="mistral"),
            r"new/lineage\.json: model_type: .*became llama.*tuned on mistral",
        ),
    ],
    ids=["learned", "damaged", "another family"],
)
def test_growths_without_usable_maps_are_refused(change: Any, said: str, family: Family, tmp_path: Path) -> None:
    adapted(family, peft.LoraConfig(**LORA), tmp_path / "adapter")
    rerecorded(family.new, change)
    with pytest.raises(InputError, match=said):
        carry(tmp_path / "adapter", family.new, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["dora", "ia3"])
def test_multipliers_of_means_are_refused(kind: str, tmp_path: Path) -> None:
    """An uneven pre-LN stream holds means of all units; no vector of multipliers does there what DoRA or IA3 did."""
    family = grown(tmp_path, "gpt2", "causal-lm", WIDER, "auto")
    common = {"target_modules": ["mlp.c_proj"], "task_type": "CAUSAL_LM"}
    config: Any = peft.LoraConfig(r=2, use_dora=True, **common)  # type: ignore[arg-type]
    if kind == "ia3":
        config = peft.IA3Config(feedforward_modules=[], **common)
    adapted(family, config, tmp_path / "adapter")
    with pytest.raises(
        InputError, match=r"c_proj.weight: (DoRA|IA3) multiplies units of which the new base holds the mean"
    ):
        carry(tmp_path / "adapter", family.new, tmp_path / "out")


def test_tensors_of_no_table_are_refused_by_name(family: Family, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    adapted(family, peft.LoraConfig(**LORA), tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    stored = load_file(file)
    save_file({**stored, "base_model.model.model.extra.weight": torch.ones(2, 2)}, file)
    lineage_for(tmp_path / "adapter", "tune", family.old)
    with pytest.raises(InputError, match=r"model\.extra\.weight: the table of llama has no tensor"):
        carry(tmp_path / "adapter", family.new, tmp_path / "out")
    save_file({name.replace("q_proj", "w_proj"): value for name, value in stored.items()}, file)
    lineage_for(tmp_path / "adapter", "tune", family.old)
    with pytest.raises(InputError, match=r"w_proj: the table of llama has no module"):
        carry(tmp_path / "adapter", family.new, tmp_path / "out")


# --- the command


def test_the_command_says_what_it_did(tmp_path: Path, capsys: Any) -> None:
    family = grown(tmp_path, "llama", "causal-lm", WIDER, "aki", num_hidden_layers=3)
    adapted(family, peft.LoraConfig(**LORA), tmp_path / "adapter")
    words = ["carry", str(tmp_path / "adapter"), str(tmp_path / "out"), "--onto", str(family.new)]
    assert call(words) == 0
    said = capsys.readouterr().out
    assert "approximate: new is no exact growth" in said and "carried: 6 lora" in said
    assert "rank 2 to 4 in 4 modules" in said and "PeftModel" in said and "through the maps of new" in said
    assert call([*words, "--json", "--force"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["verdict"], found["through"], found["modules"]) == ("approximate", ["new"], {"lora": 6})
    assert found["ranks"]["model.layers.0.self_attn.q_proj"] == [2, 4] and found["notes"]
