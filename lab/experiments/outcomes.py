"""Outcomes: named numbers computed from one row's measures, such as the final loss or what was forgotten.

An experiment file declares them (``final_loss: {kind: matrix, metric: final, models: [minilm, s1, s2]}``); tuning,
tables and claims refer to them by name, and a claim says where it expects the number (:func:`expectation`).  Every kind
is one frozen class: what it needs, its unit, which direction is better, its value, and its *margin*: how far the losses
that it rests on lie below the unigram entropy, None where no loss is concerned.  A kind more is a class more, in
``KINDS`` and in ``OutcomeSpec``.  Small:

    compute(LossOutcome(kind="loss", model="s1", corpus="general"), row.measures)
"""

from __future__ import annotations

import math
import re
import statistics
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from bequest.errors import InputError, did_you_mean
from bequest.measures.anytime import FIGURES, Matrix, drift, drop
from bequest.measures.intervals import Interval
from bequest.recipe.quantities import ExplainedError

HOLDS, FAILED, UNDECIDED = "holds", "did not hold", "undecided"
NUMBER = r"([-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?)"
Better = Literal["lower", "higher"]
Measures = Mapping[str, Any]

PROBES = {
    "general_drop": "a⁰ − aᵀ on the probe",
    "drift": "(1/T) Σᵢ (a⁰ − aⁱ) on the probe",
}
Cells = tuple[tuple[int, int], ...]
# Levels: the losses with which the figure ends; for those not named here, the ones of the last stage.
ENDS_WITH = {"adaptability": "adaptability", "out_of_domain": "out_of_domain"}
# Differences: the cells (i, j) that each one compares, for a stream of T.  The best of them is the reference: what was
# lost must not make a figure less informative the more there is of it.
COMPARED: dict[str, Callable[[int], list[Cells]]] = {
    "learning": lambda last: [((i, i), (i - 1, i)) for i in range(1, last + 1)],
    "forget": lambda last: [((j, j), (last, j)) for j in range(1, last)],
    "forget_max": lambda last: [tuple((i, j) for i in range(j, last + 1)) for j in range(1, last)],
    "fwt": lambda last: [((j - 1, j), (0, j)) for j in range(2, last + 1)],
    "unseen_drop": lambda last: [((0, j), (i, j)) for j in range(2, last + 1) for i in range(1, j)],
}
COMPARED |= {
    "learning_min": COMPARED["learning"],
    "bwt": COMPARED["forget"],
    "unseen_drop_max": COMPARED["unseen_drop"],
}


