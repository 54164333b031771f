"""The models of the kit that are trained here, in miniature: a head on an encoder, half an encoder, and decoders."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, BertConfig, BertModel

from bequest import lineage
from bequest.data.corpora import open_corpus
from bequest.data.specs import CorpusSpec
from bequest.data.tokenizer_training import train_tokenizer
from bequest.errors import RunError
from lab.models import bench2m, growth_sources, minilm, minilm_half
from lab.models.making import Job
from lab.models.warmup import FrozenEncoder

WORDS = [
    "the",
    "a",
    "small",
    "old",
    "red",
    "river",
    "stone",
    "house",
    "bird",
    "runs",
    "sings",
    "falls",
    "near",
    "under",
    "over",
    "and",
    "then",
]
SMALL_STAGE = {"tokens": 4096, "block": 32, "batch_tokens": 512, "lr": 1e-3, "evaluate_every": 0.5}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty made-up documents."""
    generator = torch.Generator().manual_seed(0)
    path = tmp_path_factory.mktemp("corpus") / "general.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(60):
            picks = torch.randint(len(WORDS), (120,), generator=generator).tolist()
            text = " ".join(WORDS[pick] for pick in picks)
            file.write(json.dumps({"text": text, "group": f"article {number}"}) + "\n")
    return path


def job(tmp_path: Path, corpus: Path, settings: dict[str, Any]) -> Job:
    for name in ("source", "target", "work"):
        (tmp_path / name).mkdir()
    places = [tmp_path / name for name in ("source", "target", "work")]
    whole = {"held_out": 0.2, "seed": 0, **settings}
    return Job(whole, *places, Console(file=io.StringIO()), {"general": corpus})


def warming(tmp_path: Path, corpus: Path, below_control: float) -> Job:
    """A job on a tiny sentence encoder of one layer."""
    stage = {**minilm.STAGE, **SMALL_STAGE}
    made = job(tmp_path, corpus, {"stage": stage, "below_control": below_control})
    publish_encoder(made.source / minilm.FOLDER, tmp_path, corpus, layers=1)
    return made


def halving(tmp_path: Path, corpus: Path, below_unigram: float) -> Job:
    """A job on a tiny sentence encoder of four layers, of which two stay."""
    stage = {**minilm_half.STAGE, **SMALL_STAGE, "bf16": False}
    made = job(tmp_path, corpus, {"kept": [0, 2], "stage": stage, "below_unigram": below_unigram})
    publish_encoder(made.source / minilm.FOLDER, tmp_path, corpus, layers=4)
    return made


def publish_encoder(place: Path, tmp_path: Path, corpus: Path, *, layers: int) -> None:
    """A sentence encoder: no head, but a pooler and a stale buffer, as published."""
    place.mkdir(parents=True)
    opened = open_corpus("general", CorpusSpec(files=str(corpus)), tmp_path)
    tokenizer = train_tokenizer("wordpiece", [opened], 200)
    tokenizer.save_pretrained(place)
    torch.manual_seed(7)
    sizes = {"hidden_size": 16, "num_hidden_layers": layers, "num_attention_heads": 2, "intermediate_size": 32}
    model = BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **sizes))
    model.save_pretrained(place)
    stored = load_file(place / "model.safetensors")
    stored["embeddings.position_ids"] = torch.arange(64)[None]
    save_file(stored, place / "model.safetensors", metadata={"format": "pt"})


def test_the_head_learns_and_the_encoder_stays(tmp_path: Path, corpus: Path) -> None:
    made = warming(tmp_path, corpus, below_control=-9.0)
    figures = minilm.build(made)
    assert figures["encoder_unchanged"] is True
    assert figures["held_out"]["loss"] > 0 < figures["control"]["loss"]
    start, end = (
        load_file(made.work / minilm.HEADLESS / "model.safetensors"),
        load_file(made.target / "model.safetensors"),
    )
    moved = {name for name in end if not torch.equal(start[name], end[name])}
    assert moved == {name for name in end if name.startswith("cls.predictions")}
    model = AutoModelForMaskedLM.from_pretrained(made.target)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    record = lineage.read_lineage(made.target)
    assert record.operation.method == "lab.models.warmup:FrozenEncoder"
    assert [(parent.name, parent.path) for parent in record.parents] == [(minilm.HEADLESS, None)]
    assert record.data[0].name == "general"
    assert not (made.target / "stage.json").exists()


def test_the_head_begins_with_the_word_frequencies(tmp_path: Path, corpus: Path) -> None:
    made = warming(tmp_path, corpus, below_control=-9.0)
    place = made.source / minilm.FOLDER
    bias = minilm.log_frequencies(made, place)
    assert float(bias.exp().sum()) == pytest.approx(1.0, abs=1e-5)
    minilm.put_head_on(place, made.work / "headed", bias, trained=True, seed=0)
    assert minilm.encoder_is(place, made.work / "headed")
    model = AutoModelForMaskedLM.from_pretrained(made.work / "headed")
    assert torch.equal(model.cls.predictions.bias, bias)
    minilm.put_head_on(place, made.work / "untrained", bias, trained=False, seed=0)
    assert not minilm.encoder_is(place, made.work / "untrained"), "the comparison can fail"


