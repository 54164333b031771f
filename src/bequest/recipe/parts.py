"""The small parts of a recipe's stages, brought to one form whichever way they were written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from bequest.recipe.quantities import Count, ExplainedError, ShareOrCount, parse_count

COUNT = re.compile(r"[0-9][0-9_.]*[kKmM]?")
VOCABULARY = 8000


class Strict(BaseModel):
    """Frozen, and no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, protected_namespaces=())


class MethodCall(Strict):
    """A method by name (or ``"my_package.module:Class"``) with the options given to it."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)


def _method_calls(value: Any) -> Any:
    """A name, a mapping with ``name``, or a list of these, as a list of calls."""
    if isinstance(value, list | tuple):
        if not value:
            raise ExplainedError("the list of methods is empty", "name at least one method")
        return [call for item in value for call in _method_calls(item)]
    if isinstance(value, str):
        return [{"name": value}]
    if isinstance(value, MethodCall):
        return [value]
    if isinstance(value, Mapping):
        if "name" not in value:
            raise ExplainedError("a method given as a mapping needs a name", "write {name: ..., option: value}")
        if set(value) == {"name", "options"} and isinstance(value["options"], Mapping):
            return [value]
        return [{"name": value["name"], "options": {key: item for key, item in value.items() if key != "name"}}]
    raise ExplainedError(f"{value!r} is no method", "write a name, a mapping with name, or a list of these")


Methods = Annotated[tuple[MethodCall, ...], BeforeValidator(_method_calls)]


def _shares(value: Any) -> Any:
    """A corpus, a list of corpora (equal shares) or a mapping to shares, as a mapping to shares that sum to one."""
    if isinstance(value, str):
        return {value: 1.0}
    if isinstance(value, list | tuple):
        value = dict.fromkeys(value, 1.0)
    if not isinstance(value, Mapping) or not value:
        raise ExplainedError(f"{value!r} names no corpus", "write a corpus, a list, or a mapping from corpus to share")
    try:
        parts = {str(name): float(share) for name, share in value.items()}
    except (TypeError, ValueError):
        raise ExplainedError(
            "a share is not a number", "write corpus: share, such as {general: 0.9, code: 0.1}"
        ) from None
    total = sum(parts.values())
    if min(parts.values()) <= 0:
        raise ExplainedError("a share is not above zero", "leave the corpus out, or give it a share")
    return {name: share / total for name, share in parts.items()}


Shares = Annotated[dict[str, float], BeforeValidator(_shares)]


def _names(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_names)]


def _sizes(value: Any) -> Any:
    """Sizes of a model, in which ``4k`` is a number too."""
    if not isinstance(value, Mapping):
        return value
    counts = {key: parse_count(item) for key, item in value.items() if isinstance(item, str) and COUNT.fullmatch(item)}
    return {**value, **counts}


Sizes = Annotated[dict[str, Any], BeforeValidator(_sizes)]


class TokenizerSpec(Strict):
    """A tokenizer to train on the stage's corpora; the kind and the size follow the model unless named."""

    kind: Literal["byte-bpe", "wordpiece"] = "byte-bpe"
    vocab_size: Count = VOCABULARY


def _mapping_or_name(value: Any) -> str:
    return "<name>" if isinstance(value, str) else "<mapping>"


# Tags in angle brackets are taken out of error keys again.
Tokenizer = Annotated[
    Annotated[TokenizerSpec, Tag("<mapping>")] | Annotated[str, Tag("<name>")], Discriminator(_mapping_or_name)
]


class Teacher(Strict):
    """A smaller (or older) model that teaches during the first part of a stage, then steps back."""

    model: str
    schedule: str = "linear"
    until: Annotated[ShareOrCount, Field(gt=0)] = 0.5
    temperature: float = Field(2.0, gt=0)


class TwoStageSpec(Strict):
    """Train prefixes of the layers during the first part of a stage, then the whole model (bert2BERT)."""

    block: Count = 3
    until: Annotated[ShareOrCount, Field(gt=0)] = 0.125


class AdapterSpec(BaseModel):
    """A PEFT adapter: its type (``lora``, ``ia3``, ...) and any field of that type's PEFT config."""

    model_config = ConfigDict(extra="allow", frozen=True)
    type: str = "lora"
