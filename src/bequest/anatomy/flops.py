"""FLOPs per token, from the anatomy's own lines.

    forward = 2 N_mat + 4 L T q + 2 (head) D V          train = 3 forward

with ``N_mat`` the elements of all tensors that multiply states, each at the rate its row names (every token, target
positions only, once a sequence, the experts that a token is sent to), and attention counted full, not halved for
causality.  Norms, softmax, biases, activations and lookups are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bequest.anatomy.anatomy import Anatomy


@dataclass(frozen=True)
class Flops:
    """FLOPs per token: of the forward pass, of the backward pass (twice that), and of a training step (their sum)."""

    forward: float

    @property
    def backward(self) -> float:
        """FLOPs of the backward pass per token."""
        return 2 * self.forward

    @property
    def train(self) -> float:
        """FLOPs of forward and backward per token."""
        return 3 * self.forward


def count(anatomy: Anatomy, block: int, head_share: float) -> Flops:
    """FLOPs per token of a model at sequences of ``block`` tokens; ``head_share`` of them go through the LM head."""
    rates = {"token": 1.0, "target": head_share, "sequence": 1.0 / block, "expert": anatomy.expert_share}
    tensors = [*anatomy.tensors.values(), *anatomy.aliases.values()]
    matrices = sum(rates[tensor.per] * tensor.elements for tensor in tensors if tensor.line.kind == "linear")
    attention = 4 * anatomy.layers * block * anatomy.sizes["attn"]
    return Flops(forward=2 * matrices + attention)
