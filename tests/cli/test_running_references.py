"""What a run refers to: Hub ids by their id, bases that no relative path leads to, the recipe as it was run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import bequest
from bequest import lineage
from bequest.cli import call
from bequest.recipe import Section, load_recipe
from bequest.stages import adapt

LAWS = Path(__file__).resolve().parents[1] / "laws"
CAUSAL = (
    "  - pretrain: {name: causal, model: {family: llama, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2,"
    " max_position_embeddings: 64}, corpus: text, tokenizer: {vocab_size: 320}, tokens: 1024, block: 16,"
    " batch_tokens: 256, lr: 3e-3}\n"
)
HEAD = (
    "name: refer\ncorpora:\n  text: {files: text.jsonl, held_out: 0.2}\n  more: {files: more.jsonl, held_out: 0.2}\n"
    "tasks:\n  parity: {train: train.jsonl, test: test.jsonl}\nstages:\n"
)
SMALL = "task: parity, epochs: 1, batch: 8, max_length: 16"
LINES = (
    f"  - tune: {{name: tuned, from: OLD, adapter: {{type: lora, r: 2}}, {SMALL}}}\n"
    f"  - tune: {{name: full, from: OLD, {SMALL}}}\n"
    "  - recycle: {name: tuned-2, tuned: tuned, onto: NEW}\n"
    "  - recycle: {name: full-2, tuned: full, onto: NEW}\n"
    f"  - recycle: {{name: started-2, tuned: tuned, onto: NEW, method: initialise, {SMALL}}}\n"
    "  - measure: {models: [tuned, full, tuned-2, full-2], tasks: all}\n"
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("references")
    subprocess.run([sys.executable, str(LAWS / "kill_driver.py"), "prepare", str(directory)], check=True)
    (directory / "base.yaml").write_text(HEAD + CAUSAL)
    bequest.run(directory / "base.yaml", out=directory / "base")
    return directory


def other_base(source: Path, target: Path) -> None:
    """A base of the same shape and tokenizer with other weights."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, target, ignore=shutil.ignore_patterns("lineage.json"))
    weights = {name: value * 1.01 for name, value in load_file(source / "model.safetensors").items()}
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})


def put_on_hub(home: Path, name: str, source: Path, sha: str) -> None:
    """Put a model into a hand-made cache of the Hub, as an old Hub model looks: no lineage, no special token named."""
    repository = home / "hub" / f"models--{name.replace('/', '--')}"
    target = repository / "snapshots" / sha
    target.mkdir(parents=True)
    for file in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(source / file, target / file)
    settings = {"tokenizer_class": "GPT2Tokenizer", "model_max_length": 64}
    (target / "tokenizer_config.json").write_text(json.dumps(settings))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(sha)


