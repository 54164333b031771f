"""Does a larger model compute what the smaller one computes?  Measured, not argued (growth.md §14).

Both see the same token ids at two lengths, with padding; causal language models also continue the same prompts, with
the key-value cache and without it.  The gates: 1e-12 in float64 (5e-6 where something casts to float32 inside: an
RMSNorm, eager attention, a router), 1e-5 max(1, sqrt(L/12)) and a KL of 1e-9 in float32.  Half precision is never a
criterion: its error stands beside what the same rounding does to the smaller model alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from bequest.growth.comparing import Tally
from bequest.growth.duplicates import Copies, symmetry
from bequest.growth.generating import Generation
from bequest.growth.pairs import Pair, encoded
from bequest.growth.plan import GrowthPlan, source_anatomy

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_KL_GATE = 1e-9
#: What half precision does to a grown model may be so many times what it does to the source, before a warning.
TIMES = 4.0


@dataclass(frozen=True)
class Yardstick:
    """What rounding to half precision does to the smaller model alone: from float32 to ``dtype``.

    Attributes:
        dtype: ``bfloat16`` or ``float16``.
        max_relative_error, kl: as in :class:`Preservation`.
        times: the grown model's KL (of a bare model: its error) over this one.
    """

    dtype: str
    max_relative_error: float
    kl: float
    times: float

    @classmethod
    def of(cls, half: torch.dtype | None, own: Tally, grown: Tally) -> Yardstick:
        """From what was summed up over the source alone and over the pair."""
        ours, theirs = (own.kl, grown.kl) if own.distribution else (own.error, grown.error)
        times = theirs / ours if ours else (0.0 if theirs == 0 else math.inf)
        return cls(str(half).removeprefix("torch."), own.error, own.kl, times)


@dataclass(frozen=True)
class Preservation:
    """What was measured.

    Attributes:
        max_relative_error: max|difference| / max|source output| over all positions that are not padding.
        kl: mean KL(source || larger) in nats per position; 0 for variants without a distribution.
        top1: share of positions whose most likely token (or label) is the same.
        first_layer: the first block of the larger model whose output differs (0-based; -1: already the embeddings; the
            number of blocks: only what follows the last one), None where nothing does.
        units: kind (head, neuron, hidden, ...) -> how many of them the larger model has.
        duplicated_units: kind -> those that repeat another one exactly, row by row.
        locked_units: kind -> those that training cannot tell apart either, since whatever reads them is equal too.
        gate: the largest relative error that counts as preserved; None in half precision.
        preserved: whether error, KL and generation are inside their gates.
        reasons: why it is not preserved, in words; empty where it is.
        positions: positions compared (sequences, for a classifier).
        dtype: what both models computed in.
        generation: greedy generation compared; None for models that do not generate.
        yardstick: where half precision is concerned, what it does to the source alone.
        verdict: all of this in one line.
    """

    max_relative_error: float
    kl: float
    top1: float
    first_layer: int | None
    units: dict[str, int]
    duplicated_units: dict[str, int]
    locked_units: dict[str, int]
    gate: float | None
    preserved: bool
    reasons: tuple[str, ...]
    positions: int
    dtype: str
    generation: Generation | None
    yardstick: Yardstick | None
    verdict: str

    @property
    def rounding(self) -> bool:
        """Whether a difference is no larger than half precision explains."""
        return self.yardstick is not None and self.yardstick.times <= TIMES

    def as_json(self) -> dict[str, Any]:
        """The measurements as plain values, for a lineage; what is not a finite number stands as a word."""
        found: dict[str, Any] = _plain(asdict(self))
        return found


def check_preservation(
    model: PreTrainedModel,
    bigger: PreTrainedModel,
    *,
    plan: GrowthPlan | None = None,
    prompts: Sequence[str] | Sequence[Sequence[int]] = (),
    tokenizer: Callable[[str], Any] | None = None,
    stored: torch.dtype | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Preservation:
    """Compare a model with the one grown from it, on random token ids and on prompts.

    Args:
        model, bigger: of the same family and variant (or a mixture of experts made of the former), in the same dtype;
            both are put into eval mode for the time.
        plan: how it was grown; without it, blocks and channels are matched as well as can be told from the models.
        prompts: texts (then with a tokenizer) or token ids, compared and continued beside the random ones.
        tokenizer: called with a text, gives its ``input_ids``.
        stored: the half precision that ``bigger`` was rounded to before it was loaded in a wider dtype, if it was.
        seed: of the token ids.
        progress: called with (steps done, steps in all); a step is a batch or a generation.

    Raises:
        InputError: models of two families, variants, vocabularies or dtypes; a plan for other sizes; prompts that are
            empty, too long, or texts without a tokenizer.
    """
    pair = Pair(model, bigger, source_anatomy(model), source_anatomy(bigger), plan)
    generator = torch.Generator().manual_seed(seed)
    given = encoded(prompts, tokenizer, pair.source)
    inputs = pair.inputs(given, generator)
    gate, half = _gate(pair), pair.half(stored)
    speaks = pair.source.head == "causal-lm"
    done = _counted(progress, len(inputs) * (2 if half is not None else 1) + (3 if speaks else 0) + 1)
    with pair.evaluating():
        own = pair.rounded(inputs, stored, done)
        tolerance = max(gate or 0.0, TIMES * own.error if own is not None else 0.0)
        tally, differing = pair.tally(), []
        for batch in inputs:
            differing.append(pair.compared(batch, tally, tolerance))
            done()
        near = max(gate or 0.0, torch.finfo(half).eps if half is not None else 0.0)
        generation = pair.continued(given or pair.random_prompts(generator), near, done)
        copies = symmetry(bigger, pair.target)
        done()
    yardstick = Yardstick.of(half, own, tally) if own is not None else None
    first = min((block for block in differing if block is not None), default=None)
    if first is None and not tally.error <= tolerance:
        first = pair.target.layers
    return _judged(tally, first, copies, gate, generation, yardstick, model.dtype)


def _counted(progress: Callable[[int, int], None] | None, steps: int) -> Callable[[], None]:
    """What is called after each step."""
    number = itertools.count(1)

    def done() -> None:
        if progress is not None:
            progress(next(number), steps)

    return done


# --- what is judged


def _gate(pair: Pair) -> float | None:
    if pair.model.dtype == torch.float64:
        casts = pair.source.family.norm == "rms" or pair.model.config._attn_implementation == "eager"
        return 5e-6 if casts else 1e-12
    if pair.model.dtype == torch.float32:
        return 1e-5 * max(1.0, math.sqrt(pair.target.layers / 12))
    return None


def _judged(
    tally: Tally,
    first: int | None,
    copies: Mapping[str, Copies],
    gate: float | None,
    generation: Generation | None,
    yardstick: Yardstick | None,
    dtype: torch.dtype,
) -> Preservation:
    reasons = []
    if gate is None:
        reasons.append("half precision proves nothing")
    elif not math.isfinite(tally.size):
        reasons.append("the source itself computes no finite numbers")
    elif not tally.error <= gate:
        reasons.append(f"the error is above {gate:.0e}")
    if gate is not None and dtype == torch.float32 and not tally.kl <= _KL_GATE:
        reasons.append(f"the KL is above {_KL_GATE:.0e}")
    if gate is not None and generation is not None and not generation.preserved:
        reasons.append("other tokens are generated")
    parts = [
        f"max relative error {tally.error:.1e} (gate {'none' if gate is None else f'{gate:.0e}'})",
        f"KL {tally.kl:.1e}",
        f"top-1 agreement {tally.top1:.1%}",
        f"first block that differs {block_words(first)}",
        *([generation.words()] if generation is not None else []),
        *([_beside(yardstick)] if yardstick is not None else []),
        "exact duplicates "
        + ", ".join(f"{found.duplicated} {kind} ({found.locked} locked)" for kind, found in copies.items()),
    ]
    head = f"not preserved ({', '.join(reasons)})" if reasons else "preserved"
    return Preservation(
        max_relative_error=tally.error,
        kl=tally.kl,
        top1=tally.top1,
        first_layer=first,
        units={kind: found.units for kind, found in copies.items()},
        duplicated_units={kind: found.duplicated for kind, found in copies.items()},
        locked_units={kind: found.locked for kind, found in copies.items()},
        gate=gate,
        preserved=not reasons,
        reasons=tuple(reasons),
        positions=tally.rows,
        dtype=str(dtype).removeprefix("torch."),
        generation=generation,
        yardstick=yardstick,
        verdict=f"{head}: {', '.join(parts)}",
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def block_words(first: int | None) -> str:
    """The place of a first difference, in words."""
    return "none" if first is None else "the embeddings" if first == -1 else str(first)


def _beside(yardstick: Yardstick) -> str:
    warning = f", more than the {TIMES:g} times that rounding explains" if not yardstick.times <= TIMES else ""
    return f"{yardstick.times:.2g} times the source's own float32 -> {yardstick.dtype} change{warning}"
