"""Configs made and enlarged: full configs from a few sizes, and target configs from a source config and what to grow.

Imports neither torch nor transformers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from bequest.anatomy.experts import fitting_width, has_experts
from bequest.anatomy.families import family_named, family_of, head_named
from bequest.anatomy.settled import SIZES, settle
from bequest.anatomy.table import Family
from bequest.checkpoints import GROUPED_ROWS
from bequest.errors import InputError, did_you_mean

_SPECIAL = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")
_GENERAL = ("num_labels", "id2label", "label2id", "problem_type", "dtype")
_LEAST_HEADS = 4
#: Beyond these a size is a slip of the keyboard, and planning would take for ever.
MOST_UNITS, MOST_LAYERS = 2**22, 2**13
_LEAST_HEAD_DIM = 8


def complete_config(
    family: str, sizes: Mapping[str, Any], *, head: str, vocab_size: int | None = None, **extra: Any
) -> dict[str, Any]:
    """A full config of a new model from the sizes that matter.

    Sizes not named follow the family's defaults: the head_dim is the family's, halved until there are at least four
    heads; the heads' share of the width, the key-value ratio and the FFN ratio are the family's, experts' widths going
    up to what grouped kernels take; an electra embedding stays at most as wide as the model.

    Args:
        family: transformers' ``model_type``.
        sizes: canonical or native size names (and any other config key) -> value.
        head: the variant, which becomes ``architectures``.
        vocab_size: the vocabulary's size; special ids beyond it are left out.
        extra: further config keys (special ids, dropouts, ...).

    Raises:
        InputError: an unknown family, head or key, or sizes that no model can have; the key is named.
    """
    record = family_named(family)
    variant = head_named(record, head)
    given = _native(record, {**sizes, **extra})
    if vocab_size is not None:
        given["vocab_size"] = vocab_size
    config: dict[str, Any] = {**record.defaults, **_inferred_sizes(record, given), **given}
    for key in _SPECIAL:
        if key not in given and config.get(key) is not None and config[key] >= config["vocab_size"]:
            config[key] = None
    config["model_type"] = record.name
    config["architectures"] = [variant.class_name]
    return settle(config)


def target_config(source: Mapping[str, Any], to: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The config that a model grows to, and the sizes that were inferred.

    head_dim stays, heads = hidden / head_dim, the key-value ratio and the FFN ratio stay (experts' widths go up to what
    grouped kernels take); a named size wins.

    Args:
        source: the config of the model to be grown.
        to: canonical or native size names -> target values.

    Returns:
        The full target config, and canonical key -> ``"value (why)"`` for each size that was inferred and changes.

    Raises:
        InputError: a key that is no size, a size smaller than the source's, or sizes that no model can have.
    """
    family = family_of(source)
    old = settle(source)
    named = _named_sizes(family, old, to)
    new, inferred = dict(old), {}
    for key, value in named.items():
        new[family.key(key)] = value
    for key, (value, why) in _follow(family, old, named).items():
        if value != old.get(family.key(key)):
            inferred[key] = f"{value} ({why})"
        new[family.key(key)] = value
    for key, followed in family.follows.items():
        new[key] = new[family.key(followed)]
    layers = new[family.key("num_hidden_layers")]
    for key in family.per_layer:
        new[key] = [old[key][layer % len(old[key])] for layer in range(layers)]
    new = settle(new)
    _refuse_shrinking(family, old, new)
    return new, inferred


