"""Tuning a base for a labelled task: full fine-tuning or any PEFT adapter, through the one training loop.

The classification head (and a pooler that the base's files lack) is drawn from the seed and always trained; with an
adapter it goes into ``modules_to_save`` *by name*, because PEFT's own default knows ``classifier`` and ``score`` only
and would lose DistilBERT's ``pre_classifier`` and BERT's fresh pooler without a word.  The label map is stored in the
config.

    tune("v1", task, adapter={"type": "lora", "r": 8}, settings=TrainSettings(epochs=3, lr=1e-3), directory=work)
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from bequest import checkpoints
from bequest.anatomy import Anatomy
from bequest.data.tasks import Task, TaskCollator, encode_task
from bequest.errors import InputError, did_you_mean
from bequest.storage import read_json, write_json
from bequest.training.loading import TrainingData
from bequest.training.objective import Classification
from bequest.training.session import TrainResult, train
from bequest.training.settings import TrainSettings

if TYPE_CHECKING:
    from rich.console import Console
    from transformers import PreTrainedTokenizerBase

CLASSIFIER = "sequence-classification"
LOW_RANK = ("lora", "adalora", "loha", "lokr", "vera")


@dataclass(frozen=True)
class TuneResult:
    """A base tuned for a task, live.

    Attributes:
        model: a ``PeftModel``, or a classifier of transformers.
        tokenizer: the base's, with a padding token.
        kind: ``adapter`` or ``full``.
        labels: the label map, in order of class ids.
        task: the task's name.
        base: the base's name, for an adapter's config.
        max_length: tokens of an example.
        training: what the training took.
    """

    model: Any
    tokenizer: Any
    kind: Literal["adapter", "full"]
    labels: tuple[str, ...]
    task: str
    base: str
    max_length: int
    training: TrainResult

    def save(self, directory: str | Path) -> None:
        """Write the adapter (or the model) and the tokenizer as a plain directory; the lineage is the caller's.

        Raises:
            RunError: the disk is full.
        """
        save_tuned(self.model, self.tokenizer, directory, base=self.base)

    def parameters(self) -> dict[str, Any]:
        """What the lineage's operation must say about tuned weights, so that they can be read back."""
        return {"task": self.task, "labels": list(self.labels), "head": CLASSIFIER, "max_length": self.max_length}


def tune(
    base: str | Path,
    task: Task,
    *,
    adapter: Mapping[str, Any] | None,
    settings: TrainSettings,
    directory: str | Path,
    max_length: int = 128,
    seed: int = 0,
    called: str | None = None,
    console: Console | None = None,
) -> TuneResult:
    """Tune a base for a task; running it again with the same directory resumes.

    Args:
        base: model directory or Hub id.
        task: labelled examples.
        adapter: ``{"type": "lora", ...}`` with any field of that type's PEFT config; None tunes the whole model.
        settings: budget in epochs (or tokens), batch, learning rate; its ``seed`` orders the data.
        directory: where checkpoints and ``metrics.jsonl`` go.
        max_length: tokens of an example; longer ones are cut.
        seed: draws the fresh head and the adapter.
        called: what the adapter's config calls its base; by default a Hub id as it is, a directory by its last part.
        console: where progress is shown.

    Raises:
        InputError: a base without tokenizer, an adapter type or field that PEFT does not know.
        RunError, Interrupted: as :func:`bequest.training.train`.
    """
    tokenizer = padded(checkpoints.load_tokenizer(base), base)
    model = checkpoints.load_model(base, head=CLASSIFIER, labels=list(task.labels), seed=seed)
    model.config.pad_token_id = tokenizer.pad_token_id
    kind: Literal["adapter", "full"] = "full"
    live: Any = model
    if adapter is not None:
        kind, live = "adapter", add_adapter(model, adapter, head_modules(model, base), seed=seed)
    result = fit(live, tokenizer, task, task.labels, settings, directory, max_length=max_length, console=console)
    named = called or base_name(base)
    return TuneResult(result.model, tokenizer, kind, tuple(task.labels), task.name, named, max_length, result)


def fit(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    labels: Sequence[str],
    settings: TrainSettings,
    directory: str | Path,
    *,
    max_length: int,
    console: Console | None = None,
) -> TrainResult:
    """Train what is trainable of a classifier on a task's training examples.

    Args:
        model: a classifier, possibly inside a PEFT adapter, in fp32.
        tokenizer: its tokenizer, with a padding token.
        task: gives the examples.
        labels: the label map by which class ids are given.
        settings: see :func:`tune`.
        directory: see :func:`tune`.
        max_length: tokens of an example.
        console: where progress is shown.
    """
    samples = encode_task(task.train, list(labels), tokenizer, max_length)
    config: dict[str, Any] = model.config.to_dict()  # type: ignore[operator, union-attr]  # a transformers or PEFT model
    # An example has no fixed length: the block only says over how many positions attention's FLOPs are counted.
    longest = max(len(sample["input_ids"]) for sample in samples)
    return train(
        model,
        TrainingData(samples, TaskCollator(tokenizer)),
        Classification(),
        replace(settings, block=min(max_length, longest)),
        Path(directory),
        anatomy=Anatomy({**config, "architectures": None}, CLASSIFIER),
        console=console,
        name=f"tune {task.name}",
    )


