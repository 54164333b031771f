"""Sequential adaptation: minimise the new domain's loss from the previous weights, with a fresh, re-warmed schedule.

The plain baseline of continual pre-training: ``L_t`` from ``theta_{t-1}``, a fresh optimizer (old moments leak the old
direction) and learning rate ``lr_max * t / T_w``, then cosine decay to ``min_lr_ratio * lr_max``.  Re-warming is what
lets a decayed checkpoint learn again, and what makes it forget (Ibrahim et al. 2024, "Simple and Scalable Strategies to
Continually Pre-train Large Language Models").
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from bequest.adaptation.limits import check_sequential
from bequest.training.objective import Objective, Step, Term
from bequest.training.settings import TrainSettings


@dataclass(frozen=True)
class Sequential(Objective):
    """The bare language model on the new domain."""

    min_lr_ratio: float = 0.1
    """Where the cosine of each domain ends, as a share of its peak."""

    def __post_init__(self) -> None:
        check_sequential(self.min_lr_ratio)

    def terms(self, step: Step) -> dict[str, Term]:
        """None of its own: the language-model term is beneath every method."""
        return {}

    def schedule(self, settings: TrainSettings) -> TrainSettings:
        """The settings of one domain: warm-up again, then down to the floor.

        Only a cosine (or wsd) has a floor; other schedules are left as the recipe says.
        """
        if settings.schedule in ("cosine", "wsd") and settings.min_lr_ratio == 0:
            return dataclasses.replace(settings, min_lr_ratio=self.min_lr_ratio)
        return settings