class Outcome(BaseModel, ABC):
    """What all kinds have."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str | None = None  # for the tables; the outcome's name by default

    @property
    def unit(self) -> str:
        """``nats`` or ``accuracy`` (a share, 0 to 1)."""
        return "nats"

    @property
    def better(self) -> Better:
        """The direction in which the number is good."""
        return "lower"

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


class MatrixOutcome(Outcome):
    """A figure of the stage × domain matrix (bequest.measures.anytime), or the drop on a probe outside the stream.

    Attributes:
        metric: a name of ``FIGURES``, or ``general_drop`` or ``drift``, which need ``probe``.
        models: the base, then the stages in the order of training.
        over: ``losses`` or ``accuracies``.
        columns: the domains in the order of training; by default the cell's order.
        tasks: for accuracies, the task that stands for each domain; by default tasks bear their domain's name.
        probe: the corpus (for accuracies: the task) outside the stream.
        score: which task score is read.
    """

    kind: Literal["matrix"]
    metric: str
    models: tuple[str, ...] = Field(min_length=2)
    over: Literal["losses", "accuracies"] = "losses"
    columns: tuple[str, ...] = ()
    tasks: Mapping[str, str] = Field(default_factory=dict)
    probe: str | None = None
    score: Literal["accuracy", "macro_f1"] = "accuracy"

    @field_validator("metric")
    @classmethod
    def _known(cls, metric: str) -> str:
        if metric not in FIGURES and metric not in PROBES:
            raise ExplainedError(f"no metric {metric!r}", did_you_mean(metric, [*FIGURES, *PROBES]))
        return metric

    @model_validator(mode="after")
    def _probe_where_needed(self) -> MatrixOutcome:
        if self.metric in PROBES and self.probe is None:
            raise ExplainedError(f"{self.metric} needs a probe", "name a corpus: probe: general", key="probe")
        if self.metric not in PROBES and self.probe is not None:
            raise ExplainedError(f"{self.metric} has no probe", "leave it out", key="probe")
        return self

    @property
    def unit(self) -> str:
        """Nats over losses, shares over accuracies."""
        return "nats" if self.over == "losses" else "accuracy"

    @property
    def better(self) -> Better:
        """As the figure says."""
        if self.metric in PROBES:
            return "lower"
        return "higher" if FIGURES[self.metric].better(losses=self.over == "losses") == "higher" else "lower"

    @property
    def formula(self) -> str:
        """The figure's, with a = −loss spelled out."""
        text = PROBES.get(self.metric) or FIGURES[self.metric].formula
        level = self.metric in FIGURES and FIGURES[self.metric].sense == "level"
        if self.over == "losses":
            return f"{text}, a = {'loss' if level else '−loss'}"
        return f"{text}, a = {self.score}"

    def value(self, measures: Measures, order: Sequence[str]) -> float:
        """The figure of this row's matrix."""
        losses = self.over == "losses"
        if not losses:
            self._check_one_way(measures, (self.probe,) if self.probe is not None else self._domains(order))
        if self.probe is not None:
            values = [self._measured(measures, model, self.probe) for model in self.models]
            return drop(values, losses=losses) if self.metric == "general_drop" else drift(values, losses=losses)
        names = self._domains(order)
        found = {
            model: {n: self._measured(measures, model, self.tasks.get(n, n)) for n in names} for model in self.models
        }
        return FIGURES[self.metric].compute(Matrix.of(found, self.models, names, losses=losses))

    def margin(self, measures: Measures, order: Sequence[str]) -> float | None:
        """Unigram entropy minus loss, None over accuracies.

        Of a level the mean over the losses that it ends with; of a difference the mean over what is compared, of the
        best stage concerned: the diagonal for forgetting, the base for what is lost on a probe.
        """
        if self.over != "losses":
            return None
        if self.probe is not None:
            concerned = self.models if self.metric == "drift" else (self.models[0], self.models[-1])
            return max(margin_of(measures, model, self.probe) for model in concerned)
        names = self._domains(order)
        found = {model: {name: margin_of(measures, model, name) for name in names} for model in self.models}
        margins = Matrix.of(found, self.models, names, losses=False)
        if self.metric not in COMPARED:
            return FIGURES[ENDS_WITH.get(self.metric, "final")].compute(margins)
        compared = COMPARED[self.metric](margins.length)
        if not compared:
            raise InputError(f"{self.metric} has no meaning in a stream of {margins.length}")
        return statistics.fmean(max(margins.score(*cell) for cell in cells) for cells in compared)

    def _domains(self, order: Sequence[str]) -> tuple[str, ...]:
        names = self.columns or tuple(order)
        if not names:
            raise InputError("the matrix has no domains", key="columns", remedy="declare orders, or name the columns")
        return names

    def _check_one_way(self, measures: Measures, names: Sequence[str]) -> None:
        """A linear probe's score beside a tuned copy's would show the way of measuring, not the model."""
        tasks = [self.tasks.get(name, name) for name in names]
        ways = {str(_looked_up(measures, "tasks", model, task).get("how")) for model in self.models for task in tasks}
        if len(ways) > 1:
            several = " and ".join(sorted(ways))
            raise InputError(f"the scores of one matrix are of several kinds ({several})", key="measures.tasks")

    def _measured(self, measures: Measures, model: str, name: str) -> float:
        if self.over == "losses":
            return loss_of(measures, model, name)
        return score_of(measures, model, name, self.score)


class CorpusOutcome(Outcome):
    """What is read from one model's held-out loss on one corpus, nats per target."""

    model: str
    corpus: str

    def margin(self, measures: Measures, order: Sequence[str]) -> float | None:
        """Unigram entropy minus that loss."""
        return margin_of(measures, self.model, self.corpus)


class LossOutcome(CorpusOutcome):
    """The held-out loss itself."""

    kind: Literal["loss"]

    @property
    def formula(self) -> str:
        """Whose loss on what."""
        return f"held-out loss of {self.model} on {self.corpus}"

    def value(self, measures: Measures, order: Sequence[str]) -> float:
        """The loss."""
        return loss_of(measures, self.model, self.corpus)


class MarginOutcome(CorpusOutcome):
    """How far the loss lies below the unigram entropy: what was learnt beyond counting words."""

    kind: Literal["margin"]

    @property
    def better(self) -> Better:
        """Further below is better."""
        return "higher"

    @property
    def formula(self) -> str:
        """Whose margin on what."""
        return f"unigram entropy − held-out loss of {self.model} on {self.corpus}"

    def value(self, measures: Measures, order: Sequence[str]) -> float:
        """Unigram entropy minus loss."""
        return margin_of(measures, self.model, self.corpus)


