"""``grow``: a larger model out of a smaller one, with the proof of what was preserved beside it."""

from __future__ import annotations

from bequest import checkpoints, processes
from bequest.recipe import Grow, training_follows
from bequest.stages.context import Context
from bequest.stages.handed_on import kept_optimizer
from bequest.stages.language import load_checked
from bequest.stages.learning import grown_by
from bequest.stages.life import Life
from bequest.stages.publishing import Made, base_parent, publish_model


def run_grow(context: Context, section: Grow, life: Life) -> None:
    """Grow, check, publish."""
    if not processes.is_main():
        return
    from bequest.growth import check_preservation, plan_growth
    from bequest.growth.optimizer import grow_optimizer

    place = context.directory(section.from_)
    local = context.local_directory(section.from_)
    tokenizer = checkpoints.load_tokenizer(place)
    source = load_checked(place)
    plan = plan_growth(
        source,
        section.to,
        [{"name": call.name, **call.options} for call in section.method],
        seed=section.seed,
        training_follows=training_follows(context.recipe, section),
    )
    for words in (f"{' + '.join(plan.methods)}: {plan.reason}", *(f"note: {note}" for note in plan.notes)):
        context.say(f"  {words}")
    grown = grown_by(context, section, source, plan, tokenizer)
    follows = section.optimizer != "reset"
    # Learned maps are not the plan's, which are where learning started.
    proof = check_preservation(source, grown.model, plan=None if plan.learner else plan)
    context.say(f"  {proof.verdict}")
    made = Made(
        section=section,
        method="+".join(plan.methods),
        parents=[base_parent(context, section.from_, "base", life.final)],
        maps={**plan.record(), **grown.record},
        corpora=grown.corpora,
        results=grown.results,
        measures={"growth": proof.as_json()},
        optimizer=grow_optimizer(kept_optimizer(local), plan, section.optimizer) if follows else None,
    )
    dtype = checkpoints.stored_dtype(local)
    publish_model(context, life, grown.model, tokenizer, made, dtype=dtype)
