"""Carried tuned weights against arithmetic written out by hand, and against plain PEFT, for every family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bequest import carry, checkpoints
from bequest.anatomy import FAMILIES, complete_config, family_named, objective_of
from bequest.errors import InputError
from bequest.recycling import METHODS, Generation, read_tuned
from bequest.recycling.tuned import CLASSIFIER, load_tuned
from bequest.training.tuning import add_adapter, head_modules

LABELS = ["a", "b", "c"]
#: The families whose classifiers transformers has.
CLASSIFIERS = sorted(name for name, family in FAMILIES.items() if CLASSIFIER in family.heads)
#: Where the usual targets of LoRA have no name of their own.
TARGETS = {"gpt_neox": ["query_key_value"]}
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def jittered(model: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))


def make_base(path: Path, family: str, seed: int, sizes: dict[str, int] | None = None) -> Path:
    config = complete_config(
        family, {**SIZES, **(sizes or {}), "pad_token_id": 0}, head=objective_of(family_named(family)), vocab_size=37
    )
    model = checkpoints.new_model(config, seed=seed)
    jittered(model, seed)
    checkpoints.save_model(model, path)
    return path


def classifier(base: Path) -> Any:
    model = checkpoints.load_model(base, head="sequence-classification", labels=LABELS)
    model.config.pad_token_id = 0
    return model


def make_adapter(path: Path, base: Path) -> Path:
    model = classifier(base)
    lora = {"type": "lora", "r": 3, "lora_alpha": 5, "target_modules": TARGETS.get(model.config.model_type)}
    wrapped = add_adapter(model, lora, head_modules(model, base), seed=0)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    checkpoints.save_adapter(wrapped, path)
    return path


def inputs() -> dict[str, torch.Tensor]:
    return {"input_ids": torch.randint(1, 37, (4, 9), generator=torch.Generator().manual_seed(5))}


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(**inputs()).logits
    return found


def by_hand(base: Path, adapter: Path) -> Any:
    """The new base's classifier with W + (alpha / r) B A added and the tuned head copied, tensor by tensor."""
    from safetensors.torch import load_file

    model, stored = classifier(base), load_file(adapter / "adapter_model.safetensors")
    state, used = model.state_dict(), set()
    for name in list(state):
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{stem}.lora_A.weight" in stored:
            change = 5 / 3 * stored[f"{stem}.lora_B.weight"] @ stored[f"{stem}.lora_A.weight"]
            transposed = json.loads((adapter / "adapter_config.json").read_text())["fan_in_fan_out"]
            state[name] = state[name] + (change.T if transposed else change)
            used |= {f"{stem}.lora_A.weight", f"{stem}.lora_B.weight"}
        elif f"base_model.model.{name}" in stored:
            state[name] = stored[f"base_model.model.{name}"]
            used.add(f"base_model.model.{name}")
    assert used == set(stored) and used
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("family", CLASSIFIERS)
def test_carried_adapter_is_the_new_base_plus_the_same_product(family: str, tmp_path: Path) -> None:
    old, new = make_base(tmp_path / "old", family, 1), make_base(tmp_path / "new", family, 2)
    adapter = make_adapter(tmp_path / "adapter", old)
    made = carry(adapter, new, tmp_path / "carried")
    assert made.path == tmp_path / "carried" and made.base_name == "new"
    loaded, _ = load_without_tokenizer(tmp_path / "carried", new)
    torch.testing.assert_close(logits(loaded), logits(by_hand(new, adapter)), rtol=1e-5, atol=1e-5)
    # Plain PEFT reads the carried directory to the same function, and it is not the bare base's.
    from peft import PeftModel

    plain = PeftModel.from_pretrained(classifier(new), str(tmp_path / "carried"))
    assert torch.equal(logits(plain), logits(loaded))
    assert (logits(plain) - logits(classifier(new))).abs().max() > 1e-2
    assert (logits(plain) - logits(by_hand(old, adapter))).abs().max() > 1e-3


@pytest.mark.parametrize("family", CLASSIFIERS)
def test_same_base_gives_the_adapted_function_back(family: str, tmp_path: Path) -> None:
    old = make_base(tmp_path / "old", family, 1)
    adapter = make_adapter(tmp_path / "adapter", old)
    before, _ = load_without_tokenizer(adapter, old)
    carry(adapter, old, tmp_path / "carried")
    after, _ = load_without_tokenizer(tmp_path / "carried", old)
    assert torch.equal(logits(before), logits(after))


