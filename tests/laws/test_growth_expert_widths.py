"""Law: experts of any width are grown, checked and trained; widths that nobody named run in every kernel and dtype."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import bequest
from bequest.anatomy import complete_config
from bequest.checkpoints import load_model, new_model, save_model
from bequest.cli import call
from bequest.growth import check_preservation, grow, plan_growth
from bequest.lineage import read_lineage
from growth_support import GQA, VARIANTS, build, error

IDS = torch.arange(2, 14)[None]
EIGHT = {"hidden_size": 40, "num_attention_heads": 5, "num_key_value_heads": 5}


def tiny(family: str, ffn: int, **extra: Any) -> Any:
    """A tiny jittered model whose experts (or FFN) have that width, in eager experts."""
    return build(family, "causal-lm", sizes={"intermediate_size": ffn}, **{**VARIANTS[family][0], **extra})


@pytest.mark.parametrize(("width", "runs"), [(86, ()), (84, ("float32",)), (88, ("float32", "bfloat16", "float16"))])
def test_which_widths_the_grouped_kernel_takes(width: int, runs: tuple[str, ...]) -> None:
    """The fact that everything here stands on: rows of whole multiples of 16 bytes."""
    for dtype in ("float32", "bfloat16", "float16"):
        model = tiny("mixtral", width).to(getattr(torch, dtype))
        model(IDS)  # eager experts take any
        model.set_experts_implementation("grouped_mm")
        if dtype in runs:
            model(IDS).logits.float().square().mean().backward()
        else:
            with pytest.raises(RuntimeError, match="multiple of 16 bytes"):
                model(IDS)


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_inferred_width_runs_as_it_is_loaded(family: str, dtype: str, tmp_path: Path) -> None:
    model = tiny(family, 40, num_key_value_heads=4)
    plan = plan_growth(model, {"hidden_size": 40})
    key = plan.target.family.key("intermediate_size")
    assert plan.target_config[key] == 56 and plan.exact and plan.notes == ()
    assert plan.inferred["intermediate_size"] == "56 (1.25 times the width, up to a multiple of 8)"
    bigger = grow(model, {"hidden_size": 40})
    assert error(model, bigger) < 1e-5
    save_model(bigger, tmp_path / "big", dtype=dtype)
    opened = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "big", dtype="auto")
    assert opened.config._experts_implementation == "grouped_mm"
    opened(IDS).logits.float().square().mean().backward()
    # Control: the width that the ratio gives does not run.
    named = grow(model, {"hidden_size": 40, key: 50})
    assert error(model, named) < 1e-5
    named.set_experts_implementation("grouped_mm")
    with pytest.raises(RuntimeError, match="multiple of 16 bytes"):
        named(IDS)


def test_a_new_models_inferred_width_fits_and_a_dense_one_keeps_its_ratio() -> None:
    sizes = {"hidden_size": 40, "num_attention_heads": 4}
    for family, width in (("mixtral", 144), ("mistral", 140), ("qwen2_moe", 32)):
        config = complete_config(family, sizes, head="causal-lm", vocab_size=48)
        assert config[{"qwen2_moe": "moe_intermediate_size"}.get(family, "intermediate_size")] == width, family
    grown = plan_growth(tiny("llama", 40).config.to_dict() | {"architectures": ["LlamaForCausalLM"]}, EIGHT)
    assert grown.target.sizes["ffn"] == 50 and grown.notes == ()


ONLY = 'only experts_implementation="eager" runs these experts'


@pytest.mark.parametrize(
    ("family", "ffn", "to", "method", "notes"),
    [
        ("mixtral", 40, {"hidden_size": 64, "intermediate_size": 90}, "auto", ["intermediate_size 90", ONLY, "is 96"]),
        ("mixtral", 40, {"intermediate_size": 100}, "auto", ["100", "in bfloat16 and float16 " + ONLY, "is 104"]),
        ("mixtral", 42, {"num_hidden_layers": 3}, "auto", ["intermediate_size 42", ONLY, "is 48"]),
        ("qwen2_moe", 42, {"num_hidden_layers": 3}, "auto", ["moe_intermediate_size 42", "is 48"]),
        ("llama", 86, {"num_experts": 4}, "upcycle", ["86", ONLY, "is 88: grow to it first, then upcycle"]),
        ("llama", 88, {"num_experts": 4}, "upcycle", []),
        ("mixtral", 40, {"hidden_size": 64}, "auto", []),
    ],
)
def test_the_plan_warns_of_widths_that_do_not_fit(family: str, ffn: int, to: Any, method: str, notes: Any) -> None:
    plan = plan_growth(tiny(family, ffn), to, method)
    assert plan.exact and len(plan.notes) == bool(notes), plan.notes
    for part in notes:
        assert part in plan.notes[0]


def test_a_stream_that_does_not_fit_is_named_too() -> None:
    """Rows of an expert's first matrix are as long as the stream is wide; whole heads of 12 stay whole."""
    sizes = {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 40}
    model = build("mixtral", "causal-lm", sizes=sizes, **VARIANTS["mixtral"][0])
    plan = plan_growth(model, {"hidden_size": 36})
    (note,) = plan.notes
    assert plan.target.sizes["ffn"] == 64
    assert note.startswith("hidden_size 36 is no multiple of 8: in bfloat16 and float16 only") and "is 48" in note
    assert plan_growth(model, {"hidden_size": 48}).notes == ()


