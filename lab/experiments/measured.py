"""What every kind of outcome has, and what they read of a row's measures: losses and scores by model and name.

An :class:`Outcome` is a number of one row.  A :class:`Relative` one is a number of two: a row and its partner, the cell
of another method with the same seed and order.  The kinds stand in :mod:`lab.experiments.outcomes`.  Small:

    loss_of(row.measures, "s1", "general")
"""

from __future__ import annotations

import statistics
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from bequest.errors import InputError, did_you_mean

Better = Literal["lower", "higher"]
Measures = Mapping[str, Any]


class Outcome(BaseModel, ABC):
    """What all kinds have."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str | None = None  # for the tables; the outcome's name by default
    published: Mapping[str, str] = Field(default_factory=dict)  # what papers report, by method, to stand beside it

    @property
    def unit(self) -> str:
        """``nats``, ``accuracy`` or ``share`` (0 to 1), ``units``."""
        return "nats"

    @property
    def better(self) -> Better:
        """The direction in which the number is good."""
        return "lower"

    @property
    def exact(self) -> bool:
        """Whether values that are equal over the seeds are the number itself: nothing random enters them."""
        return False

    @property
    @abstractmethod
    def formula(self) -> str:
        """What is computed, in one line, to stand beside the number."""

    @abstractmethod
    def value(self, measures: Measures, order: Sequence[str]) -> float:
        """The number.

        Raises:
            InputError: something that it needs was not measured.
        """

    @abstractmethod
    def margin(self, measures: Measures, order: Sequence[str]) -> float | None:
        """Unigram entropy minus loss, nats, of the losses that the outcome rests on; None where it reads no loss."""


class Relative(Outcome):
    """A number of a row and its partner.

    Attributes:
        against: the partner's method; the experiment's baseline by default.
    """

    against: str | None = None

    @abstractmethod
    def between(self, measures: Measures, partner: Measures) -> float:
        """The number.

        Raises:
            InputError: something that it needs was not measured.
        """

    def remark(self, measures: Measures, partner: Measures) -> str | None:
        """What a reader must know about the number of these two, None where there is nothing."""
        return None

    def value(self, measures: Measures, order: Sequence[str]) -> float:
        """There is none of one row alone."""
        raise InputError("it compares two cells, and one is there", remedy="choose an outcome of a single cell")


def loss_of(measures: Measures, model: str, corpus: str, key: str = "loss") -> float:
    """A model's held-out loss on a corpus (or, by ``key``, the corpus' unigram entropy), nats.

    Raises:
        InputError: it was not measured.
    """
    found = looked_up(measures, "perplexity", model, corpus).get(key)
    if found is None:
        raise InputError(f"no {key} of {model!r} on {corpus!r} was measured", key="measures")
    return float(found)


def margin_of(measures: Measures, model: str, corpus: str) -> float:
    """The corpus' unigram entropy minus a model's loss on it, nats.

    Raises:
        InputError: it was not measured.
    """
    return loss_of(measures, model, corpus, "unigram") - loss_of(measures, model, corpus)


def score_of(measures: Measures, model: str, task: str, score: str = "accuracy") -> float:
    """A model's score on a task, the mean over the measurement's own seeds; a share.

    Raises:
        InputError: it was not measured.
    """
    found = looked_up(measures, "tasks", model, task).get(score)
    if not found or None in found:
        raise InputError(f"no {score} of {model!r} on {task!r} was measured", key="measures")
    return statistics.fmean(float(value) for value in found)


def looked_up(measures: Measures, what: str, model: str, name: str) -> Mapping[str, Any]:
    """One model's entry for one corpus or task.

    Raises:
        InputError: it was not measured.
    """
    models = measures.get(what, {})
    if model not in models:
        remedy = did_you_mean(model, models) if models else None
        raise InputError(f"model {model!r} was not measured", key=f"measures.{what}", remedy=remedy)
    if name not in models[model]:
        remedy = did_you_mean(name, models[model])
        raise InputError(f"{model!r} was not measured on {name!r}", key=f"measures.{what}.{model}", remedy=remedy)
    found: Mapping[str, Any] = models[model][name]
    return found
