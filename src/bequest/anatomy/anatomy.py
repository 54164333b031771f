"""The anatomy: a family's table together with one config's sizes.

Small to run: ``Anatomy(complete_config("llama", {"hidden_size": 64}, head="causal-lm"), "causal-lm").parameters()``.
Imports neither torch nor transformers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bequest.anatomy.axes import Line, parse
from bequest.anatomy.families import family_of, head_named, head_of
from bequest.anatomy.flops import Flops, count
from bequest.anatomy.settled import labels_of, settle
from bequest.anatomy.table import Rate, Row
from bequest.errors import AnatomyError, InputError
from bequest.storage import read_json

UnitKind = Literal["head", "kv_head", "neuron", "shared_neuron"]


@dataclass(frozen=True)
class Tensor:
    """One tensor of a model: its name in memory, its line, its shape, its block (or none), how often it multiplies."""

    name: str
    line: Line
    shape: tuple[int, ...]
    layer: int | None
    per: Rate = "token"

    @property
    def elements(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Place:
    """A part of a tensor: the indices ``start:stop`` along one dimension, of one expert where its tensor holds several.

    ``expert`` is the index along the first dimension of a three-dimensional tensor; ``dim`` counts that dimension too.
    """

    tensor: str
    dim: int
    indices: slice
    expert: int | None = None


@dataclass(frozen=True)
class Unit:
    """A head or an FFN neuron of one layer, and every place of every tensor that belongs to it.

    ``writes`` are the rows that make the unit, ``reads`` the columns that read it.
    """

    kind: UnitKind
    layer: int
    index: int
    writes: tuple[Place, ...]
    reads: tuple[Place, ...]

    @property
    def places(self) -> tuple[Place, ...]:
        """All places of the unit."""
        return self.writes + self.reads


@dataclass(frozen=True)
class Use:
    """A tensor's dimension that writes or reads an axis; ``offset`` is where the axis begins in a fused dimension."""

    tensor: str
    dim: int
    offset: int = 0


#: A use of an axis, cut at regular distances: (use, first index, distance, width) of a unit's rows or columns.
_Comb = tuple[Use, int, int, int]