def command(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_HUB_CACHE", None)
    return subprocess.run(
        [sys.executable, "-m", "bequest", *arguments], env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def hub(place: Path) -> Path:
    home = place / "home"
    other_base(place / "base" / "causal", place / "second")
    put_on_hub(home, "org/base-v1", place / "base" / "causal", "1" * 40)
    put_on_hub(home, "org/base-v2", place / "second", "2" * 40)
    return home


def test_hub_ids_are_carried_by_their_id(place: Path, hub: Path) -> None:
    (place / "hub.yaml").write_text(HEAD + LINES.replace("OLD", "org/base-v1").replace("NEW", "org/base-v2"))
    done = command(hub, "run", str(place / "hub.yaml"), "--out", str(place / "hub-run"))
    assert done.returncode == 0, done.stderr[-2000:]
    out = place / "hub-run"
    for stage, base in (("tuned", "v1"), ("full", "v1"), ("tuned-2", "v2"), ("full-2", "v2"), ("started-2", "v2")):
        parent = lineage.read_lineage(out / stage).parent("base")
        assert parent is not None and (parent.name, parent.path) == (f"org/base-{base}", None), stage
        card = (out / stage / "README.md").read_text()
        assert f'base_model:\n- "org/base-{base}"' in card
        config = out / stage / "adapter_config.json"
        if config.is_file():
            assert json.loads(config.read_text())["base_model_name_or_path"] == f"org/base-{base}"
    for file in (
        file for stage in ("tuned", "full", "tuned-2", "full-2", "started-2") for file in (out / stage).rglob("*.json")
    ):
        text = file.read_text()
        assert "1" * 40 not in text and "2" * 40 not in text and "snapshots" not in text, file
    # Another recipe finds the base of these weights on the Hub again, and knows it by its id.
    (place / "later.yaml").write_text(HEAD + "  - measure: {models: [hub-run/tuned], tasks: all}\n")
    later = command(hub, "run", str(place / "later.yaml"), "--out", str(place / "later"))
    assert later.returncode == 0, later.stderr[-2000:]
    first = json.loads((out / "measure" / "measures.json").read_text())["tasks"]["tuned"]["parity"]["accuracy"]
    again = json.loads((place / "later" / "measure" / "measures.json").read_text())["tasks"]["hub-run/tuned"]
    assert again["parity"]["accuracy"] == first


def test_hub_tokenizers_are_compared_by_what_they_are(place: Path, hub: Path) -> None:
    put_on_hub(hub, "org/other", place / "second", "3" * 40)
    file = hub / "hub" / "models--org--other" / "snapshots" / ("3" * 40) / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    words = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    swapped = dict(zip([words[-1], *words[1:-1], words[0]], range(len(words)), strict=True))
    file.write_text(json.dumps({**tokenizer, "model": {**tokenizer["model"], "vocab": swapped}}))
    (place / "other.yaml").write_text(HEAD + LINES.replace("OLD", "org/base-v1").replace("NEW", "org/other"))
    refused = command(hub, "plan", str(place / "other.yaml"))
    assert refused.returncode == 2
    assert "stages.tuned-2.onto: the tokenizer of org/other differs" in refused.stderr


def test_a_base_that_no_path_leads_to_is_found_through_the_recipe(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a base on another mount, or above the home directory: the lineage holds no path to it."""
    other_base(place / "base" / "causal", tmp_path / "second")
    monkeypatch.setattr(lineage, "relative_path", lambda target, start: None)
    recipe = place / "far.yaml"
    recipe.write_text(
        HEAD + LINES.replace("OLD", str(place / "base" / "causal")).replace("NEW", str(tmp_path / "second"))
    )
    done = bequest.run(recipe, out=tmp_path / "run")
    for stage in ("tuned", "full-2"):
        parent = lineage.read_lineage(done.directory(stage)).parent("base")
        assert parent is not None and parent.path is None
    measured = json.loads((done.directory("measure") / "measures.json").read_text())["tasks"]
    assert set(measured) == {"tuned", "full", "tuned-2", "full-2"}


def test_the_copy_of_the_recipe_is_what_was_run(place: Path, tmp_path: Path) -> None:
    recipe = place / "base.yaml"
    assert bequest.run(recipe, out=tmp_path / "plain").ran == ["causal"]
    assert (tmp_path / "plain" / "recipe.yaml").read_text() == recipe.read_text()
    overrides = ["stages.causal.tokens=512", "stages.causal.lr=1e-3", "name=other"]
    done = bequest.run(recipe, out=tmp_path / "changed", overrides=overrides)
    text = (done.out / "recipe.yaml").read_text()
    assert text.splitlines()[0] == "# with the command line's changes: " + "  ".join(overrides)
    copied = load_recipe(done.out / "recipe.yaml")
    section = copied.stage("causal")
    assert copied.name == "other" and section == load_recipe(recipe, overrides).stage("causal")
    assert isinstance(section, Section) and section != load_recipe(recipe).stage("causal")


def test_a_finished_domain_keeps_its_model_and_not_its_checkpoints(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = place / "domains.yaml"
    recipe.write_text(
        HEAD + CAUSAL + "  - adapt: {name: wider, from: causal, domains: [more, text], tokens: 512, block: 16,"
        " batch_tokens: 256, checkpoint_every: 1}\n"
    )
    kept: list[tuple[list[str], bool]] = []

    def watched(*arguments: object, **options: object) -> None:
        work = tmp_path / "run" / ".wider.work"
        for domain in ("0-more", "1-text"):
            found = sorted(path.name for path in (work / domain / "training").iterdir())
            kept.append((found, (work / domain / "model").is_dir()))
        publish(*arguments, **options)

    publish = adapt.publish_model
    monkeypatch.setattr(adapt, "publish_model", watched)
    assert "wider" in bequest.run(recipe, out=tmp_path / "run").ran
    assert [model for _, model in kept] == [True, True]
    assert all("metrics.jsonl" in names and "checkpoints" not in names for names, _ in kept)


def test_a_grown_directory_gets_one_lineage(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[str] = []
    make = lineage.make_lineage
    monkeypatch.setattr(lineage, "make_lineage", lambda *a, **k: made.append(k["name"]) or make(*a, **k))
    source = place / "base" / "causal"
    assert call(["grow", str(source), str(tmp_path / "wide"), "--to", "hidden_size=64", "--json"]) == 0
    assert made == ["wide"] and (tmp_path / "wide" / "README.md").is_file()
    record = lineage.read_lineage(tmp_path / "wide")
    assert json.loads(capsys.readouterr().out)["id"] == record.id
    bequest.grow_checkpoint(source, tmp_path / "same", {"hidden_size": 64})
    assert lineage.read_lineage(tmp_path / "same").id == record.id
