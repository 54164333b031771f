"""Two-stage pre-training: which layers an update runs and trains, and what that costs.  No torch: a plan reads this.

bert2BERT (Chen et al., ACL 2022, §3.5).  In the first part of the run every update draws one of the nested bottom
prefixes of ``block``, 2 ``block``, ..., L layers uniformly, runs the embeddings, the prefix and the head on it, and
trains only the prefix's top ``block`` layers and the head.  Then ordinary training.

Deviations.  Whether the paper's embeddings move in the first part is not known: here they are frozen (a matrix that a
tied head shares still gets the head's gradient).  The last norm before the head counts as part of the head.  Where L is
no multiple of ``block`` the last prefix is L, of which the top ``block`` layers are trained like any other's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bequest.anatomy import Anatomy
from bequest.errors import InputError

STREAM = 0x2B32B  # keeps these draws apart from any other use of the stage's seed


@dataclass(frozen=True)
class TwoStage:
    """The first stage of two-stage pre-training."""

    block: int = 3
    """Layers that one update trains, and the step from one prefix to the next."""
    until: float = 0.125
    """How long: a share of the run (up to 1) or a number of tokens."""

    def __post_init__(self) -> None:
        if self.block < 1:
            raise InputError(f"{self.block} layers cannot be trained", key="two_stage.block", remedy="use 3")
        if not self.until > 0:
            remedy = "give a share of the stage or a number of tokens, or leave two_stage out"
            raise InputError(f"{self.until} is not above zero", key="two_stage.until", remedy=remedy)

    def depths(self, layers: int) -> tuple[int, ...]:
        """The prefixes of a model of so many layers, by their numbers of layers.

        Raises:
            InputError: the model has fewer layers than one block.
        """
        if self.block > layers:
            raise InputError(
                f"a block of {self.block} layers is more than the model's {layers}",
                key="two_stage.block",
                remedy=f"use at most {max(1, layers // 2)}",
            )
        return (*range(self.block, layers, self.block), layers)

    def drawn(self, update: int, layers: int, seed: int) -> int:
        """The number of layers that update ``update`` (0-based) runs: a function of its arguments alone.

        So a resumed run, every process and every micro-batch of an update agree without a word.
        """
        import numpy as np

        depths = self.depths(layers)
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence((STREAM, seed, update))))
        return depths[int(generator.integers(len(depths)))]

    def mean_flops(self, anatomy: Anatomy, block: int, head_share: float) -> float:
        """Training FLOPs per token of the first stage at sequences of ``block`` tokens, averaged over the prefixes."""
        costs = [prefix_flops(anatomy, block, depth, self.block) for depth in self.depths(anatomy.layers)]
        return sum(token + head_share * target for token, target in costs) / len(costs)

    def check_training(self, training: Mapping[str, Any]) -> None:
        """Refuse what cannot go with layers that come and go from one update to the next.

        Raises:
            InputError: a compiled model (its layers are fixed), DeepSpeed (it expects every gradient), or checkpointing
                that gives no gradients where a layer's input has none.
        """
        checkpointing = training.get("gradient_checkpointing_kwargs") or training.get("activation_checkpointing_kwargs")
        refused = {
            "torch_compile": training.get("torch_compile"),
            "deepspeed": training.get("deepspeed"),
            "use_reentrant": (checkpointing or {}).get("use_reentrant"),
        }
        for key, given in refused.items():
            if given:
                raise InputError(f"does not go with training.{key}", key="two_stage", remedy="drop one of the two")


def prefix_flops(anatomy: Anatomy, block: int, depth: int, trained: int) -> tuple[float, float]:
    """Training FLOPs of an update on ``depth`` layers of which the top ``trained`` are trained, embeddings frozen.

        per token  depth * layer + 2 * trained * layer          per target  3 * head             (growth.md §13)

    Returns:
        Per token of the body and per target of the head, at sequences of ``block`` tokens.
    """
    body = body_forward(anatomy, block, depth)
    backward = 2 * (body - body_forward(anatomy, block, depth - trained))
    head = anatomy.flops(block, head_share=1.0).forward - anatomy.flops(block, head_share=0.0).forward
    return body + backward, 3 * head


def body_forward(anatomy: Anatomy, block: int, depth: int) -> float:
    """Forward FLOPs per token of the bottom ``depth`` layers and of what lies under them, without the head."""
    if depth == 0:  # no config has no layers: what stands under them is a projection of the embeddings, if anything
        below = [tensor for tensor in anatomy.tensors.values() if tensor.layer is None and tensor.per == "token"]
        return float(sum(2 * tensor.elements for tensor in below if tensor.line.kind == "linear"))
    lists = {key: anatomy.config[key][:depth] for key in anatomy.family.per_layer if anatomy.config.get(key)}
    shorter = {**anatomy.config, **lists, anatomy.family.key("num_hidden_layers"): depth}
    return Anatomy(shorter, anatomy.head).flops(block, head_share=0.0).forward
