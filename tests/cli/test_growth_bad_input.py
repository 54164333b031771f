"""``bequest grow`` given what it cannot use: one line with file, key and remedy; exit code 2; nothing left behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bequest import checkpoints
from bequest.cli import call
from bequest.growth import stream
from growth_support import build

#: llama: width 32, 2 blocks, 6 query heads on 2 key-value heads of 8, a tied head.  gpt2 and bert: 4 heads of 8.
LLAMA = {"num_attention_heads": 6, "num_key_value_heads": 2, "hidden_size": 48, "tie_word_embeddings": True}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One directory with a tiny model of each kind that the cases need."""
    place = tmp_path_factory.mktemp("models")
    checkpoints.save_model(build("llama", "causal-lm", **LLAMA), place / "llama")
    checkpoints.save_model(build("gpt2", "causal-lm"), place / "gpt2")
    checkpoints.save_model(build("bert", "masked-lm"), place / "bert")
    build("gpt2", "causal-lm").save_pretrained(place / "shards", max_shard_size="40KB")
    return place


@pytest.fixture
def place(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of one's own, from which the models are reached by name."""
    for source in models.iterdir():
        (tmp_path / source.name).mkdir()
        for file in source.iterdir():
            (tmp_path / source.name / file.name).write_bytes(file.read_bytes())
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    (tmp_path / "empty.txt").write_text("\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def snapshot(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def refused(words: str, place: Path, capsys: pytest.CaptureFixture[str], *, code: int = 2) -> str:
    """Run a growth that must fail in one line and leave nothing; returns the line."""
    before, names = snapshot(place), sorted(path.name for path in place.rglob("*"))
    assert call(["grow", *words.split()]) == code
    captured = capsys.readouterr()
    assert captured.err.startswith("bequest: ") and captured.err.count("\n") == 1, captured.err
    assert "Traceback" not in captured.err and "this is a bug" not in captured.err
    assert snapshot(place) == before and sorted(path.name for path in place.rglob("*")) == names
    return captured.err


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        # shrinking, and not growing
        ("llama out --to hidden_size=24", ["hidden_size: 24 is smaller than the source's 48"]),
        ("llama out --to num_hidden_layers=1", ["num_hidden_layers: 1 is smaller than the source's 2"]),
        ("gpt2 out --to n_embd=16", ["n_embd: 16 is smaller than the source's 32"]),
        ("llama out --to hidden_size=48", ["no larger than the source", "name a larger size"]),
        # the size of a head
        ("llama out --to head_dim=16", ["head_dim: the head_dim stays 8", "name num_attention_heads instead"]),
        (
            "gpt2 out --to num_attention_heads=8",
            ["num_attention_heads: gpt2 derives the head_dim", "a hidden_size of 64"],
        ),
        ("bert out --to hidden_size=64,num_attention_heads=4", ["num_attention_heads: bert derives the head_dim"]),
        # groups of heads
        (
            "llama out --to num_key_value_heads=4",
            ["num_key_value_heads: 6 query heads cannot share 4", "a divisor of 6"],
        ),
        ("llama out --to num_key_value_heads=3", ["query head 5 finds no place", "keep the number of query heads"]),
        # sizes that the family's config refuses
        (
            "llama out --to hidden_size=50",
            ["hidden_size: a width of 50 is no whole number of heads", "choose 48 or 56"],
        ),
        ("gpt2 out --to hidden_size=50", ["hidden_size: a width of 50", "choose 48 or 56"]),
        (
            "llama out --to hidden_size=50,num_attention_heads=6",
            ["hidden_size: llama cannot divide", "choose 48 or 54"],
        ),
        ("llama out --to vocab_size=100", ["vocab_size: vocabulary and positions do not grow", "leave it out"]),
        ("llama out --to max_position_embeddings=100", ["max_position_embeddings: vocabulary and positions"]),
        # names and numbers
        ("llama out --to hiden_size=64", ["hiden_size: llama has no size", "did you mean 'hidden_size'?"]),
        ("llama out --to n_embd=64", ["n_embd: llama has no size"]),
        ("llama out --to hidden_size", ["--to: 'hidden_size' is not a size", "write --to hidden_size=1024"]),
        ("llama out --to hidden_size=wide", ["--to hidden_size: 'wide' is not a number"]),
        ("llama out --to hidden_size=64.5", ["--to hidden_size: '64.5' is not a whole number"]),
        ("llama out --to hidden_size=-64", ["--to hidden_size: must be a whole number of at least 1, not -64"]),
        ("llama out --to hidden_size=0", ["hidden_size: must be a whole number of at least 1"]),
        ("llama out --to hidden_size=64 --to hidden_size=96", ["--to hidden_size: is named twice"]),
        ("llama out --to ,", ["no size to grow is named"]),
        ("llama out", ["missing option '--to'"]),
        # methods
        (
            "llama out --to hidden_size=64 --method isometrik",
            ["no grow method 'isometrik'", "did you mean 'isometric'?"],
        ),
        ("llama out --to hidden_size=64 --method fpi:mapp=random", ["fpi has no option 'mapp'", "did you mean 'map'?"]),
        ("llama out --to hidden_size=64 --method fpi:map=square", ["map must be circular or random, not 'square'"]),
        ("llama out --to hidden_size=64 --method noise:std=-1", ["std must be a number of at least 0"]),
        (
            "llama out --to hidden_size=64 --method isometric,noise:std=-1",
            ["method: noise: std must be a number of at least 0, not -1"],
        ),
        ("llama out --to hidden_size=64 --method ligo:noise=-1", ["ligo: noise must be a number of at least 0"]),
        ("llama out --to num_experts=4 --method upcycle:perturb=-1", ["upcycle: perturb must be a number of at least"]),
        ("llama out --to hidden_size=96 --method hypercloning:snr_db=x", ["hypercloning: snr_db must be a number"]),
        ("llama out --to hidden_size=96 --method hypercloning:snr_db=-1e9", ["hypercloning: snr_db must be a number"]),
        # experts
        ("llama out --to num_local_experts=4", ["num_local_experts: llama has no experts", "the method upcycle makes"]),
        ("llama out --to num_experts=4,hidden_size=96", ["num_experts: llama has no experts", "--method upcycle"]),
        ("gpt2 out --to num_experts=4", ["num_experts: gpt2 has no experts", "one of llama, mistral, qwen2"]),
        ("llama out --to hidden_size=64 --method gone.module:Class", ["gone.module:Class cannot be imported"]),
        (
            "llama out --to hidden_size=64 --method fpi --method isometric",
            ["method: 2 of the methods named (fpi, isometric) grow the width", "exactly one such method"],
        ),
        (
            "llama out --to num_hidden_layers=4 --method stack --method identity",
            ["method: 2 of the methods named (stack, identity) grow the depth"],
        ),
        (
            "llama out --to hidden_size=64 --method isometric --method noise --method lemon",
            ["grow the width", "exactly one such method"],
        ),
        (
            "llama out --to hidden_size=64 --method fpi,stack,isometric",
            ["2 of the methods named (fpi, stack, isometric)"],
        ),
        ("llama out --to hidden_size=64 --method stack", ["method: 0 of the methods named (stack) grow the width"]),
        ("llama out --to num_hidden_layers=4 --method fpi", ["method: 0 of the methods named (fpi) grow the depth"]),
        ("bert out --to hidden_size=48 --method isometric", ["keeps mean squares, and bert has LayerNorms", "fpi"]),
        ("llama out --to hidden_size=56 --method scaled_average", ["is for LayerNorms, and llama has RMSNorms"]),
        ("bert out --to hidden_size=48 --method lemon", ["hidden_size: bert grows exactly by whole multiples only"]),
        ("llama out --to hidden_size=56 --method hypercloning", ["hypercloning grows by whole multiples", "choose 96"]),
        # options
        ("llama out --to hidden_size=64 --dtype bf15", ["--dtype: no dtype 'bf15'", "did you mean 'bf16'?"]),
        ("llama out --to hidden_size=64 --seed -1", ["'--seed'", "greater than or equal to 0"]),
        ("llama out --to hidden_size=64 --prompts empty.txt", ["--prompts: are for the check", "add --check"]),
        ("llama out --to hidden_size=64 --check --prompts gone.txt", ["gone.txt: --prompts: no such file"]),
        ("llama out --to hidden_size=64 --check --prompts empty.txt", ["empty.txt: --prompts: is empty"]),
        ("llama out --to hidden_size=64 --check --prompts notes", ["notes: --prompts: is not a text file"]),
        # places
        ("gone out --to hidden_size=64", ["gone: no such directory"]),
        ("notes out --to hidden_size=64", ["notes: holds neither a model (config.json) nor a PEFT adapter"]),
        ("llama bert --to hidden_size=64", ["bert: already exists", "--force"]),
        ("llama notes --to hidden_size=64", ["notes: already exists"]),
        ("llama notes --to hidden_size=64 --force", ["notes: is not a model or adapter, and is not replaced"]),
        ("llama empty.txt --to hidden_size=64", ["empty.txt: is a file", "name another directory"]),
        ("llama llama/big --to hidden_size=64", ["llama/big: is, holds or lies in its own source llama"]),
        ("llama . --to hidden_size=64 --force", ["holds or lies in its own source"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_words(words: str, parts: list[str], place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(words, place, capsys)
    for part in parts:
        assert part in line


# --- configs


def reconfigured(**changes: Any) -> Callable[[Path], None]:
    def change(place: Path) -> None:
        file = place / "llama" / "config.json"
        config = {**json.loads(file.read_text()), **changes}
        file.write_text(json.dumps({key: value for key, value in config.items() if value != "nothing"}))

    return change


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"model_type": "bloom"}, ["'bloom'", "ALiBi's slopes depend on a head's index", "rotary or learnt positions"]),
        ({"model_type": "mpt"}, ["'mpt'", "ALiBi"]),
        ({"model_type": "minicpm"}, ["'minicpm'", "its multipliers are derived from its sizes"]),
        ({"model_type": "lama"}, ["model_type: no anatomy table for the family 'lama'", "did you mean 'llama'?"]),
        ({"architectures": ["LlamaForQuestionAnswering"]}, ["architectures: LlamaForQuestionAnswering is none of"]),
        ({"architectures": []}, ["architectures: the config names no architecture"]),
        ({"hidden_size": "wide"}, ["hidden_size: must be a whole number"]),
        ({"num_key_value_heads": 4}, ["num_key_value_heads: 6 query heads cannot share 4"]),
        ({"rope_scaling": 5}, ["llama/config.json: rope_scaling: must be a mapping, not 5", "leave it out, or write"]),
        ({"rope_parameters": [1]}, ["llama/config.json: rope_parameters: must be a mapping, not [1]"]),
        ({"partial_rotary_factor": "x"}, ["llama/config.json: partial_rotary_factor: must be a number, not 'x'"]),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_configs(changes: dict[str, Any], parts: list[str], place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reconfigured(**changes)(place)
    line = refused("llama out --to hidden_size=96", place, capsys)
    for part in parts:
        assert part in line


def test_a_config_that_is_no_json(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "llama" / "config.json").write_text("{")
    assert "llama/config.json: not valid JSON" in refused("llama out --to hidden_size=96", place, capsys)
    (place / "llama" / "config.json").write_text("[]")
    assert "llama/config.json: not a config" in refused("llama out --to hidden_size=96", place, capsys)


# --- files


def weights_changed(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def apply(place: Path) -> None:
        file = place / "llama" / "model.safetensors"
        weights = load_file(file)
        change(weights)
        save_file(weights, file, metadata={"format": "pt"})

    return apply


def bytes_changed(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def apply(place: Path) -> None:
        (place / name).write_bytes(change((place / name).read_bytes()))

    return apply


def index_changed(change: Callable[[dict[str, str]], Any]) -> Callable[[Path], None]:
    def apply(place: Path) -> None:
        file = place / "shards" / "model.safetensors.index.json"
        index = json.loads(file.read_text())
        change(index["weight_map"])
        file.write_text(json.dumps(index))

    return apply


def swapped(weight_map: dict[str, str]) -> None:
    """The first tensor is said to lie in another shard."""
    name, file = next(iter(weight_map.items()))
    weight_map[name] = next(other for other in weight_map.values() if other != file)


UP = "model.layers.0.mlp.up_proj.weight"
FILES: dict[str, tuple[str, Callable[[Path], None], list[str]]] = {
    "an unknown tensor": (
        "llama",
        weights_changed(lambda weights: weights.update({"model.layers.9.x": torch.zeros(1)})),
        ["model.layers.9.x: no line of the table of llama names this tensor"],
    ),
    "a tensor less": ("llama", weights_changed(lambda weights: weights.pop(UP)), [f"{UP}: no tensor of the model"]),
    "another shape": (
        "llama",
        weights_changed(lambda weights: weights.update({UP: torch.zeros(3, 3)})),
        [f"{UP}: the model has (3, 3)"],
    ),
    "a tied head of its own": (
        "llama",
        weights_changed(lambda weights: weights.update({"lm_head.weight": torch.zeros(48, 48)})),
        ["lm_head.weight: the config ties this tensor", "they differ"],
    ),
    "a header cut short": (
        "llama",
        bytes_changed("llama/model.safetensors", lambda data: data[:20]),
        ["torn or not a"],
    ),
    "a file cut short": ("llama", bytes_changed("llama/model.safetensors", lambda data: data[:-8]), ["torn or not a"]),
    "a header of noise": (
        "llama",
        bytes_changed("llama/model.safetensors", lambda data: data[:9] + b"\xff" * 40 + data[49:]),
        ["model.safetensors: torn or not a safetensors file", "make, copy or download it again"],
    ),
    "an empty file": ("llama", bytes_changed("llama/model.safetensors", lambda _: b""), ["torn or not a"]),
    "no weights": ("llama", lambda place: (place / "llama" / "model.safetensors").unlink(), ["no safetensors weights"]),
    "a shard less": (
        "shards",
        lambda place: sorted((place / "shards").glob("model-*"))[1].unlink(),
        ["model.safetensors.index.json: shard model-00002-of", "is missing; copy or download it again"],
    ),
    "an index that lies": ("shards", index_changed(swapped), ["model.safetensors.index.json", "transformer."]),
    "an index that forgets": ("shards", index_changed(lambda named: named.pop(next(iter(named)))), ["transformer."]),
    "an index that invents": (
        "shards",
        index_changed(lambda named: named.update({"transformer.x": next(iter(named.values()))})),
        ["transformer.x"],
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_files(case: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, change, parts = FILES[case]
    change(place)
    line = refused(f"{source} out --to hidden_size=96", place, capsys)
    assert source in line
    for part in parts:
        assert part in line


def test_the_unchanged_shards_do_grow(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The control of the cases above."""
    assert len(list((place / "shards").glob("model-*"))) > 1
    for source in ("shards", "llama"):
        assert call(["grow", source, f"{source}-big", "--to", "hidden_size=96"]) == 0
    assert capsys.readouterr().err == ""


def test_prompts_that_cannot_be_encoded(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "texts.txt").write_text("a text\n")
    words = "llama out --to hidden_size=96 --check --prompts texts.txt"
    for more in ("", " --plan"):
        line = refused(words + more, place, capsys)
        assert "llama: --prompts: no tokenizer in this directory" in line and "leave --prompts out" in line


def test_no_space(place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk with a few free bytes: refused before anything is written."""
    monkeypatch.setattr(stream, "free_bytes", lambda _: 1000)
    line = refused("llama out --to hidden_size=96", place, capsys, code=3)
    assert "out: the disk is full: " in line and "free some space" in line


def test_a_method_that_learns_needs_a_corpus(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused("llama out --to hidden_size=96 --method ligo", place, capsys)
    assert "method: ligo learns its maps on a corpus" in line and "write corpus:" in line
