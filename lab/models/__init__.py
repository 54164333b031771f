"""The model kit: ready Hugging Face directories, made from registry packages or trained here on general text.

One module per model; :mod:`lab.models.making` does what they share.  Try it: ``make("stories15m", Console())``, or
``model_identity("bench2m")``, which needs neither network nor torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bequest.errors import InputError, did_you_mean
from lab import places
from lab.models.bench2m import MAKER as BENCH2M
from lab.models.growth_sources import MAKERS as GROWTH_SOURCES
from lab.models.making import Maker, flaw, identity_of, make_model
from lab.models.minilm import MAKER as MINILM
from lab.models.minilm_half import MAKER as MINILM_HALF
from lab.models.smollm2 import MAKER as SMOLLM2
from lab.models.stories15m import MAKER as STORIES15M

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["MODELS", "Maker", "make", "model_directory", "model_identity"]

MODELS: dict[str, Maker] = {
    maker.name: maker for maker in (MINILM, STORIES15M, SMOLLM2, BENCH2M, *GROWTH_SOURCES, MINILM_HALF)
}


def make(name: str, console: Console, again: bool = False) -> Path:
    """The directory of a model, made when it is not whole in the cache, or anew with ``again``.

    Raises:
        InputError: no such model, or its package or corpus cannot be used.
        RunError: the package was refused, or the finished model fails its proof.
    """
    return make_model(_maker(name), console, again=again)


def model_directory(name: str, console: Console | None = None) -> Path:
    """The directory of a model that is whole; made first when it is not (``bench2m`` takes minutes)."""
    maker = _maker(name)
    if flaw(maker) is None:
        return places.models(name)
    from rich.console import Console as Terminal

    return make_model(maker, console or Terminal(stderr=True))


def model_identity(name: str) -> str:
    """What a model is, such as ``minilm@0123456789ab``; needs no model and no network."""
    return identity_of(_maker(name))


def _maker(name: str) -> Maker:
    if name not in MODELS:
        raise InputError(f"no model is called {name!r}", key=name, remedy=did_you_mean(name, MODELS))
    return MODELS[name]
