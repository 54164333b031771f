"""Outcomes of growth: where a curve begins, what a head start saves, when one curve comes below another, symmetry.

    start      the loss before the first update
    saving     1 − F(loss*) / F_partner(loss*), loss* = where the partner ends (growth.md §13, iso-loss)
    crossing   the share of the run after which the curve stays below the partner's; 1 where it does not end below
    units      units that repeat another one, or that training cannot tell apart (growth.md §8)

Try it: ``SavingOutcome(kind="saving", corpus="general", model="v1").between(row.measures, scratch.measures)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from bequest.errors import InputError, did_you_mean
from lab.experiments.curves import level, reached, whole_course
from lab.experiments.measured import Better, Measures, Outcome, Relative, margin_of

COUNTED = {
    "student": "training FLOPs",
    "teacher": "training FLOPs and teachers' forward passes",
    "source": "training FLOPs, teachers' forward passes and the making of the source",
}


class StartOutcome(Outcome):
    """The held-out loss of a stage before its first update.

    Attributes:
        stage: which.
        corpus: on what.
    """

    kind: Literal["start"]
    stage: str
    corpus: str

    @property
    def exact(self) -> bool:
        """A growth without chance begins at one loss, whatever the seed."""
        return True

    @property
    def formula(self) -> str:
        """Whose loss on what."""
        return f"held-out loss on {self.corpus} before {self.stage} begins"

    def value(self, measures: Measures, order: Sequence[str]) -> float:
        """The first point of the stage's curve."""
        points = [p for p in measures.get("curves", {}).get(self.stage, ()) if p["corpus"] == self.corpus]
        if not points or points[0]["tokens"] > 0 or points[0]["loss"] is None:
            raise InputError(
                f"no loss on {self.corpus!r} was measured before {self.stage!r}", key=f"measures.curves.{self.stage}"
            )
        return float(points[0]["loss"])

    def margin(self, measures: Measures, order: Sequence[str]) -> float | None:
        """Where it ends says whether the experiment informs, not where it begins."""
        return margin_of(measures, self.stage, self.corpus)


class SavingOutcome(Relative):
    """The share of the partner's compute that is saved on the way to the loss at which the partner ends.

    A cell that never comes down to it saves nothing: 0, or less where it spent more than the partner.

    Attributes:
        corpus: whose held-out loss.
        model: the stage that the run ends with.
        counting: ``student``, ``teacher`` or ``source``: what of the method's cost is counted; of the partner the same.
        less: this share of what is saved when the student alone is counted is taken off: above 0 where more is left.
    """

    kind: Literal["saving"]
    corpus: str
    model: str
    counting: Literal["student", "teacher", "source"] = "student"
    less: float = 0.0

    @property
    def unit(self) -> str:
        """A share of the partner's FLOPs."""
        return "share"

    @property
    def better(self) -> Better:
        """More saved is better."""
        return "higher"

    @property
    def formula(self) -> str:
        """What is counted."""
        counted = COUNTED[self.counting]
        less = f", less {self.less:g} × the same with the student's FLOPs" if self.less else ""
        return f"1 − F(loss\\*)/F₀(loss\\*), loss\\* = where the other ends on {self.corpus}; F = {counted}{less}"

    def between(self, measures: Measures, partner: Measures) -> float:
        """The share."""
        found = self._saved(measures, partner, self.counting)
        if not self.less:
            return found
        saved = self._saved(measures, partner, "student")
        if saved <= 0:
            raise InputError("nothing is saved, so that no share of it can be lost", key="measures.curves")
        return found - self.less * saved

    def _saved(self, measures: Measures, partner: Measures, counting: str) -> float:
        own, other = (whole_course(found, self.corpus, counting) for found in (measures, partner))
        target = other[-1][1]
        whole = reached(other, target)
        if not whole:
            raise InputError("the partner begins at the loss with which it ends", key="measures.curves")
        at = reached(own, target)
        return 1.0 - at / whole if at is not None else min(0.0, 1.0 - own[-1][0] / whole)

    def remark(self, measures: Measures, partner: Measures) -> str | None:
        """Whether it never gets there."""
        own, other = (whole_course(found, self.corpus, self.counting) for found in (measures, partner))
        return "never comes down to loss\\*" if reached(own, other[-1][1]) is None else None

    def margin(self, measures: Measures, order: Sequence[str]) -> float | None:
        """Of the model that the run ends with."""
        return margin_of(measures, self.model, self.corpus)


