"""What a family's table is made of: rows, heads, and the facts of a config.

A table is data.  Everything that bequest knows about an architecture stands in one of these records, once; growth,
FLOPs, masks, loading and carrying all read them.  Imports neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

#: How often a tensor is multiplied: at each token, at each position sent through the LM head, once a sequence, or at
#: each token by those experts only that the token is sent to.
Rate = Literal["token", "target", "sequence", "expert"]
Norm = Literal["rms", "layer", "layer-post"]
#: One entry of a list with one entry per block, from the config and the block's index.
Entry = Callable[[Mapping[str, Any], int], Any]


def holds(condition: str, config: Mapping[str, Any]) -> bool:
    """Whether a condition of a table holds for a config: ``"key"``, ``"not key"``, ``"key != key"``, ``"key != 1"``."""
    left, unequal, right = condition.partition(" != ")
    if unequal:
        return bool(config[left] != (int(right) if right.isdecimal() else config[right]))
    word, _, key = condition.rpartition(" ")
    return bool(config[key]) != (word == "not")


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Args:
        name: the tensor's name in memory, below the base model for rows of the base, ``{layer}`` for the block's index.
        line: what it reads and writes, in the notation of :mod:`bequest.anatomy.axes`.
        when: the condition (see :func:`holds`) under which a model has the tensor; empty means always.
        per: how often it is multiplied, for the FLOPs.
        first: whether the first block has it too.
    """

    name: str
    line: str
    when: str = ""
    per: Rate = "token"
    first: bool = True

    def applies(self, config: Mapping[str, Any]) -> bool:
        """Whether a model of this config has the tensor."""
        return not self.when or holds(self.when, config)


def linear(name: str, line: str, bias: str | None = "", *, when: str = "", per: Rate = "token") -> tuple[Row, ...]:
    """A projection's rows: its weight and, under the condition ``bias`` ("" always, None never), its bias."""
    weight = Row(f"{name}.weight", line, when, per)
    return (weight,) if bias is None else (weight, Row(f"{name}.bias", line.partition(" <- ")[0], bias, per))


def layer_norm(name: str, axis: str = "hidden", *, shift: str = "", first: bool = True) -> tuple[Row, Row]:
    """A LayerNorm's rows; ``shift`` is the condition under which it has a bias."""
    return Row(f"{name}.weight", f"gain {axis}", first=first), Row(f"{name}.bias", f"shift {axis}", shift, first=first)


@dataclass(frozen=True)
class Head:
    """One variant of a family.

    Args:
        class_name: the class in transformers.
        rows: the head's tensors, with full names.
        base_rows: tensors of the base model that only this variant has (a pooler).
        tied: alias -> owner when the config ties the head; ``{base}`` stands for the base model's prefix.
        lm_head: the module whose input is restricted to target positions (a pre-hook's place), or none.
        output_embedding: the tensor that turns states into logits over the vocabulary, or none.
        last_norm: the last norm before the output embedding when it belongs to the head.
        reads_last: tensors that read the last norm's output.
    """

    class_name: str
    rows: tuple[Row, ...] = ()
    base_rows: tuple[Row, ...] = ()
    tied: Mapping[str, str] = field(default_factory=dict)
    lm_head: str | None = None
    output_embedding: str | None = None
    last_norm: str | None = None
    reads_last: tuple[str, ...] = ()


@dataclass(frozen=True)
class Family:
    """One architecture.

    Args:
        name: transformers' ``model_type``.
        prefix: the name of the base model inside a model with a head.
        norm: ``rms`` or ``layer`` (before the block), ``layer-post`` (after the residual sum).
        rows: tensors of the base model.
        heads: the variants.
        defaults: transformers' config defaults, before the config class settles what it derives (None = derived).
        derived: config key -> what the config class makes of the config there, in the order in which it does.
        lists: config key of a list with one entry per block -> the entry of a block where the list is null.
        follows: config key -> the canonical size that it always equals when a model grows.
        keep_ratio: further sizes that keep their ratio to the inner width (that of a shared expert).
        native: canonical name -> the family's own name, where they differ.
        last_norm: the base model's last norm, which its heads read; none where heads bring their own.
        head_dim: ``field`` (a config key), ``optional`` (read when present), ``quotient`` (always hidden / heads).
        whole_heads: whether the config refuses a hidden size that its heads do not divide.
        rotary: whether positions rotate pairs of dimensions inside a head, which must then be even.
        tokenizer: the kind that the family's published checkpoints use, and that a new model's own tokenizer gets.
        typed: whether its models take ``token_type_ids``.
        positions_after_padding: whether learnt positions are counted from behind the padding id, so that the table
            holds ``pad_token_id + 1`` fewer of them than it has rows.
        normed_embeddings: whether the embeddings end in a norm whose output is the stream itself although the blocks
            are pre-norm: the width then grows exactly to whole multiples only, while identity blocks stay exact.
        by_index: config switches under which a block computes with its own index: moving it changes it.
        extra_positions: rows of the position table beyond the longest sequence.
        buffers: tensors that are made, not learnt; files may still hold them and they are ignored.
        stale: tensors of heads that this family's files may hold and no variant here uses.
        refuses: conditions that no line covers -> the remedy.
    """

    name: str
    prefix: str
    norm: Norm
    rows: tuple[Row, ...]
    heads: Mapping[str, Head]
    defaults: Mapping[str, Any]
    derived: Mapping[str, Callable[[Mapping[str, Any]], Any]] = field(default_factory=dict)
    lists: Mapping[str, Entry] = field(default_factory=dict)
    follows: Mapping[str, str] = field(default_factory=dict)
    keep_ratio: tuple[str, ...] = ()
    native: Mapping[str, str] = field(default_factory=dict)
    last_norm: str | None = None
    head_dim: Literal["field", "optional", "quotient"] = "quotient"
    whole_heads: bool = True
    rotary: bool = False
    tokenizer: Literal["byte-bpe", "wordpiece"] = "byte-bpe"
    typed: bool = False
    positions_after_padding: bool = False
    normed_embeddings: bool = False
    by_index: tuple[str, ...] = ()
    extra_positions: int = 0
    buffers: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()
    refuses: Mapping[str, str] = field(default_factory=dict)

    @property
    def per_layer(self) -> tuple[str, ...]:
        """The config keys that hold a list with one entry per block, to be rearranged with the blocks."""
        return tuple(self.lists)

    def key(self, canonical: str) -> str:
        """The family's own name of a canonical config key."""
        return self.native.get(canonical, canonical)

    def canonical(self, key: str) -> str:
        """The canonical name of the family's own config key."""
        return next((name for name, native in self.native.items() if native == key), key)
