"""``grow``: a larger model out of a smaller one, with the proof of what was preserved beside it."""

from __future__ import annotations

from bequest import checkpoints, processes
from bequest.recipe import Grow
from bequest.stages.context import Context
from bequest.stages.language import load_checked
from bequest.stages.life import Life
from bequest.stages.publishing import Made, base_parent, publish_model


def run_grow(context: Context, section: Grow, life: Life) -> None:
    """Grow, check, publish."""
    if not processes.is_main():
        return
    from bequest.growth import check_preservation, grow_planned, plan_growth

    place = context.directory(section.from_)
    tokenizer = checkpoints.load_tokenizer(place)
    source = load_checked(place)
    plan = plan_growth(source, section.to, [{"name": call.name, **call.options} for call in section.method])
    context.say(f"  {' + '.join(plan.methods)}: {plan.reason}")
    grown = grow_planned(source, plan, seed=section.seed)
    proof = check_preservation(source, grown)
    context.say(f"  {proof.verdict}")
    made = Made(
        section=section,
        method="+".join(plan.methods),
        parents=[base_parent(context, section.from_, "base", life.final)],
        maps=plan.record(),
        measures={"growth": proof.as_json()},
    )
    dtype = checkpoints.stored_dtype(context.local_directory(section.from_))
    publish_model(context, life, grown, tokenizer, made, dtype=dtype)
