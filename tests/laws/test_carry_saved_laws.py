"""Law: modules and biases that an adapter saves whole are carried as growing the merged model would make them.

Where a growth draws new values (``direct_copy``), that is the grown base plus M of what tuning changed: the new units
of a saved tensor hold what the grown base drew there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file

from bequest import carry
from bequest.growth import grow_planned
from carrying_support import Family, adapted, fresh, grown, on, parameters
from growth_support import GQA, language_head


def merged_and_grown(family: Family, source: Any) -> dict[str, torch.Tensor]:
    """What growing the merged model gives, by the plan that grew the base."""
    regrown: Any = grow_planned(fresh(source).merge_and_unload(), family.plan)
    return parameters(regrown)


SAVED = {"llama": ["embed_tokens", "mlp.up_proj", "norm"], "gemma2": ["mlp.down_proj"], "gpt2": ["mlp.c_fc", "ln_1"]}
SAVED |= {"bert": ["intermediate.dense", "output.LayerNorm"]}


@pytest.mark.parametrize(
    ("name", "variant", "to", "method"),
    [
        ("llama", {**GQA, "tie_word_embeddings": False}, {"hidden_size": 48}, "direct_copy"),
        ("llama", GQA, {"hidden_size": 48, "num_hidden_layers": 4}, "direct_copy"),
        ("gemma2", GQA, {"hidden_size": 48}, "direct_copy"),
        ("gpt2", {}, {"hidden_size": 48}, "direct_copy"),
        ("bert", {}, {"hidden_size": 48}, "direct_copy"),
        ("gpt2", {}, {"num_hidden_layers": 5}, "stack"),
    ],
    ids=lambda value: str(value)[:16],
)
def test_what_is_saved_whole_grows_like_the_merged_model(
    name: str, variant: Any, to: Any, method: Any, tmp_path: Path
) -> None:
    family = grown(tmp_path, name, language_head(name), to, method, **variant)
    wanted = {"llama": "q_proj", "gemma2": "q_proj", "gpt2": "c_attn", "bert": "query"}[name]
    config = peft.LoraConfig(r=2, target_modules=[wanted], modules_to_save=SAVED[name])
    source = adapted(family, config, tmp_path / "adapter")
    made = carry(tmp_path / "adapter", family.new, tmp_path / "carried")
    assert made.carried is not None and made.carried.verdict == "approximate"
    target = parameters(fresh(on(family.bigger, tmp_path / "carried")).merge_and_unload())
    expected = merged_and_grown(family, source)
    saved = [key for key in expected if any(f"{module}." in key for module in SAVED[name])]
    assert len(saved) >= len(SAVED[name])
    for key in saved:
        assert torch.allclose(target[key], expected[key], atol=1e-12), key
    if "direct_copy" in str(method):  # the control: zeros in the new units are something else
        assert max(float((expected[key] - zeroed(expected[key], family)).abs().max()) for key in saved) > 1e-3


def zeroed(value: torch.Tensor, family: Family) -> torch.Tensor:
    """A grown tensor with zeros behind the source's width."""
    width = family.plan.source.sizes["hidden"]
    found = value.clone()
    for number, size in enumerate(value.shape):
        if size == family.plan.target.sizes["hidden"]:
            found.narrow(number, width, size - width).fill_(0)
    return found


@pytest.mark.parametrize("kind", ["saved", "biases"])
def test_layers_from_one_layer_share_no_memory(kind: str, tmp_path: Path) -> None:
    """In float64 nothing is converted, so layers that one source layer became were one tensor: files need two."""
    variant = {**GQA, "attention_bias": True, "mlp_bias": True}
    family = grown(tmp_path, "llama", "causal-lm", {"num_hidden_layers": 4}, "stack", **variant)
    options = {"modules_to_save": ["input_layernorm"]} if kind == "saved" else {"bias": "all"}
    source = adapted(family, peft.LoraConfig(r=2, target_modules=["q_proj"], **options), tmp_path / "adapter")
    carry(tmp_path / "adapter", family.new, tmp_path / "carried")
    stored = load_file(tmp_path / "carried" / "adapter_model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float64}
    target = parameters(fresh(on(family.bigger, tmp_path / "carried")).merge_and_unload())
    expected = merged_and_grown(family, source)
    assert all(torch.allclose(target[key], value, atol=1e-12) for key, value in expected.items())
