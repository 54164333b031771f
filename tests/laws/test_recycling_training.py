"""Tuning, recycling and scoring end to end on a task that a tiny model can learn."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from bequest import checkpoints, lineage
from bequest.anatomy import complete_config, family_named, objective_of
from bequest.data.tasks import Example, Task
from bequest.errors import InputError
from bequest.measures.intervals import paired
from bequest.measures.scores import macro_f1, score_base, score_tuned
from bequest.recycling import METHODS, Generation, read_tuned
from bequest.recycling.recycler import Tuning
from bequest.training.settings import TrainSettings
from bequest.training.tuning import TuneResult, tune

WORDS = 40
LABELS = ["blue", "green", "red"]


def make_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {"[PAD]": 0, "[UNK]": 1, **{f"w{index}": index + 2 for index in range(WORDS)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")


def make_base(path: Path, *, family: str = "llama", seed: int = 0, near: Path | None = None) -> Path:
    """A random base; with ``near`` that base and a little noise: a short upgrade."""
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "pad_token_id": 0,
    }
    config = complete_config(family, sizes, head=objective_of(family_named(family)), vocab_size=WORDS + 2)
    model = checkpoints.load_model(near) if near else checkpoints.new_model(config, seed=seed)
    generator = torch.Generator().manual_seed(seed + 100)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_((0.02 if near else 0.1) * torch.randn(parameter.shape, generator=generator))
    checkpoints.save_model(model, path)
    checkpoints.save_tokenizer(make_tokenizer(), path)
    return path


def make_task(name: str = "colours", *, order: int = 0, train: int = 96) -> Task:
    """The label is decided by which third of the words an example mostly uses."""
    rng = random.Random(7)

    def example() -> Example:
        kind = rng.randrange(3)
        words = [
            f"w{kind * 13 + rng.randrange(13)}" if rng.random() < 0.8 else f"w{rng.randrange(39)}" for _ in range(7)
        ]
        return Example(" ".join(words), None, LABELS[(kind + order) % 3])

    return Task(name, LABELS, [example() for _ in range(train)], [example() for _ in range(90)], [], f"{name}-{order}")


def settings(epochs: float, seed: int = 0) -> TrainSettings:
    return TrainSettings(
        epochs=epochs, batch=16, lr=1e-2, schedule="linear", seed=seed, bf16=False, checkpoint_every=None
    )


LORA = {"type": "lora", "r": 4, "lora_alpha": 8}


def save(result: TuneResult, directory: Path, base: Path) -> Path:
    result.save(directory)
    record = lineage.make_lineage(
        directory,
        name=directory.name,
        stage="tune",
        parameters=result.parameters(),
        parents=[lineage.parent_of(base, "base", child=directory)],
    )
    lineage.write_lineage(directory, record)
    return directory


@pytest.fixture(scope="module")
def upgraded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("bases")
    old = make_base(home / "old")
    new = make_base(home / "new", near=old, seed=1)
    made = tune(old, make_task(), adapter=LORA, settings=settings(12), directory=home / "work", max_length=16)
    wrong = tune(old, make_task(order=1), adapter=LORA, settings=settings(12), directory=home / "work2", max_length=16)
    return {"old": old, "new": new, "tuned": save(made, home / "tuned", old), "wrong": save(wrong, home / "wrong", old)}


def test_tuned_weights_learn_and_read_back(upgraded: dict[str, Path]) -> None:
    tuned = read_tuned(upgraded["tuned"])
    assert (tuned.kind, tuned.labels, tuned.task, tuned.max_length) == ("adapter", tuple(LABELS), "colours", 16)
    assert tuned.base == lineage.identity_of(upgraded["old"]) and tuned.base_name == "old"
    scores = score_tuned(upgraded["tuned"], upgraded["old"], make_task())
    assert scores.accuracy[0] > 0.7 and scores.how == "own" and len(scores.correct[0]) == 90
    assert scores.correct[0].count("1") / 90 == pytest.approx(scores.accuracy[0])
    # The control: the same weights for another meaning of the labels are right about nothing they learnt.
    assert score_tuned(upgraded["wrong"], upgraded["old"], make_task()).accuracy[0] < 0.3


def test_label_ids_follow_the_stored_map_and_not_the_file(upgraded: dict[str, Path]) -> None:
    task = make_task()
    expected = score_tuned(upgraded["tuned"], upgraded["old"], task)
    turned = score_tuned(upgraded["tuned"], upgraded["old"], replace(task, labels=list(reversed(LABELS))))
    assert turned == expected
    with pytest.raises(InputError, match="the task lacks green"):
        score_tuned(upgraded["tuned"], upgraded["old"], replace(task, labels=["blue", "red"]))
    with pytest.raises(InputError, match="measured on a base"):
        score_tuned(upgraded["tuned"], None, task)


def test_recycled_weights_beat_none_and_start_ahead_of_fresh_ones(upgraded: dict[str, Path], tmp_path: Path) -> None:
    task, few = make_task(), make_task(train=16)
    new, tuned = Generation(upgraded["new"]), read_tuned(upgraded["tuned"])
    direct = METHODS["direct"]()(tuned, None, new, None, out=tmp_path / "direct")
    assert score_live(tmp_path / "direct", tuned, upgraded) > 0.6 and direct.training is None
    recycled, fresh, unrelated = [], [], []
    for seed in range(3):
        work = tmp_path / str(seed)
        for source, found in ((upgraded["tuned"], recycled), (upgraded["wrong"], unrelated)):
            made = METHODS["initialise"]()(
                read_tuned(source),
                None,
                new,
                few,
                out=work / source.name / "out",
                tuning=Tuning(settings(1, seed), work / source.name / "work", max_length=16),
            )
            assert made.training.updates == 1 and not (work / source.name / "work" / "start").exists()
            found.append(score_live(made.path, tuned, upgraded))
        copy = tune(
            new.path, few, adapter=LORA, settings=settings(1, seed), directory=work / "fresh", max_length=16, seed=seed
        )
        fresh.append(score_live(save(copy, work / "copy", upgraded["new"]), tuned, upgraded))
    assert paired(recycled, fresh).mean > 0.2 and min(recycled) > max(fresh)
    assert paired(unrelated, fresh).mean < 0.1  # the control: an unrelated source gives no head start
    assert score_base(new.path, task, max_length=16).accuracy[0] > 1 / 3


def score_live(directory: Path, tuned: Any, bases: dict[str, Path]) -> float:
    if not (directory / "lineage.json").exists():
        record = lineage.make_lineage(directory, name="x", stage="recycle", parameters=tuned.parameters())
        lineage.write_lineage(directory, record)
    return score_tuned(directory, bases["new"], make_task()).accuracy[0]


@pytest.mark.parametrize("family", ["bert", "distilbert", "gpt2"])
@pytest.mark.parametrize("adapter", [None, {"type": "lora", "r": 2, "target_modules": "all-linear"}, {"type": "ia3"}])
def test_saved_weights_are_the_trained_ones_in_every_part(family: str, adapter: Any, tmp_path: Path) -> None:
    if adapter == {"type": "ia3"} and family == "distilbert":
        adapter = {"type": "ia3", "target_modules": ["k_lin", "lin2"], "feedforward_modules": ["lin2"]}
    base = make_base(tmp_path / "base", family=family)
    before = checkpoints.load_model(base, head="sequence-classification", labels=LABELS).state_dict()
    made = tune(
        base, make_task(train=16), adapter=adapter, settings=settings(2), directory=tmp_path / "work", max_length=16
    )
    directory = save(made, tmp_path / "tuned", base)
    with torch.no_grad():
        ids = torch.arange(2, 14).reshape(2, 6)
        live = made.model.eval()(input_ids=ids).logits
        from bequest.recycling.tuned import load_tuned

        loaded, _ = load_tuned(read_tuned(directory), Generation(base))
        assert torch.equal(loaded(input_ids=ids).logits, live)
    # Every module that the base lacks was trained: DistilBERT's pre_classifier and BERT's pooler too.
    from bequest.training.tuning import head_modules

    plain = checkpoints.load_model(base, head="sequence-classification", labels=LABELS)
    heads = head_modules(plain, base)
    assert (
        heads
        == {"bert": ["classifier", "pooler"], "distilbert": ["classifier", "pre_classifier"], "gpt2": ["score"]}[family]
    )
    trained = {name: value for name, value in live_state(made).items() if any(f"{head}." in name for head in heads)}
    moved = [name for name, value in trained.items() if not torch.equal(value, before[name])]
    assert moved and {name.rpartition(".")[0] for name in moved} == {name.rpartition(".")[0] for name in trained}


def live_state(made: TuneResult) -> dict[str, torch.Tensor]:
    state = {}
    for name, value in made.model.state_dict().items():
        plain = name.removeprefix("base_model.model.").replace("modules_to_save.default.", "")
        if "original_module" not in name and "lora" not in name and "ia3" not in name:
            state[plain.replace("base_layer.", "")] = value
    return state


def test_tuned_copies_per_seed_and_the_probe(upgraded: dict[str, Path], tmp_path: Path) -> None:
    task = make_task(train=24)
    copies = score_base(
        upgraded["new"],
        task,
        how="tune",
        seeds=(0, 1),
        max_length=16,
        adapter=LORA,
        settings=settings(2),
        directory=tmp_path,
    )
    assert len(copies.accuracy) == len(copies.macro_f1) == len(copies.correct) == 2 and copies.how == "tune"
    assert copies.correct[0] != copies.correct[1]
    probe = score_base(upgraded["new"], task, max_length=16)
    assert len(probe.accuracy) == 1 and probe.as_json()["how"] == "linear"
    with pytest.raises(InputError, match="did you mean 'linear'"):
        score_base(upgraded["new"], task, how="linaer")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no dev examples"):
        score_base(upgraded["new"], task, split="dev")


def test_probe_ignores_padding(upgraded: dict[str, Path]) -> None:
    from bequest.measures.scores import pooled

    examples = [Example("w1 w2 w3", None, "red"), Example("w4 w5 w6 w7 w8 w9 w10", None, "red")]
    together = pooled(upgraded["new"], examples, LABELS, max_length=16, batch=2, device="cpu")
    alone = pooled(upgraded["new"], examples, LABELS, max_length=16, batch=1, device="cpu")
    assert abs(together - alone).max() < 1e-5
    assert abs(together[0] - together[1]).max() > 1e-2


def test_macro_f1_is_sklearns() -> None:
    import numpy as np
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(0)
    predicted, wanted = rng.integers(0, 4, 200), rng.integers(0, 3, 200)
    oracle = f1_score(wanted, predicted, labels=range(5), average="macro", zero_division=0)
    assert macro_f1(predicted, wanted, 5) == pytest.approx(oracle)


def test_full_tuning_keeps_the_label_map_in_its_config(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    made = tune(
        base, make_task(train=16), adapter=None, settings=settings(1), directory=tmp_path / "work", max_length=16
    )
    made.save(tmp_path / "tuned")
    tuned = read_tuned(tmp_path / "tuned")
    assert tuned.kind == "full" and tuned.labels == tuple(LABELS)
    assert json.loads((tmp_path / "tuned" / "config.json").read_text())["pad_token_id"] == 0
    assert set(checkpoints.header_shapes(tmp_path / "tuned")["score.weight"]) == {(3, 32), "F32"}


def test_bad_adapters_are_one_line(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    for adapter, said in (
        ({"type": "lorra"}, "did you mean 'lora'"),
        ({"type": "lora", "rank": 3}, r"adapter\.rank: lora has no such field"),
        ({"type": "lora", "target_modules": ["nothing"]}, "PEFT refuses this adapter"),
    ):
        with pytest.raises(InputError, match=said):
            tune(base, make_task(), adapter=adapter, settings=settings(1), directory=tmp_path / "work")


def test_tuning_resumes_bit_for_bit(tmp_path: Path) -> None:
    import shutil

    base, task = make_base(tmp_path / "base"), make_task(train=40)
    adapter = {**LORA, "lora_dropout": 0.2}
    chosen = replace(settings(3), checkpoint_every=2, keep=50)
    whole = tune(base, task, adapter=adapter, settings=chosen, directory=tmp_path / "work", max_length=16)
    written = sorted((tmp_path / "work" / "checkpoints").iterdir(), key=lambda path: int(path.name.rpartition("-")[2]))
    assert len(written) > 2
    for path in written[2:]:
        shutil.rmtree(path)
    resumed = tune(base, task, adapter=adapter, settings=chosen, directory=tmp_path / "work", max_length=16)
    other = tune(
        base, task, adapter=adapter, settings=replace(chosen, seed=1), directory=tmp_path / "other", max_length=16
    )
    first, second, third = (made.model.state_dict() for made in (whole, resumed, other))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], third[name]) for name in first)  # the control: another order
    assert resumed.training.updates == whole.training.updates and resumed.training.train_flops > 0


def test_another_tokenizer_is_refused(upgraded: dict[str, Path], tmp_path: Path) -> None:
    from bequest import carry

    assert carry(upgraded["tuned"], upgraded["new"], tmp_path / "fine").notes[0].endswith("tokenizer and shapes agree")
    other = make_base(tmp_path / "other", near=upgraded["new"], seed=2)
    file = other / "tokenizer.json"
    file.write_text(file.read_text().replace('"w0": 2', '"w0": 3').replace('"w1": 3', '"w1": 2'))
    with pytest.raises(InputError, match="tokenizer: tuned with another tokenizer than other's"):
        carry(upgraded["tuned"], other, tmp_path / "out")
    assert not (tmp_path / "out").exists()