class CrossingOutcome(Relative):
    """When a curve comes below its partner's for good.

    Attributes:
        corpus: whose held-out loss.
        model: the stage that the run ends with.
    """

    kind: Literal["crossing"]
    corpus: str
    model: str

    @property
    def unit(self) -> str:
        """A share of the run."""
        return "share"

    @property
    def formula(self) -> str:
        """What is compared."""
        return f"share of the tokens after which the loss on {self.corpus} stays below the other's; 1: never"

    def between(self, measures: Measures, partner: Measures) -> float:
        """The share."""
        own, other = (whole_course(found, self.corpus, "tokens") for found in (measures, partner))
        end = min(own[-1][0], other[-1][0])
        grid = sorted({at for at, _ in (*own, *other) if at <= end})
        gaps = [(at, level(own, at) - level(other, at)) for at in grid]
        above = [index for index, (_, gap) in enumerate(gaps) if gap >= 0]
        if not above:
            return 0.0
        last = above[-1]
        if last == len(gaps) - 1:
            return 1.0
        (x0, y0), (x1, y1) = gaps[last], gaps[last + 1]
        return (x0 + (x1 - x0) * y0 / (y0 - y1)) / end

    def remark(self, measures: Measures, partner: Measures) -> str | None:
        """Whether there is nothing to cross."""
        own, other = (whole_course(found, self.corpus, "tokens") for found in (measures, partner))
        return "begins below" if own[0][1] < other[0][1] else None

    def margin(self, measures: Measures, order: Sequence[str]) -> float | None:
        """Of the model that the run ends with."""
        return margin_of(measures, self.model, self.corpus)


class UnitsOutcome(Outcome):
    """How many units repeat another one of their layer, bit for bit (``duplicated``), or are ``locked``.

    Attributes:
        stage: whose model.
        count: ``locked`` units cannot be told apart by training either.
        units: one kind (``head``, ``neuron``, ``hidden``), or all of them together.
        since: an earlier stage, whose count is subtracted.
    """

    kind: Literal["units"]
    stage: str
    count: Literal["duplicated", "locked"] = "locked"
    units: str | None = None
    since: str | None = None

    @property
    def unit(self) -> str:
        """Units."""
        return "units"

    @property
    def exact(self) -> bool:
        """A count, and the same over the seeds where nothing random tells copies apart."""
        return True

    @property
    def formula(self) -> str:
        """Of which model."""
        less = f" − that of {self.since}" if self.since is not None else ""
        return f"{self.count} {self.units or 'units of all kinds'} of {self.stage}{less}"

    def value(self, measures: Measures, order: Sequence[str]) -> float:
        """The count."""
        return float(self._of(measures, self.stage) - (self._of(measures, self.since) if self.since else 0))

    def margin(self, measures: Measures, order: Sequence[str]) -> float | None:
        """No loss is read."""
        return None

    def _of(self, measures: Measures, stage: str) -> int:
        found: dict[str, Any] = measures.get("symmetry", {}).get(stage, {})
        if not found:
            raise InputError(f"no units of {stage!r} were counted", key="measures.symmetry")
        if self.units is not None and self.units not in found:
            remedy = did_you_mean(self.units, found)
            raise InputError(f"{stage!r} has no units of kind {self.units!r}", key="measures.symmetry", remedy=remedy)
        kinds = [self.units] if self.units is not None else list(found)
        return sum(int(found[kind][self.count]) for kind in kinds)
