"""A config with everything settled that the config class of its family would derive: one reading of a config's sizes.

Imports neither torch nor transformers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from bequest.anatomy.families import family_of
from bequest.anatomy.table import Family, holds
from bequest.errors import InputError

#: The canonical size keys that work for every family that has such a size, and the axis-free number of layers.
SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "shared_expert_intermediate_size",
    "embedding_size",
    "head_dim",
)
#: How configs spoke of rotary positions before ``rope_parameters``; transformers still reads them.
_OLD_ROPE = (
    "rope_theta",
    "rope_scaling",
    "partial_rotary_factor",
    "rotary_emb_base",
    "rotary_pct",
    "global_rope_theta",
    "local_rope_theta",
    "rope_local_base_freq",
)


def settle(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config in its family's own names, defaults filled in, derived values written out.

    Raises:
        InputError: no table for its family, a switch that no line covers, or sizes that no model can have.
    """
    family = family_of(config)
    full: dict[str, Any] = {**family.defaults, **config}
    if "rope_parameters" not in config and any(word in config for word in _OLD_ROPE):
        full.pop("rope_parameters", None)
    if family.rotary:
        _check_rotary(config)
    hidden, heads = _whole(full, family, "hidden_size"), _whole(full, family, "num_attention_heads")
    _whole(full, family, "num_hidden_layers")
    for key, made in family.derived.items():
        full[key] = made(full)
    for condition, remedy in family.refuses.items():
        if holds(condition, full):
            key = condition.removeprefix("not ").partition(" ")[0]
            said = condition if " != " in condition else f"{key} = {str(full[key]).lower()}"
            raise InputError(f"{family.name} with {said} has no anatomy table", key=key, remedy=remedy)
    _whole(full, family, "intermediate_size")
    for key in family.keep_ratio:
        _whole(full, family, key)
    if "num_key_value_heads" in family.defaults:
        if full["num_key_value_heads"] is None:
            full["num_key_value_heads"] = heads
        if heads % _whole(full, family, "num_key_value_heads"):
            raise InputError(
                f"{heads} query heads cannot share {full['num_key_value_heads']} key-value heads evenly",
                key="num_key_value_heads",
                remedy=f"choose a divisor of {heads}",
            )
    _settle_head_dim(full, family, hidden, heads)
    _check_experts(full, family)
    _settle_lists(full, family)
    return full


def labels_of(config: Mapping[str, Any]) -> int:
    """The number of labels of a config (transformers' default is 2)."""
    names = config.get("id2label")
    return len(names) if names else int(config.get("num_labels") or 2)


def _whole(full: dict[str, Any], family: Family, canonical: str) -> int:
    key = family.key(canonical)
    value = full.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"must be a whole number of at least 1, not {value!r}", key=canonical)
    return value


def _check_rotary(config: Mapping[str, Any]) -> None:
    for key in ("rope_parameters", "rope_scaling"):
        if config.get(key) is not None and not isinstance(config[key], Mapping):
            remedy = "leave it out, or write rope_type and what belongs to it"
            raise InputError(f"must be a mapping, not {config[key]!r}", key=key, remedy=remedy)
    places = (config, config.get("rope_parameters") or {})
    for key in ("rotary_pct", "partial_rotary_factor"):
        for found in (place.get(key) for place in places):
            if found is not None and not isinstance(found, int | float):
                raise InputError(f"must be a number, not {found!r}", key=key, remedy="leave it out")


def _settle_head_dim(full: dict[str, Any], family: Family, hidden: int, heads: int) -> None:
    given = full.get("head_dim") if family.head_dim != "quotient" else None
    if hidden % heads and (family.whole_heads or given is None):
        legal = [hidden // heads * heads, (hidden // heads + 1) * heads]
        raise InputError(
            f"{family.name} cannot divide a width of {hidden} among {heads} heads",
            key="hidden_size",
            remedy=f"choose {' or '.join(str(width) for width in legal if width)}, or another number of heads",
        )
    width = given or hidden // heads
    if family.rotary and _rotated(full, family, width) > width:
        raise InputError(
            f"rotary positions need heads of an even size, not {width} ({hidden} / {heads})",
            key="num_attention_heads",
            remedy="choose another number of heads",
        )
    if family.head_dim == "field" and given is None:
        full["head_dim"] = hidden // heads


def _rotated(full: Mapping[str, Any], family: Family, width: int) -> int:
    """How many dimensions of a head of that width its rotary positions turn, in whole pairs."""
    rope = full.get("rope_parameters") or family.defaults["rope_parameters"]
    share = full.get("rotary_pct") or full.get("partial_rotary_factor") or rope.get("partial_rotary_factor") or 1.0
    return 2 * math.ceil(int(width * share) / 2)


def _check_experts(full: dict[str, Any], family: Family) -> None:
    if "num_experts_per_tok" not in family.defaults:
        return
    experts, chosen = _whole(full, family, "num_experts"), _whole(full, family, "num_experts_per_tok")
    if chosen > experts:
        raise InputError(
            f"a token cannot be sent to {chosen} of {experts} experts",
            key="num_experts_per_tok",
            remedy=f"choose at most {experts}",
        )


def _settle_lists(full: dict[str, Any], family: Family) -> None:
    layers = full[family.key("num_hidden_layers")]
    for key, entry in family.lists.items():
        if full[key] is None:
            full[key] = [entry(full, layer) for layer in range(layers)]
        if len(full[key]) != layers:
            raise InputError(f"{len(full[key])} entries for {layers} layers", key=key, remedy="leave it out")
