"""Growing as a stage does it: as planned, or by maps that are first learned on the stage's corpus (LiGO)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bequest.recipe import Grow
from bequest.stages.context import Context

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from bequest.growth import GrowthPlan, Learning
    from bequest.training import TrainResult


@dataclass(frozen=True)
class Grown:
    """A larger model, what the lineage says of learning its maps, the tokens of each corpus, and the cost."""

    model: PreTrainedModel
    record: Mapping[str, Any] = field(default_factory=dict)
    corpora: Mapping[str, int] = field(default_factory=dict)
    results: Sequence[TrainResult] = ()


def grown_by(
    context: Context, section: Grow, source: PreTrainedModel, plan: GrowthPlan, tokenizer: PreTrainedTokenizerBase
) -> Grown:
    """Grow a model as planned; a method that learns gets the section's corpus."""
    import torch

    from bequest.data.masking import collator_for
    from bequest.data.mixtures import Mixture
    from bequest.growth import grow_planned, learn_maps
    from bequest.growth.ligo import LiGO
    from bequest.training.loading import PreparedCollator, Run

    if not isinstance(plan.learner, LiGO) or section.corpus is None:
        return Grown(grow_planned(source, plan))
    block, steps = section.learning_block, plan.learner.steps
    sequences = section.learning_tokens // block
    packed = {name: context.packed(name, tokenizer, block) for name in section.corpus}
    mixture = Mixture([(packed[name].train, share) for name, share in section.corpus.items()], seed=section.seed)
    run = Run(mixture, steps * sequences, section.seed)
    collate = PreparedCollator(collator_for(plan.source.head, tokenizer, mask_seed=section.seed))

    def batches() -> Iterator[Mapping[str, Tensor]]:
        for step in range(steps):
            yield collate([run[place] for place in range(step * sequences, (step + 1) * sequences)])

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bigger, learned = learn_maps(source.to(device), plan, batches(), console=context.console, name=f"  {section.name}")
    source.cpu()
    taken = zip(section.corpus, mixture.taken(steps * sequences), strict=True)
    return Grown(
        bigger.cpu(),
        {"learning": learned.as_json()},
        {name: blocks * block for name, blocks in taken},
        [_cost(bigger, learned)],
    )


def _cost(model: PreTrainedModel, learned: Learning) -> TrainResult:
    """What learning cost, as a lineage counts training."""
    from bequest.training import TrainResult

    return TrainResult(
        model=model,
        tokens=learned.tokens,
        updates=learned.steps,
        train_flops=learned.train_flops,
        teacher_flops=0,
        wall_seconds=learned.wall_seconds,
        evaluations=[],
        final_loss=learned.last_loss,
        best=None,
        state={},
        device=learned.device,
    )
