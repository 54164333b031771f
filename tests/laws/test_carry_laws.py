"""Law: what was tuned on the small base and is carried through the growth maps computes the same on the large one.

T1: the adapted logits are those of the adapted source, wherever growth was exact.  T2: merging commutes with growing,
weight by weight, also where it was not.  T3, the control: an adapter whose A went by the write map must fail both.
PEFT itself computes both sides; every parameter is jittered, and the adapter's own effect is asserted to be large.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from bequest import carry, checkpoints
from bequest.anatomy.maps import AxisMap
from bequest.errors import InputError
from bequest.growth import grow_planned
from bequest.recycling.adapter_maps import Passage, carried, carried_tensors
from bequest.recycling.adapter_parts import modules_of, read_adapter, write_adapter
from carrying_support import (
    Family,
    adapted,
    apart,
    commutes,
    fresh,
    grown,
    grown_from,
    lineage_for,
    logits,
    on,
    parameters,
)
from growth_support import GQA, build, language_head, native_norms

EXACT = 1e-12
LABELS = {"id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
UNEVEN = {"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 3}


def everywhere(family: Family) -> list[str]:
    """Every module that an adapter can wrap: projections, embeddings, the head, tied or not."""
    return sorted(modules_of(family.plan.source))


def lora(family: Family, **options: Any) -> peft.LoraConfig:
    task = "CAUSAL_LM" if family.plan.source.head == "causal-lm" else None
    wanted: dict[str, Any] = {"r": 3, "lora_alpha": 5, "target_modules": everywhere(family), "task_type": task}
    return peft.LoraConfig(**{**wanted, **options})


def taken(family: Family, config: Any, home: Path) -> tuple[Any, Any, Any]:
    """An adapter on the old base, what carrying made of it on the new one, and carrying's report."""
    source = adapted(family, config, home / "adapter")
    made = carry(home / "adapter", family.new, home / "carried")
    return source, on(family.bigger, home / "carried"), made.carried


def misread(family: Family, home: Path) -> Any:
    """T3: the adapter with its A taken by the write map."""
    assert family.plan.maps is not None
    axes = {}
    for name, axis in family.plan.maps.axes.items():
        written = axis.scale("write") or (1.0,) * axis.target
        wrong = dict.fromkeys(("read", "raw_read"), written)
        axes[name] = AxisMap(axis.source, axis.index, {**axis.scales, **wrong}, axis.pads)
    passage = Passage(family.plan.source, family.plan.target, dataclasses.replace(family.plan.maps, axes=axes))
    before = read_adapter(home / "adapter", layers=family.plan.source.layers)
    shutil.copytree(home / "carried", home / "misread")
    config = json.loads((home / "carried" / "adapter_config.json").read_text())
    write_adapter(dataclasses.replace(carried(before, passage), config=config), home / "misread", base="new")
    return on(family.bigger, home / "misread")


