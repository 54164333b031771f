"""A config with everything settled that the config class of its family would derive: one reading of a config's sizes.

Imports neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bequest.anatomy.families import family_of
from bequest.anatomy.table import Family
from bequest.errors import InputError

#: The canonical size keys that work for every family, and the axis-free number of layers.
SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "embedding_size",
    "head_dim",
)


def settle(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config in its family's own names, defaults filled in, derived values written out.

    Raises:
        InputError: no table for its family, a switch that no line covers, or sizes that no model can have.
    """
    family = family_of(config)
    full: dict[str, Any] = {**family.defaults, **config}
    if "rope_parameters" not in config and ("rope_theta" in config or "rope_scaling" in config):
        full.pop("rope_parameters", None)  # older configs say it in these words, and transformers still reads them
    for switch, remedy in family.refuses.items():
        if full.get(switch):
            raise InputError(f"{family.name} with {switch} has no anatomy table", key=switch, remedy=remedy)
    hidden, heads = _whole(full, family, "hidden_size"), _whole(full, family, "num_attention_heads")
    _whole(full, family, "num_hidden_layers")
    if full.get(family.key("intermediate_size")) is None:
        full[family.key("intermediate_size")] = 4 * hidden  # GPT-2 writes null for four times the width
    _whole(full, family, "intermediate_size")
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
    _settle_layer_types(full)
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
    if family.rotary and width % 2:
        raise InputError(
            f"rotary positions need heads of an even size, not {width} ({hidden} / {heads})",
            key="num_attention_heads",
            remedy="choose another number of heads",
        )
    if family.head_dim == "field" and given is None:
        full["head_dim"] = hidden // heads


def _settle_layer_types(full: dict[str, Any]) -> None:
    if "use_sliding_window" in full and not full["use_sliding_window"]:
        full["sliding_window"] = None
    if "layer_types" not in full:
        return
    layers = full["num_hidden_layers"]
    if full["layer_types"] is None:
        sliding = full.get("sliding_window") is not None
        full["layer_types"] = [
            "sliding_attention" if sliding and layer >= full["max_window_layers"] else "full_attention"
            for layer in range(layers)
        ]
    if len(full["layer_types"]) != layers:
        raise InputError(
            f"{len(full['layer_types'])} layer types for {layers} layers", key="layer_types", remedy="leave it out"
        )
