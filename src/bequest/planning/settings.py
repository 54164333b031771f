"""From a stage's section to the settings of its training run; no torch."""

from __future__ import annotations

import dataclasses

from bequest.recipe.sections import DEFAULT_LENGTH, Pretrain, Trained
from bequest.training.prefixes import TwoStage
from bequest.training.settings import TrainSettings

_FIELDS = {field.name for field in dataclasses.fields(TrainSettings)}


def train_settings(section: Trained) -> TrainSettings:
    """The settings of a stage that trains: the section's fields that :class:`TrainSettings` has, by the same names.

    A tuning stage has ``max_length`` where a language-model stage has ``block``.
    """
    values = {name: getattr(section, name) for name in type(section).model_fields if name in _FIELDS}
    if "max_length" in type(section).model_fields:
        values["block"] = section.max_length or DEFAULT_LENGTH  # type: ignore[attr-defined]
    if isinstance(section, Pretrain) and section.two_stage is not None:
        values["two_stage"] = TwoStage(section.two_stage.block, section.two_stage.until)
    return TrainSettings(**values)