LLAMA_TIED = {**GQA, "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}
EXACT_GROWTHS: list[tuple[str, dict[str, Any], dict[str, int], Any]] = [
    ("llama", {"tie_word_embeddings": False}, {"hidden_size": 48}, "auto"),
    ("llama", LLAMA_TIED, {**UNEVEN, "intermediate_size": 57}, ["auto", "noise"]),
    ("llama", {"num_hidden_layers": 2}, {"hidden_size": 48, "num_hidden_layers": 4}, "auto"),
    ("qwen3", {**GQA, "tie_word_embeddings": True}, {**UNEVEN, "hidden_size": 44}, ["auto", "noise"]),
    ("gemma2", GQA, UNEVEN, "auto"),
    ("olmo2", GQA, {**UNEVEN, "hidden_size": 44}, "auto"),
    ("phi3", GQA, UNEVEN, "auto"),
    ("gpt2", {}, {"hidden_size": 48}, ["auto", "noise"]),
    ("gpt_neox", {}, {"hidden_size": 48}, "auto"),
    ("bert", {}, {"hidden_size": 64}, "auto"),
]


@pytest.mark.parametrize(("name", "variant", "to", "method"), EXACT_GROWTHS, ids=lambda value: str(value)[:12])
def test_lora_on_every_module(name: str, variant: Any, to: Any, method: Any, tmp_path: Path) -> None:
    family = grown(tmp_path, name, language_head(name), to, method, **variant)
    source, target, report = taken(family, lora(family), tmp_path)
    assert apart(family.model, source) > 0.5
    assert apart(source, target) < EXACT and commutes(family, source, target) < EXACT
    assert (report.verdict, report.through, report.ranks) == ("exact", ("new",), {})
    assert report.modules == {"lora": len(modules_of(family.plan.target))}
    wrong = misread(family, tmp_path)
    assert apart(source, wrong) > 0.05 and commutes(family, source, wrong) > 0.05


@pytest.mark.parametrize(
    ("name", "variant", "to", "method"),
    [
        ("bert", {}, {"hidden_size": 48}, {"name": "fpi", "map": "random"}),
        ("llama", {}, {"num_hidden_layers": 5}, "stack"),
        ("gpt2", {}, {"hidden_size": 64, "num_hidden_layers": 3}, ["fpi", "interpolate"]),
        ("gpt2", {}, {"hidden_size": 48, "num_hidden_layers": 3}, "direct_copy"),
    ],
    ids=lambda value: str(value)[:12],
)
def test_merging_commutes_where_growth_is_inexact(
    name: str, variant: Any, to: Any, method: Any, tmp_path: Path
) -> None:
    family = grown(tmp_path, name, language_head(name), to, method, **variant)
    source, target, report = taken(family, lora(family), tmp_path)
    assert commutes(family, source, target) < EXACT
    assert apart(source, target) > 1e-2 and report.verdict == "approximate"
    assert "new is no exact growth" in report.reason
    if "fpi" in str(method):  # where anything is shared among copies
        assert commutes(family, source, misread(family, tmp_path)) > 0.05


def test_in_float32_as_shipped(tmp_path: Path) -> None:
    model = build("llama", "causal-lm", **LLAMA_TIED)
    checkpoints.save_model(model, tmp_path / "old")
    family = grown_from(model, tmp_path / "old", tmp_path / "new", UNEVEN, "auto")
    torch.manual_seed(0)
    wrapped = peft.get_peft_model(build("llama", "causal-lm", **LLAMA_TIED), lora(family))
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    wrapped.save_pretrained(str(tmp_path / "adapter"), save_embedding_layers=False)
    lineage_for(tmp_path / "adapter", "tune", tmp_path / "old")
    carry(tmp_path / "adapter", tmp_path / "new", tmp_path / "carried")
    new = checkpoints.load_model(tmp_path / "new")
    target = peft.PeftModel.from_pretrained(new, str(tmp_path / "carried"))
    assert load_file(tmp_path / "carried" / "adapter_model.safetensors").popitem()[1].dtype == torch.float32
    assert apart(wrapped.eval(), target) < 1e-5 < 0.5 < apart(model, wrapped)


# --- AKI and depth


@pytest.mark.parametrize("rslora", [False, True], ids=["lora", "rslora"])
@pytest.mark.parametrize("scope", ["transplant", "formula"])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_aki_doubles_ranks(name: str, scope: str, rslora: bool, tmp_path: Path) -> None:
    method = {"name": "aki", "scope": scope}
    family = grown(tmp_path, name, "causal-lm", {"hidden_size": 48}, method, num_hidden_layers=3)
    config = lora(family, use_rslora=rslora, alpha_pattern={"c_attn": 9, "layers.1.self_attn.q_proj": 7})
    source, target, report = taken(family, config, tmp_path)
    assert commutes(family, source, target) < EXACT
    # Two ranks meet in every projection of every layer but the last; a tensor along which nothing is chosen keeps its.
    chosen = {module for module in modules_of(family.plan.target) if ".0." in module or ".1." in module}
    assert set(report.ranks) == chosen and set(report.ranks.values()) == {(3, 6)}
    stored = peft.PeftConfig.from_pretrained(str(tmp_path / "carried"))
    assert stored.r == 3 and stored.rank_pattern == dict.fromkeys(chosen, 6)
    cut = on(family.bigger, tmp_path / "carried")
    with torch.no_grad():
        for module in cut.modules():
            if isinstance(module, peft.tuners.lora.LoraLayer) and "default" in module.lora_B:
                module.lora_B["default"].weight[:, 3:] = 0
    assert commutes(family, source, cut) > 0.05  # the control: the layer's own half alone


@pytest.mark.parametrize("scope", ["transplant", "formula"])
def test_biases_of_lora_under_aki(scope: str, tmp_path: Path) -> None:
    family = grown(tmp_path, "gpt2", "causal-lm", {"hidden_size": 48}, {"name": "aki", "scope": scope})
    config = lora(family, target_modules=["c_attn", "c_proj", "c_fc"], lora_bias=True)
    source, target, _ = taken(family, config, tmp_path)
    assert commutes(family, source, target) < EXACT


def test_adapters_follow_their_layers(tmp_path: Path) -> None:
    """Layers chosen by number, in depth and in AKI: the module list, ranks and donors all follow."""
    stacked = grown(tmp_path / "s", "llama", "causal-lm", {"num_hidden_layers": 5}, "stack", num_hidden_layers=2)
    config = lora(stacked, target_modules=["q_proj", "down_proj"], layers_to_transform=[1])
    source, target, _ = taken(stacked, config, tmp_path / "s")
    assert commutes(stacked, source, target) < EXACT
    made = peft.PeftConfig.from_pretrained(str(tmp_path / "s" / "carried"))
    layers = {int(name.split(".")[2]) for name in made.target_modules}
    assert layers == {layer for layer, origin in enumerate(stacked.plan.order) if origin == 1} == {1, 3, 4}
    assert made.layers_to_transform is None

    mixed = grown(tmp_path / "a", "llama", "causal-lm", {"hidden_size": 48}, "aki", num_hidden_layers=3)
    config = lora(mixed, target_modules=["q_proj", "o_proj"], layers_to_transform=[1])
    source, target, report = taken(mixed, config, tmp_path / "a")
    assert commutes(mixed, source, target) < EXACT and report.modules == {"lora": 4} and report.ranks == {}


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_identity_blocks_stay_silent(name: str, tmp_path: Path) -> None:
    family = grown(tmp_path, name, "causal-lm", {"num_hidden_layers": 4}, "identity", **GQA)
    source, target, _ = taken(family, lora(family), tmp_path)
    assert all(torch.equal(one, other) for one, other in zip(logits(source), logits(target), strict=True))
    if name == "llama":  # the control: an adapter on a silenced writer speaks
        loud = on(family.bigger, tmp_path / "carried")
        silent = min(family.plan.record()["identity_layers"])
        writer = loud.base_model.model.model.layers[silent].mlp.down_proj
        with torch.no_grad():
            writer.lora_B["default"].weight += 0.3
        assert apart(source, loud) > 0.05


# --- other kinds of adapters


@pytest.mark.parametrize(
    ("name", "variant", "to", "method"),
    [
        ("llama", LLAMA_TIED, {**UNEVEN, "num_hidden_layers": 3}, ["auto", "noise"]),
        ("gpt2", {}, {"hidden_size": 64}, ["auto", "noise"]),
        ("gemma2", GQA, UNEVEN, "auto"),
    ],
    ids=["llama", "gpt2", "gemma2"],
)
def test_dora(name: str, variant: Any, to: Any, method: Any, tmp_path: Path) -> None:
    family = grown(tmp_path, name, "causal-lm", to, method, **variant)
    source, target, report = taken(family, lora(family, use_dora=True), tmp_path)
    assert apart(family.model, source) > 0.2 and apart(source, target) < EXACT and report.verdict == "exact"
    silent = family.plan.record()["identity_layers"]
    left = set(modules_of(family.plan.target)) - wrapped_names(tmp_path / "carried")
    assert len(left) == 2 * len(silent)  # the zeroed writers of an identity block have no rows to scale
    unscaled = load_file(tmp_path / "carried" / "adapter_model.safetensors")
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    module = "lora_magnitude_vector"
    key = next(key for key in stored if key.endswith(module) and ("q_proj" in key or "c_attn" in key))
    unscaled[key] = stored[key][torch.arange(len(unscaled[key])) % len(stored[key])]
    save_file(unscaled, tmp_path / "carried" / "adapter_model.safetensors", metadata={"format": "pt"})
    assert apart(source, on(family.bigger, tmp_path / "carried")) > 1e-3  # the control: magnitudes copied


def wrapped_names(directory: Path) -> set[str]:
    """The modules that a carried adapter wraps, by its file."""
    names = load_file(directory / "adapter_model.safetensors")
    return {name.removeprefix("base_model.model.").partition(".lora_")[0] for name in names}


def test_dora_under_aki_only_where_rows_are_chosen(tmp_path: Path) -> None:
    family = grown(tmp_path, "llama", "causal-lm", {"hidden_size": 48}, "aki")
    config = lora(family, use_dora=True, target_modules=["q_proj", "up_proj"])
    source, target, _ = taken(family, config, tmp_path)
    assert commutes(family, source, target) < EXACT
    adapted(family, lora(family, use_dora=True, target_modules=["o_proj"]), tmp_path / "columns")
    with pytest.raises(InputError, match=r"o_proj.*DoRA multiplies what AKI takes from two layers"):
        carry(tmp_path / "columns", family.new, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "variant", "to"),
    [("llama", LLAMA_TIED, {**UNEVEN, "num_hidden_layers": 3}), ("gpt_neox", {}, {"hidden_size": 48})],
    ids=["llama", "gpt_neox"],
)
def test_ia3(name: str, variant: Any, to: Any, tmp_path: Path) -> None:
    family = grown(tmp_path, name, "causal-lm", to, "auto", **variant)
    source, target, report = taken(family, peft.IA3Config(task_type="CAUSAL_LM"), tmp_path)
    assert apart(family.model, source) > 0.05
    assert apart(source, target) < EXACT and commutes(family, source, target) < EXACT
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert report.modules == {"ia3": len(stored) // 2 * family.plan.target.layers}


def test_new_units_without_a_source_are_not_multiplied(tmp_path: Path) -> None:
    family = grown(tmp_path, "llama", "causal-lm", {"hidden_size": 48}, "direct_copy")
    taken(family, peft.IA3Config(task_type="CAUSAL_LM"), tmp_path)
    before, after = (load_file(tmp_path / place / "adapter_model.safetensors") for place in ("adapter", "carried"))
    for name, value in after.items():
        old = before[name].flatten()
        assert torch.equal(value.flatten()[: len(old)], old) and (value.flatten()[len(old) :] == 1).all()


VIRTUAL: dict[str, Any] = {
    "prompt": peft.PromptTuningConfig,
    "p-tuning": peft.PromptEncoderConfig,
    "prefix": peft.PrefixTuningConfig,
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name in ("llama", "gpt2", "gemma2") for kind in ("prompt", "prefix")] + [("llama", "p-tuning")],
)
def test_virtual_tokens(name: str, kind: str, tmp_path: Path) -> None:
    variant, to = ({}, {"hidden_size": 48}) if name == "gpt2" else (GQA, UNEVEN)
    family = grown(tmp_path, name, "causal-lm", {**to, "num_hidden_layers": 3}, "auto", **variant)
    config = VIRTUAL[kind](task_type="CAUSAL_LM", num_virtual_tokens=4)
    source, target, report = taken(family, config, tmp_path)
    assert sum(report.modules.values()) == 1 and apart(family.model, source) > 0.02
    assert apart(source, target) < EXACT
    stored = load_file(tmp_path / "carried" / "adapter_model.safetensors")["prompt_embeddings"]
    target.prompt_encoder["default"].embedding.weight.data = stored.flip(-1)
    assert apart(source, target) > 1e-3  # the control: units in another order


