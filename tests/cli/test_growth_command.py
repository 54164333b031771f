"""``bequest grow`` and ``bequest list families``: what they say, write, record and measure, and how they exit."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from bequest import checkpoints, growth, lineage
from bequest.anatomy import FAMILIES, complete_config
from bequest.cli import call
from bequest.commands import growing, terminal
from bequest.commands.growing import parse_method, parse_sizes
from bequest.commands.support_matrix import supported
from bequest.errors import InputError
from bequest.growth import plan_growth
from growth_support import build

Run = Callable[..., str]
ODD = ("--to", "hidden_size=48,num_hidden_layers=3")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama of grouped heads with a tokenizer, every parameter jittered."""
    directory = tmp_path_factory.mktemp("models") / "tiny"
    checkpoints.save_model(build("llama", "causal-lm", num_key_value_heads=2, tie_word_embeddings=True), directory)
    words = Tokenizer(models.WordLevel({"<unk>": 0, **{f"w{i}": i for i in range(1, 48)}}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    checkpoints.save_tokenizer(PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>"), directory)
    return directory


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in an empty directory; returns its standard output, or its standard error where it fails."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: object, code: int = 0) -> str:
        found = call([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert found == code, captured.err + captured.out
        return captured.out if code == 0 else captured.err

    return command


# --- what it says before it writes


def test_the_plan_is_printed_and_nothing_written(run: Run, tiny: Path) -> None:
    text = run("grow", tiny, "big", *ODD, "--plan")
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0].startswith("would write big/: ") and f"from {tiny}/: " in lines[0]
    assert "hidden_size 32 48" in lines and "num_hidden_layers 2 3" in lines
    assert "num_attention_heads 4 6 48 / head_dim 8" in lines
    assert "by isometric + identity (chosen by auto)" in lines
    assert any(line.startswith("exact: the isometric map") for line in lines)
    assert "identity blocks: 2 of 0 to 2" in lines and lines[-1] == "nothing was loaded or written"
    assert list(Path().iterdir()) == []
    found = json.loads(run("grow", tiny, "big", *ODD, "--plan", "--json"))
    assert found["plan"]["exact"] is True and found["id"] is None and found["plan"]["new_layers"] == [2]
    plan = plan_growth(tiny, {"hidden_size": 48, "num_hidden_layers": 3})
    assert found["params"] == plan.params and found["plan"]["params_before"] == plan.source.parameters()


def test_planning_loads_nothing_heavy(tiny: Path) -> None:
    program = (
        "import sys\n"
        "from bequest.cli import call\n"
        f"assert call(['grow', {str(tiny)!r}, 'big', '--to', 'hidden_size=48', '--plan', '--check']) == 0\n"
        "assert call(['list', 'families']) == 0\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_approximate_plan_says_why_how_wrong_and_what_would_be_exact(run: Run, tmp_path: Path) -> None:
    checkpoints.save_model(build("bert", "masked-lm"), tmp_path / "bert")
    text = run("grow", "bert", "big", "--to", "hidden_size=48", "--check")
    assert "approximate: not lossless: post-LN and 48/32 is not an integer" in text
    assert "exact would be: --to hidden_size=64" in text
    assert "not preserved (the error is above 1e-05" in text and "predicted at most" in text
    measured = lineage.read_lineage("big").measures["growth"]
    plan = plan_growth("bert", {"hidden_size": 48})
    assert 1e-6 < measured["max_relative_error"] <= plan.predicted_error
    assert not measured["preserved"] and measured["first_layer"] is not None


# --- what it makes


def test_a_checked_growth_ends_with_the_proof_and_the_loading_lines(run: Run, tiny: Path) -> None:
    text = run("grow", tiny, "big", *ODD, "--check")
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0].startswith("writes big/: ") and any(line.startswith("the check loads both") for line in lines)
    assert "preserved" in lines and any(line.startswith("KL ") for line in lines)
    assert "generation 4 of 4 prompts continued by the same 12 tokens, with and without the cache" in lines
    assert "first block that differs none of 0 to 2" in lines
    assert "head 18 6 6" in lines and "hidden 48 16 16" in lines and any("--for-training" in line for line in lines)
    assert 'from_pretrained("big")' in text and lines[-1] == "next: bequest tree big"
    big, small = (AutoModelForCausalLM.from_pretrained(place) for place in ("big", tiny))
    ids = torch.arange(1, 13)[None]
    with torch.no_grad():
        torch.testing.assert_close(big(input_ids=ids).logits, small(input_ids=ids).logits, rtol=1e-5, atol=1e-5)
    record = lineage.read_lineage("big")
    assert record.measures["growth"]["preserved"] and record.parents[0].id == lineage.identity_of(tiny)
    assert record.operation.maps is not None and record.operation.maps["new_layers"] == [2]
    assert Path("big/README.md").is_file() and Path("big/tokenizer.json").is_file()
    found = json.loads(run("grow", tiny, "big", *ODD, "--force", "--check", "--json"))
    assert found["check"]["preserved"] is True and found["check"]["generation"]["same"] == 4
    assert found["check"]["locked_units"]["hidden"] == 16 and found["check"]["predicted_error"] == 0


def test_prompts_of_ones_own_are_checked_too(run: Run, tiny: Path) -> None:
    Path("prompts.txt").write_text("w3 w4 w5\n\nw7 w9\n")
    found = json.loads(run("grow", tiny, "big", *ODD, "--check", "--prompts", "prompts.txt", "--json"))
    assert found["check"]["generation"]["prompts"] == found["check"]["generation"]["same"] == 2
    assert found["check"]["positions"] == 3 * 7 + 40 + 30 + 32 + 5


def test_prompts_that_are_too_long_are_refused_before_anything_is_written(run: Run, tiny: Path) -> None:
    Path("prompts.txt").write_text("w1 w2\n" + "w3 " * 40)
    line = run("grow", tiny, "big", *ODD, "--check", "--prompts", "prompts.txt", code=2)
    assert "prompts.txt: --prompts: a prompt has 40 tokens; 1 to 39 are possible" in line and not Path("big").exists()


def test_growth_for_training_leaves_no_copies_locked(run: Run, tiny: Path) -> None:
    text = run("grow", tiny, "big", *ODD, "--for-training", "--check")
    assert "by isometric + identity + noise (chosen by auto)" in text and "locked copies" not in text
    measured = lineage.read_lineage("big").measures["growth"]
    assert measured["preserved"] and set(measured["locked_units"].values()) == {0}
    line = run("grow", tiny, "other", *ODD, "--for-training", "--method", "isometric, identity", code=2)
    assert "--for-training: goes with auto; add --method noise instead" in line


def test_a_dtype_is_stored_and_judged_beside_its_own_rounding(run: Run, tiny: Path) -> None:
    text = run("grow", tiny, "big", *ODD, "--dtype", "bf16", "--check")
    assert " in bfloat16, from " in text.splitlines()[0]
    assert checkpoints.stored_dtype("big") == "bfloat16" and checkpoints.load_config("big")["dtype"] == "bfloat16"
    assert "the same up to bfloat16 rounding (the error is above 1e-05" in text and "MORE THAN" not in text
    assert (
        "of the source's own float32 -> bfloat16 change" in text
        and lineage.read_lineage("big").measures["growth"]["yardstick"]["times"] <= 4
    )
    whole = run("grow", tiny, "whole", "--to", "intermediate_size=80", "--dtype", "bf16", "--json", "--check")
    assert json.loads(whole)["check"]["yardstick"]["dtype"] == "bfloat16"


def test_methods_options_and_seeds_are_recorded_and_remake_the_same(run: Run, tiny: Path) -> None:
    wide = ("--to", "hidden_size=64", "--method", "fpi:map=random", "--method", "noise:std=0.1")
    digests = {}
    for name, seed in (("one", 3), ("again", 3), ("other", 4)):
        assert "by fpi(map=random) + noise(std=0.1)\n" in run("grow", tiny, name, *wide, "--seed", seed)
        digests[name] = lineage.weights_digest(name)
    assert digests["one"] == digests["again"] != digests["other"]
    maps = lineage.read_lineage("one").operation.maps
    assert maps is not None and maps["calls"] == [{"map": "random", "name": "fpi"}, {"name": "noise", "std": 0.1}]
    assert maps["seed"] == 3


# --- when it is not what was planned


def damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A growth that writes one wrong tensor."""
    real = growth.grow_checkpoint

    def grow_checkpoint(source: Any, out: Any, *arguments: Any, **options: Any) -> Any:
        plan = real(source, out, *arguments, **options)
        file = Path(out) / "model.safetensors"
        weights = load_file(file)
        weights["model.layers.1.mlp.down_proj.weight"][3] += 1
        save_file(weights, file, metadata={"format": "pt"})
        return plan

    monkeypatch.setattr(growth, "grow_checkpoint", grow_checkpoint, raising=False)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_an_exact_plan_that_is_not_preserved_fails_and_keeps_its_output(
    dtype: str, run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged(monkeypatch)
    assert call(["grow", str(tiny), "big", *ODD, "--dtype", dtype, "--check"]) == 3
    captured = capsys.readouterr()
    assert captured.err.startswith("bequest: big: planned as exact and not preserved: the error is above 1e-05")
    assert "big is kept for you to look at" in captured.err and captured.err.count("\n") == 1
    assert "first block that differs" in captured.out and "made " not in captured.out
    assert lineage.read_lineage("big").measures["growth"]["preserved"] is False
    assert "planned as exact" in run("grow", tiny, "big", *ODD, "--check", "--force", "--json", code=3)


def test_a_check_that_memory_does_not_hold_is_refused_before_anything_is_written(
    run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "free_memory", lambda: 1000.0)
    line = run("grow", tiny, "big", *ODD, "--check", code=2)
    assert "--check: loads both models, about" in line and "leave it out" in line and list(Path().iterdir()) == []
    run("grow", tiny, "big", *ODD)
    assert terminal.free_memory() == 1000


# --- words and progress


def test_sizes_and_methods_are_read_from_words() -> None:
    assert parse_sizes(["hidden_size=1k, num_hidden_layers=4", "vocab=2"]) == {
        "hidden_size": 1000,
        "num_hidden_layers": 4,
        "vocab": 2,
    }
    assert parse_method("fpi") == "fpi"
    assert parse_method("fpi:map=random") == {"name": "fpi", "map": "random"}
    assert parse_method("a.b:Class") == "a.b:Class"
    assert parse_method("a.b:Class:std=0.1,deep=true,x=null") == {
        "name": "a.b:Class",
        "std": 0.1,
        "deep": True,
        "x": None,
    }
    assert list(growing.one_by_one("isometric, identity")) == ["isometric", "identity"]
    assert list(growing.one_by_one("fpi:map=random, noise:std=0.1,identity")) == [
        "fpi:map=random",
        "noise:std=0.1",
        "identity",
    ]
    assert list(growing.one_by_one("identity,a.b:Class:std=0.1,path=c:d")) == ["identity", "a.b:Class:std=0.1,path=c:d"]
    with pytest.raises(InputError, match=r"--method fpi: 'random' is not an option; write --method fpi:key=value"):
        parse_method("fpi:map=random,random")


def test_progress_without_a_terminal_is_a_line_now_and_then() -> None:
    stream = io.StringIO()
    with terminal.Advance("writing big", Console(file=stream, width=200), every_seconds=0) as advance:
        advance(0, 4 * 2**30)
        advance(2**30, 4 * 2**30)
    assert stream.getvalue().startswith("writing big: 1 GiB of 4 GiB, ") and stream.getvalue().endswith("s left\n")
    quiet = io.StringIO()
    with terminal.Advance("writing big", Console(file=quiet, width=200)) as advance:
        advance(1, 2)
    assert quiet.getvalue() == ""
    shown = io.StringIO()
    with terminal.Advance(
        "writing big", Console(file=shown, width=100, force_terminal=True), every_seconds=0
    ) as advance:
        advance(2**30, 4 * 2**30)
    assert "writing big" in shown.getvalue()


# --- the support matrix


def test_the_matrix_names_every_family_in_100_columns(run: Run) -> None:
    text = run("list", "families")
    lines = text.splitlines()
    assert all(any(line.startswith(f"{family} ") for line in lines) for family in FAMILIES)
    assert max(len(line.rstrip()) for line in lines) <= 100
    found = {entry["name"]: entry for entry in json.loads(run("list", "families", "--json"))}
    assert list(found) == list(FAMILIES)
    assert found["electra"]["heads"] == ["masked-lm", "discriminator", "sequence-classification"]
    assert json.loads(run("list", "families", "opt", "--json"))["width"] == "heads"


def test_the_matrix_against_what_is_known_of_the_families() -> None:
    known = {
        "bert": ("LN post", "multiples", False, False, False, True, ()),
        "modernbert": ("LN pre", "multiples", True, False, False, True, ("qkv", "gate|up")),
        "gpt2": ("LN pre", "heads", True, False, False, True, ("qkv",)),
        "gpt_neox": ("LN pre", "heads", True, False, False, False, ("qkv",)),
        "llama": ("RMS pre", "heads", True, True, False, False, ()),
        "phi3": ("RMS pre", "any", True, True, False, False, ("qkv", "gate|up")),
        "gemma2": ("RMS pre+post", "heads", True, True, False, True, ()),
        "olmo2": ("RMS post", "any", True, True, False, False, ()),
        "mixtral": ("RMS pre", "any", True, True, True, False, ("gate|up",)),
    }
    for name, facts in known.items():
        found = supported(FAMILIES[name])
        told = (found.norm, found.width, found.depth, found.kv_groups, found.experts, found.tied, found.fused)
        assert told == facts, name


@pytest.mark.parametrize("family", FAMILIES)
def test_the_matrix_promises_the_widths_that_the_planner_takes(family: str) -> None:
    """66 is no whole number of 4 or 5 heads of 16, 80 is; 66 needs its heads named."""
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    config = complete_config(family, sizes, head=next(iter(FAMILIES[family].heads)), vocab_size=100)
    width = supported(FAMILIES[family]).width

    def exact(to: dict[str, int]) -> bool:
        try:
            return plan_growth(config, to).exact
        except InputError:
            return False

    assert exact({"hidden_size": 66, "num_attention_heads": 4}) == (width == "any")
    assert exact({"hidden_size": 80}) == (width in ("any", "heads"))
    assert exact({"hidden_size": 128})
