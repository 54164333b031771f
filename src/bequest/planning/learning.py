"""What a grow stage needs and takes when its method learns maps on a corpus.  No torch."""

from __future__ import annotations

from dataclasses import replace

from bequest.errors import InputError
from bequest.growth import GrowthPlan
from bequest.growth.ligo import LiGO, expansion_flops
from bequest.planning import estimates
from bequest.planning.artefacts import Artefact
from bequest.planning.checks import check_positions
from bequest.planning.plan import StagePlan
from bequest.recipe.references import key_of
from bequest.recipe.sections import Grow, Recipe


def check_learning(recipe: Recipe, section: Grow, growth: GrowthPlan, base: Artefact) -> None:
    """Refuse a method that learns without a corpus, and a corpus without such a method.

    Raises:
        InputError: the key is named.
    """

    def refuse(key: str, message: str, remedy: str) -> None:
        raise InputError(message, where=recipe.source, key=key_of(section, key), remedy=remedy)

    methods = " + ".join(growth.methods)
    if growth.learner is None:
        if section.corpus is not None:
            refuse("corpus", f"{methods} learns nothing from a corpus", "leave it out, or use method: ligo")
        return
    if section.corpus is None:
        refuse("corpus", f"{methods} learns its maps on a corpus, and none is named", "write corpus: NAME")
    if base.objective is None:
        refuse("from", f"{methods} learns on a language model's loss, and {base.name} is none", "grow a language model")
    check_positions(recipe, section, "block", section.learning_block, growth.target)


def with_learning(planned: StagePlan, section: Grow, growth: GrowthPlan, objective: str | None) -> StagePlan:
    """The plan with what learning the maps takes: tokens, FLOPs (the model's and the maps'), memory."""
    learner = growth.learner
    if not isinstance(learner, LiGO) or growth.maps is None:
        return planned
    share = estimates.MASKED_SHARE if objective == "masked" else 1.0
    tokens = learner.steps * section.learning_tokens
    making = expansion_flops(growth.source, growth.target, growth.maps)
    model = tokens * growth.target.flops(section.learning_block, head_share=share).train
    params = growth.target.parameters()
    memory = estimates.training_bytes(
        growth.target, trainable=params, micro_tokens=section.learning_tokens, head_share=share
    )
    return replace(
        planned,
        tokens=tokens,
        updates=learner.steps,
        train_flops=model + (3 * learner.steps + 1) * making,
        memory_bytes=memory + estimates.FLOAT * growth.source.parameters(),
        objective=objective,
        block=section.learning_block,
    )
