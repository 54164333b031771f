"""The axis notation: one line says what each dimension of one tensor reads or writes.

The arrow runs from what is read to what is written, in torch's storage order:

=====================  =================================================================================================
``"q <- hidden"``      ``nn.Linear.weight``: rows write ``q``, columns read the normalised ``hidden``
``"hidden -> q|kv"``   ``Conv1D.weight`` (in, out); ``|`` lays axes end to end (fused projections)
``"q <- ~hidden"``     raw read: the stream itself, with no norm before it
``"vocab -> hidden"``  an embedding lookup
``"vocab -> *hidden"`` a lookup whose rows the model multiplies by sqrt(hidden) before they join the stream (Gemma)
``"hidden"``           a vector added to that axis (a bias): written
``"gain hidden"``      a norm's weight whose output is read by readers (``gain1`` where the model uses 1 + w)
``"shift hidden"``     a norm's bias
``"post gain x"``      a norm's weight whose output is added to the stream (``post gain1`` where the model uses 1 + w)
``"expert: a <- b"``   a batch axis in front (3-D expert tensors)
=====================  =================================================================================================

The axes: ``hidden`` is the residual stream; ``q`` and ``kv`` are rows of whole heads, ``attn`` the context that the
output projection reads; ``k`` stands for the rows of the key projection where q and k are normed over all heads at once
(OLMo2); ``qkv`` for a projection whose rows are (q, k, v) of one head after the other (GPT-NeoX: 3 head_dim rows each);
``ffn`` is the inner width, of each expert where there are experts, and ``shared`` that of the expert every token uses.

Parsed once per line and checked.  Imports neither torch nor transformers.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

from bequest.errors import AnatomyError, did_you_mean

#: What a dimension does to its axes.  The ``last`` roles and ``tied_read`` are what a tied head makes of others.
Role = Literal[
    "write",
    "read",
    "raw_read",
    "gain",
    "shift",
    "post_gain",
    "last_gain",
    "last_shift",
    "tied_read",
    "batch",
    "scaled_write",
    "scaled_last_gain",
]
Kind = Literal["linear", "lookup", "vector"]

#: Axes that a width map may widen.
GROWING = frozenset({"hidden", "q", "kv", "k", "qkv", "attn", "ffn", "shared", "embed"})
#: Axes that stay as they are under width growth (vocabulary and position growth are other operators).
FIXED = frozenset({"head_dim", "vocab", "pos", "type", "label", "expert", "one"})
AXES = GROWING | FIXED
#: Axes that an embedding is looked up by.
LOOKUPS = frozenset({"vocab", "pos", "type"})

_VECTORS: dict[str, Role] = {
    "gain": "gain",
    "gain1": "gain",
    "shift": "shift",
    "post gain": "post_gain",
    "post gain1": "post_gain",
}
_WRITES = frozenset({"write", "scaled_write"})


@dataclass(frozen=True)
class Dim:
    """One dimension of a tensor: the axes laid end to end along it, and the role it plays for them."""

    axes: tuple[str, ...]
    role: Role


@dataclass(frozen=True)
class Line:
    """A parsed line: one :class:`Dim` per dimension of the tensor, in storage order."""

    text: str
    dims: tuple[Dim, ...]
    kind: Kind
    one_plus: bool = False

    def written(self) -> tuple[str, ...]:
        """The axes that the tensor writes (adds to)."""
        return tuple(axis for dim in self.dims if dim.role in _WRITES for axis in dim.axes)

    def read(self) -> tuple[str, ...]:
        """The axes that the tensor reads."""
        return tuple(axis for dim in self.dims if dim.role in ("read", "raw_read") for axis in dim.axes)

    def replaced(self, names: dict[str, str]) -> Line:
        """The same line with axes renamed (an axis that coincides with another one in some configs)."""
        dims = tuple(Dim(tuple(names.get(axis, axis) for axis in dim.axes), dim.role) for dim in self.dims)
        return Line(self.text, dims, self.kind, self.one_plus)


@functools.cache
def parse(text: str) -> Line:
    """Parse one line of the notation.

    Raises:
        AnatomyError: the line is not in the notation, or names an unknown axis.
    """
    batch, separator, body = text.rpartition(":")
    front = (Dim((_axis(batch.strip(), text),), "batch"),) if separator else ()
    body = body.strip()
    if "<-" in body or "->" in body:
        dims, kind = _matrix(body, text)
        return Line(text, front + dims, kind)
    word, _, rest = body.rpartition(" ")
    if word and word not in _VECTORS:
        raise AnatomyError(f"unknown word {word!r} in the line {text!r}", remedy=did_you_mean(word, _VECTORS))
    role: Role = _VECTORS[word] if word else "write"
    return Line(text, (*front, Dim(_axes(rest, text), role)), "vector", one_plus=word.endswith("gain1"))


def _matrix(body: str, text: str) -> tuple[tuple[Dim, Dim], Kind]:
    arrow = "<-" if "<-" in body else "->"
    parts = [part.strip() for part in body.split(arrow)]
    if len(parts) != 2 or not all(parts) or "<-" in parts[1] or "->" in parts[1]:
        raise AnatomyError(f"the line {text!r} does not have exactly one arrow between two sides")
    written, read = (parts[0], parts[1]) if arrow == "<-" else (parts[1], parts[0])
    raw, scaled = read.startswith("~"), written.startswith("*")
    reader = Dim(_axes(read.removeprefix("~"), text), "raw_read" if raw else "read")
    writer = Dim(_axes(written.removeprefix("*"), text), "scaled_write" if scaled else "write")
    lookup = arrow == "->" and set(reader.axes) <= LOOKUPS
    if scaled and not lookup:
        raise AnatomyError(f"the line {text!r} multiplies what is no lookup by sqrt(hidden)")
    return ((writer, reader) if arrow == "<-" else (reader, writer)), "lookup" if lookup else "linear"


def _axes(text: str, line: str) -> tuple[str, ...]:
    return tuple(_axis(part.strip(), line) for part in text.split("|"))


def _axis(name: str, line: str) -> str:
    if name not in AXES:
        raise AnatomyError(f"unknown axis {name!r} in the line {line!r}", remedy=did_you_mean(name, AXES))
    return name
