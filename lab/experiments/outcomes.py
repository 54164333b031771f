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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from bequest.errors import InputError, did_you_mean
from bequest.measures.anytime import FIGURES, Matrix, drift, drop
from bequest.measures.intervals import Interval
from bequest.recipe.quantities import ExplainedError
from lab.experiments.curve_outcomes import CrossingOutcome, SavingOutcome, StartOutcome, UnitsOutcome
from lab.experiments.measured import Better, Measures, Outcome, Relative, looked_up, loss_of, margin_of, score_of

HOLDS, FAILED, UNDECIDED = "holds", "did not hold", "undecided"
NUMBER = r"([-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?)"

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
        ways = {str(looked_up(measures, "tasks", model, task).get("how")) for model in self.models for task in tasks}
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


class GapOutcome(CorpusOutcome):
    """How far a model's held-out loss lies above another one's: 0 for a growth that preserves the function.

    Attributes:
        than: the other models; the first of them that was measured counts, so that methods may have their own.
    """

    kind: Literal["gap"]
    than: tuple[str, ...] = Field(min_length=1)

    @property
    def exact(self) -> bool:
        """The models may be the same for every seed, and so the losses."""
        return True

    @property
    def formula(self) -> str:
        """Whose losses on what."""
        return f"held-out loss of {self.model} − that of {' or '.join(self.than)}, on {self.corpus}"

    def value(self, measures: Measures, order: Sequence[str]) -> float:
        """The difference."""
        measured = [name for name in self.than if name in measures.get("perplexity", {})]
        other = (*measured, *self.than)[0]
        return loss_of(measures, self.model, self.corpus) - loss_of(measures, other, self.corpus)

    def margin(self, measures: Measures, order: Sequence[str]) -> float | None:
        """Of the better of the two."""
        measured = [name for name in (self.model, *self.than) if name in measures.get("perplexity", {})]
        return max(margin_of(measures, name, self.corpus) for name in measured or (self.model,))


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
    "gap": GapOutcome,
    "accuracy": AccuracyOutcome,
    "start": StartOutcome,
    "saving": SavingOutcome,
    "crossing": CrossingOutcome,
    "units": UnitsOutcome,
}
OutcomeSpec = Annotated[
    MatrixOutcome
    | LossOutcome
    | MarginOutcome
    | GapOutcome
    | AccuracyOutcome
    | StartOutcome
    | SavingOutcome
    | CrossingOutcome
    | UnitsOutcome,
    Field(discriminator="kind"),
]


def compute(spec: Outcome, measures: Measures, *, order: Sequence[str] = (), partner: Measures | None = None) -> float:
    """An outcome's number for one row.

    Args:
        spec: what is computed.
        measures: the row's measures.
        order: the domains of the cell's order, as the experiment names them; empty where there is one order only.
        partner: the measures of its partner, for an outcome of two rows.

    Raises:
        InputError: something that it needs was not measured; a missing cell is never a zero.
    """
    if isinstance(spec, Relative) and partner is not None:
        return spec.between(measures, partner)
    return spec.value(measures, order)


def margin(spec: Outcome, measures: Measures, *, order: Sequence[str] = ()) -> float | None:
    """How far below the unigram line the losses lie that the outcome rests on, nats; None where it reads no loss.

    Raises:
        InputError: as :func:`compute`.
    """
    return spec.margin(measures, order)


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