def test_prefixes_of_new_heads_come_from_the_donor(tmp_path: Path) -> None:
    family = grown(tmp_path, "llama", "causal-lm", {"hidden_size": 48}, "aki")
    taken(family, peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2), tmp_path)
    before, after = (
        load_file(tmp_path / place / "adapter_model.safetensors")["prompt_embeddings"].reshape(2, 2, 2, heads, 8)
        for place, heads in (("adapter", 4), ("carried", 6))
    )
    assert torch.equal(after[..., :4, :], before)
    assert torch.equal(after[:, 0, :, 4:], before[:, 1, :, :2]) and torch.equal(after[:, 1, :, 4:], before[:, 1, :, :2])


# --- classification heads, saved modules, whole models


def classifier(family: Family, *, seed: int = 3) -> Any:
    """The old base as a classifier with a head of its own."""
    labels = [str(label) for label in LABELS["id2label"].values()]
    model = checkpoints.load_model(family.old, head="sequence-classification", labels=labels, seed=seed).double()
    generator = torch.Generator().manual_seed(seed)
    model.base_model.load_state_dict(family.model.base_model.state_dict(), strict=False)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name not in dict(family.model.named_parameters()):
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return native_norms(model)


def bare_classifier(family: Family) -> Any:
    """The new base as a classifier whose head nobody trained."""
    labels = [str(label) for label in LABELS["id2label"].values()]
    model = checkpoints.load_model(family.new, head="sequence-classification", labels=labels, seed=99).double()
    model.base_model.load_state_dict(family.bigger.base_model.state_dict(), strict=False)
    return native_norms(model)


