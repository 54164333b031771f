"""The commands on tiny models: what they print, what they write, that --json is JSON, that --force is needed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from bequest import checkpoints, lineage
from bequest.anatomy import FAMILIES, complete_config
from bequest.cli import COMMANDS, call
from bequest.commands.making import templates
from bequest.planning import make_plan
from bequest.recipe import load_recipe

Run = Callable[..., str]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama with a tokenizer, every parameter jittered."""
    config = complete_config("llama", SIZES, head="causal-lm", vocab_size=40)
    model = checkpoints.new_model(config, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    directory = tmp_path_factory.mktemp("models") / "tiny"
    checkpoints.save_model(model, directory)
    words = Tokenizer(models.WordLevel({"<unk>": 0, **{f"w{i}": i for i in range(1, 40)}}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    checkpoints.save_tokenizer(PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>"), directory)
    return directory


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in an empty directory; returns its standard output."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: object, code: int = 0) -> str:
        found = call([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert found == code, captured.err
        return captured.out if code == 0 else captured.err

    return command


def adapter(base: Path, out: Path) -> Path:
    """A LoRA adapter of a base with everything in it away from its defaults."""
    import peft

    model = AutoModelForCausalLM.from_pretrained(base)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora" in name:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    checkpoints.save_adapter(wrapped, out)
    return out


# -- new, list --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(templates()))
def test_every_starter_recipe_can_be_planned(name: str, run: Run, tmp_path: Path) -> None:
    run("new", "mine.yaml", "--template", name)
    plan = make_plan(load_recipe(tmp_path / "mine.yaml"))
    assert plan.train_flops > 0 and Path("mine.yaml").read_text().startswith("# ")
    assert run("new", "--template", name) == Path("mine.yaml").read_text()


def test_new_replaces_only_when_told(run: Run) -> None:
    run("new", "mine.yaml")
    Path("mine.yaml").write_text("precious")
    assert "--force" in run("new", "mine.yaml", code=2) and Path("mine.yaml").read_text() == "precious"
    assert "bequest plan mine.yaml" in run("new", "mine.yaml", "--force")
    assert Path("mine.yaml").read_text() == templates()["lifecycle"]


def test_list_documents_what_there_is(run: Run) -> None:
    assert all(family in run("list", "families") for family in FAMILIES)
    table = run("list", "families", "bert")
    assert "bert.embeddings.word_embeddings.weight" in table and "hidden_size" in table
    text = run("list", "methods", "replay")
    assert "share" in text and "0.05" in text and "replayed" in text and "Ibrahim" in text
    assert {"fpi", "stack", "linear", "sequential", "replay", "direct", "initialise"} <= set(
        run("list", "methods").split()
    )


def test_the_catalogue_agrees_with_the_classes() -> None:
    """What is read from the source is what the import gives: names, fields and defaults."""
    import dataclasses
    import importlib

    from bequest.methods import named_class
    from bequest.recipe import catalogue

    for verb, package in catalogue.VERBS.items():
        registry = importlib.import_module(package).METHODS
        assert list(catalogue.methods(verb)) == list(registry)
        for name, doc in catalogue.methods(verb).items():
            found = named_class(registry, name, verb=verb)
            assert [field.name for field in doc.fields] == [field.name for field in dataclasses.fields(found)], name
            assert doc.summary and all(field.text for field in doc.fields), name
    assert list(catalogue.schedules()) == list(importlib.import_module("bequest.inheritance").SCHEDULES)


def test_the_catalogue_agrees_with_peft() -> None:
    import dataclasses

    import peft

    from bequest.recipe import catalogue

    assert set(catalogue.adapter_types()) == {kind.value.lower() for kind in peft.PeftType}
    for kind, config in (("lora", peft.LoraConfig), ("ia3", peft.IA3Config), ("vera", peft.VeraConfig)):
        assert {field.name for field in dataclasses.fields(config)} <= {
            *catalogue.adapter_fields(kind),
            "runtime_config",
        }


# -- inspect, grow, adopt, carry, tree --------------------------------------------------------------------------------


def test_inspect_a_model(run: Run, tiny: Path) -> None:
    text = run("inspect", tiny)
    parameters = sum(parameter.numel() for parameter in AutoModelForCausalLM.from_pretrained(tiny).parameters())
    assert f"{parameters:,}" in text and "LlamaForCausalLM" in text and "hidden_size=64" in text
    assert "WordLevel, 40 entries" in text and lineage.weights_digest(tiny) in text and "bequest adopt" in text
    found = json.loads(run("inspect", tiny, "--json"))
    assert found["digests"]["weights"] == lineage.weights_digest(tiny) and found["lineage"] is None
    wanted = ["hidden_size=48", "hidden_size=64", "num_hidden_layers=3"]
    assert [(target["to"], target["exact"]) for target in found["growth"]] == [(to, True) for to in wanted]


def test_grow_writes_a_whole_generation(run: Run, tiny: Path) -> None:
    text = run("grow", tiny, "big", "--to", "hidden_size=64", "--method", "fpi", "--check")
    assert "writes big/" in text.splitlines()[0] and "exact" in text and 'from_pretrained("big")' in text
    big = AutoModelForCausalLM.from_pretrained("big")
    ids = torch.arange(1, 13)[None]
    small = AutoModelForCausalLM.from_pretrained(tiny)
    with torch.no_grad():
        torch.testing.assert_close(big(input_ids=ids).logits, small(input_ids=ids).logits, rtol=1e-4, atol=1e-4)
    record = lineage.read_lineage("big")
    assert record.operation.stage == "grow" and record.operation.maps and record.measures["growth"]["preserved"]
    assert record.parents[0].id == lineage.identity_of(tiny) and Path("big/README.md").is_file()
    before = Path("big/model.safetensors").read_bytes()
    assert "--force" in run("grow", tiny, "big", "--to", "hidden_size=96", code=2)
    assert Path("big/model.safetensors").read_bytes() == before
    found = json.loads(run("grow", tiny, "big", "--to", "hidden_size=96,", "--force", "--json"))
    assert found["plan"]["exact"] is True and AutoModelForCausalLM.from_pretrained("big").config.hidden_size == 96


def test_grow_refuses_what_the_method_cannot_do(run: Run, tiny: Path) -> None:
    line = run("grow", tiny, "big", "--to", "hidden_size=80", "--method", "hypercloning", code=2)
    assert "hidden_size" in line and not Path("big").exists() and line.count("\n") == 1
    assert "is not a whole number" in run("grow", tiny, "big", "--to", "hidden_size=6.5", code=2)
    assert "is smaller" in run("grow", tiny, "big", "--to", "hidden_size=16", code=2)
    assert "did you mean" in run("grow", tiny, "big", "--to", "hiden_size=64", code=2)
    assert list(Path().iterdir()) == []


def test_adopt_writes_one_file_and_only_once(run: Run, tiny: Path, tmp_path: Path) -> None:
    base, tuned = tmp_path / "base", adapter(tiny, tmp_path / "adapter")
    checkpoints.save_model(checkpoints.load_model(tiny), base)
    before = {path: path.read_bytes() for path in base.iterdir()}
    assert "writes" in run("adopt", base)
    assert {path: path.read_bytes() for path in before} == before and len(list(base.iterdir())) == len(before) + 1
    assert "--force" in run("adopt", base, code=2)
    Path("train.jsonl").write_text('{"text": "x", "label": "no"}\n{"text": "y", "label": "a"}\n')
    found = json.loads(run("adopt", tuned, "--base", base, "--task", "train.jsonl", "--json"))["lineage"]
    assert found["kind"] == "adapter" and found["operation"]["parameters"]["labels"] == ["a", "no"]
    assert found["parents"] == [{"id": lineage.identity_of(base), "role": "base", "name": "base", "path": "../base"}]
    assert "is an adapter" in run("adopt", base, "--base", tuned, "--force", code=2)


def test_carry_makes_an_adapter_that_computes_on_the_new_base(run: Run, tiny: Path, tmp_path: Path) -> None:
    tuned = adapter(tiny, tmp_path / "adapter")
    run("adopt", tuned, "--base", tiny)
    newer = checkpoints.load_model(tiny)
    with torch.no_grad():
        for parameter in newer.parameters():
            parameter.mul_(1.01)
    checkpoints.save_model(newer, tmp_path / "newer")
    checkpoints.save_tokenizer(checkpoints.load_tokenizer(tiny), tmp_path / "newer")
    assert "PeftModel" in run("carry", tuned, "--onto", "newer", "carried")
    record = lineage.read_lineage("carried")
    assert {parent.role for parent in record.parents} == {"tuned", "base"}
    import peft

    carried = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("newer"), "carried")
    ids = torch.arange(1, 9)[None]
    with torch.no_grad():
        assert not torch.equal(carried(input_ids=ids).logits, newer(input_ids=ids).logits)
    assert "--force" in run("carry", tuned, "--onto", "newer", "carried", code=2)


def test_tree_of_one_and_of_many(run: Run, tiny: Path, tmp_path: Path) -> None:
    base = tmp_path / "run" / "base"
    checkpoints.save_model(checkpoints.load_model(tiny), base)
    run("adopt", base)
    run("grow", base, "run/big", "--to", "hidden_size=64")
    run("grow", "run/big", "run/bigger", "--to", "hidden_size=128")
    one = run("tree", "run/bigger").splitlines()
    assert [name in line for name, line in zip(("bigger", "base: big", "base: base"), one, strict=True)] == [True] * 3
    many = run("tree", "run").splitlines()
    assert [name in line for name, line in zip(("run", "base", "big", "bigger"), many, strict=True)] == [True] * 4
    indents = [len(line) - len(line.lstrip("│├└─ ")) for line in many]
    assert indents == sorted(set(indents))
    nested = json.loads(run("tree", "run/bigger", "--json"))
    assert nested["parents"][0]["parents"][0]["name"] == "base"
    assert len(json.loads(run("tree", "run", "--json"))["generations"]) == 3


def test_a_plan_reads_models_from_outside(run: Run, tiny: Path, tmp_path: Path) -> None:
    tuned = adapter(tiny, tmp_path / "adapter")
    run("adopt", tuned, "--base", tiny)
    checkpoints.save_model(checkpoints.load_model(tiny), tmp_path / "newer")
    checkpoints.save_tokenizer(checkpoints.load_tokenizer(tiny), tmp_path / "newer")
    Path("r.yaml").write_text(
        "name: outside\nstages:\n"
        "  - recycle: {name: carried, tuned: adapter, onto: newer}\n"
        "  - grow: {name: big, from: newer, to: {hidden_size: 64}}\n"
    )
    stages = json.loads(run("plan", "r.yaml", "--json"))["stages"]
    assert stages[0]["trainable"] == 2 * 2 * (32 + 32 + 32 + 32) and stages[1]["exact"] is True
    for override, text in (
        ("stages.carried.tuned=newer", "newer holds a base model, and tuned weights must stand here"),
        ("stages.carried.onto=adapter", "adapter holds tuned weights, and a base model must stand here"),
        ("stages.big.from=adapter", "adapter holds tuned weights"),
        ("stages.carried.onto=big", "stage 'big' comes later"),
    ):
        line = run("plan", "r.yaml", override, code=2)
        assert text in line and line.count("\n") == 1
    (tmp_path / "newer" / "tokenizer.json").unlink()
    assert "holds no tokenizer" in run("plan", "r.yaml", code=2)


# -- the frame --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself_and_has_json(command: str, run: Run) -> None:
    text = run(command, "--help")
    assert "Usage" in text and "--json" in text
    documented: Any = COMMANDS[command].__doc__
    assert documented and documented.split(".")[0][:25] in " ".join(text.split())


def test_without_a_terminal_there_is_no_colour_and_no_box(run: Run) -> None:
    run("new", "mine.yaml")
    for text in (run("plan", "mine.yaml"), run("list", "methods")):
        assert "\x1b" not in text and "─" not in text and max(map(len, text.splitlines())) < 400
    planned = json.loads(run("plan", "mine.yaml", "--json"))
    assert planned["stages"][1]["exact"] is True and planned["memory_bytes"] > 0


def test_version_and_bare_call(run: Run) -> None:
    assert run("--version").startswith("bequest ")
    assert "Usage" in run()
