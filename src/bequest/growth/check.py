"""Does a larger model compute what the smaller one computes?  Measured, not argued (growth.md §14).

Both models see the same token ids at two lengths, with padding for encoders.  The gates: 1e-12 in float64 (5e-6 where
an RMSNorm casts to float32 inside), 1e-5 max(1, sqrt(L/12)) and a KL of 1e-9 in float32; half precision is never a pass
criterion.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from bequest.anatomy import Anatomy
from bequest.anatomy.anatomy import UnitKind
from bequest.errors import InputError
from bequest.growth.plan import source_anatomy

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Preservation:
    """What was measured.

    Attributes:
        max_relative_error: max|difference| / max|source output| over all positions that are not padding.
        kl: mean KL(source || larger) in nats per position; 0 for variants without a distribution.
        top1: share of positions whose most likely token (or label) is the same.
        first_layer: the first block whose output differs (0-based; -1: already the embeddings), None where none does.
        duplicated_units: kind -> units of the larger model that repeat another one exactly, row by row.
        gate: the largest relative error that counts as preserved; None in half precision.
        preserved: whether the error is inside the gate.
        verdict: all of this in one line.
    """

    max_relative_error: float
    kl: float
    top1: float
    first_layer: int | None
    duplicated_units: dict[str, int]
    gate: float | None
    preserved: bool
    verdict: str

    def as_json(self) -> dict[str, Any]:
        """The measurements as plain values, for a lineage."""
        return asdict(self)


def check_preservation(model: PreTrainedModel, bigger: PreTrainedModel, *, seed: int = 0) -> Preservation:
    """Compare a model with the one grown from it, on random token ids.

    Args:
        model, bigger: of the same family and variant, in the same dtype; both are put into eval mode for the time.
        seed: of the token ids.

    Raises:
        InputError: models of two families, variants, vocabularies or dtypes.
    """
    source, target = source_anatomy(model), source_anatomy(bigger)
    _refuse_unlike(model, bigger, source, target)
    training = model.training, bigger.training
    model.eval(), bigger.eval()
    try:
        with torch.no_grad():
            rows = [_compared(model, bigger, source, target, batch) for batch in _batches(source, seed, model.device)]
    finally:
        model.train(training[0]), bigger.train(training[1])
    expected, found = torch.cat([row[0] for row in rows]), torch.cat([row[1] for row in rows])
    error = float((found - expected).abs().max() / expected.abs().max())
    gate = _gate(source, target, model.dtype)
    differing = [row[2] for row in rows if row[2] is not None]
    kl, top1 = _distribution(expected, found) if source.head != "bare" else (0.0, 1.0)
    preserved = gate is not None and error <= gate and (model.dtype != torch.float32 or kl <= 1e-9)
    duplicated = {kind: _duplicated(bigger, target, kind) for kind in ("head", "neuron")}
    duplicated["hidden"] = _duplicated_channels(bigger, target)
    first = min(differing) if differing else None
    words = "preserved" if preserved else "not preserved"
    verdict = (
        f"{words}: max relative error {error:.1e} (gate {'none' if gate is None else f'{gate:.0e}'}), KL {kl:.1e}, "
        f"top-1 agreement {top1:.1%}, first block that differs {'none' if first is None else first}, exact duplicates "
        + ", ".join(f"{number} {kind}" for kind, number in duplicated.items())
    )
    return Preservation(error, kl, top1, first, duplicated, gate, preserved, verdict)


def _refuse_unlike(model: Any, bigger: Any, source: Anatomy, target: Anatomy) -> None:
    if (source.family.name, source.head) != (target.family.name, target.head):
        raise InputError(f"a {source.family.name} {source.head} cannot be compared with another kind of model")
    if source.sizes["vocab"] != target.sizes["vocab"]:
        raise InputError("the vocabularies differ in size", key="vocab_size")
    if model.dtype != bigger.dtype:
        raise InputError(f"the dtypes differ ({model.dtype}, {bigger.dtype})", remedy="load both in one dtype")


def _batches(source: Anatomy, seed: int, device: torch.device) -> list[dict[str, torch.Tensor]]:
    """Two lengths; the second with padding.  Ids avoid the padding id, which some families give no position."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for length in (min(7, source.longest), min(16, source.longest)):
        ids = torch.randint(2, source.sizes["vocab"], (3, length), generator=generator)
        mask = torch.ones_like(ids)
        if length > 7:
            mask[1, length - 4 :] = 0
            ids[mask == 0] = source.config.get("pad_token_id") or 0
        batches.append({"input_ids": ids.to(device), "attention_mask": mask.to(device)})
    return batches


