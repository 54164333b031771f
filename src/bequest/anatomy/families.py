"""The families that bequest knows, by transformers' ``model_type``; the tables stand in encoders.py and decoders.py.

Imports neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bequest.anatomy.decoders import GPT2, LLAMA, MISTRAL, QWEN2, QWEN3
from bequest.anatomy.encoders import BERT, DISTILBERT, ELECTRA, ROBERTA
from bequest.anatomy.table import Family, Head
from bequest.errors import InputError, did_you_mean

FAMILIES: dict[str, Family] = {
    "bert": BERT,
    "roberta": ROBERTA,
    "distilbert": DISTILBERT,
    "electra": ELECTRA,
    "gpt2": GPT2,
    "llama": LLAMA,
    "mistral": MISTRAL,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
}
HEADS = ("causal-lm", "masked-lm", "sequence-classification", "discriminator", "bare")


def family_of(config: Mapping[str, Any]) -> Family:
    """The family of a config, by its ``model_type``.

    Raises:
        InputError: the config has no ``model_type``, or one without a table.
    """
    return family_named(str(config.get("model_type", "")), key="model_type")


def family_named(name: str, *, key: str = "family") -> Family:
    """The family of that name.

    Raises:
        InputError: bequest has no table for it.
    """
    if name not in FAMILIES:
        raise InputError(f"no anatomy table for the family {name!r}", key=key, remedy=did_you_mean(name, FAMILIES))
    return FAMILIES[name]


def head_named(family: Family, head: str) -> Head:
    """The variant of a family.

    Raises:
        InputError: the family has no such variant.
    """
    if head not in family.heads:
        raise InputError(f"{family.name} has no {head!r} head", key="head", remedy=did_you_mean(head, family.heads))
    return family.heads[head]


def head_of(config: Mapping[str, Any]) -> str:
    """The variant that a config's ``architectures`` names.

    Raises:
        InputError: the config names no architecture, or one that the family's table does not have.
    """
    family = family_of(config)
    names = config.get("architectures") or []
    if not names:
        raise InputError("the config names no architecture", key="architectures", remedy="say which head is meant")
    classes = {head.class_name: name for name, head in family.heads.items()}
    if names[0] not in classes:
        raise InputError(
            f"{names[0]} is none of the variants in the table of {family.name}",
            key="architectures",
            remedy=did_you_mean(names[0], classes),
        )
    return classes[names[0]]


def objective_of(family: Family) -> str:
    """The language-model head of a family: ``causal-lm`` or ``masked-lm``."""
    return "causal-lm" if "causal-lm" in family.heads else "masked-lm"
