"""A model and the one grown from it: may they be compared, on which token ids, and what comes of it."""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from bequest.anatomy import Anatomy
from bequest.checkpoints import takes_grouped_experts
from bequest.errors import InputError
from bequest.growth.comparing import (
    Batch,
    Streams,
    Tally,
    batches,
    first_difference,
    padded,
    padding_id,
    passed,
    random_ids,
    turns,
)
from bequest.growth.generating import Generation, generated

if TYPE_CHECKING:
    from bequest.growth.plan import GrowthPlan

HALVES = (torch.bfloat16, torch.float16)
_ROWS = 8
_PROMPTS, _PROMPT_LENGTHS, _NEW_TOKENS = 4, (3, 9), 12


@dataclass(frozen=True)
class Pair:
    """Two models, their anatomies, and how the one was made from the other, where that is known.

    Raises:
        InputError: they are of two families, variants, vocabularies or dtypes, or the plan is for other sizes.
    """

    model: Any
    bigger: Any
    source: Anatomy
    target: Anatomy
    plan: GrowthPlan | None

    def __post_init__(self) -> None:
        source, target = self.source, self.target
        upcycled = "expert" in target.sizes and "expert" not in source.sizes
        if source.head != target.head or (source.family.name != target.family.name and not upcycled):
            raise InputError(f"a {source.family.name} {source.head} cannot be compared with another kind of model")
        if source.sizes["vocab"] != target.sizes["vocab"]:
            raise InputError("the vocabularies differ in size", key="vocab_size")
        if self.model.dtype != self.bigger.dtype:
            dtypes = f"{self.model.dtype}, {self.bigger.dtype}"
            raise InputError(f"the dtypes differ ({dtypes})", remedy="load both in one dtype")
        planned = (self.plan.source, self.plan.target) if self.plan is not None else ()
        for mine, known in zip((source, target), planned, strict=False):
            if (mine.sizes, mine.layers) != (known.sizes, known.layers):
                raise InputError("the plan is one for models of other sizes", key="plan", remedy="pass their own plan")

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Both in eval mode and without gradients; afterwards as they were."""
        with _evaluating(self.model, self.source), _evaluating(self.bigger, self.target), torch.no_grad():
            yield

    # --- token ids

    def inputs(self, prompts: Sequence[Sequence[int]], generator: torch.Generator) -> list[Batch]:
        """Random batches of two lengths, then the prompts."""
        decoder = "causal-lm" in self.source.family.heads
        random = batches(self.source, generator, left=decoder and not self._overflows())
        rows = [prompts[start : start + _ROWS] for start in range(0, len(prompts), _ROWS)]
        return [*random, *(padded(some, padding_id(self.source), left=False) for some in rows)]

    def random_prompts(self, generator: torch.Generator) -> list[list[int]]:
        """Prompts of several lengths, so that some are padded."""
        short, long = _PROMPT_LENGTHS
        long = min(long, self.source.longest - 1)
        rows = random_ids(self.source, _PROMPTS, long, generator).tolist()
        return [row[: min(long, short + 2 * number)] for number, row in enumerate(rows)]

    def _overflows(self) -> bool:
        """Whether padding at the beginning gives NaN: eager attention casts float64 masks to float32, to -infinity."""
        return bool(self.model.dtype == torch.float64 and self.model.config._attn_implementation == "eager")

    # --- comparisons

    def tally(self) -> Tally:
        """An empty tally for these models' outputs."""
        return Tally(distribution=self.source.head != "bare")

    def compared(self, batch: Batch, tally: Tally, tolerance: float) -> int | None:
        """Add one batch to the tally; returns the first block that differs in it."""
        small = passed(self.model, self.source, batch)
        large = passed(self.bigger, self.target, batch)
        if self.plan is not None and self.plan.maps is not None:
            streams = Streams.planned(self.plan)
        else:
            streams = Streams.fitted(self.source, self.target, small.states[0], large.states[0])
        bare = self.source.head == "bare"
        tally.add(*(streams.output(small.out, large.out) if bare else (small.out, large.out)))
        return first_difference(small, large, streams, self._turns, tolerance)

    @functools.cached_property
    def _turns(self) -> list[int]:
        """Which source layer's output each block must have; without a plan, identity blocks are known by silence."""
        if self.plan is not None and self.plan.maps is not None:
            maps = self.plan.maps
            return turns(maps.order, maps.silent | maps.fresh, self.source.layers)
        deeper = self.source.layers != self.target.layers
        silent = _silent(self.bigger, self.target) if deeper else frozenset()
        moving = itertools.count()
        order = [-1 if block in silent else next(moving) for block in range(self.target.layers)]
        return turns(order, frozenset(), self.source.layers)

    def rounded(self, inputs: Sequence[Batch], stored: torch.dtype | None, done: Callable[[], None]) -> Tally | None:
        """The source in float32 against itself in the half precision that is concerned; None where none is."""
        half = self.half(stored)
        if half is None:
            return None
        tally = self.tally()
        low = copy.deepcopy(self.model).to(half)
        whole = copy.deepcopy(self.model).to(torch.float32) if self.model.dtype in HALVES else self.model
        for batch in inputs:
            tally.add(passed(whole, self.source, batch).out, passed(low, self.source, batch).out)
            done()
        return tally

    def half(self, stored: torch.dtype | None) -> torch.dtype | None:
        """The half precision that the models compute in, or that the larger one was stored in."""
        found = self.model.dtype if self.model.dtype in HALVES else stored
        return found if found in HALVES else None

    def continued(self, prompts: Sequence[Sequence[int]], gate: float, done: Callable[[], None]) -> Generation | None:
        """Prompts continued greedily by both models; None where they are no language models."""
        tokens = min(_NEW_TOKENS, self.source.longest - max(len(prompt) for prompt in prompts))
        if self.source.head != "causal-lm" or tokens < 1:
            return None
        padding = padding_id(self.source)
        if self._overflows():
            shortest = min(len(prompt) for prompt in prompts)
            prompts = [prompt[:shortest] for prompt in prompts]
        batch = padded(prompts, padding, left=True)
        return generated(self.model, self.bigger, batch, tokens, padding, gate, done)