def test_an_encoder_no_better_than_its_control_is_refused(tmp_path: Path, corpus: Path) -> None:
    made = warming(tmp_path, corpus, below_control=5.0)
    with pytest.raises(RunError, match=r"the proof failed: held-out loss \d"):
        minilm.build(made)


def test_only_what_is_not_of_the_base_model_is_left_to_learn(tmp_path: Path, corpus: Path) -> None:
    made = warming(tmp_path, corpus, below_control=0.0)
    place = made.source / minilm.FOLDER
    minilm.put_head_on(place, made.work / "headed", minilm.log_frequencies(made, place), trained=True, seed=0)
    model = AutoModelForMaskedLM.from_pretrained(made.work / "headed")
    every = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    prepared = FrozenEncoder().prepare(model)
    left = {name for name, parameter in prepared.named_parameters() if parameter.requires_grad}
    assert left == {name for name in every if name.startswith("cls.")}
    assert left < every
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight


def test_the_frozen_encoder_drops_nothing_out(tmp_path: Path, corpus: Path) -> None:
    made = warming(tmp_path, corpus, below_control=0.0)
    place = made.source / minilm.FOLDER
    minilm.put_head_on(place, made.work / "headed", minilm.log_frequencies(made, place), trained=True, seed=0)
    model = AutoModelForMaskedLM.from_pretrained(made.work / "headed").train()
    ids = torch.arange(20)[None]

    def twice_the_same() -> bool:
        first, second = (model(input_ids=ids).logits for _ in range(2))
        return torch.equal(first, second)

    assert not twice_the_same(), "before, it does"
    FrozenEncoder().prepare(model)
    assert model.training
    assert twice_the_same()
    assert model.config.hidden_dropout_prob > 0


def test_the_layers_that_stay_are_the_packages_in_their_order(tmp_path: Path, corpus: Path) -> None:
    made = halving(tmp_path, corpus, below_unigram=0.0)
    place, half = made.source / minilm.FOLDER, made.work / "half"
    half.mkdir()
    minilm_half.keep_layers(place, half, [0, 2])
    whole, cut = minilm.encoder_state(place), load_file(half / "model.safetensors")

    def layer(state: dict[str, torch.Tensor], index: int) -> dict[str, torch.Tensor]:
        prefix = f"encoder.layer.{index}."
        return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}

    def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
        return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)

    assert layer(cut, 0) and same(layer(cut, 0), layer(whole, 0)) and same(layer(cut, 1), layer(whole, 2))
    assert not same(layer(cut, 1), layer(whole, 1)), "the comparison can fail"
    assert not layer(cut, 2)
    others = {name for name in whole if not name.startswith("encoder.")}
    assert others and same({name: cut[name] for name in others}, {name: whole[name] for name in others})


@pytest.mark.parametrize("below", [-5.0, 5.0], ids=["proved", "refused"])
def test_half_an_encoder_is_trained_whole_and_proved_or_refused(tmp_path: Path, corpus: Path, below: float) -> None:
    made = halving(tmp_path, corpus, below_unigram=below)
    if below > 0:
        with pytest.raises(RunError, match=r"below the unigram entropy \d"):
            minilm_half.build(made)
        return
    figures = minilm_half.build(made)
    model = AutoModelForMaskedLM.from_pretrained(made.target)
    assert model.config.num_hidden_layers == 2 and figures["parameters"] == model.num_parameters()
    start = load_file(made.work / minilm_half.HEADED / "model.safetensors")
    end = load_file(made.target / "model.safetensors")
    assert start.keys() == end.keys() and not any(torch.equal(start[name], end[name]) for name in end)
    record = lineage.read_lineage(made.target)
    assert [(parent.name, parent.path) for parent in record.parents] == [(minilm_half.HEADED, None)]
    assert figures["held_out"]["tokens"] == record.cost.tokens == 4096


@pytest.mark.parametrize("module", [bench2m, growth_sources], ids=["bench2m", "growth sources"])
@pytest.mark.parametrize("below", [-5.0, 5.0], ids=["proved", "refused"])
def test_a_decoder_is_trained_and_proved_or_refused(
    tmp_path: Path, corpus: Path, module: ModuleType, below: float
) -> None:
    model = {"family": "llama", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokenizer = {"kind": "byte-bpe", "vocab_size": 300}
    stage = {**bench2m.STAGE, **SMALL_STAGE, "model": model, "tokenizer": tokenizer}
    made = job(tmp_path, corpus, {"name": "small", "stage": stage, "below_unigram": below})
    if below > 0:
        with pytest.raises(RunError, match=r"below the unigram entropy \d"):
            module.build(made)
        return
    figures = module.build(made)
    assert figures["held_out"]["tokens"] == 4096 and lineage.read_lineage(made.target).cost.train_flops > 0
    assert figures["parameters"] == AutoModelForCausalLM.from_pretrained(made.target).num_parameters()
    assert lineage.read_lineage(made.target).parents == []
