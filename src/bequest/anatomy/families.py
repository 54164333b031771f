"""The families that bequest knows, by transformers' ``model_type``, and what to say of others.

The tables stand in encoders.py, decoders.py, modern_decoders.py and experts.py.  Nothing here imports torch or
transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bequest.anatomy.decoders import GPT2, GPT_NEOX, LLAMA, MISTRAL, OPT, QWEN2, QWEN3
from bequest.anatomy.encoders import BERT, DISTILBERT, ELECTRA, MODERNBERT, ROBERTA
from bequest.anatomy.experts import MIXTRAL, QWEN2_MOE
from bequest.anatomy.modern_decoders import GEMMA, GEMMA2, GEMMA3_TEXT, GRANITE, OLMO2, PHI3, SMOLLM3
from bequest.anatomy.table import Family, Head
from bequest.errors import InputError, did_you_mean

FAMILIES: dict[str, Family] = {
    "bert": BERT,
    "roberta": ROBERTA,
    "distilbert": DISTILBERT,
    "electra": ELECTRA,
    "modernbert": MODERNBERT,
    "gpt2": GPT2,
    "gpt_neox": GPT_NEOX,
    "opt": OPT,
    "llama": LLAMA,
    "mistral": MISTRAL,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "phi3": PHI3,
    "granite": GRANITE,
    "smollm3": SMOLLM3,
    "gemma": GEMMA,
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA3_TEXT,
    "olmo2": OLMO2,
    "mixtral": MIXTRAL,
    "qwen2_moe": QWEN2_MOE,
}
#: Architectures without a table whose reason is worth saying: ``model_type`` -> (reason, remedy).
_ALIBI = "ALiBi's slopes depend on a head's index, so heads cannot be copied"
_DERIVED = "its multipliers are derived from its sizes, which growth would change"
_ENCODER_DECODER = "it has an encoder and a decoder joined by cross attention"
_LATENT = "it compresses keys and values into a latent that no axis here describes"
_STATE = "its blocks are no attention blocks"
_MULTIMODAL = "it has parts besides its language model"
_TEXT = "grow its language model alone"
_ROTARY = "choose a family with rotary or learnt positions"
WITHOUT_TABLE: dict[str, tuple[str, str]] = {
    "bloom": (_ALIBI, _ROTARY),
    "mpt": (_ALIBI, _ROTARY),
    "falcon": ("it interleaves groups of heads, and some of its checkpoints have ALiBi", _ROTARY),
    "minicpm": (_DERIVED, "choose a llama-like family"),
    "minicpm3": (_DERIVED, "choose a llama-like family"),
    "gemma3": (_MULTIMODAL, f"{_TEXT}: its text_config is a gemma3_text"),
    "gemma3n": (_MULTIMODAL, "choose gemma3_text"),
    "mllama": (_MULTIMODAL, _TEXT),
    "llava": (_MULTIMODAL, _TEXT),
    "qwen2_vl": (_MULTIMODAL, _TEXT),
    "t5": (_ENCODER_DECODER, "choose an encoder or a decoder"),
    "bart": (_ENCODER_DECODER, "choose an encoder or a decoder"),
    "deepseek_v2": (_LATENT, "choose mixtral or qwen2_moe"),
    "deepseek_v3": (_LATENT, "choose mixtral or qwen2_moe"),
    "mamba": (_STATE, "choose a transformer"),
    "mamba2": (_STATE, "choose a transformer"),
    "rwkv": (_STATE, "choose a transformer"),
    "deberta-v2": ("its attention reads relative positions as well as the stream", "choose modernbert"),
    "albert": ("all its blocks share one set of weights, so none can be grown apart", "choose bert"),
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
    if name in WITHOUT_TABLE:
        reason, remedy = WITHOUT_TABLE[name]
        raise InputError(f"no anatomy table for the family {name!r}: {reason}", key=key, remedy=remedy)
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
