"""A plan as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from bequest.commands.terminal import grid
from bequest.recipe.quantities import short, short_bytes

if TYPE_CHECKING:
    from rich.console import RenderableType

    from bequest.planning import Plan, StagePlan

NUMBERS = ("params", "tokens", "updates", "FLOPs", "memory", "disk")


def plan_parts(plan: Plan) -> Iterator[RenderableType]:
    """The table of stages with its totals, then one paragraph per stage with what was decided."""
    from rich.padding import Padding
    from rich.text import Text

    rows = [_row(number, stage) for number, stage in enumerate(plan.stages, start=1)]
    total = plan.train_flops + plan.teacher_flops
    tokens = sum(stage.tokens or 0 for stage in plan.stages)
    rows.append(
        [
            "",
            "all",
            "",
            "",
            short(tokens),
            "",
            short(total),
            short_bytes(plan.memory_bytes),
            short_bytes(plan.disk_bytes),
        ]
    )
    stages = f"{len(plan.stages)} stage{'s' if len(plan.stages) > 1 else ''}"
    yield grid(f"{plan.recipe.name}: {stages}", ["#", "stage", "kind", *NUMBERS], rows, right=NUMBERS)
    yield Text()
    for stage in plan.stages:
        lines = [line for line in decisions(stage) if line]
        if lines:
            yield Text(stage.name, style="bold")
            yield from (Padding(Text(line), (0, 0, 0, 4), expand=False) for line in lines)
    yield Text()
    yield Text(
        f"FLOPs are estimates of training ({short(plan.teacher_flops)} of them the teachers'); memory and disk are "
        f"upper estimates. Packed corpora take about {short_bytes(plan.packed_bytes)} in the cache.",
        style="dim",
    )


def _row(number: int, stage: StagePlan) -> list[str]:
    flops = None if stage.train_flops is None else stage.train_flops + stage.teacher_flops
    if stage.params is not None or stage.trainable is None:
        params = short(stage.params)
    else:
        params = f"+{short(stage.trainable)}"
    return [
        str(number),
        stage.name,
        stage.kind,
        params,
        short(stage.tokens) if stage.tokens else "-",
        f"{stage.updates:,}" if stage.updates else "-",
        short(flops) if flops else "-",
        short_bytes(stage.memory_bytes),
        short_bytes(stage.disk_bytes) if stage.disk_bytes else "-",
    ]


def decisions(stage: StagePlan) -> Iterator[str]:
    """What was decided about a stage, line by line."""
    yield _made_of(stage)
    if stage.verdict:
        yield stage.verdict
    if stage.inferred:
        yield "inferred: " + ", ".join(f"{key} {value}" for key, value in stage.inferred.items())
    if stage.checkpoint_bytes:
        yield f"while it runs, checkpoints take up to {short_bytes(stage.checkpoint_bytes)}"
    yield from stage.notes


def _made_of(stage: StagePlan) -> str:
    from bequest.anatomy import sizes_of

    parents = ", ".join(f"{ref.target} ({ref.role})" for ref in stage.parents)
    start = f"from {parents}" if parents else "from nothing"
    if stage.config is None:
        return start
    sizes = sizes_of(stage.config)
    heads = f"{sizes['num_attention_heads']} heads"
    if sizes.get("num_key_value_heads", sizes["num_attention_heads"]) != sizes["num_attention_heads"]:
        heads += f" ({sizes['num_key_value_heads']} kv)"
    shape = (
        f"{sizes['num_hidden_layers']} layers, width {sizes['hidden_size']}, {heads}, ffn {sizes['intermediate_size']}"
    )
    objective = f", {stage.objective} LM, block {stage.block}" if stage.objective else ""
    return f"{start}; {stage.config['model_type']}: {shape}, vocabulary {stage.config['vocab_size']}{objective}"


def plan_json(plan: Plan) -> dict[str, Any]:
    """A plan as JSON-like values; bytes, FLOPs and tokens as plain numbers."""
    fields = ("params", "trainable", "tokens", "updates", "train_flops", "teacher_flops", "memory_bytes", "disk_bytes")
    return {
        "name": plan.recipe.name,
        "stages": [
            {
                "name": stage.name,
                "kind": stage.kind,
                "parents": [{"role": ref.role, "target": ref.target} for ref in stage.parents],
                **{
                    name: getattr(stage, name)
                    for name in (*fields, "checkpoint_bytes", "exact", "verdict", "objective")
                },
                "inferred": dict(stage.inferred),
                "notes": list(stage.notes),
                "config": stage.config,
            }
            for stage in plan.stages
        ],
        "train_flops": plan.train_flops,
        "teacher_flops": plan.teacher_flops,
        "memory_bytes": plan.memory_bytes,
        "disk_bytes": plan.disk_bytes,
        "packed_bytes": plan.packed_bytes,
    }
