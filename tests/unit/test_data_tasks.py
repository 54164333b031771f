"""Labelled tasks: one label map, no example on two sides, batches that models take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bequest.data.corpora import open_corpus
from bequest.data.specs import CorpusSpec, TaskSpec
from bequest.data.tasks import Example, TaskCollator, encode_task, load_task, thinned
from bequest.data.tokenizer_training import train_tokenizer
from bequest.errors import InputError

TRAIN = [{"text": f"training text {n}", "label": "ab"[n % 2]} for n in range(6)]
TEST = [{"text": "a new text", "label": "b"}, {"text": "Training  TEXT 3", "label": "b"}]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path.name


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Any]:
    corpus = open_corpus("networkx", CorpusSpec(demo="networkx"), Path.cwd())
    return {
        "llama": train_tokenizer("byte-bpe", [corpus], 500),
        "bert": train_tokenizer("wordpiece", [corpus], 500),
        "distilbert": train_tokenizer("wordpiece", [corpus], 500, family="distilbert"),
    }


def test_a_task_from_files(tmp_path: Path) -> None:
    spec = TaskSpec(train=write(tmp_path / "train.jsonl", TRAIN), test=write(tmp_path / "test.jsonl", TEST))
    task = load_task("t", spec, tmp_path)
    assert task.labels == ["a", "b"]
    assert len(task.train) == 5  # one of them is a test example
    assert "training text 3" not in {example.text for example in task.train}
    assert task.dropped == {"train": 1, "dev": 0}
    assert task.test == [Example("a new text", None, "b"), Example("Training  TEXT 3", None, "b")]
    assert task.dev == []
    again = load_task("other name", spec, tmp_path)
    assert again.fingerprint == task.fingerprint
    write(tmp_path / "test.jsonl", [*TEST, {"text": "more", "label": "a"}])
    assert load_task("t", spec, tmp_path).fingerprint != task.fingerprint


def test_pairs_in_csv_and_labels_that_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("premise,hypothesis,gold\nit rains,it is wet,1\nit rains,it is dry,0\n")
    (tmp_path / "b.csv").write_text("premise,hypothesis,gold\nit rains,it is cold,1\n")
    spec = TaskSpec(train="a.csv", test="b.csv", text="premise", text_pair="hypothesis", label="gold")
    task = load_task("t", spec, tmp_path)
    assert task.labels == ["0", "1"]
    assert task.train[0] == Example("it rains", "it is wet", "1")  # the same premise elsewhere is another example
    assert len(task.train) == 2


def test_an_example_whose_pair_repeats_is_dropped(tmp_path: Path) -> None:
    rows = [{"text": "x", "pair": f"y{n}", "label": str(n % 2)} for n in range(4)]
    spec = TaskSpec(
        train=write(tmp_path / "train.jsonl", rows),
        dev=write(tmp_path / "dev.jsonl", rows[:2]),
        test=write(tmp_path / "test.jsonl", rows[1:2]),
        text_pair="pair",
    )
    task = load_task("t", spec, tmp_path)
    assert [example.text_pair for example in task.train] == ["y2", "y3"]
    assert [example.text_pair for example in task.dev] == ["y0"]
    assert task.dropped == {"train": 2, "dev": 1}


@pytest.mark.parametrize(
    ("train", "test", "spec", "message"),
    [
        (TRAIN, [{"text": "x", "label": "c"}], {}, "tasks.t.test: has labels that train lacks: c"),
        (TRAIN, [], {}, "test.jsonl: tasks.t.test: holds no examples"),
        (TRAIN[::2], TEST, {}, "has only the label 'a'"),
        (TRAIN, TEST, {"label": "lable"}, "has no key 'lable'; did you mean 'label'?"),
        (TRAIN, TEST, {"test": "gone.jsonl"}, "gone.jsonl: tasks.t.test: no such file"),
        (TRAIN, [{"text": " ", "label": "a"}], {}, "example 1 has nothing under 'text'"),
        (TRAIN, [{"text": "x", "label": None}], {}, "example 1 has nothing under 'label'"),
        (TRAIN, TRAIN, {}, "every training example is also a test example"),
    ],
)
def test_bad_tasks_are_one_line(
    tmp_path: Path, train: list[dict[str, Any]], test: list[dict[str, Any]], spec: dict[str, str], message: str
) -> None:
    files = {"train": write(tmp_path / "train.jsonl", train), "test": write(tmp_path / "test.jsonl", test)}
    with pytest.raises(InputError) as caught:
        load_task("t", TaskSpec(**{**files, **spec}), tmp_path)
    assert message in caught.value.line()


def test_embedded_tasks_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tasks\.t\.demo: no embedded task is called 'python'"):
        load_task("t", TaskSpec(demo="python"), tmp_path)


def test_encoding_and_batches(tokenizers: dict[str, Any]) -> None:
    import torch

    examples = [Example("a graph", None, "x"), Example("the graph has many nodes and edges " * 9, None, "y")]
    for tokenizer in tokenizers.values():
        encoded = encode_task(examples, ["x", "y"], tokenizer, 20)
        assert [sample["target"] for sample in encoded] == [0, 1]
        assert len(encoded[1]["input_ids"]) == 20
        assert encoded[0]["input_ids"] == tokenizer("a graph")["input_ids"]
        batch = TaskCollator(tokenizer)(encoded)
        assert sorted(batch) == ["attention_mask", "input_ids", "targets"]
        assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, 20)
        assert batch["targets"].tolist() == [0, 1]
        short = len(encoded[0]["input_ids"])
        assert batch["attention_mask"][0].tolist() == [1] * short + [0] * (20 - short)
        assert (batch["input_ids"][0, short:] == tokenizer.pad_token_id).all()
        assert {value.dtype for value in batch.values()} == {torch.int64}
    assert encode_task([], ["x"], tokenizers["bert"], 20) == []


def test_pairs_have_types_where_the_family_takes_them(tokenizers: dict[str, Any]) -> None:
    examples = [Example("a graph", "some edges", "x"), Example("a", "b " * 40, "x")]
    for family, typed in (("bert", True), ("distilbert", False), ("llama", False)):
        encoded = encode_task(examples, ["x"], tokenizers[family], 16)
        assert all(("token_type_ids" in sample) == typed for sample in encoded)
        batch = TaskCollator(tokenizers[family])(encoded)
        assert batch["input_ids"].shape == (2, 16)
        if typed:
            assert batch["token_type_ids"].max() == 1
            assert batch["token_type_ids"].shape == (2, 16)


def test_labels_outside_the_map_are_answered(tokenizers: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"label 'pos' is not in the label map; did you mean 'positive'"):
        encode_task([Example("a", None, "pos")], ["negative", "positive"], tokenizers["bert"], 8)


def test_a_thinned_task_is_spread_and_keeps_every_label(tmp_path: Path) -> None:
    rows = [{"text": f"text {n}", "label": "rare" if n == 11 else "ab"[n // 10]} for n in range(20)]
    held = [{"text": f"other {n}", "label": "a"} for n in range(10)]
    spec = TaskSpec(train=write(tmp_path / "train.jsonl", rows), test=write(tmp_path / "test.jsonl", held))
    task = load_task("t", spec, tmp_path)
    few = thinned(task, 4)
    assert [example.text for example in few.train] == [f"text {n}" for n in (0, 5, 10, 11, 15)]
    assert [example.text for example in few.test] == [f"other {n}" for n in (0, 2, 5, 7)]
    assert few.labels == task.labels == ["a", "b", "rare"] and few.dev == []
    assert few.fingerprint != task.fingerprint and thinned(task, 20) == task
