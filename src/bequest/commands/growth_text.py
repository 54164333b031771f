"""A growth's plan and its check, as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bequest.commands.terminal import grid
from bequest.recipe.quantities import short, short_bytes

if TYPE_CHECKING:
    from rich.console import RenderableType

    from bequest.growth import GrowthPlan, Preservation

WIDTHS = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


def planned_bytes(plan: GrowthPlan, source: Path, dtype: str | None) -> int:
    """About how many bytes the grown weights take: in ``dtype``, or at the source's bytes per parameter."""
    from bequest.checkpoints import stored_bytes

    if dtype is not None:
        return WIDTHS[dtype] * plan.params
    return round(plan.params * stored_bytes(source) / plan.source.parameters())


def plan_parts(
    plan: GrowthPlan, source: Path, target: Path, dtype: str | None, *, auto: bool, memory: int | None, dry: bool
) -> Iterator[RenderableType]:
    """What will be written, the sizes before and after, the methods, the verdict, what the check will take."""
    from bequest.checkpoints import stored_bytes, stored_dtype

    size = f"{short(plan.params)} parameters, about {short_bytes(planned_bytes(plan, source, dtype))}"
    old = f"{short(plan.source.parameters())} parameters, {short_bytes(stored_bytes(source))}"
    words = "would write" if dry else "writes"
    yield f"{words} {target}/: {size} in {dtype or stored_dtype(source)}, from {source}/: {old}"
    yield grid("", ["size", "from", "to", ""], _size_rows(plan), right=["from", "to"])
    yield f"by {' + '.join(_call(call) for call in plan.calls)}{' (chosen by auto)' if auto else ''}"
    yield verdict(plan)
    yield from (f"note: {note}" for note in plan.notes)
    if plan.new_layers:
        kind = "identity blocks" if plan.maps and plan.maps.silent == frozenset(plan.new_layers) else "new layers"
        yield f"{kind}: {', '.join(map(str, plan.new_layers))} of 0 to {plan.target.layers - 1}"
    if memory is not None:
        yield f"the check loads both models in float32: about {short_bytes(memory)} of memory"
    if dry:
        yield "nothing was loaded or written"


def _size_rows(plan: GrowthPlan) -> Iterator[list[str]]:
    """The sizes that change, and why those that nobody named do."""
    from bequest.anatomy import sizes_of

    families = plan.source.family.name, plan.target.family.name
    if families[0] != families[1]:
        yield ["family", *families, ""]
    before, after = sizes_of(plan.source.config), sizes_of(plan.target_config)
    named = {key: plan.target_config[key] for key in plan.to if key not in after and key in plan.target_config}
    for key, value in {**after, **named}.items():
        old = before.get(key, plan.source.config.get(key, "-"))
        if old != value:
            _, _, why = plan.inferred.get(key, "").partition(" (")
            yield [key, str(old), str(value), why.removesuffix(")")]
    yield ["parameters", f"{plan.source.parameters():,}", f"{plan.params:,}", ""]
    costs = short(plan.source.flops(plan.block).train), short(plan.flops.train)
    yield ["training FLOPs per token", *costs, f"at {plan.block} tokens"]


def _call(call: Any) -> str:
    options = ", ".join(f"{key}={value}" for key, value in call.items() if key != "name")
    return f"{call['name']}({options})" if options else str(call["name"])


def verdict(plan: GrowthPlan) -> str:
    """Exact or approximate, why, how wrong it is expected to be, and what would be exact."""
    if plan.exact:
        return f"exact: {plan.reason}"
    nearest = ", ".join(f"{key}={value}" for key, value in (plan.nearest_exact or {}).items())
    exact = f"; exact would be: --to {nearest.replace(', ', ' --to ')}" if nearest else ""
    return (
        f"approximate: {plan.reason}; logits are expected to be off by at most "
        f"{plan.predicted_error:.2g} of the largest{exact}"
    )


def check_parts(proof: Preservation, plan: GrowthPlan) -> Iterator[RenderableType]:
    """What the check measured."""
    from rich.text import Text

    from bequest.growth.check import block_words

    yield ""
    style = "bold green" if proof.preserved else "bold yellow" if proof.rounding or not plan.exact else "bold red"
    yield Text(_outcome(proof), style=style)
    gate = "no gate in half precision" if proof.gate is None else f"gate {proof.gate:.0e}"
    rows = [
        ["max relative error", f"{proof.max_relative_error:.1e}", f"of the largest output; {gate}"],
        ["KL", f"{proof.kl:.1e}", "nats per position"],
        ["same first choice", f"{proof.top1:.1%}", f"of {proof.positions} positions, two lengths, padded"],
        ["first block that differs", block_words(proof.first_layer), f"of 0 to {plan.target.layers - 1}"],
    ]
    if not plan.exact:
        rows[0][2] += f"; predicted at most {plan.predicted_error:.2g}"
    if proof.generation is not None:
        rows.append(["generation", *_generation(proof.generation)])
    if proof.yardstick is not None:
        stick = proof.yardstick
        explained = "" if proof.rounding else "; MORE THAN ROUNDING EXPLAINS"
        own = f"of the source's own float32 -> {stick.dtype} change (KL {stick.kl:.1e}){explained}"
        rows.append([f"{stick.dtype} rounding", f"{stick.times:.2g} times", own])
    yield grid("", ["", "", ""], rows)
    yield grid(
        "copies",
        ["units", "number", "duplicates", "locked"],
        [
            [kind, f"{number:,}", f"{proof.duplicated_units[kind]:,}", f"{proof.locked_units[kind]:,}"]
            for kind, number in proof.units.items()
        ],
        right=["number", "duplicates", "locked"],
    )
    if any(proof.locked_units.values()):
        yield "locked copies get equal gradients for ever; before training, grow with --for-training or --method noise"


def _outcome(proof: Preservation) -> str:
    """The outcome in a few words."""
    if proof.preserved:
        return "preserved"
    reasons = ", ".join(proof.reasons)
    if proof.rounding and proof.yardstick is not None:
        return f"the same up to {proof.yardstick.dtype} rounding ({reasons})"
    return f"not preserved ({reasons})"


def _generation(found: Any) -> list[str]:
    cache = "with and without the cache" if found.cached == found.prompts else "otherwise without the cache"
    tied = f", {found.ties} parted at a tie" if found.ties else ""
    return [f"{found.same} of {found.prompts}", f"prompts continued by the same {found.tokens} tokens, {cache}{tied}"]


def plan_json(plan: GrowthPlan) -> dict[str, Any]:
    """What was decided, as plain values; the maps themselves stand in the lineage."""
    record = {key: value for key, value in plan.record().items() if key not in ("maps", "source_config")}
    nearest = dict(plan.nearest_exact) if plan.nearest_exact is not None else None
    more = {"nearest_exact": nearest, "notes": list(plan.notes), "params_before": plan.source.parameters()}
    return {**record, **more}


def check_json(proof: Preservation, plan: GrowthPlan) -> dict[str, Any]:
    """The measurements, and what was predicted."""
    return {**proof.as_json(), "predicted_error": plan.predicted_error}