def sizes_of(config: Mapping[str, Any]) -> dict[str, int]:
    """The canonical sizes of a config, head_dim included."""
    family, full = family_of(config), settle(config)
    hidden, heads = full[family.key("hidden_size")], full[family.key("num_attention_heads")]
    sizes = {key: full[family.key(key)] for key in SIZES if full.get(family.key(key)) is not None}
    if family.head_dim == "quotient":
        sizes.pop("head_dim", None)
    return {**sizes, "head_dim": sizes.get("head_dim", hidden // heads)}


# --- new configs


def _native(family: Family, given: Mapping[str, Any]) -> dict[str, Any]:
    """The given keys in the family's own names."""
    known = {*family.defaults, *family.native, *_GENERAL}
    if family.head_dim == "optional":
        known.add("head_dim")
    native: dict[str, Any] = {}
    for key, value in given.items():
        if key not in known:
            raise InputError(f"{family.name} has no config key {key!r}", key=key, remedy=did_you_mean(key, known))
        if family.key(key) in native:
            raise InputError(f"given twice, as {key!r} and {family.canonical(key)!r}", key=key)
        native[family.key(key)] = value
    return native


def _inferred_sizes(family: Family, given: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes that follow when a new model's width or heads are named."""
    key, defaults = family.key, settle({**family.defaults, "model_type": family.name})
    wide, many = defaults[key("hidden_size")], defaults[key("num_attention_heads")]
    hidden = given.get(key("hidden_size"), wide)
    if not isinstance(hidden, int) or hidden < 1:
        raise InputError(f"must be a whole number of at least 1, not {hidden!r}", key="hidden_size")
    found: dict[str, Any] = {}
    head_dim = given.get("head_dim") or defaults.get("head_dim") or wide // many
    if not given.get("head_dim"):
        head_dim = _head_dim_for(hidden, head_dim)
    share = many * (defaults.get("head_dim") or wide // many) / wide
    many_given = given.get(key("num_attention_heads"))
    heads = many_given or _nearest_divisor(hidden, share * hidden / head_dim)
    found[key("num_attention_heads")] = heads
    if family.head_dim == "field":
        found["head_dim"] = given.get("head_dim") or (hidden // heads if many_given else head_dim)
    if "num_key_value_heads" in family.defaults:
        found["num_key_value_heads"] = _nearest_divisor(heads, heads * defaults["num_key_value_heads"] / many)
    ffn = defaults[key("intermediate_size")]
    width = max(1, round(hidden * ffn / wide))
    found[key("intermediate_size")] = fitting_width(width) if has_experts(family) else width
    inner = given.get(key("intermediate_size")) or found[key("intermediate_size")]
    for name in family.keep_ratio:
        found[name] = max(1, round(inner * defaults[name] / ffn)) if isinstance(inner, int) else None
    if "embedding_size" in family.defaults:
        found["embedding_size"] = min(hidden, family.defaults["embedding_size"])
    return found


def _head_dim_for(hidden: int, wish: int) -> int:
    """The family's head_dim, halved until there are at least four whole heads.

    Where halving only ends at slivers (GPT-NeoX's 96 in a width of 64), the largest even size that makes whole heads.
    """
    halved = wish
    while halved > 1 and (hidden // halved < _LEAST_HEADS or hidden % halved):
        halved //= 2
    even = [size for size in range(2, min(wish, hidden // _LEAST_HEADS) + 1, 2) if hidden % size == 0]
    return max([halved, *even]) if halved < _LEAST_HEAD_DIM else halved


def _nearest_divisor(number: int, wish: float, least: int = 1) -> int:
    small = [value for value in range(1, math.isqrt(number) + 1) if number % value == 0]
    legal = [value for value in {*small, *(number // value for value in small)} if value >= least]
    return min(legal, key=lambda value: (abs(value - wish), value)) if legal else number


# --- target configs


def _named_sizes(family: Family, old: Mapping[str, Any], to: Mapping[str, Any]) -> dict[str, int]:
    if not to:
        raise InputError("no size to grow is named", key="to", remedy="name for example hidden_size")
    current = sizes_of(old)
    known = {key for key in current if key != "head_dim"} | {family.key(key) for key in current if key != "head_dim"}
    named: dict[str, int] = {}
    for key, value in to.items():
        canonical = family.canonical(key)
        if key in ("vocab_size", "max_position_embeddings") or canonical == "max_position_embeddings":
            raise InputError("vocabulary and positions do not grow with the width", key=key, remedy="leave it out")
        if canonical == "head_dim":
            if value != current["head_dim"]:
                raise InputError(
                    f"the head_dim stays {current['head_dim']}: units inside a head cannot be copied",
                    key=key,
                    remedy="name num_attention_heads instead",
                )
            continue
        if key not in known:
            raise InputError(f"{family.name} has no size {key!r}", key=key, remedy=did_you_mean(key, known))
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"must be a whole number of at least 1, not {value!r}", key=key)
        most = MOST_LAYERS if canonical == "num_hidden_layers" else MOST_UNITS
        if value > most:
            raise InputError(f"{value} is more than any model has (at most {most})", key=key, remedy="name a size")
        if value < current[canonical]:
            raise InputError(f"{value} is smaller than the source's {current[canonical]}", key=key, remedy="only grow")
        named[canonical] = value
    return named


def _follow(family: Family, old: Mapping[str, Any], named: Mapping[str, int]) -> dict[str, tuple[int, str]]:
    """canonical key -> (value, why) for each size that is not named."""
    current = sizes_of(old)
    hidden = named.get("hidden_size", current["hidden_size"])
    found: dict[str, tuple[int, str]] = {}
    heads = named.get("num_attention_heads")
    if heads is None:
        heads, why = _heads_for(family, current, hidden)
        found["num_attention_heads"] = (heads, why)
    elif family.head_dim == "quotient" and hidden != heads * current["head_dim"]:
        raise InputError(
            f"{family.name} derives the head_dim from the width: {heads} heads of {current['head_dim']} need a "
            f"hidden_size of {heads * current['head_dim']}, not {hidden}",
            key="num_attention_heads",
            remedy="leave it out, or name the matching hidden_size",
        )
    if "num_key_value_heads" in current and "num_key_value_heads" not in named:
        ratio = current["num_attention_heads"] // current["num_key_value_heads"]
        least = current["num_key_value_heads"]
        wish = heads * least / current["num_attention_heads"]
        found["num_key_value_heads"] = (_nearest_divisor(heads, wish, least), f"one to {ratio} query heads, or nearly")
    if "intermediate_size" not in named:
        found["intermediate_size"] = _inner_for(family, current, hidden)
    inner = named.get("intermediate_size") or found["intermediate_size"][0]
    for name in family.keep_ratio:
        if name not in named:
            value = round(current[name] * inner / current["intermediate_size"])
            found[name] = (value, f"{current[name] / current['intermediate_size']:g} times the experts' width")
    if "embedding_size" in current and "embedding_size" not in named:
        equal = current["embedding_size"] == current["hidden_size"]
        found["embedding_size"] = (hidden, "as wide as the model") if equal else (current["embedding_size"], "stays")
    if family.head_dim == "optional" and heads * current["head_dim"] != hidden:
        found["head_dim"] = (current["head_dim"], "stays")
    return found


def _inner_for(family: Family, current: Mapping[str, int], hidden: int) -> tuple[int, str]:
    """The inner width keeps its ratio; one of experts that grows goes up to what grouped kernels take."""
    inner = current["intermediate_size"]
    width, why = round(inner * hidden / current["hidden_size"]), f"{inner / current['hidden_size']:g} times the width"
    if width == inner or not has_experts(family) or width % GROUPED_ROWS == 0:
        return width, why
    return fitting_width(width), f"{why}, up to a multiple of {GROUPED_ROWS}"


def _heads_for(family: Family, current: Mapping[str, int], hidden: int) -> tuple[int, str]:
    """heads = hidden / head_dim; a source whose heads do not fill its width keeps its share of heads in the width."""
    head_dim, heads, width = current["head_dim"], current["num_attention_heads"], current["hidden_size"]
    fills = heads * head_dim == width
    if hidden * heads % width:
        step = width // math.gcd(width, heads)
        below = hidden // step * step
        raise InputError(
            f"a width of {hidden} is no whole number of heads of {head_dim}",
            key="hidden_size",
            remedy=f"choose {below} or {below + step}"
            + ("" if family.head_dim == "quotient" else ", or name num_attention_heads"),
        )
    return hidden * heads // width, f"{hidden} / head_dim {head_dim}" if fills else f"{heads} to a width of {width}"


def _refuse_shrinking(family: Family, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    before, after = sizes_of(old), sizes_of(new)
    for key, value in before.items():
        if after.get(key, value) < value:
            raise InputError(f"{after[key]} is smaller than the source's {value}", key=key, remedy=f"name {key}")
    if before["head_dim"] != after["head_dim"]:
        raise InputError(
            f"the head_dim would change from {before['head_dim']} to {after['head_dim']}", key="num_attention_heads"
        )
    if "embedding_size" in before:
        equal = before["embedding_size"] == before["hidden_size"]
        if equal != (after["embedding_size"] == after["hidden_size"]):
            raise InputError(
                f"an embedding of {after['embedding_size']} in a width of {after['hidden_size']} would "
                + ("need a projection that the source lacks" if equal else "drop the source's projection"),
                key="embedding_size",
                remedy="name hidden_size and embedding_size so that they stay equal" if equal else "keep them apart",
            )
