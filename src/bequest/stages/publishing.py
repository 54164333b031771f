"""Turning what a stage made into a generation: weights, tokenizer, metrics, lineage and model card, in one rename."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bequest import checkpoints, lineage, processes, storage
from bequest.recipe import Section
from bequest.stages.context import Context
from bequest.stages.handed_on import keep_optimizer, keep_state
from bequest.stages.life import Life

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from bequest.training import TrainResult


@dataclass(frozen=True)
class Made:
    """What the lineage records about a stage, besides what is on the disk."""

    section: Section
    method: str | None
    parents: Sequence[lineage.Parent]
    corpora: Mapping[str, int] = field(default_factory=dict)
    tasks: Sequence[str] = ()
    results: Sequence[TrainResult] = ()
    directories: Sequence[Path] = ()
    """Where the loop left ``metrics.jsonl``, one directory per call, in order."""
    maps: Mapping[str, Any] | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """What the lineage must say besides the section (a label map, say)."""
    measures: Mapping[str, Any] = field(default_factory=dict)
    optimizer: Mapping[str, Tensor] | None = None
    """Adam's state to keep beside the weights, by name."""


def base_parent(
    context: Context, reference: str, role: Literal["base", "teacher", "donor", "tuned", "tokenizer"], final: Path
) -> lineage.Parent:
    """The parent record of what a stage refers to, with its place as seen from the stage's final directory."""
    place, hub = context.local_directory(reference), context.hub_id(reference)
    if hub is not None:  # the Hub's cache is no place that a lineage may point into
        return lineage.parent_of(place, role, name=hub)
    name = reference if context.recipe.stage(reference) is not None else None
    return lineage.parent_of(place, role, child=final, name=name)


def publish_model(
    context: Context,
    life: Life,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    made: Made,
    *,
    dtype: str | None = None,
) -> None:
    """Publish a model as a generation.  Every process calls this; the main one writes."""
    if not processes.is_main():
        return
    with life.publish() as directory:
        checkpoints.save_model(model, directory, dtype=dtype)
        checkpoints.save_tokenizer(tokenizer, directory)
        if made.results:
            keep_state(directory, made.results[-1].state)
        keep_optimizer(directory, made.optimizer)
        finish(context, directory, made)


def finish(context: Context, directory: Path, made: Made) -> None:
    """Add what every artefact has besides its weights: metrics, lineage, card."""
    from bequest.reports.card import write_card

    join_metrics(made, directory / "metrics.jsonl")
    section = made.section
    record = lineage.make_lineage(
        directory,
        name=section.name,
        stage=section.kind,
        method=made.method,
        parameters={**section.model_dump(mode="json", by_alias=True, exclude={"name", "kind"}), **made.parameters},
        maps=made.maps,
        parents=made.parents,
        data=data_uses(context, made),
        cost=cost_of(made.results),
        measures={**closing_losses(made.results), **made.measures},
        seed=section.seed,
    )
    lineage.write_lineage(directory, record)
    write_card(directory)


def data_uses(context: Context, made: Made) -> list[lineage.DataUse]:
    """The corpora and tasks that went in, with the tokens taken from each corpus."""
    corpora = [
        lineage.DataUse(
            name=name, fingerprint=context.corpus(name).fingerprint(), tokens=tokens, licence=context.licence(name)
        )
        for name, tokens in made.corpora.items()
    ]
    return corpora + [lineage.DataUse(name=name, fingerprint=context.task(name).fingerprint) for name in made.tasks]


def cost_of(results: Sequence[TrainResult]) -> lineage.Cost:
    """The cost of all calls of the loop together."""
    return lineage.Cost(
        train_flops=float(sum(result.train_flops for result in results)),
        teacher_flops=float(sum(result.teacher_flops for result in results)),
        tokens=sum(result.tokens for result in results),
        wall_seconds=round(sum(result.wall_seconds for result in results), 1),
        device=results[-1].device if results else None,
    )


def closing_losses(results: Sequence[TrainResult]) -> dict[str, Any]:
    """The last pure loss on every corpus measured while training, with the unigram entropy beside it."""
    last: dict[str, Any] = {}
    for result in results:
        for line in result.evaluations:
            last[line["corpus"]] = {"loss": line["loss"], "unigram": line.get("unigram")}
    return {"held_out": last} if last else {}


def join_metrics(made: Made, target: Path) -> None:
    """One ``metrics.jsonl`` out of those of the loop's calls, in order."""
    parts = [path / "metrics.jsonl" for path in made.directories]
    text = "".join(path.read_text(encoding="utf-8") for path in parts if path.is_file())
    if text:
        storage.write_text(target, text)
