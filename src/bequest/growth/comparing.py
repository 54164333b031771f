"""Two models on the same token ids, compared place by place: outputs, and the stream after every block.

A grown stream holds ``x'_i = a_i x_g(i)``: it is compared channel by channel under the map of the axis ``hidden``, or,
where no plan is at hand, under one factor for each channel, fitted where the stream enters the first block.  Blocks are
matched by the order of layers: a block of the larger model either takes the turn of the next source layer, and its
output must be that layer's, or it must leave the stream as it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from bequest.anatomy import Anatomy
from bequest.anatomy.fills import role_of
from bequest.anatomy.maps import PAD

if TYPE_CHECKING:
    from bequest.growth.plan import GrowthPlan

Batch = Mapping[str, torch.Tensor]
#: Tokens of the two random batches; the longer one where the positions allow.
LENGTHS = (7, 80)
_ROWS = 3
_CHUNK = 64


# --- token ids


def padding_id(anatomy: Anatomy) -> int:
    """The padding id of a model, 0 where it has none."""
    return int(anatomy.config.get("pad_token_id") or 0)


def random_ids(anatomy: Anatomy, rows: int, length: int, generator: torch.Generator) -> torch.Tensor:
    """Token ids from 2 on; none is the padding id, which some families give no position."""
    ids = torch.randint(2, anatomy.sizes["vocab"], (rows, length), generator=generator)
    spare = 1 if padding_id(anatomy) != 1 else 0
    return torch.where(ids == padding_id(anatomy), spare, ids)


def batches(anatomy: Anatomy, generator: torch.Generator, *, left: bool) -> Iterator[Batch]:
    """A short batch without padding and a long one with: at the end and, where ``left`` allows, at the beginning."""
    for number, wanted in enumerate(LENGTHS):
        length = min(wanted, anatomy.longest)
        ids = random_ids(anatomy, _ROWS, length, generator)
        mask = torch.ones_like(ids)
        if number and length > 4:
            mask[1, length - length // 4 :] = 0
            if left:
                mask[2, : length // 5] = 0
            ids[mask == 0] = padding_id(anatomy)
        batch = {"input_ids": ids, "attention_mask": mask}
        if anatomy.family.typed and "type" in anatomy.sizes:
            batch["token_type_ids"] = torch.randint(anatomy.sizes["type"], ids.shape, generator=generator)
        yield batch


def padded(prompts: Sequence[Sequence[int]], padding: int, *, left: bool) -> Batch:
    """Prompts of several lengths as one batch."""
    length = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), length), padding)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        place = slice(length - len(prompt), length) if left else slice(len(prompt))
        ids[row, place] = torch.tensor(list(prompt))
        mask[row, place] = 1
    return {"input_ids": ids, "attention_mask": mask}


# --- one model's pass


@dataclass(frozen=True)
class Pass:
    """What a model computed on one batch.

    Args:
        states: the stream as it enters the first block and as it leaves each block, [positions, hidden].
        out: logits (or, of a bare model, the last states), one row per position or per sequence.
    """

    states: list[torch.Tensor]
    out: torch.Tensor


def passed(model: Any, anatomy: Anatomy, batch: Batch) -> Pass:
    """Run a model on a batch; positions of padding are left out."""
    keep = batch["attention_mask"].bool().to(model.device)
    states: list[torch.Tensor] = []

    def enters(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        states.append((given[0] if given else named["hidden_states"]).detach()[keep])

    def leaves(_: Any, __: Any, made: Any) -> None:
        states.append((made[0] if isinstance(made, tuple) else made).detach()[keep])

    modules = [model.get_submodule(path) for path in block_paths(anatomy)]
    with contextlib.ExitStack() as hooks:
        hooks.callback(modules[0].register_forward_pre_hook(enters, with_kwargs=True).remove)
        for module in modules:
            hooks.callback(module.register_forward_hook(leaves).remove)
        made = model(**{name: value.to(model.device) for name, value in batch.items()}, **_without_cache(anatomy))
    out = made.last_hidden_state if anatomy.head == "bare" else made.logits
    if anatomy.head != "sequence-classification":
        out = out[keep]
    return Pass(states, out if out.ndim > 1 else out[:, None])


def _without_cache(anatomy: Anatomy) -> dict[str, bool]:
    """Decoders keep keys and values unless told not to; the cache is judged where it is used, by generating."""
    return {"use_cache": False} if "causal-lm" in anatomy.family.heads else {}


def block_paths(anatomy: Anatomy) -> list[str]:
    """The names of the block modules, from the first on."""
    stem = next(row.name.partition("{layer}")[0] for row in anatomy.family.rows if "{layer}" in row.name)
    return [f"{anatomy.prefix}{stem}{layer}" for layer in range(anatomy.layers)]


# --- which channel of the larger stream is which of the smaller


@dataclass(frozen=True)
class Streams:
    """How the channels of two streams correspond.

    Args:
        channels: channels of the larger stream.
        index: for each its channel of the smaller one; n stands for the mean of all, n + 1 for zero.
        scale: for each the factor that it is written with.
        carried: for each the factor with which a bare model's output carries it, after the last norm.
    """

    channels: torch.Tensor
    index: torch.Tensor
    scale: torch.Tensor
    carried: torch.Tensor

    @classmethod
    def planned(cls, plan: GrowthPlan) -> Streams:
        """From the map of the axis ``hidden``."""
        assert plan.maps is not None
        width = plan.source.sizes["hidden"]
        found = plan.maps.axes.get("hidden")
        if found is None or found.identity:
            return cls.plain(width)
        stands = {"mean": width, "zero": width + 1}
        pad = stands.get(found.pad("write"), PAD)
        index = [pad if unit == PAD else unit for unit in found.index]
        norm = plan.source.tensors.get(f"{plan.source.last_norm}.weight") if plan.source.last_norm else None
        scale = found.scale("write") or (1.0,) * found.target
        gain = (found.scale(role_of(norm, norm.line.dims[-1], plan.source)) if norm is not None else None) or (
            1.0,
        ) * found.target
        kept = [channel for channel, unit in enumerate(index) if unit != PAD]
        rows = [(channel, index[channel], scale[channel], scale[channel] * gain[channel]) for channel in kept]
        columns = [torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True)]
        return cls(columns[0].long(), columns[1].long(), columns[2], columns[3])

    @classmethod
    def plain(cls, width: int) -> Streams:
        """Channel for channel, unscaled."""
        ones = torch.ones(width, dtype=torch.float64)
        return cls(torch.arange(width), torch.arange(width), ones, ones)

    @classmethod
    def fitted(cls, source: Anatomy, target: Anatomy, small: torch.Tensor, large: torch.Tensor) -> Streams:
        """The first channels of the larger stream, each with the factor that fits it best where the blocks begin."""
        width, wide = source.sizes["hidden"], target.sizes["hidden"]
        x, y = small.double(), large[:, :width].double()
        norm = (x * x).sum(0)
        scale = torch.where(norm > 0, (x * y).sum(0) / norm.clamp_min(1e-300), 1.0).cpu()
        # A tied last norm carries n/N; where the model multiplies its embeddings by sqrt(hidden), sqrt(n/N).
        scaled = any(dim.role == "scaled_write" for tensor in source.tensors.values() for dim in tensor.line.dims)
        share = (width / wide) ** (0.5 if scaled else 1.0)
        carried = scale * share if source.tie else torch.ones_like(scale)
        return cls(torch.arange(width), torch.arange(width), scale, scale if source.last_norm is None else carried)

    def expected(self, state: torch.Tensor) -> torch.Tensor:
        """What ``channels`` of the larger stream hold where the smaller one is ``state`` [positions, hidden]."""
        mean = state.mean(-1, keepdim=True)
        whole = torch.cat([state, mean, torch.zeros_like(mean)], dim=-1)
        return whole[:, self.index.to(state.device)] * self.scale.to(state)

    def output(self, small: torch.Tensor, large: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A bare model's output and what the larger one has in its place; pads hold no unit and are left out."""
        units = (self.index < small.shape[-1]).nonzero()[:, 0]
        carried = self.carried[units].to(small)
        return small[:, self.index[units].to(small.device)] * carried, large[:, self.channels[units].to(large.device)]


