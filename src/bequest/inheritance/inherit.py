"""Knowledge Inheritance: the student learns from the text and, less and less, from a teacher.

Qin et al., "Knowledge Inheritance for Pre-trained Language Models", NAACL 2022, eq. 1-2::

    L = (1/N) sum_j [ (1 - a_t) * L_self(j) + a_t * t^2 KL(p_teacher(j) || p_student(j)) ]

Forward KL, teacher first, temperature on both sides (2, as in the released code; the paper does not say), only at the
target positions, both terms divided once by the global number of targets N.  Deviations: log-softmax in fp32 after the
cast; the teacher stops running, and is let go, once a_t is zero for good.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bequest.errors import InputError, did_you_mean
from bequest.inheritance.schedules import SCHEDULES
from bequest.inheritance.teacher import LiveTeacher
from bequest.training.divergence import cross_entropy_sum, divergence_sum
from bequest.training.objective import Objective, Progress, Step, Term


@dataclass(frozen=True)
class Inherit(Objective):
    """The teacher-guided objective, terms ``lm`` (weight 1 - a) and ``inherit`` (weight a)."""

    teacher: LiveTeacher = field(repr=False)
    """Who teaches."""
    schedule: str = "linear"
    """linear, heaviside, constant or none."""
    until: float = 0.5
    """How long the teacher guides: a share of the run (up to 1) or a number of tokens."""
    temperature: float = 2.0
    """t of both softmaxes."""
    vocabulary: int | None = None
    """Size of the shared vocabulary where embedding rows are padded; ``None`` when they are not."""

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise InputError(
                f"unknown schedule {self.schedule!r}",
                key="teachers.schedule",
                remedy=did_you_mean(self.schedule, SCHEDULES),
            )
        if not self.until > 0:
            raise InputError(
                f"{self.until} is not above zero",
                key="teachers.until",
                remedy="give a share of the stage or a number of tokens, or schedule: none",
            )
        if not self.temperature > 0:
            raise InputError(f"{self.temperature} is not above zero", key="teachers.temperature", remedy="use 2")

    def rate(self, progress: Progress) -> float:
        """a_t for the update that ``progress`` stands before."""
        guided = min(progress.updates_for(self.until), progress.updates)
        return SCHEDULES[self.schedule](progress.update, guided)

    def terms(self, step: Step) -> dict[str, Term]:
        """``lm`` and ``inherit``; at a = 0 exactly the bare language model, and the teacher is not asked."""
        rate = self.rate(step.progress)
        if rate == 0:
            if not self.teacher.released:
                self.teacher.release()
            return {"lm": Term(cross_entropy_sum(step.logits(), step.target_ids()))}
        student = step.logits()
        # At a = 1 the hard labels have no weight: their loss is logged without a gradient.
        own = cross_entropy_sum(student if rate < 1 else student.detach(), step.target_ids())
        guided = divergence_sum(
            self.teacher.logits(step), student, temperature=self.temperature, vocabulary=self.vocabulary
        )
        return {"lm": Term(own, 1.0 - rate), "inherit": Term(guided, rate)}

    def flops(self, tokens: int, targets: int, progress: Progress) -> int:
        """The teacher's forward pass, while it still runs."""
        return self.teacher.flops(tokens, targets) if self.rate(progress) > 0 else 0
