"""Labelled tasks: examples of one text or a pair, one stored label map, no example on two sides.

The label map is the sorted labels of the training file: it is stored with whatever is tuned, and class ids mean
nothing without it.  An example whose normalised text also stands in the test file is dropped from train and dev (and
from dev to train), so that scores stay comparable; what was dropped is counted.

Try it: ``load_task("areas", TaskSpec(demo="sympy-areas"), Path.cwd()).labels``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bequest import storage
from bequest.data import demo_tasks
from bequest.data.readers import read_rows
from bequest.data.specs import TaskSpec
from bequest.data.splitting import spread, text_digest
from bequest.errors import InputError, did_you_mean

if TYPE_CHECKING:
    import torch


class Example(NamedTuple):
    """One labelled example; ``text_pair`` is None in tasks of single texts."""

    text: str
    text_pair: str | None
    label: str


@dataclass(frozen=True)
class Task:
    """A labelled task.

    Attributes:
        name: its name in the recipe.
        labels: the label map: class id -> label, sorted.
        train: the training examples.
        test: the examples that scores are measured on.
        dev: examples for choosing; may be empty.
        fingerprint: SHA-256 of the examples and labels as they are used.
        dropped: examples dropped because their text stands on another side too: split -> count.
    """

    name: str
    labels: list[str]
    train: list[Example]
    test: list[Example]
    dev: list[Example]
    fingerprint: str
    dropped: dict[str, int] = field(default_factory=dict)


def load_task(name: str, spec: TaskSpec, root: Path) -> Task:
    """Read a task.

    Args:
        name: its name in the recipe.
        spec: what the recipe says about it.
        root: the directory that relative paths start from.

    Raises:
        InputError: a file or column is missing or empty, an example has no text or label, there are fewer than two
            labels, or dev or test has labels that train lacks.
    """
    sides = _embedded(name, spec) if spec.demo is not None else _from_files(name, spec, root.absolute())
    labels = sorted({example.label for example in sides["train"]})
    where = None if spec.demo is not None else spec.train
    if len(labels) < 2:
        raise InputError(f"has only the label {labels[0]!r}", where=where, key=f"tasks.{name}.train")
    for side in ("dev", "test"):
        if unknown := sorted({example.label for example in sides[side]} - set(labels)):
            raise InputError(
                f"has labels that train lacks: {', '.join(unknown[:5])}",
                where=getattr(spec, side),
                key=f"tasks.{name}.{side}",
                remedy=did_you_mean(unknown[0], labels),
            )
    before = {side: len(examples) for side, examples in sides.items()}
    test = {_identity(example) for example in sides["test"]}
    dev = [example for example in sides["dev"] if _identity(example) not in test]
    held = test | {_identity(example) for example in dev}
    train = [example for example in sides["train"] if _identity(example) not in held]
    if not train:
        raise InputError("every training example is also a test example", where=where, key=f"tasks.{name}.train")
    dropped = {"train": before["train"] - len(train), "dev": before["dev"] - len(dev)}
    digest = _fingerprint(labels, train, dev, sides["test"])
    return Task(name, labels, train, sides["test"], dev, digest, dropped)


def thinned(task: Task, examples: int) -> Task:
    """A task with at most so many examples a side, spread evenly over each; the label map stays.

    A label that would lose its last training example keeps its first one: a probe cannot predict what it never saw.
    """
    places = set(spread(len(task.train), examples))
    kept = {task.train[place].label for place in places}
    for place, example in enumerate(task.train):
        if example.label not in kept:
            kept.add(example.label)
            places.add(place)
    train = [task.train[place] for place in sorted(places)]
    dev, test = ([side[place] for place in spread(len(side), examples)] for side in (task.dev, task.test))
    digest = _fingerprint(task.labels, train, dev, test)
    return replace(task, train=train, dev=dev, test=test, fingerprint=digest)


def _fingerprint(
    labels: Sequence[str], train: Sequence[Example], dev: Sequence[Example], test: Sequence[Example]
) -> str:
    return storage.value_digest({"labels": labels, "train": train, "dev": dev, "test": test})


def _embedded(name: str, spec: TaskSpec) -> dict[str, list[Example]]:
    train, test = demo_tasks.demo_task(str(spec.demo), key=f"tasks.{name}.demo")
    return {
        "train": [Example(text, None, label) for text, label in train],
        "dev": [],
        "test": [Example(text, None, label) for text, label in test],
    }


def _from_files(name: str, spec: TaskSpec, root: Path) -> dict[str, list[Example]]:
    sides: dict[str, list[Example]] = {}
    for side in ("train", "dev", "test"):
        given = getattr(spec, side)
        sides[side] = [] if given is None else _read_side(spec, root / given, f"tasks.{name}.{side}")
    return sides


def _read_side(spec: TaskSpec, path: Path, key: str) -> list[Example]:
    if not path.is_file():
        raise InputError("no such file", where=path, key=key, remedy=f"paths start from {path.parent}")
    columns = (spec.text, *([spec.text_pair] if spec.text_pair else []), spec.label)
    examples = []
    for number, row in enumerate(read_rows(path, columns), start=1):
        for column in columns:
            if row[column] is None or (isinstance(row[column], str) and not row[column].strip()):
                raise InputError(f"example {number} has nothing under {column!r}", where=path, key=key)
        pair = str(row[spec.text_pair]) if spec.text_pair else None
        examples.append(Example(str(row[spec.text]), pair, str(row[spec.label])))
    if not examples:
        raise InputError("holds no examples", where=path, key=key)
    return examples


def _identity(example: Example) -> tuple[int, int]:
    return text_digest(example.text), text_digest(example.text_pair or "")


def encode_task(
    examples: Sequence[Example], labels: Sequence[str], tokenizer: Any, max_length: int
) -> list[dict[str, Any]]:
    """Examples as ids, with the special tokens that the tokenizer puts around a text or a pair.

    Args:
        examples: what to encode.
        labels: the label map; the class id of a label is its place.
        tokenizer: a transformers tokenizer.
        max_length: longest encoding in tokens; of a pair the longer text is cut first.

    Returns:
        Per example ``input_ids``, ``attention_mask``, ``target`` (the class id) and, for pairs and tokenizers that have
        them, ``token_type_ids``.

    Raises:
        InputError: an example's label is not in the map.
    """
    ids = {label: number for number, label in enumerate(labels)}
    for example in examples:
        if example.label not in ids:
            remedy = did_you_mean(example.label, labels)
            raise InputError(f"label {example.label!r} is not in the label map", key="labels", remedy=remedy)
    if not examples:
        return []
    paired = examples[0].text_pair is not None
    encoded = tokenizer(
        [example.text for example in examples],
        [example.text_pair for example in examples] if paired else None,
        truncation="longest_first" if paired else True,
        max_length=max_length,
        padding=False,
    )
    # Types of a single text are all zero, which is what a model assumes; models without types refuse the key.
    keys = ["input_ids", "attention_mask", *(["token_type_ids"] if paired and "token_type_ids" in encoded else [])]
    return [
        {**{key: list(encoded[key][number]) for key in keys}, "target": ids[example.label]}
        for number, example in enumerate(examples)
    ]


class TaskCollator:
    """Encoded examples to a batch, padded on the right to the longest: ``targets`` ``[B]`` are class ids.

    Raises:
        InputError: the tokenizer has neither a padding nor an end-of-text token.
    """

    def __init__(self, tokenizer: Any) -> None:
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        if pad is None:
            raise InputError("the tokenizer has no padding token", key="tokenizer", remedy="give it a pad_token")
        self.padding = {"input_ids": int(pad), "attention_mask": 0, "token_type_ids": 0}

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate; ``input_ids``, ``attention_mask`` (``token_type_ids``) ``[B, T]``, ``targets`` ``[B]``, int64."""
        import torch

        length = max(1, max(len(sample["input_ids"]) for sample in samples))
        batch = {
            key: torch.tensor(
                [list(sample[key]) + [value] * (length - len(sample[key])) for sample in samples], dtype=torch.long
            )
            for key, value in self.padding.items()
            if key in samples[0]
        }
        return batch | {"targets": torch.tensor([int(sample["target"]) for sample in samples], dtype=torch.long)}
