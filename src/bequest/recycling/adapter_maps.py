"""An adapter through one growth: what grew its base, applied to what the adapter adds (growth.md §11).

Growth is linear in the weights, M(W + s B A) = M W + s (W_r B)(A R^T), so::

    LoRA      A' = A R^T       columns by the role in which the base weight reads its input axis
              B' = W_r B       rows by the role in which it writes its output axis;  r and s stay
    DoRA      the factor of each row follows its row:  m'_i = m_g(i) |row'_i| / |row_g(i)|
    IA3       vectors follow the index of their axis, unscaled
    prompts   virtual tokens are written into the stream; virtual keys and values follow their heads
    saved     whole tensors grow like the base's own (new units without a source hold the grown base's values);
              differences of the weights likewise, by the linear part alone

Raw reads, tied heads, fused projections and Conv1D need no rule of their own: roles and runs come from the tables.
Blocks follow the maps' order; where a writer of an identity block is zero, B' is zero.  AKI takes units of one tensor
from two layers, so two adapters meet in one module and the rank doubles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bequest.anatomy import Anatomy
from bequest.anatomy.anatomy import Tensor as Described
from bequest.anatomy.fills import Assembly, Fill, assembled, fills, role_of
from bequest.anatomy.maps import PAD, Maps
from bequest.anatomy.surgery import along, fresh_values, grow_difference, grow_tensor
from bequest.errors import InputError
from bequest.recycling.adapter_config import MERGE
from bequest.recycling.adapter_parts import Adapter, Factors, LowRank, modules_of

_WRITES = ("write", "scaled_write")


@dataclass(frozen=True)
class Passage:
    """One growth: between two anatomies of the variant that the tuned weights belong to, by its maps."""

    source: Anatomy
    target: Anatomy
    maps: Maps

    def made(self, tensor: Described) -> Assembly:
        """How a target tensor is made; a tied alias like the tensor it stands for, in its own role."""
        if tensor.name in self.target.tensors:
            return assembled(tensor, self.source, self.maps)
        roles = tuple(role_of(tensor, dim, self.source) for dim in tensor.line.dims)
        return Assembly(tensor, tensor.name, None, roles, None, False, False)

    def runs(self, made: Assembly, number: int) -> tuple[Fill, ...]:
        """The runs of one of its dimensions."""
        return fills(made, number, self.source, self.maps)

    def donated(self, made: Assembly) -> Tensor:
        """For each index of the donated dimension whether it comes from the donor's layer."""
        assert made.donated is not None
        return torch.tensor([run.donor for run in self.runs(made, made.donated) for _ in range(run.length)])

    @property
    def everything(self) -> dict[str, Described]:
        """The target's tensors and tied aliases by name."""
        return {**self.target.tensors, **self.target.aliases}


def carried(adapter: Adapter, passage: Passage) -> Adapter:
    """An adapter of the source as one of the target.

    Raises:
        InputError: a module or tensor that the base does not have or has in another size, or one to which no rule of
            its kind applies.
    """
    _refuse_strangers(adapter, passage.source)
    _check_sizes(adapter, passage.source)
    modules: dict[str, LowRank] = {}
    factors: dict[str, Factors] = {}
    for module, weight in modules_of(passage.target).items():
        made = passage.made(passage.everything[weight])
        origin = made.origin.removesuffix(".weight")
        donor = None if made.donor is None else made.donor.removesuffix(".weight")
        low = (adapter.modules.get(origin), adapter.modules.get(donor or ""))
        if any(part is not None for part in low) and not (adapter.dora and made.silent):
            modules[module] = _low_rank(*low, passage, made, rslora=adapter.rslora)
        found = (adapter.factors.get(origin), adapter.factors.get(donor or ""))
        if any(part is not None for part in found):
            factors[module] = _factors(*found, passage, made)
    return replace(
        adapter,
        modules=modules,
        factors=factors,
        whole=carried_tensors(adapter.whole, passage, difference=False),
        prompt=None if adapter.prompt is None else _prompt(adapter.prompt, passage),
        prefix=None if adapter.prefix is None else _prefix(adapter.prefix, passage),
    )


def carried_tensors(tensors: Mapping[str, Tensor], passage: Passage, *, difference: bool) -> dict[str, Tensor]:
    """Tuned tensors (or what tuning added to them) through a growth; float64 inside, in the types that were given.

    Args:
        tensors: name -> value, some of the source's tensors.
        passage: the growth.
        difference: whether the values are differences, which follow the linear part alone: zero where nothing comes
            from the source, and without the 1 of ``1 + w`` norms.

    Raises:
        InputError: units of one tensor come from two layers, and only one of them is given.
    """
    grow = grow_difference if difference else grow_tensor
    found: dict[str, Tensor] = {}
    for name, tensor in passage.everything.items():
        made = passage.made(tensor)
        if not {made.origin, made.donor} & tensors.keys():
            continue
        if made.origin not in tensors or (made.donor is not None and made.donor not in tensors):
            raise InputError(
                f"AKI made it of {made.origin} and {made.donor}, and only one of them was tuned", key=name, remedy=MERGE
            )
        grown = grow(tensors[made.origin], tensor, passage.source, passage.maps)
        if made.donor is not None:
            other = grow(tensors[made.donor], tensor, passage.source, passage.maps)
            grown = torch.where(_across(passage.donated(made), made, grown.ndim), other, grown)
        if made.silent or made.fresh:
            grown = torch.full_like(grown, -1.0 if tensor.line.one_plus and not difference else 0.0)
        found[name] = grown if difference else _with_fresh(grown, made, passage)
    return found