def encoded(prompts: Sequence[Any], tokenizer: Callable[[str], Any] | None, source: Anatomy) -> list[list[int]]:
    """Prompts as token ids.

    Args:
        prompts: texts or token ids.
        tokenizer: called with a text, gives its ``input_ids``.
        source: of the smaller model.

    Raises:
        InputError: one is empty, too long, outside the vocabulary, or a text without a tokenizer.
    """
    found = []
    for prompt in prompts:
        ids = [int(token) for token in (_ids(prompt, tokenizer) if isinstance(prompt, str) else prompt)]
        if not 1 <= len(ids) < source.longest:
            remedy = f"1 to {source.longest - 1} are possible"
            raise InputError(f"a prompt has {len(ids)} tokens", key="prompts", remedy=remedy)
        if not all(0 <= token < source.sizes["vocab"] for token in ids):
            message = "a prompt holds an id outside the vocabulary"
            raise InputError(message, key="prompts", remedy="use its own tokenizer")
        found.append(ids)
    return found


def _ids(text: str, tokenizer: Callable[[str], Any] | None) -> Sequence[int]:
    if tokenizer is None:
        raise InputError("a prompt is a text, and there is no tokenizer", key="prompts", remedy="pass tokenizer=")
    found: Sequence[int] = tokenizer(text)["input_ids"]
    return found


def _silent(model: Any, anatomy: Anatomy) -> frozenset[int]:
    """The blocks that write nothing into the stream: their writers are zero, or the gains behind them."""
    parameters = dict(model.named_parameters())
    found = []
    for layer in range(anatomy.layers):
        tensors = [tensor for tensor in anatomy.tensors.values() if tensor.layer == layer]
        posts = [tensor for tensor in tensors if tensor.line.dims[-1].role == "post_gain"]
        if posts:
            zero = [bool((parameters[tensor.name] + (1 if tensor.line.one_plus else 0) == 0).all()) for tensor in posts]
        else:
            zero = [not bool(parameters[use.tensor].any()) for use in anatomy.writers("hidden", layer)]
        if zero and all(zero):
            found.append(layer)
    return frozenset(found)


@contextlib.contextmanager
def _evaluating(model: Any, anatomy: Anatomy) -> Iterator[None]:
    """A model in eval mode, able to compute in its dtype and to find the end of a sequence; afterwards as it was."""
    training, padding = model.training, model.config.pad_token_id
    # Grouped matrix products refuse float64, and rows that are no whole multiples of 16 bytes.
    refused = model.dtype == torch.float64 or not takes_grouped_experts(model)
    experts = anatomy.sizes.get("expert", 0) > 1 and refused
    before = model.get_experts_implementation() if experts else None
    model.eval()
    if anatomy.head == "sequence-classification" and padding is None:
        model.config.pad_token_id = 0
    if experts:
        model.set_experts_implementation("eager")
    try:
        yield
    finally:
        model.train(training)
        model.config.pad_token_id = padding
        if before is not None:
            model.set_experts_implementation(before)
