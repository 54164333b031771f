"""Training a part of a model only: what is frozen has no gradient at all, and no bit of it moves."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from bequest.errors import RunError
from bequest.training.masked_update import plain_name


def freeze_but(model: nn.Module, only: Collection[str] | None) -> frozenset[str]:
    """Freeze every parameter that ``only`` does not name (none at all for ``None``); returns the names frozen here.

    Raises:
        RunError: a name that is no parameter of the model, or nothing left to train.
    """
    if only is None:
        return frozenset()
    named = {plain_name(name): parameter for name, parameter in model.named_parameters()}
    unknown = sorted(set(only) - named.keys())
    if unknown:
        raise RunError("the model has no such parameter to train", key=unknown[0], remedy="name its own parameters")
    if not any(named[name].requires_grad for name in only):
        raise RunError("no parameter is left to train", key="train_only", remedy="name some")
    frozen = frozenset(name for name, value in named.items() if name not in only and value.requires_grad)
    for name in frozen:
        named[name].requires_grad_(False)
    return frozen


def thaw(model: nn.Module, frozen: Collection[str]) -> None:
    """Undo :func:`freeze_but`."""
    for name, parameter in model.named_parameters():
        if plain_name(name) in frozen:
            parameter.requires_grad_(True)
