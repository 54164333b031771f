"""Task scores: accuracy and macro-F1 of tuned weights by their own head, of a base by a linear probe or a tuned copy.

    accuracy = share of test examples right              macro-F1 = mean over the label map's classes of 2PR/(P + R)

A class that neither the test nor the predictions have counts as 0 in macro-F1, so that every model is averaged over the
same classes.  Which examples were right is kept (a string of 0 and 1 per seed): two models are compared example by
example, which needs no second seed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from bequest import checkpoints
from bequest.data.tasks import Task, TaskCollator, encode_task
from bequest.errors import InputError, did_you_mean
from bequest.measures.devices import pick_device
from bequest.recycling.tuned import Generation, label_map, load_tuned, read_tuned

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console
    from torch import Tensor

    from bequest.data.tasks import Example
    from bequest.training.settings import TrainSettings

Ids = npt.NDArray[np.int64]
Split = Literal["test", "dev"]


@dataclass(frozen=True)
class Scores:
    """What one model scores on one task.

    Attributes:
        accuracy: one value per seed.
        macro_f1: one value per seed.
        correct: per seed a string with 1 where the example was right, in the order of the split.
        how: ``own``, ``linear`` or ``tune``.
    """

    accuracy: tuple[float, ...]
    macro_f1: tuple[float, ...]
    correct: tuple[str, ...]
    how: str

    def as_json(self) -> dict[str, Any]:
        """For ``measures.json``."""
        return {
            "accuracy": list(self.accuracy),
            "macro_f1": list(self.macro_f1),
            "correct": list(self.correct),
            "how": self.how,
        }


def score_tuned(
    tuned_dir: str | Path,
    base_dir: str | Path | None,
    task: Task,
    *,
    split: Split = "test",
    max_length: int | None = None,
    batch: int = 64,
    device: str | None = None,
) -> Scores:
    """Score tuned weights by their own head.

    Args:
        tuned_dir: an adapter's or a fully tuned classifier's directory.
        base_dir: the base that an adapter goes on; not used for a full model.
        task: gives the examples; its labels must be those the weights were tuned for, in any order.
        split: which examples.
        max_length: tokens of an example; by default the length it was tuned with, else 128.
        batch: examples at once.
        device: where to compute.

    Raises:
        InputError: other labels, no base for an adapter, weights that do not fit it.
    """
    tuned = read_tuned(tuned_dir)
    if tuned.kind == "adapter" and base_dir is None:
        raise InputError("an adapter is measured on a base", where=tuned_dir, remedy="name the base")
    labels = label_map(tuned, task.labels)
    model, tokenizer = load_tuned(tuned, Generation(base_dir if base_dir is not None else tuned.path))
    examples = examples_of(task, split)
    predicted = predict(
        model, tokenizer, examples, labels, max_length=max_length or tuned.max_length or 128, batch=batch, device=device
    )
    return one_seed(predicted, truth(examples, labels), len(labels), "own")


def score_base(
    model_dir: str | Path,
    task: Task,
    *,
    how: Literal["linear", "tune"] = "linear",
    seeds: Sequence[int] = (0,),
    split: Split = "test",
    max_length: int = 128,
    batch: int = 64,
    device: str | None = None,
    adapter: Mapping[str, Any] | None = None,
    settings: TrainSettings | None = None,
    directory: Path | None = None,
    console: Console | None = None,
) -> Scores:
    """Score a base on a task.

    Args:
        model_dir: the base.
        task: gives the examples.
        how: ``linear``: logistic regression on mean-pooled last hidden states of the frozen base, which is
            deterministic and gives one value whatever the seeds; ``tune``: a tuned copy per seed.
        seeds: of the tuned copies.
        split: which examples.
        max_length: tokens of an example.
        batch: examples at once.
        device: where to compute.
        adapter: the tuned copies' adapter; None tunes the whole model.
        settings: how the copies are tuned; by default 3 epochs.
        directory: where the copies' checkpoints go; a temporary one by default.
        console: where progress is shown.

    Raises:
        InputError: an unknown ``how``, or no seed.
    """
    if how == "linear":
        return probe(model_dir, task, split=split, max_length=max_length, batch=batch, device=device)
    if how != "tune":
        raise InputError(f"unknown {how!r}", key="probe", remedy=did_you_mean(how, ("linear", "tune")))
    if not seeds:
        raise InputError("no seed was given", key="seeds", remedy="give at least one")
    found = []
    for seed in seeds:
        with working_directory(directory, f"seed-{seed}") as work:
            found.append(
                tuned_copy(
                    model_dir,
                    task,
                    seed,
                    work,
                    split=split,
                    max_length=max_length,
                    batch=batch,
                    device=device,
                    adapter=adapter,
                    settings=settings,
                    console=console,
                )
            )
    return joined(found, "tune")


def tuned_copy(
    model_dir: str | Path,
    task: Task,
    seed: int,
    work: Path,
    *,
    split: Split,
    max_length: int,
    batch: int,
    device: str | None,
    adapter: Mapping[str, Any] | None,
    settings: TrainSettings | None,
    console: Console | None,
) -> Scores:
    """Tune a copy of a base with one seed and score it; nothing is kept but the score."""
    from bequest.training.settings import TrainSettings
    from bequest.training.tuning import tune

    chosen = settings or TrainSettings(epochs=3.0, lr=5e-5 if adapter is None else 1e-3, schedule="linear")
    made = tune(
        model_dir,
        task,
        adapter=adapter,
        settings=replace(chosen, seed=seed),
        directory=work,
        max_length=max_length,
        seed=seed,
        console=console,
    )
    examples = examples_of(task, split)
    predicted = predict(
        made.model, made.tokenizer, examples, made.labels, max_length=max_length, batch=batch, device=device
    )
    return one_seed(predicted, truth(examples, made.labels), len(made.labels), "tune")


def probe(
    model_dir: str | Path, task: Task, *, split: Split, max_length: int, batch: int, device: str | None
) -> Scores:
    """A linear probe: logistic regression on standardised, mean-pooled last hidden states of the frozen base."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    examples, labels = examples_of(task, split), tuple(task.labels)
    seen = pooled(model_dir, [*task.train, *examples], labels, max_length=max_length, batch=batch, device=device)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    classifier.fit(seen[: len(task.train)], truth(task.train, labels))
    predicted = np.asarray(classifier.predict(seen[len(task.train) :]), dtype=np.int64)
    return one_seed(predicted, truth(examples, labels), len(labels), "linear")