def padded(tokenizer: PreTrainedTokenizerBase, where: object) -> PreTrainedTokenizerBase:
    """The tokenizer with a padding token; one without takes its end-of-text token.

    Raises:
        InputError: it has neither.
    """
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise InputError(
                "the tokenizer has neither a padding nor an end token",
                where=where,
                key="pad_token",
                remedy="give it one and save it again",
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def add_adapter(model: Any, adapter: Mapping[str, Any], head: Sequence[str], *, seed: int) -> Any:
    """Put a fresh PEFT adapter on a classifier.

    Args:
        model: the classifier.
        adapter: ``type`` and fields of its PEFT config.
        head: modules to train and save beside the adapter.
        seed: draws the adapter.

    Raises:
        InputError: an unknown type or field, or modules that the model does not have; the key is named.
    """
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftType, get_peft_model

    fields = {key: value for key, value in adapter.items() if key != "type"}
    kind = str(adapter.get("type", "lora"))
    known = {entry.value.lower(): entry for entry in PeftType if entry in PEFT_TYPE_TO_CONFIG_MAPPING}
    if kind.lower() not in known:
        raise InputError(f"unknown adapter type {kind!r}", key="adapter.type", remedy=did_you_mean(kind, known))
    config_class = PEFT_TYPE_TO_CONFIG_MAPPING[known[kind.lower()]]
    allowed = config_class.__dataclass_fields__
    for key in fields:
        if key not in allowed:
            raise InputError(f"{kind} has no such field", key=f"adapter.{key}", remedy=did_you_mean(key, allowed))
    if fields.get("target_modules") is None and kind.lower() in LOW_RANK:
        fields["target_modules"] = attention_projections(model)
    if "modules_to_save" in allowed:
        fields["modules_to_save"] = sorted({*head, *(fields.get("modules_to_save") or ())})
    try:
        with torch.random.fork_rng(devices=[]), seeded(seed):
            config = config_class(task_type="SEQ_CLS", **fields)
            wrapped = get_peft_model(model, config)
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"PEFT refuses this adapter ({error})", key="adapter", remedy="name target_modules that this family has"
        ) from None
    # Saving compares vocabularies with what this name leads to, on the Hub if need be; save_tuned writes it instead.
    wrapped.peft_config["default"].base_model_name_or_path = None
    return wrapped


class seeded:  # noqa: N801  # reads as a verb: "with seeded(3)"
    """Seed torch, and the ``random`` module that some adapters draw from; ``random``'s own state is put back."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __enter__(self) -> None:
        self.state = random.getstate()
        torch.manual_seed(self.seed)
        random.seed(self.seed)

    def __exit__(self, *error: object) -> None:
        random.setstate(self.state)


def attention_projections(model: Any) -> list[str]:
    """The query and value projections of a classifier's family, by the last part of their names: LoRA's usual targets.

    PEFT's own table of defaults lacks families (DistilBERT); a module that makes queries, keys and values counts once.
    """
    anatomy = Anatomy({**model.config.to_dict(), "architectures": None}, CLASSIFIER)
    modules = set(dict(model.named_modules()))
    uses = [use for axis in ("q", "kv", "qkv") for use in anatomy.writers(axis, 0) if use.dim <= 1]
    owners = [use.tensor.rpartition(".")[0] for use in uses]
    found = [owner.rpartition(".")[2] for owner in owners if owner in modules]
    return sorted({name for name in found if not name.startswith(("k_", "key")) and "norm" not in name})


def head_modules(model: Any, base: str | Path) -> list[str]:
    """The modules of a classifier that its base does not have: the head, and a pooler that the base's files lack.

    Returns:
        Names as PEFT's ``modules_to_save`` takes them: ``score``; ``classifier`` and ``pooler``.
    """
    inside = f"{model.base_model_prefix}."
    names = {name for name, _ in model.named_parameters()}
    stored = set(checkpoints.to_memory_names(checkpoints.header_shapes(base), model).values())
    tops = {name.partition(".")[0] for name in names if not name.startswith(inside)}
    fresh = {name.removeprefix(inside).partition(".")[0] for name in names - stored if name.startswith(inside)}
    return sorted(tops | fresh)


def save_tuned(model: Any, tokenizer: Any, directory: str | Path, *, base: str | None = None) -> None:
    """Write a tuned model: an adapter as a PEFT directory, a whole model in fp32; and its tokenizer.

    Small differences from the base do not survive 16-bit files, so tuned weights stay in fp32.

    Args:
        model: a ``PeftModel`` or a classifier.
        tokenizer: saved beside it.
        directory: written into directly.
        base: what an adapter's config calls its base; never a path of this machine.
    """
    from peft import PeftModel

    if isinstance(model, PeftModel):
        model.peft_config["default"].base_model_name_or_path = None
        checkpoints.save_adapter(model, directory)
        config = Path(directory) / "adapter_config.json"
        write_json(config, {**read_json(config), "base_model_name_or_path": base})
    else:
        checkpoints.save_model(model, directory)
    checkpoints.save_tokenizer(tokenizer, directory)


def base_name(base: str | Path) -> str:
    """What an adapter's config calls its base: a Hub id as it is, a directory by its last part."""
    return Path(base).resolve().name if Path(base).is_dir() else str(base)