class AccuracyOutcome(Outcome):
    """The score of one model on one task, a share; the mean over the measurement's own seeds."""

    kind: Literal["accuracy"]
    model: str
    task: str
    score: Literal["accuracy", "macro_f1"] = "accuracy"

    @property
    def unit(self) -> str:
        """A share."""
        return "accuracy"

    @property
    def better(self) -> Better:
        """More right is better."""
        return "higher"

    @property
    def formula(self) -> str:
        """Whose score on what."""
        return f"{self.score} of {self.model} on {self.task}"

    def value(self, measures: Measures, order: Sequence[str]) -> float:
        """The score."""
        return score_of(measures, self.model, self.task, self.score)

    def margin(self, measures: Measures, order: Sequence[str]) -> float | None:
        """No loss is read."""
        return None


KINDS: dict[str, type[Outcome]] = {
    "matrix": MatrixOutcome,
    "loss": LossOutcome,
    "margin": MarginOutcome,
    "accuracy": AccuracyOutcome,
}
OutcomeSpec = Annotated[
    MatrixOutcome | LossOutcome | MarginOutcome | AccuracyOutcome,
    Field(discriminator="kind"),
]


def compute(spec: Outcome, measures: Measures, *, order: Sequence[str] = ()) -> float:
    """An outcome's number for one row.

    Args:
        spec: what is computed.
        measures: the row's measures.
        order: the domains of the cell's order, as the experiment names them; empty where there is one order only.

    Raises:
        InputError: something that it needs was not measured; a missing cell is never a zero.
    """
    return spec.value(measures, order)


def margin(spec: Outcome, measures: Measures, *, order: Sequence[str] = ()) -> float | None:
    """How far below the unigram line the losses lie that the outcome rests on, nats; None where it reads no loss.

    Raises:
        InputError: as :func:`compute`.
    """
    return spec.margin(measures, order)


def loss_of(measures: Measures, model: str, corpus: str, key: str = "loss") -> float:
    """A model's held-out loss on a corpus (or, by ``key``, the corpus' unigram entropy), nats.

    Raises:
        InputError: it was not measured.
    """
    found = _looked_up(measures, "perplexity", model, corpus).get(key)
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
    found = _looked_up(measures, "tasks", model, task).get(score)
    if not found or None in found:
        raise InputError(f"no {score} of {model!r} on {task!r} was measured", key="measures")
    return statistics.fmean(float(value) for value in found)


def _looked_up(measures: Measures, what: str, model: str, name: str) -> Mapping[str, Any]:
    """One model's entry for one corpus or task."""
    models = measures.get(what, {})
    if model not in models:
        remedy = did_you_mean(model, models) if models else None
        raise InputError(f"model {model!r} was not measured", key=f"measures.{what}", remedy=remedy)
    if name not in models[model]:
        remedy = did_you_mean(name, models[model])
        raise InputError(f"{model!r} was not measured on {name!r}", key=f"measures.{what}.{model}", remedy=remedy)
    found: Mapping[str, Any] = models[model][name]
    return found


@dataclass(frozen=True)
class Expectation:
    """Where a claim expects a number: between ``low`` and ``high`` (either may be infinite); ``text`` as written."""

    text: str
    low: float
    high: float

    def judge(self, found: Interval) -> str:
        """``holds``, ``did not hold`` or ``undecided``, from the interval alone."""
        if found.low is None or found.high is None:
            return UNDECIDED
        if self.low < found.low and found.high < self.high:
            return HOLDS
        if found.high <= self.low or found.low >= self.high:
            return FAILED if found.low == found.high or found.high < self.low or found.low > self.high else UNDECIDED
        return UNDECIDED


def expectation(text: str) -> Expectation:
    """Read ``above 0``, ``below 0.5`` or ``between -0.03 and 0.03``.

    Raises:
        InputError: it says something else.
    """
    words = " ".join(text.split())
    if match := re.fullmatch(rf"(above|below) {NUMBER}", words):
        value = float(match[2])
        return Expectation(words, value, math.inf) if match[1] == "above" else Expectation(words, -math.inf, value)
    if (match := re.fullmatch(rf"between {NUMBER} and {NUMBER}", words)) and float(match[1]) < float(match[2]):
        return Expectation(words, float(match[1]), float(match[2]))
    raise InputError(
        f"{text!r} is no expectation", key="expect", remedy="write above 0, below 0.5 or between -0.03 and 0.03"
    )
