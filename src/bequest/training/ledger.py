"""The books of a run: what every update cost and what its terms came to.

Values stay on the device until they are needed, so that an accelerator is not made to wait; all processes settle
together, because the sums are over all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from bequest.anatomy import Anatomy
from bequest.errors import InputError, RunError
from bequest.training.metrics import Meter
from bequest.training.objective import Objective, Progress, Term
from bequest.training.partial_depth import PartialDepth

DIVERGED = "lower lr (the stage then starts anew; what was finished before it is kept)"


class Ledger:
    """Books updates into a :class:`Meter`."""

    def __init__(
        self,
        objective: Objective,
        model: nn.Module,
        anatomy: Anatomy | None,
        block: int,
        depth: PartialDepth | None = None,
    ) -> None:
        self.objective, self.depth = objective, depth
        self.meter = Meter()
        self.flops_per_token, self.flops_per_target = student_flops(model, anatomy, block)
        self.totals: dict[str, Tensor] = {}
        self.weights: dict[str, float] = {}
        self.pending: list[tuple[int, int, dict[str, Tensor], dict[str, float]]] = []

    def note(self, terms: Mapping[str, Term]) -> None:
        """Add one micro-batch's sums to the update in hand."""
        for name, term in terms.items():
            total = term.total.detach()
            self.totals[name] = self.totals[name] + total if name in self.totals else total
            self.weights[name] = term.weight

    def count(self, before: Progress, tokens: int, targets: int) -> None:
        """Book one finished update: its global tokens and targets, the FLOPs of student and teacher, its terms."""
        meter = self.meter
        meter.update = before.update + 1
        meter.tokens += tokens
        meter.targets += targets
        per_token, per_target = self.student_flops(before)
        meter.train_flops += per_token * tokens + per_target * targets
        meter.teacher_flops += self.objective.flops(tokens, targets, before)
        self.pending.append((meter.update, targets, self.totals, self.weights))
        self.totals, self.weights = {}, {}

    def student_flops(self, before: Progress) -> tuple[int, int]:
        """Training FLOPs per token of the body and per target of the head, of the layers that the update ran."""
        partial = self.depth.flops(before) if self.depth is not None else None
        return (self.flops_per_token, self.flops_per_target) if partial is None else partial

    def settle(self, accelerator: Any, where: object) -> None:
        """Bring the sums of the booked updates to the host, all processes together, and check them.

        Raises:
            RunError: a term is not a finite number; the update and the term are named.
        """
        for update, targets, totals, weights in self.together(accelerator):
            losses = {"loss": 0.0}
            for name, total in totals.items():
                if not math.isfinite(total):
                    raise RunError(
                        f"is not a finite number in update {update}",
                        where=where,
                        key=f"loss term {name!r}",
                        remedy=DIVERGED,
                    )
                losses[name] = total / max(1, targets)
                if weights[name] != 0:
                    losses["loss"] += weights[name] * losses[name]
            self.meter.add(losses)

    def together(self, accelerator: Any) -> list[tuple[int, int, dict[str, float], dict[str, float]]]:
        """The booked updates with their terms summed over all processes, as numbers, in one transfer."""
        pending, self.pending = self.pending, []
        if not pending:
            return []
        sums = torch.stack([total.float() for _, _, totals, _ in pending for total in totals.values()])
        if accelerator.num_processes > 1:
            sums = accelerator.reduce(sums, reduction="sum")
        values = iter(sums.tolist())
        return [
            (update, targets, {name: next(values) for name in totals}, weights)
            for update, targets, totals, weights in pending
        ]


def refuse_diverged(model: nn.Module, update: int, where: object) -> None:
    """Refuse to keep weights that are not finite; each process looks at its own share of them.

    Raises:
        RunError: a parameter holds a number that is not finite; it is named.
    """
    for name, parameter in model.named_parameters():
        local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
        if parameter.requires_grad and not bool(torch.isfinite(local).all()):
            raise RunError(f"is not finite after update {update}", where=where, key=name, remedy=DIVERGED)


def weigh(terms: Mapping[str, Term]) -> Tensor:
    """The weighted sum of the terms; a weight of zero leaves the term out, so that it cannot touch a gradient."""
    loss: Tensor | None = None
    for term in terms.values():
        if term.weight == 0:
            continue
        part = term.total if term.weight == 1 else term.weight * term.total
        loss = part if loss is None else loss + part
    if loss is None:
        raise InputError("no term of the objective has a weight", key="method", remedy="give one a weight above zero")
    return loss


def student_flops(model: nn.Module, anatomy: Anatomy | None, block: int) -> tuple[int, int]:
    """Training FLOPs per token of the body and per target of the LM head, by the anatomy.

    A frozen weight needs no gradient of its own: half of the backward pass of the frozen share is not counted.
    """
    if anatomy is None:
        return 0, 0
    count = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    backward = (1 + trained / max(1, count)) / 2
    body, whole = anatomy.flops(block, head_share=0.0), anatomy.flops(block, head_share=1.0)
    per_token = body.forward + body.backward * backward
    per_target = whole.forward + whole.backward * backward - per_token
    return round(per_token), round(per_target)
