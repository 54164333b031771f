"""Training: one loop for pre-training, inheritance, adaptation and tuning (a subclass of transformers' Trainer).

The public names are imported lazily, so that a plan can read :class:`TrainSettings` without loading torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bequest.training.evaluation import Evaluation, evaluate_loss
    from bequest.training.loading import TrainingData
    from bequest.training.objective import (
        Classification,
        LanguageModelling,
        Objective,
        Progress,
        Source,
        Stage,
        Step,
        Term,
    )
    from bequest.training.session import TrainResult, train
    from bequest.training.settings import TrainSettings

_HOMES = {
    "Evaluation": "evaluation",
    "evaluate_loss": "evaluation",
    "Classification": "objective",
    "LanguageModelling": "objective",
    "Objective": "objective",
    "Progress": "objective",
    "Source": "objective",
    "Stage": "objective",
    "Step": "objective",
    "Term": "objective",
    "TrainingData": "loading",
    "TrainResult": "session",
    "train": "session",
    "TrainSettings": "settings",
}
__all__ = [
    "Classification",
    "Evaluation",
    "LanguageModelling",
    "Objective",
    "Progress",
    "Source",
    "Stage",
    "Step",
    "Term",
    "TrainResult",
    "TrainSettings",
    "TrainingData",
    "evaluate_loss",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