class Anatomy:
    """A family's table plus the sizes of one config, for one variant (head).

    Args:
        config: a config as in ``config.json``; what its class would derive is settled here.
        head: ``causal-lm``, ``masked-lm``, ``sequence-classification``, ``discriminator`` or ``bare``.

    Attributes:
        family: the table's record.
        sizes: axis -> size.
        layers: the number of blocks.
        tensors: every parameter by its name in memory, tied aliases left out.
        tied: alias -> owner.

    Raises:
        InputError: no table for the family, no such head, or sizes that no model can have.
    """

    def __init__(self, config: Mapping[str, Any], head: str) -> None:
        self.config = settle(config)
        self.family = family_of(config)
        self.head = head
        self.variant = head_named(self.family, head)
        self.sizes = self._sizes()
        self.layers: int = self.config[self.family.key("num_hidden_layers")]
        self.prefix = "" if head == "bare" else f"{self.family.prefix}."
        self.tie = bool(self.config.get("tie_word_embeddings"))
        self.tied = self._tied()
        everything = {tensor.name: tensor for tensor in self._expand()}
        self.aliases = {name: everything[name] for name in self.tied if name in everything}
        self.tensors = {name: tensor for name, tensor in everything.items() if name not in self.tied}

    # --- sizes and names

    @property
    def longest(self) -> int:
        """The longest sequence that the positions of this config serve, in tokens."""
        behind = (self.config.get("pad_token_id") or 0) + 1 if self.family.positions_after_padding else 0
        return self.sizes["pos"] - self.family.extra_positions - behind

    @property
    def expert_share(self) -> float:
        """The share of a layer's experts that a token is sent to; 1 where there are none."""
        experts = self.sizes.get("expert")
        return 1.0 if experts is None else float(self.config["num_experts_per_tok"]) / experts

    def _sizes(self) -> dict[str, int]:
        key, config = self.family.key, self.config
        self.heads: int = config[key("num_attention_heads")]
        self.kv_heads: int = config.get("num_key_value_heads") or self.heads
        hidden: int = config[key("hidden_size")]
        given = config.get("head_dim") if self.family.head_dim != "quotient" else None
        head_dim: int = given or hidden // self.heads
        sizes = {
            "hidden": hidden,
            "head_dim": head_dim,
            "q": self.heads * head_dim,
            "attn": self.heads * head_dim,
            "kv": self.kv_heads * head_dim,
            "ffn": config[key("intermediate_size")],
            "vocab": config["vocab_size"],
            "pos": config[key("max_position_embeddings")] + self.family.extra_positions,
            "label": labels_of(config),
            "one": 1,
        }
        if "type_vocab_size" in config:
            sizes["type"] = config["type_vocab_size"]
        named = {axis for row in self.family.rows for dim in parse(row.line).dims for axis in dim.axes}
        if "k" in named:
            sizes["k"] = sizes["kv"]
        if "qkv" in named:
            sizes["qkv"] = 3 * sizes["q"]
        if "expert" in named:
            sizes["expert"] = config[key("num_experts")]
        if "shared" in named:
            sizes["shared"] = config["shared_expert_intermediate_size"]
        # Without a projection the embeddings stand on the stream itself: the axis `embed` is then `hidden`.
        self._renamed = {}
        if "embedding_size" in config:
            if config["embedding_size"] == hidden:
                self._renamed = {"embed": "hidden"}
            else:
                sizes["embed"] = config["embedding_size"]
        return sizes

    def _tied(self) -> dict[str, str]:
        if not self.tie:
            return {}
        return {alias: owner.replace("{base}", self.prefix) for alias, owner in self.variant.tied.items()}

    def _expand(self) -> Iterator[Tensor]:
        rows = [(row, self.prefix) for row in self.family.rows + self.variant.base_rows]
        rows += [(row, "") for row in self.variant.rows]
        for row, prefix in rows:
            if not row.applies(self.config):
                continue
            line = parse(row.line).replaced(self._renamed)
            shape = tuple(sum(self.sizes[axis] for axis in dim.axes) for dim in line.dims)
            for layer in range(0 if row.first else 1, self.layers) if "{layer}" in row.name else (None,):
                name = prefix + row.name.replace("{layer}", str(layer))
                yield Tensor(name, line, shape, layer, row.per)

    # --- the language-model head

    @property
    def class_name(self) -> str:
        """The name of the model's class in transformers."""
        return self.variant.class_name

    @property
    def lm_head(self) -> str | None:
        """The module whose input may be restricted to target positions, or none."""
        return self.variant.lm_head

    @property
    def output_embedding(self) -> str | None:
        """The module that turns states into logits over the vocabulary, or none."""
        return self.variant.output_embedding

    @property
    def last_norm(self) -> str | None:
        """The module of the last norm before the head, or none where no head reads the stream directly."""
        if self.variant.last_norm is not None:
            return self.variant.last_norm
        return None if self.family.last_norm is None else self.prefix + self.family.last_norm

    @property
    def reads_last(self) -> frozenset[str]:
        """The tensors that read the last norm's output."""
        return frozenset(self.variant.reads_last)

    # --- counts

    def parameters(self) -> int:
        """The number of parameters, tied ones once."""
        return sum(tensor.elements for tensor in self.tensors.values())

    def flops(self, block: int, *, head_share: float = 1.0) -> Flops:
        """FLOPs per token at sequences of ``block`` tokens, attention counted full.

        Args:
            block: tokens in a sequence.
            head_share: the share of positions sent through the LM head (masked LM: about 0.15).
        """
        return count(self, block, head_share)

    # --- who touches an axis

    def writers(self, axis: str, layer: int | None = None) -> list[Use]:
        """The dimensions that write an axis (weights, biases, embeddings), of one layer or of the whole model."""
        return self._uses(axis, layer, ("write", "scaled_write"))

    def readers(self, axis: str, layer: int | None = None) -> list[Use]:
        """The dimensions that read an axis, of one layer or of the whole model; a tied head is not listed."""
        return self._uses(axis, layer, ("read", "raw_read"))

    def _uses(self, axis: str, layer: int | None, roles: tuple[str, ...]) -> list[Use]:
        found = []
        for tensor in self.tensors.values():
            if layer is not None and tensor.layer != layer:
                continue
            for number, dim in enumerate(tensor.line.dims):
                if dim.role not in roles:
                    continue
                offset = 0
                for name in dim.axes:
                    if name == axis:
                        found.append(Use(tensor.name, number, offset))
                    offset += self.sizes[name]
        return found

    def units(self, kind: UnitKind, layer: int) -> list[Unit]:
        """The units of one layer.

        A ``head`` is a query head: its rows of q and its columns of the output projection, and, where each query head
        has a key-value head of its own, that one's rows too.  A ``kv_head`` is a key-value head.  A ``neuron`` is one
        index of the FFN; where there are experts, one of one expert, those of the first expert first.  A
        ``shared_neuron`` is one of the expert that every token uses.

        Raises:
            InputError: a ``shared_neuron`` of a family without a shared expert.
        """
        head = self.sizes["head_dim"]
        if kind in ("neuron", "shared_neuron"):
            axis = "ffn" if kind == "neuron" else "shared"
            if axis not in self.sizes:
                raise InputError(f"{self.family.name} has no shared expert", key="kind", remedy="ask for a neuron")
            experts = range(self.sizes["expert"]) if kind == "neuron" and "expert" in self.sizes else (None,)
            writes = [(use, 0, 1, 1) for use in self.writers(axis, layer)]
            reads = [(use, 0, 1, 1) for use in self.readers(axis, layer)]
            return self._cut(kind, layer, writes, reads, self.sizes[axis], experts)
        rows = [(use, 0, head, head) for axis in ("kv", "k") for use in self.writers(axis, layer)]
        fused = self.writers("qkv", layer)
        if kind == "kv_head":
            rows += [(use, head, 3 * head, 2 * head) for use in fused]
            return self._cut(kind, layer, rows, [], self.kv_heads)
        rows = rows if self.kv_heads == self.heads else []
        rows = [(use, 0, head, head) for use in self.writers("q", layer)] + rows
        rows += [(use, 0, 3 * head, 3 * head) for use in fused]
        columns = [(use, 0, head, head) for use in self.readers("attn", layer)]
        return self._cut(kind, layer, rows, columns, self.heads)

    def _cut(
        self,
        kind: UnitKind,
        layer: int,
        writes: list[_Comb],
        reads: list[_Comb],
        number: int,
        experts: Iterable[int | None] = (None,),
    ) -> list[Unit]:
        def places(combs: list[_Comb], index: int, expert: int | None) -> tuple[Place, ...]:
            starts = ((use, use.offset + first + index * step, width) for use, first, step, width in combs)
            return tuple(
                Place(use.tensor, use.dim, slice(start, start + width), expert) for use, start, width in starts
            )

        cuts = ((expert, index) for expert in experts for index in range(number))
        return [
            Unit(kind, layer, unit, places(writes, index, expert), places(reads, index, expert))
            for unit, (expert, index) in enumerate(cuts)
        ]

    # --- agreement with a live model or a file

    @functools.cached_property
    def ignored(self) -> frozenset[str]:
        """Names of tensors that are made, not learnt (position ids and the like): files may hold them."""
        names = set()
        for name in self.family.buffers:
            for layer in range(self.layers) if "{layer}" in name else (0,):
                names.add(self.prefix + name.replace("{layer}", str(layer)))
        return frozenset(names)

    def droppable(self, name: str) -> bool:
        """Whether a tensor of that name belongs to another variant (or to none) and may be left unread."""
        others = [row.name for head in self.family.heads.values() for row in head.rows]
        others += [f"{self.family.prefix}.{row.name}" for row in self._base_extras()]
        others += [row.name for row in self._base_extras()]
        return name in others or name in self.family.stale or name in self.ignored

    def _base_extras(self) -> list[Row]:
        return [row for head in self.family.heads.values() for row in head.base_rows]

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Hold this anatomy against the shapes of a live model's parameters or of a file (names as in memory).

        Tied aliases may be absent or present; buffers are ignored.

        Raises:
            AnatomyError: a tensor that no line names, a line that no tensor matches, or a size that disagrees.
        """
        for name, shape in shapes.items():
            expected = self.tensors.get(name) or self.aliases.get(name)
            if expected is None:
                if name in self.ignored:
                    continue
                raise AnatomyError(f"no line of the table of {self.family.name} names this tensor", key=name)
            if tuple(shape) != expected.shape:
                raise AnatomyError(
                    f"the model has {tuple(shape)} but the line {expected.line.text!r} gives {expected.shape}", key=name
                )
        missing = [name for name in self.tensors if name not in shapes]
        if missing:
            line = self.tensors[missing[0]].line.text
            raise AnatomyError(f"no tensor of the model matches this line ({line!r})", key=missing[0])


def anatomy_of(config: Mapping[str, Any] | str | Path, head: str | None = None) -> Anatomy:
    """The anatomy of a config, or of the ``config.json`` of a model directory.

    Args:
        config: a config's mapping, a model directory, or a path of a ``config.json``.
        head: the variant; without it, the one that ``architectures`` names.
    """
    if not isinstance(config, Mapping):
        path = Path(config)
        path = path / "config.json" if path.is_dir() else path
        if not path.is_file():
            raise InputError("no such config", where=path, remedy="give a model directory")
        config = read_json(path)
        assert isinstance(config, Mapping)
    return Anatomy(config, head or head_of(config))
