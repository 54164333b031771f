"""A live teacher: a frozen model in evaluation mode that is run on the student's own batches.

Same corrupted ids, same positions, same attention mask; no gradient, no optimizer state, no DDP wrapper.  It must share
the student's token ids (:func:`check_same_tokens`); padded embedding rows are cut off before the softmax.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bequest.anatomy import Anatomy
from bequest.errors import InputError, RunError
from bequest.training.head_positions import find_head, forward_positions
from bequest.training.objective import Step


@dataclass(eq=False)
class LiveTeacher:
    """A teacher held in memory until it is released."""

    model: nn.Module | None
    anatomy: Anatomy
    block: int = 128
    forwards: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        assert self.model is not None
        self.model.requires_grad_(False).eval()
        if self.anatomy.lm_head is None:
            raise InputError(
                "has no language-model head to teach with",
                key="teachers",
                remedy="name a masked or causal language model",
            )
        self.head = find_head(self.model, self.anatomy.lm_head)
        body, whole = self.anatomy.flops(self.block, head_share=0.0), self.anatomy.flops(self.block, head_share=1.0)
        self.per_token, self.per_target = round(body.forward), round(whole.forward - body.forward)

    @property
    def released(self) -> bool:
        """Whether the teacher has stepped back."""
        return self.model is None

    @torch.no_grad()
    def logits(self, step: Step) -> Tensor:
        """The teacher's logits [N, V] at the step's target positions."""
        if self.model is None:
            raise RunError("the teacher was released and cannot be asked again", remedy="check its schedule")
        ids = step.batch["input_ids"]
        if next(self.model.parameters()).device != ids.device:
            self.model.to(ids.device)
        self.forwards += 1
        with step.autocast():
            return forward_positions(self.model, self.head, step.batch, step.target_positions())

    def flops(self, tokens: int, targets: int) -> int:
        """Forward FLOPs for this many tokens, of which ``targets`` go through the head."""
        return self.per_token * tokens + self.per_target * targets

    def release(self) -> None:
        """Step back: the model is let go."""
        self.model = None


def check_same_tokens(teacher: Mapping[str, int], student: Mapping[str, int], *, where: object = None) -> None:
    """Two tokenizers' vocabularies must be the same map from token to id.

    Raises:
        InputError: they are not; the number of differing entries and the first of them are named.
    """
    different = sorted(set(teacher.items()) ^ set(student.items()), key=lambda entry: (entry[1], entry[0]))
    if different:
        token, index = different[0]
        raise InputError(
            f"teacher and student tokenizers differ in {len(different)} entries, first at id {index} ({token!r})",
            where=where,
            key="teachers",
            remedy="use a teacher with the student's tokenizer",
        )