HEADS = [
    ("llama", {**GQA, "tie_word_embeddings": True}, UNEVEN, ["score"]),
    ("llama", {**GQA, "tie_word_embeddings": False}, UNEVEN, ["score"]),
    ("gpt2", {"tie_word_embeddings": True}, {"hidden_size": 48}, ["score"]),
    ("bert", {}, {"hidden_size": 64}, ["classifier", "pooler"]),
    ("roberta", {}, {"hidden_size": 64}, ["classifier"]),
]


@pytest.mark.parametrize(("name", "variant", "to", "heads"), HEADS, ids=lambda value: str(value)[:24])
def test_classification_heads(name: str, variant: Any, to: Any, heads: list[str], tmp_path: Path) -> None:
    family = grown(tmp_path, name, language_head(name), to, "auto", **variant)
    small = classifier(family)
    wanted = {"llama": ["q_proj", "down_proj"], "gpt2": ["c_attn"], "bert": ["query"], "roberta": ["value"]}[name]
    config = peft.LoraConfig(r=2, target_modules=wanted, modules_to_save=heads, task_type="SEQ_CLS")
    source = adapted(dataclasses.replace(family, model=small), config, tmp_path / "adapter")
    made = carry(tmp_path / "adapter", family.new, tmp_path / "carried")
    assert made.carried is not None and made.carried.verdict == "exact"
    target = on(bare_classifier(family), tmp_path / "carried")
    assert apart(small, source) > 0.2 and apart(source, target) < EXACT
    if variant.get("tie_word_embeddings"):
        # The trap: the last norm of a tied base carries the shares, so a head that reads in shares as well is wrong.
        stored = load_file(tmp_path / "carried" / "adapter_model.safetensors")
        key = "base_model.model.score.weight"
        assert family.plan.maps is not None
        stored[key] = stored[key] / torch.tensor(family.plan.maps.axes["hidden"].scale("tied_read"))
        stored[key] = stored[key] * torch.tensor(family.plan.maps.axes["hidden"].scale("read"))
        save_file(stored, tmp_path / "carried" / "adapter_model.safetensors", metadata={"format": "pt"})
        assert apart(source, on(bare_classifier(family), tmp_path / "carried")) > 1e-2