@pytest.mark.parametrize("ffn", [86, 84])
def test_a_growth_whose_width_does_not_fit_is_checked(ffn: int, tmp_path: Path) -> None:
    """Upcycled in memory and from disk to disk, in float32 and beside bfloat16, as models are loaded."""
    model = tiny("llama", ffn, **GQA)
    save_model(model, tmp_path / "small")
    assert error(model, grow(model, {"num_experts": 4}, "upcycle")) < 1e-5
    for dtype in ("fp32", "bf16"):
        out = tmp_path / dtype
        words = ["--to", "num_experts=4", "--method", "upcycle", "--dtype", dtype, "--check"]
        assert call(["grow", str(tmp_path / "small"), str(out), *words]) == 0
        found = read_lineage(out).measures["growth"]
        assert found["preserved"] or (dtype == "bf16" and found["yardstick"]["times"] <= 4)
    loaded = load_model(tmp_path / "fp32")
    loaded(IDS).logits.square().mean().backward()
    # Grown again, it still runs: deeper experts are as wide.
    deeper = grow(loaded, {"num_hidden_layers": 3})
    assert error(loaded, deeper) < 1e-5
    for one in (loaded, deeper):
        one.set_experts_implementation("grouped_mm")
        assert check_preservation(one, one).preserved
        assert one.get_experts_implementation() == {"": "grouped_mm"}


def test_new_models_run_whatever_their_experts_widths() -> None:
    for ffn, kernel in ((40, "grouped_mm"), (42, "eager")):
        config = complete_config("mixtral", {**EIGHT, "intermediate_size": ffn}, head="causal-lm", vocab_size=48)
        model = new_model(config, seed=0)
        assert model.config._experts_implementation == kernel
        model(IDS)


def test_the_command_says_it_and_so_does_a_recipes_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(tiny("llama", 86), tmp_path / "small")
    words = ["grow", str(tmp_path / "small"), str(tmp_path / "out"), "--to", "num_experts=4", "--method", "upcycle"]
    assert call([*words, "--plan"]) == 0
    assert "intermediate_size 86 is no multiple of 8" in " ".join(capsys.readouterr().out.split())
    assert call([*words, "--plan", "--json"]) == 0
    assert ONLY in json.loads(capsys.readouterr().out)["plan"]["notes"][0]


def test_a_recipe_upcycles_and_trains_a_width_that_does_not_fit(tmp_path: Path) -> None:
    words = ["river", "stone", "bird", "seven", "runs", "falls", "and", "of"]
    texts = [" ".join(random.Random(number).choices(words, k=14)) + f" {number}." for number in range(120)]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    bequest.run(tmp_path / "recipe.yaml", out=tmp_path / "run")
    assert read_lineage(tmp_path / "run" / "sparse").measures["growth"]["preserved"]
    config = transformers.AutoConfig.from_pretrained(tmp_path / "run" / "trained")
    assert (config.model_type, config.intermediate_size) == ("mixtral", 86)


RECIPE = """
name: sparse
corpora:
  text: {files: text.jsonl, held_out: 0.2}
stages:
  - pretrain: {name: small, model: {family: llama, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2,
      max_position_embeddings: 64}, corpus: text, tokenizer: {vocab_size: 300}, tokens: 512, block: 16,
      batch_tokens: 256, lr: 3e-3}
  - grow: {name: sparse, from: small, to: {num_local_experts: 4}, method: upcycle}
  - pretrain: {name: trained, from: sparse, corpus: text, tokens: 512, block: 16, batch_tokens: 256, lr: 1e-3}
"""