@pytest.mark.parametrize("family", CLASSIFIERS)
def test_full_weights_are_the_new_base_plus_the_difference(family: str, tmp_path: Path) -> None:
    old, new = make_base(tmp_path / "old", family, 1), make_base(tmp_path / "new", family, 2)
    model = classifier(old)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    jittered(model, 3)
    checkpoints.save_model(model, tmp_path / "tuned")
    carry(tmp_path / "tuned", new, tmp_path / "carried", old=old)
    found, fresh = checkpoints.load_model(tmp_path / "carried").state_dict(), classifier(new)
    stored = set(checkpoints.to_memory_names(checkpoints.header_shapes(new), fresh).values())
    for name, value in model.state_dict().items():
        wanted = fresh.state_dict()[name] + (value - before[name]) if name in stored else value
        torch.testing.assert_close(found[name], wanted, rtol=1e-5, atol=1e-5)
    head = [name for name in found if name not in stored]
    assert head and all(torch.equal(found[name], model.state_dict()[name]) for name in head)
    assert checkpoints.load_config(tmp_path / "carried")["id2label"] == {"0": "a", "1": "b", "2": "c"}


def load_without_tokenizer(adapter: Path, base: Path) -> tuple[Any, None]:
    tuned = read_tuned(adapter)
    return checkpoints.load_adapter(classifier(base), tuned.path), None


def test_other_shapes_are_refused_by_name(tmp_path: Path) -> None:
    old = make_base(tmp_path / "old", "llama", 1)
    adapter = make_adapter(tmp_path / "adapter", old)
    wide = make_base(tmp_path / "wide", "llama", 2, {"hidden_size": 32, "num_attention_heads": 4})
    deep = make_base(tmp_path / "deep", "llama", 2, {"num_hidden_layers": 3})
    other = make_base(tmp_path / "other", "bert", 2)
    for base, said in ((wide, r"shape \(.*growth map"), (deep, "does not fill.*growth map"), (other, "same family")):
        with pytest.raises(InputError, match=said):
            carry(adapter, base, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="its own source"):
        carry(adapter, old, adapter)
    with pytest.raises(InputError, match="already exists"):
        carry(adapter, old, wide)
    with pytest.raises(InputError, match="no such"):
        carry(adapter, tmp_path / "nothing", tmp_path / "out")


def test_a_renamed_key_and_a_split_initialisation_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    old = make_base(tmp_path / "old", "llama", 1)
    adapter = make_adapter(tmp_path / "adapter", old)
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({name.replace("layers.1", "layer.1"): value for name, value in tensors.items()}, file)
    with pytest.raises(InputError, match=r"layer.*1.*: old has"):
        carry(adapter, old, tmp_path / "out")
    save_file(tensors, file)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "init_lora_weights": "pissa"}))
    with pytest.raises(InputError, match="residual base"):
        carry(adapter, old, tmp_path / "out")


def test_base_dependent_adapters_are_flagged(tmp_path: Path) -> None:
    old = make_base(tmp_path / "old", "llama", 1)
    model = classifier(old)
    checkpoints.save_adapter(add_adapter(model, {"type": "ia3"}, ["score"], seed=0), tmp_path / "ia3")
    assert any("relative to its base" in note for note in carry(tmp_path / "ia3", old, tmp_path / "out").notes)
    additive = carry(make_adapter(tmp_path / "lora", old), old, tmp_path / "out2")
    assert not any("relative to its base" in note for note in additive.notes)


def test_full_weights_without_their_old_base_are_refused(tmp_path: Path) -> None:
    old = make_base(tmp_path / "old", "llama", 1)
    checkpoints.save_model(classifier(old), tmp_path / "tuned")
    with pytest.raises(InputError, match="needs the base it was tuned on"):
        carry(tmp_path / "tuned", old, tmp_path / "out")
    with pytest.raises(InputError, match="a base, not tuned weights"):
        carry(old, old, tmp_path / "out")


def test_carried_lineage_names_both_parents_and_no_place_on_this_machine(tmp_path: Path) -> None:
    old, new = make_base(tmp_path / "old", "llama", 1), make_base(tmp_path / "new", "llama", 2)
    carry(make_adapter(tmp_path / "adapter", old), new, tmp_path / "carried")
    lineage = json.loads((tmp_path / "carried" / "lineage.json").read_text())
    assert [(parent["role"], parent["name"]) for parent in lineage["parents"]] == [
        ("tuned", "adapter"),
        ("base", "new"),
    ]
    assert lineage["operation"]["stage"] == "carry" and lineage["operation"]["method"] == "direct"
    config = json.loads((tmp_path / "carried" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "new" and str(tmp_path) not in json.dumps([lineage, config])


def test_direct_on_the_same_shape_needs_no_old_base_for_adapters(tmp_path: Path) -> None:
    old, new = make_base(tmp_path / "old", "llama", 1), make_base(tmp_path / "new", "llama", 2)
    tuned = read_tuned(make_adapter(tmp_path / "adapter", old))
    made = METHODS["direct"]()(tuned, None, Generation(new), None, out=tmp_path / "out")
    assert made.kind == "adapter" and made.base_name == "new"
    with pytest.raises(InputError, match="needs the task"):
        METHODS["initialise"]()(tuned, None, Generation(new), None, out=tmp_path / "out")
    with pytest.raises(InputError, match="no tokenizer"):
        load_tuned(made, Generation(new))