def pooled(
    model_dir: str | Path,
    examples: Sequence[Example],
    labels: Sequence[str],
    *,
    max_length: int,
    batch: int,
    device: str | None,
) -> npt.NDArray[np.float64]:
    """Mean of the last hidden states over an example's real tokens, [N, hidden]."""
    import torch

    from bequest.training.tuning import padded

    tokenizer = padded(checkpoints.load_tokenizer(model_dir), model_dir)
    model: Any = checkpoints.load_model(model_dir, head="bare").to(pick_device(device)).eval()
    rows: list[Tensor] = []
    with torch.no_grad():
        for inputs in batches(examples, labels, tokenizer, max_length, batch, model.device):
            states = model(**inputs).last_hidden_state.double()
            mask = inputs["attention_mask"].unsqueeze(-1)
            rows.append(((states * mask).sum(1) / mask.sum(1).clamp_min(1)).cpu())
    found: npt.NDArray[np.float64] = torch.cat(rows).numpy()
    return found


def predict(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    labels: Sequence[str],
    *,
    max_length: int,
    batch: int,
    device: str | None = None,
) -> Ids:
    """The class ids that a live classifier predicts, [N]."""
    import torch

    live = model.to(pick_device(device)).eval()
    rows: list[Tensor] = []
    with torch.no_grad():
        for inputs in batches(examples, labels, tokenizer, max_length, batch, live.device):
            rows.append(live(**inputs).logits.argmax(-1).cpu())
    found: Ids = torch.cat(rows).numpy()
    return found


def batches(
    examples: Sequence[Example], labels: Sequence[str], tokenizer: Any, max_length: int, batch: int, device: Any
) -> Iterator[dict[str, Tensor]]:
    """The model's inputs, batch by batch, in the order of the examples."""
    from bequest.training.loading import model_inputs

    samples, collator = encode_task(list(examples), list(labels), tokenizer, max_length), TaskCollator(tokenizer)
    for start in range(0, len(samples), batch):
        values = collator(samples[start : start + batch])
        yield {key: value.to(device) for key, value in model_inputs(values).items()}


def examples_of(task: Task, split: Split) -> Sequence[Example]:
    """The examples of a split.

    Raises:
        InputError: the task has none there.
    """
    found = task.test if split == "test" else task.dev
    if not found:
        raise InputError(f"the task has no {split} examples", key=f"tasks.{task.name}.{split}", remedy="give a file")
    return found


def truth(examples: Sequence[Example], labels: Sequence[str]) -> Ids:
    """The class ids of examples under a label map."""
    index = {label: number for number, label in enumerate(labels)}
    return np.asarray([index[example.label] for example in examples], dtype=np.int64)


def one_seed(predicted: Ids, wanted: Ids, classes: int, how: str) -> Scores:
    """The scores of one set of predictions."""
    right = predicted == wanted
    text = "".join("1" if hit else "0" for hit in right)
    return Scores((float(right.mean()),), (macro_f1(predicted, wanted, classes),), (text,), how)


def macro_f1(predicted: Ids, wanted: Ids, classes: int) -> float:
    """Mean F1 over the classes of the label map; a class without examples and predictions counts as 0."""
    scores = []
    for number in range(classes):
        hits = int(((predicted == number) & (wanted == number)).sum())
        total = int((predicted == number).sum() + (wanted == number).sum())
        scores.append(2 * hits / total if total else 0.0)
    return float(np.mean(scores))


def joined(found: Sequence[Scores], how: str) -> Scores:
    """The scores of several seeds as one record."""
    return Scores(
        tuple(value for entry in found for value in entry.accuracy),
        tuple(value for entry in found for value in entry.macro_f1),
        tuple(value for entry in found for value in entry.correct),
        how,
    )


@contextmanager
def working_directory(directory: Path | None, name: str) -> Iterator[Path]:
    """A sub-directory of ``directory``, or a temporary one."""
    if directory is not None:
        yield directory / name
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)