def test_saved_modules_and_biases_of_the_base(tmp_path: Path) -> None:
    """Modules and biases that are saved whole grow like the base's own, 1 + w norms and tied heads included."""
    family = grown(tmp_path / "g", "gemma2", "causal-lm", UNEVEN, ["auto", "noise"], **GQA)
    config = lora(family, target_modules=["v_proj"], modules_to_save=["input_layernorm", "up_proj"])
    source, target, report = taken(family, config, tmp_path / "g")
    assert apart(family.model, source) > 0.1 and apart(source, target) < EXACT
    assert report.modules == {"lora": 2, "saved": 4}
    biased = grown(tmp_path / "l", "llama", "causal-lm", UNEVEN, "auto", **LLAMA_TIED)
    config = lora(biased, target_modules=["q_proj", "o_proj"], bias="all", lora_bias=True)
    source, target, _ = taken(biased, config, tmp_path / "l")
    assert apart(biased.model, source) > 0.1 and apart(source, target) < EXACT


@pytest.mark.parametrize(
    ("name", "variant", "to", "method"),
    [
        ("llama", LLAMA_TIED, {**UNEVEN, "num_hidden_layers": 3}, ["auto", "noise"]),
        ("gemma2", GQA, {**UNEVEN, "num_hidden_layers": 4}, "auto"),
        ("bert", {}, {"hidden_size": 64}, "auto"),
        ("gpt2", {"num_hidden_layers": 3}, {"hidden_size": 48}, "aki"),
        ("gpt2", {}, {"hidden_size": 48}, "direct_copy"),
    ],
    ids=["llama", "gemma2", "bert", "gpt2-aki", "gpt2-direct_copy"],
)
def test_differences_of_full_tuning(name: str, variant: Any, to: Any, method: Any, tmp_path: Path) -> None:
    """θ' = the grown base + M (θ_tuned − θ): in float64 in memory, and in float32 through the files."""
    family = grown(tmp_path, name, language_head(name), to, method, **variant)
    tuned = fresh(family.model)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    before, after = parameters(family.model), parameters(tuned)
    assert family.plan.maps is not None
    passage = Passage(family.plan.source, family.plan.target, family.plan.maps)
    change = carried_tensors({key: after[key] - before[key] for key in after}, passage, difference=True)
    bigger = fresh(family.bigger)
    with torch.no_grad():
        for key, parameter in bigger.named_parameters():
            parameter.add_(change[key])
    assert apart(family.model, tuned) > 0.1
    if family.plan.exact:
        assert apart(tuned, bigger) < EXACT
    else:  # the grown tuned model is the tuned grown one, weight by weight (fresh values and noise apart)
        regrown = grow_planned(tuned, dataclasses.replace(family.plan))
        assert all(
            torch.allclose(regrown.get_parameter(key), value, atol=1e-12) for key, value in bigger.named_parameters()
        )
    checkpoints.save_model(tuned.float(), tmp_path / "tuned")
    made = carry(tmp_path / "tuned", family.new, tmp_path / "carried", old=family.old)
    assert made.kind == "full" and made.carried is not None and made.carried.modules == {"differences": len(change)}
    stored = checkpoints.load_model(tmp_path / "carried")
    assert apart(bigger.float(), stored) < 1e-5