def sides(tensor: Described) -> tuple[int, int]:
    """The dimensions in which a matrix writes and reads."""
    written = next(number for number, dim in enumerate(tensor.line.dims) if dim.role in _WRITES)
    return written, 1 - written


# --- the rules


def _low_rank(own: LowRank | None, donor: LowRank | None, passage: Passage, made: Assembly, *, rslora: bool) -> LowRank:
    """A' and B', and the factors of DoRA's rows; both layers' ranks together where units come from two layers."""
    written, read = sides(made.tensor)
    mask = passage.donated(made) if made.donor is not None else None
    halves = []
    for part, of_donor in ((own, False), (donor, True)):
        if part is None:
            continue
        a = along(part.a, 1, passage.runs(made, read))
        b = along(part.b, 0, passage.runs(made, written))
        bias = None if part.bias is None else along(part.bias, 0, passage.runs(made, written))
        if mask is not None:
            kept = (mask if of_donor else ~mask).double()
            a, b = (a, kept[:, None] * b) if made.donated == written else (a * kept, b)
            if bias is not None:
                # Where columns come from two layers, a bias comes from the layer itself, as the base's does.
                bias = kept * bias if made.donated == written else bias * (not of_donor)
        halves.append((part, a, b, bias))
    first, rank = halves[0][0], sum(part.rank for part, *_ in halves)
    growing = rank / first.rank
    made_of = replace(first, alpha=first.alpha * (growing**0.5 if rslora else growing))
    scales = [part.scaling(rslora=rslora) / first.scaling(rslora=rslora) for part, *_ in halves]
    biases = [scale * bias for (*_, bias), scale in zip(halves, scales, strict=True) if bias is not None]
    b = torch.cat([scale * b for (_, _, b, _), scale in zip(halves, scales, strict=True)], dim=1)
    dead = made.silent or made.fresh
    return replace(
        made_of,
        a=torch.cat([a for _, a, _, _ in halves]),
        b=torch.zeros_like(b) if dead else b,
        bias=None if not biases else torch.zeros_like(biases[0]) if dead else sum(biases[1:], biases[0]),
        magnitude=None,
        factor=_row_factor(own, donor, passage, made, written),
    )


def _row_factor(
    own: LowRank | None, donor: LowRank | None, passage: Passage, made: Assembly, written: int
) -> Tensor | None:
    """DoRA: the factor of each row follows the row; a layer without an adapter has rows of factor 1."""
    some = next((part.factor for part in (own, donor) if part is not None and part.factor is not None), None)
    if some is None:
        return None
    if made.fresh:
        return torch.ones(passage.everything[made.tensor.name].shape[written], dtype=torch.float64)
    mine, other = (
        torch.ones_like(some) if part is None or part.factor is None else part.factor for part in (own, donor)
    )
    return _followed(mine, other, passage, made, written, "DoRA")


def _factors(own: Factors | None, donor: Factors | None, passage: Passage, made: Assembly) -> Factors:
    """IA3: the vector follows its axis."""
    some = own or donor
    assert some is not None
    written, read = sides(made.tensor)
    if made.fresh:
        return Factors(torch.ones(made.tensor.shape[read if some.reads else written], dtype=torch.float64), some.reads)
    mine, other = (torch.ones_like(some.values) if part is None else part.values for part in (own, donor))
    return Factors(_followed(mine, other, passage, made, read if some.reads else written, "IA3"), some.reads)


def _followed(own: Tensor, donor: Tensor, passage: Passage, made: Assembly, number: int, kind: str) -> Tensor:
    """Multipliers of a dimension's units: by the index alone, 1 where nothing comes from the source.

    Raises:
        InputError: some units are means of several, or the other dimension comes from two layers: no vector of
            multipliers does then what the adapter did.
    """
    runs = passage.runs(made, number)
    if any(run.pad == "mean" for run in runs):
        raise InputError(
            f"{kind} multiplies units of which the new base holds the mean", key=made.tensor.name, remedy=MERGE
        )
    if made.donor is not None and made.donated != number:
        raise InputError(
            f"{kind} multiplies what AKI takes from two layers ({made.origin}, {made.donor})",
            key=made.tensor.name,
            remedy=MERGE,
        )
    plain = [replace(run, scale=1.0) for run in runs]
    found = along(own, 0, plain)
    if made.donor is not None:
        found = torch.where(passage.donated(made), along(donor, 0, plain), found)
    pads = torch.tensor([run.source is None for run in runs for _ in range(run.length)])
    return torch.where(pads, torch.ones_like(found), found)


