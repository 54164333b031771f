"""Tuned weights on disk: an adapter or a fully tuned model, with the task, the head and the label map it was made for.

One global label map is stored with the weights (in their lineage, and in ``config.json`` of a fully tuned model): label
ids are positions in it, so a later file that lacks a class, or lists classes in another order, shifts nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bequest import checkpoints, lineage
from bequest.anatomy import head_of
from bequest.errors import InputError
from bequest.recycling.adapter_config import read_config

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CLASSIFIER = "sequence-classification"


@dataclass(frozen=True)
class Generation:
    """A model directory (or Hub id) as base of tuned weights; ``called`` names a fetched Hub model by its id."""

    path: str | Path
    called: str | None = None

    @property
    def name(self) -> str:
        """A Hub id as it is, a directory's last part."""
        if self.called is not None:
            return self.called
        return Path(self.path).name if Path(self.path).is_dir() else str(self.path)

    @property
    def tokenizer(self) -> str | None:
        """The tokenizer's digest, None where the directory holds none."""
        return lineage.tokenizer_digest(self.path) if Path(self.path).is_dir() else None


@dataclass(frozen=True)
class Carried:
    """What became of tuned weights that were brought to another base without training.

    Attributes:
        verdict: ``exact`` (the tuned function is unchanged), ``approximate`` (a growth on the way changed the base's
            function, and the tuned one with it), ``initialisation`` (the base was trained as well: a start).
        reason: in words.
        through: the grown generations whose maps were used, oldest first.
        modules: kind of part -> how many.
        ranks: module -> its rank before and after, where it changed.
    """

    verdict: Literal["exact", "approximate", "initialisation"]
    reason: str
    through: tuple[str, ...] = ()
    modules: Mapping[str, int] = field(default_factory=dict)
    ranks: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain values, for a lineage and for scripts."""
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "through": list(self.through),
            "modules": dict(self.modules),
            "ranks": {name: list(pair) for name, pair in self.ranks.items()},
        }


@dataclass(frozen=True)
class Tuned:
    """Tuned weights of one base.

    Attributes:
        path: their directory.
        kind: ``adapter`` (PEFT) or ``full`` (a whole fine-tuned model).
        base: the lineage id of the base, None where nothing recorded it.
        base_name: the base's name, for people.
        labels: the label map: the name of class i is ``labels[i]``; empty where nothing recorded it.
        task: the task's name.
        head: the head the weights belong to.
        max_length: tokens of an example when it was tuned.
        notes: what a recycling method has to say about the result.
        training: what the training that made it took (a ``TrainResult``), when it was just made.
        carried: what carrying came to, when it was just carried.
    """

    path: Path
    kind: Literal["adapter", "full"]
    base: str | None = None
    base_name: str | None = None
    labels: tuple[str, ...] = ()
    task: str | None = None
    head: str = CLASSIFIER
    max_length: int | None = None
    notes: tuple[str, ...] = ()
    training: Any = None
    carried: Carried | None = None

    def parameters(self) -> dict[str, Any]:
        """What the lineage's operation must say about tuned weights."""
        found: dict[str, Any] = {
            "task": self.task,
            "labels": list(self.labels),
            "head": self.head,
            "max_length": self.max_length,
        }
        found["carried"] = self.carried.as_json() if self.carried is not None else None
        return {key: value for key, value in found.items() if value not in (None, [])}


def read_tuned(directory: str | Path, *, any_head: bool = False) -> Tuned:
    """Read what the tuned weights in a directory are.

    Args:
        directory: theirs.
        any_head: take a whole language model for a tuned one; by itself it looks like a base.

    Raises:
        InputError: no adapter and no classifier there, or an adapter's config that is damaged.
    """
    path = Path(directory)
    kind: Literal["adapter", "full"] = "adapter" if lineage.kind_of(path) == "adapter" else "full"
    recorded = lineage.read_lineage(path) if (path / lineage.FILE).is_file() else None
    settings = recorded.operation.parameters if recorded else {}
    base = recorded.parent("base") if recorded else None
    if kind == "full":
        config = checkpoints.load_config(path)
        classifies = str((config.get("architectures") or [""])[0]).endswith("ForSequenceClassification")
        if not classifies and not any_head:
            raise InputError(
                "a base, not tuned weights", where=path, remedy="give an adapter or a fine-tuned classifier"
            )
        stored, named = labels_of(config) if classifies else (), None
        head = CLASSIFIER if classifies else head_of(config)
    else:
        config = read_config(path)
        stored, named = (), config.get("base_model_name_or_path")
        head = {"SEQ_CLS": CLASSIFIER, "CAUSAL_LM": "causal-lm"}.get(str(config.get("task_type")), "bare")
    return Tuned(
        path=path,
        kind=kind,
        base=base.id if base else None,
        base_name=base.name if base else named,
        labels=tuple(settings.get("labels") or stored),
        task=settings.get("task"),
        head=str(settings.get("head") or head),
        max_length=settings.get("max_length"),
    )


def labels_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The label names of a classifier's config, in order of their ids."""
    found = {int(index): str(label) for index, label in (config.get("id2label") or {}).items()}
    return tuple(found[index] for index in sorted(found))


def label_map(tuned: Tuned, labels: Sequence[str]) -> tuple[str, ...]:
    """The stored label map, when it names the same classes as a task does.

    Raises:
        InputError: the sets of classes differ, or nothing recorded the weights' labels.
    """
    if not tuned.labels:
        raise InputError(
            "nothing recorded these weights' labels",
            where=tuned.path,
            remedy="bequest adopt PATH --base BASE --task FILE",
        )
    if set(tuned.labels) != set(labels):
        missing, extra = sorted(set(labels) - set(tuned.labels)), sorted(set(tuned.labels) - set(labels))
        said = [f"they lack {', '.join(missing)}"] * bool(missing) + [f"the task lacks {', '.join(extra)}"] * bool(
            extra
        )
        raise InputError(
            f"tuned for other labels: {'; '.join(said)}",
            where=tuned.path,
            key="labels",
            remedy="tune again for this task",
        )
    return tuned.labels


def load_tuned(tuned: Tuned, base: Generation, *, trainable: bool = False) -> tuple[Any, PreTrainedTokenizerBase]:
    """The live model (fp32, eval mode) and its tokenizer.

    Args:
        tuned: what to load.
        base: the base to put an adapter on; not used for a fully tuned model.
        trainable: let the adapter train.

    Raises:
        InputError: the weights do not fit the base.
    """
    from bequest.training.tuning import padded

    place = tuned.path if lineage.tokenizer_digest(tuned.path) else base.path
    tokenizer = padded(checkpoints.load_tokenizer(place), place)
    if tuned.kind == "full":
        return checkpoints.load_model(tuned.path), tokenizer
    labels = list(tuned.labels) or class_names(tuned.path)
    model = checkpoints.load_model(base.path, head=tuned.head, labels=labels if tuned.head == CLASSIFIER else None)
    model.config.pad_token_id = tokenizer.pad_token_id
    wrapped = checkpoints.load_adapter(model, tuned.path, trainable=trainable)
    return wrapped.eval(), tokenizer


def class_names(path: Path) -> list[str]:
    """transformers' placeholder labels where nothing recorded an adapter's label map: as many as its head has rows."""
    rows = [
        shape[0]
        for name, (shape, _) in checkpoints.header_shapes(path).items()
        if name.endswith(("score.weight", "classifier.weight", "classifier.out_proj.weight"))
    ]
    return [f"LABEL_{index}" for index in range(rows[0])] if rows else ["LABEL_0", "LABEL_1"]