def _compared(
    model: Any, bigger: Any, source: Anatomy, target: Anatomy, batch: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, int | None]:
    pad = (model.config.pad_token_id, bigger.config.pad_token_id)
    if source.head == "sequence-classification" and pad[0] is None:
        # Decoders need a padding id to find each sequence's last token.
        model.config.pad_token_id = bigger.config.pad_token_id = 0
    try:
        small = model(**batch, output_hidden_states=True)
        large = bigger(**batch, output_hidden_states=True)
    finally:
        model.config.pad_token_id, bigger.config.pad_token_id = pad
    width = source.sizes["hidden"]
    if source.head == "bare":
        # A grown stream begins with the source's channels; on a tied base the last norm carries n/N.
        carried = target.sizes["hidden"] / width if source.tie and source.last_norm else 1.0
        expected, found = small.last_hidden_state, large.last_hidden_state[..., :width] * carried
    else:
        expected, found = small.logits, large.logits
    if source.head != "sequence-classification":
        keep = batch["attention_mask"].bool()
        expected, found = expected[keep], found[keep]
    if expected.ndim == 1:
        expected, found = expected[:, None], found[:, None]
    tolerance = _gate(source, target, model.dtype) or 1e-1
    first = _first_difference(small.hidden_states, large.hidden_states, batch, width, tolerance)
    if first is None and float((found - expected).abs().max() / expected.abs().max()) > tolerance:
        first = min(source.layers, target.layers) - (1 if source.layers == target.layers else 0)
    return expected.double(), found.double(), first


def _first_difference(
    small: tuple[torch.Tensor, ...], large: tuple[torch.Tensor, ...], batch: Any, width: int, tolerance: float
) -> int | None:
    """The first block whose output differs; the last entry stands after the last norm and is judged by the logits."""
    keep = batch["attention_mask"].bool()
    for block in range(min(len(small), len(large)) - 1):
        expected, found = small[block][keep], large[block][keep]
        shared = min(width, expected.shape[-1])
        error = (found[..., :shared] - expected[..., :shared]).abs().max() / expected.abs().max()
        if float(error) > tolerance:
            return block - 1
    return None


def _gate(source: Anatomy, target: Anatomy, dtype: torch.dtype) -> float | None:
    if dtype == torch.float64:
        return 5e-6 if source.family.norm == "rms" else 1e-12
    if dtype == torch.float32:
        return 1e-5 * max(1.0, math.sqrt(target.layers / 12))
    return None


def _distribution(expected: torch.Tensor, found: torch.Tensor) -> tuple[float, float]:
    """Mean KL(expected || found) and top-1 agreement; one logit is a Bernoulli's."""
    if expected.shape[-1] == 1:
        expected = torch.cat([expected, torch.zeros_like(expected)], dim=-1)
        found = torch.cat([found, torch.zeros_like(found)], dim=-1)
    left, right = expected.log_softmax(-1), found.log_softmax(-1)
    kl = float((left.exp() * (left - right)).sum(-1).mean())
    return max(kl, 0.0), float((left.argmax(-1) == right.argmax(-1)).double().mean())


def _duplicated(model: Any, anatomy: Anatomy, kind: UnitKind) -> int:
    """Units of a kind whose rows repeat another unit's, over all layers."""
    parameters = dict(model.named_parameters())
    total = 0
    for layer in range(anatomy.layers):
        units = anatomy.units(kind, layer)
        rows = []
        for unit in units:
            parts = [
                parameters[place.tensor].detach().narrow(place.dim, place.indices.start, _length(place.indices))
                for place in unit.writes
            ]
            rows.append(torch.cat([part.reshape(-1) for part in parts]))
        total += len(rows) - len(torch.unique(torch.stack(rows), dim=0))
    return total


def _duplicated_channels(model: Any, anatomy: Anatomy) -> int:
    """Channels of the stream that repeat another one in every tensor that writes the stream."""
    parameters = dict(model.named_parameters())
    uses = anatomy.writers("hidden")
    parts = [
        parameters[use.tensor].detach().movedim(use.dim, 0).flatten(1)
        if parameters[use.tensor].ndim > 1
        else parameters[use.tensor].detach()[:, None]
        for use in uses
    ]
    channels = torch.cat([part.float() for part in parts], dim=1)
    return len(channels) - len(torch.unique(channels, dim=0))


def _length(indices: slice) -> int:
    return int(indices.stop - indices.start)