def test_a_fully_tuned_classifier(tmp_path: Path) -> None:
    family = grown(tmp_path, "llama", "causal-lm", UNEVEN, "auto", **GQA, tie_word_embeddings=True)
    small = classifier(family).float()
    checkpoints.save_model(small, tmp_path / "tuned")
    lineage_for(tmp_path / "tuned", "tune", family.old)
    made = carry(tmp_path / "tuned", family.new, tmp_path / "carried")
    assert made.carried is not None and made.carried.verdict == "exact" and made.carried.modules["head"] == 1
    assert apart(small, checkpoints.load_model(tmp_path / "carried")) < 1e-5


# --- several growths, and training in between


def test_grown_twice_and_trained_since(tmp_path: Path) -> None:
    first = grown(
        tmp_path, "llama", "causal-lm", {"hidden_size": 48, "num_hidden_layers": 3}, "auto", num_hidden_layers=2
    )
    second = grown_from(
        first.bigger, first.new, tmp_path / "newer", {"hidden_size": 64, "intermediate_size": 81}, "auto"
    )
    source = adapted(first, lora(first, use_dora=True), tmp_path / "adapter")
    made = carry(tmp_path / "adapter", second.new, tmp_path / "twice")
    assert made.carried is not None and made.carried.through == ("new", "newer")
    assert made.carried.verdict == "exact"
    assert apart(source, on(second.bigger, tmp_path / "twice")) < EXACT

    trained = fresh(second.bigger)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.mul_(1.01)
    checkpoints.save_model(trained, tmp_path / "trained")
    lineage_for(tmp_path / "trained", "pretrain", second.new)
    made = carry(tmp_path / "adapter", tmp_path / "trained", tmp_path / "start")
    assert made.carried is not None and made.carried.verdict == "initialisation"
    assert "trained was trained" in made.carried.reason and made.carried.through == ("new", "newer")
    assert 1e-6 < apart(source, on(trained, tmp_path / "start")) < apart(first.model, source)
