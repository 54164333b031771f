"""Warming a language-model head up on an encoder that stays as it is.

A sentence encoder is published without the head that predicts masked words.  Before it can serve as the base of masked
language modelling it needs one, and the head must learn before the encoder moves: gradients through a random head would
only disturb what the encoder knows.

It is an ordinary adaptation method, named by its path in a recipe::

    - adapt: {name: warm, from: ./headless, domains: [general], tokens: 1M, method: lab.models.warmup:FrozenEncoder}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from bequest.training.objective import Objective, Step, Term


@dataclass(frozen=True)
class FrozenEncoder(Objective):
    """The bare language model, with only the head learning.

    Whatever belongs to the base model is frozen, the word embeddings included, and with them the output embeddings that
    are tied to them: of BERT's head the transform, its normalisation and the bias per word are left to learn.  Nothing
    in the base model is dropped out: noise in states that cannot adapt to it only hides them from the head.  That holds
    for the model in hand; its config, and so the model that is loaded again, keeps its dropout.
    """

    def terms(self, step: Step) -> dict[str, Term]:
        """None of its own: the language-model term is beneath every method."""
        return {}

    def prepare(self, model: nn.Module) -> nn.Module:
        """Freeze the base model and still its dropout; ties are left as they are."""
        base: Any = model.base_model
        for parameter in base.parameters():
            parameter.requires_grad_(False)
        for module in base.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        return model