def turns(order: Sequence[int], still: frozenset[int], layers: int) -> list[int]:
    """For each block of the larger model the number of source layers done when it has run.

    Args:
        order: for each block its source layer.
        still: blocks that must leave the stream as it is, whatever they copy.
        layers: the source's.
    """
    done, found = 0, []
    for block, origin in enumerate(order):
        if block not in still and done < layers and origin == done:
            done += 1
        found.append(done)
    return found


def first_difference(small: Pass, large: Pass, streams: Streams, done: Sequence[int], tolerance: float) -> int | None:
    """The first block of the larger model whose output is not what it must be; -1: already what enters the first."""
    for block, layers in enumerate([0, *done], start=-1):
        expected = streams.expected(small.states[layers])
        found = large.states[block + 1][:, streams.channels.to(large.states[0].device)].to(expected)
        if not relative(found, expected) <= tolerance:
            return block
    return None


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """max|found - expected| / max|expected|; infinite where only ``expected`` is zero throughout."""
    gap, size = float((found - expected).abs().max()), float(expected.abs().max())
    return gap / size if size else (0.0 if gap == 0 else float("inf"))


# --- the outputs, summed up


class Tally:
    """Differences of outputs over all batches: the largest, the mean KL divergence, the agreement of the first choice.

    Args:
        distribution: whether a row is a distribution's logits (one logit is a Bernoulli's).
    """

    def __init__(self, *, distribution: bool) -> None:
        self.distribution = distribution
        self.gap = self.size = self.kl_sum = 0.0
        self.same = self.rows = 0

    def add(self, expected: torch.Tensor, found: torch.Tensor) -> None:
        """Add rows; float64 inside, a few rows at a time: vocabularies are large."""
        for left, right in zip(
            torch.split(expected, _CHUNK), torch.split(found.to(expected.device), _CHUNK), strict=True
        ):
            left, right = left.double(), right.double()
            self.gap = _larger(self.gap, (right - left).abs().max())
            self.size = _larger(self.size, left.abs().max())
            self.rows += len(left)
            if self.distribution:
                self._compare(left, right)

    def _compare(self, left: torch.Tensor, right: torch.Tensor) -> None:
        if left.shape[-1] == 1:
            left, right = (torch.cat([side, torch.zeros_like(side)], dim=-1) for side in (left, right))
        self.same += int((left.argmax(-1) == right.argmax(-1)).sum())
        left, right = left.log_softmax(-1), right.log_softmax(-1)
        self.kl_sum += float((left.exp() * (left - right)).sum())

    @property
    def error(self) -> float:
        """max|difference| / max|expected|."""
        return self.gap / self.size if self.size else (0.0 if self.gap == 0 else float("inf"))

    @property
    def kl(self) -> float:
        """Mean KL(expected || found) in nats per row; 0 without a distribution."""
        return max(self.kl_sum / self.rows, 0.0) if self.distribution else 0.0

    @property
    def top1(self) -> float:
        """Share of rows with the same first choice; 1 without a distribution."""
        return self.same / self.rows if self.distribution else 1.0


def _larger(known: float, value: torch.Tensor) -> float:
    """The larger of the two; not a number wins, so that it is seen."""
    found = float(value)
    return found if found != found or found > known else known