def _prompt(prompt: Tensor, passage: Passage) -> Tensor:
    """Virtual tokens are written into the stream as embeddings are that the model does not multiply."""
    name, tensor = next(
        (name, tensor)
        for name, tensor in passage.target.tensors.items()
        if tensor.line.kind == "lookup" and tensor.line.dims[0].axes == ("vocab",)
    )
    made = replace(passage.made(tensor), roles=("read", "write"))
    if prompt.ndim != 2 or prompt.shape[1] != passage.source.tensors[name].shape[1]:
        said = f"virtual tokens of shape {tuple(prompt.shape)} on a width of {passage.source.tensors[name].shape[1]}"
        raise InputError(said, key="prompt_embeddings", remedy="save the adapter again")
    return along(prompt, 1, passage.runs(made, 1))


def _prefix(prefix: Tensor, passage: Passage) -> Tensor:
    """Virtual keys and values follow their heads and their layer; those of AKI's new heads come from the donor's."""
    layers = torch.tensor(passage.maps.order)
    own = prefix.index_select(1, layers)
    axis = passage.maps.axes.get("kv")
    if axis is None:
        return own
    pads = torch.tensor([unit == PAD for unit in axis.index])
    index = torch.tensor([max(unit, 0) for unit in axis.index])
    found = own.index_select(-1, index)
    if passage.maps.scope is not None:
        donors = torch.tensor([passage.maps.donors.get(layer, layer) for layer in passage.maps.order])
        other = prefix.index_select(1, donors).index_select(-1, index)
        found = torch.where(torch.tensor(axis.originals), found, other)
    return found.masked_fill(pads, 0.0)


# --- parts


def _with_fresh(grown: Tensor, made: Assembly, passage: Passage) -> Tensor:
    """A whole tensor with a new model's values wherever the grown base drew such; elsewhere what was given."""
    where = torch.full(grown.shape, made.fresh and not made.silent)
    for number in range(grown.ndim):
        for run in passage.runs(made, number):
            if run.pad == "fresh" and not made.silent:
                where.narrow(number, run.start, run.length).fill_(True)
    if not bool(where.any()):
        return grown
    name = made.tensor.name  # a tied alias holds what its owner drew
    drawn = replace(made, tensor=passage.everything[passage.target.tied.get(name, name)])
    values = fresh_values(drawn, tuple(grown.shape), passage.maps.seed) - float(made.tensor.line.one_plus)
    return torch.where(where, values, grown)


def _across(mask: Tensor, made: Assembly, ndim: int) -> Tensor:
    assert made.donated is not None
    shape = [1] * ndim
    shape[made.donated] = len(mask)
    return mask.reshape(shape)


def _refuse_strangers(adapter: Adapter, source: Anatomy) -> None:
    known = modules_of(source)
    for module in sorted(adapter.wrapped):
        if module not in known:
            raise InputError(f"the table of {source.family.name} has no module of this name", key=module, remedy=MERGE)
    for name in sorted(adapter.whole):
        if name not in source.tensors and name not in source.aliases:
            raise InputError(f"the table of {source.family.name} has no tensor of this name", key=name, remedy=MERGE)


def _check_sizes(adapter: Adapter, source: Anatomy) -> None:
    """Refuse parts whose sizes are not those of the base's tensors; the anatomies' names are known to fit."""
    known, everything = modules_of(source), {**source.tensors, **source.aliases}
    sizes: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = []
    for module, part in adapter.modules.items():
        described = everything[known[module]]
        written, read = (described.shape[number] for number in sides(described))
        sizes += [(f"{module}.lora_A", tuple(part.a.shape), (part.rank, read))]
        sizes += [(f"{module}.lora_B", tuple(part.b.shape), (written, part.rank))]
        for key, vector in (("lora_B.bias", part.bias), ("lora_magnitude_vector", part.magnitude)):
            sizes += [] if vector is None else [(f"{module}.{key}", tuple(vector.shape), (written,))]
    for module, found in adapter.factors.items():
        described = everything[known[module]]
        number = sides(described)[1 if found.reads else 0]
        sizes += [(f"{module}.ia3_l", tuple(found.values.shape), (described.shape[number],))]
    sizes += [(name, tuple(value.shape), everything[name].shape) for name, value in adapter.whole.items()]
    if adapter.prefix is not None and "kv" in source.sizes:
        sizes += [("prompt_embeddings", tuple(adapter.prefix.shape[-1:]), (source.sizes["kv"],))]
    for name, stored, expected in sizes:
        if stored != expected:
            raise InputError(
                f"shape {stored} where the base it was tuned on needs {expected}",
                key=name,
                remedy="the file is damaged, or it was tuned on another base: save the adapter again",
            )
