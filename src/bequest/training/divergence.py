"""Cross-entropy and the one KL divergence, summed over positions, in fp32 and in chunks of positions.

Knowledge Inheritance (Qin et al. 2022, eq. 1-2), with temperature t on both sides and the factor t^2::

    KL(j) = t^2 * sum_v p_t[v] * (log p_t[v] - log p_s[v]),   p = softmax(z / t)
    dKL/dz_s = t * (p_s - p_t)          dCE/dz = softmax(z) - onehot(y)

Both gradients are known in closed form, so the forward pass computes them chunk by chunk and keeps only one matrix of
the logits' own type; automatic differentiation would keep several fp32 ones, and those dominate memory at large
vocabularies.  The logits are divided by t after the cast to fp32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK_ELEMENTS = 1 << 22
"""Elements (positions x vocabulary) treated at once: 16 MiB in fp32."""


def chunks(logits: Tensor) -> list[slice]:
    """Slices of rows such that each holds about :data:`CHUNK_ELEMENTS` elements."""
    rows = max(1, CHUNK_ELEMENTS // max(1, logits.shape[-1]))
    return [slice(start, start + rows) for start in range(0, logits.shape[0], rows)]


class CrossEntropySum(torch.autograd.Function):
    """sum_j -log softmax(z_j)[y_j] with its gradient computed on the way."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor) -> Tensor:
        """[N, V] logits and [N] ids to a 0-dimensional sum in fp32 (fp64 for fp64 logits)."""
        wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
        total = torch.zeros((), dtype=wide, device=logits.device)
        gradient = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        for part in chunks(logits):
            log_p = torch.log_softmax(logits[part], dim=-1, dtype=wide)
            chosen = ids[part].unsqueeze(-1)
            total -= log_p.gather(-1, chosen).sum()
            if gradient is not None:
                p = log_p.exp_()
                p.scatter_add_(-1, chosen, p.new_full((1, 1), -1.0).expand(chosen.shape))
                gradient[part] = p
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, None]:
        """The saved gradient, scaled."""
        (gradient,) = ctx.saved_tensors
        return (None if gradient is None else gradient.mul_(upstream.to(gradient.dtype))), None


class DivergenceSum(torch.autograd.Function):
    """sum_j t^2 KL(teacher_j || student_j) with its gradient for the student computed on the way."""

    @staticmethod
    def forward(ctx: Any, teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
        """Two [N, V] logit matrices to a 0-dimensional sum."""
        wide = torch.float64 if student.dtype == torch.float64 else torch.float32
        total = torch.zeros((), dtype=wide, device=student.device)
        gradient = torch.empty_like(student) if ctx.needs_input_grad[1] else None
        for part in chunks(student):
            log_t = torch.log_softmax(teacher[part].to(wide) / temperature, dim=-1)
            log_s = torch.log_softmax(student[part].to(wide) / temperature, dim=-1)
            p_t = log_t.exp()
            total += (p_t * (log_t - log_s)).sum() * temperature**2
            if gradient is not None:
                gradient[part] = log_s.exp_().sub_(p_t).mul_(temperature)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[None, Tensor | None, None]:
        """The saved gradient, scaled; the teacher gets none."""
        (gradient,) = ctx.saved_tensors
        return None, (None if gradient is None else gradient.mul_(upstream.to(gradient.dtype))), None


def cross_entropy_sum(logits: Tensor, ids: Tensor) -> Tensor:
    """``sum_j -log softmax(logits_j)[ids_j]``: [N, V] and [N] to a 0-dimensional fp32 tensor."""
    total: Tensor = CrossEntropySum.apply(logits, ids)  # type: ignore[no-untyped-call]
    return total


def divergence_sum(
    teacher: Tensor, student: Tensor, *, temperature: float = 1.0, vocabulary: int | None = None
) -> Tensor:
    """``t^2 sum_j KL(teacher_j || student_j)``, both [N, >= V], to a 0-dimensional fp32 tensor.

    Args:
        teacher: teacher logits; no gradient flows to them.
        student: student logits.
        temperature: t, on both sides.
        vocabulary: the logical vocabulary V; what is beyond it (padded rows of the embedding) is cut off *before* the
            softmax.
    """
    if vocabulary is not None:
        teacher, student = teacher[..., :vocabulary], student[..., :vocabulary]
    if teacher.shape != student.shape:
        raise ValueError(f"teacher logits {tuple(teacher.shape)} and student logits {tuple(student.shape)} differ")
    total: Tensor = DivergenceSum.apply(teacher.detach(), student, temperature)  # type: ignore[no-untyped-call]
    return total
