"""``adapt``: one model through a sequence of domains, each with a fresh optimizer and a re-warmed schedule."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bequest import checkpoints, processes
from bequest.methods import make_method
from bequest.planning import train_settings
from bequest.recipe import Adapt
from bequest.stages.context import Context
from bequest.stages.handed_on import keep_state, kept_state
from bequest.stages.language import Learnt, head_for, learn, load_checked, stage_dtype
from bequest.stages.life import Life
from bequest.stages.publishing import Made, base_parent, publish_model
from bequest.storage import atomic_directory, read_json, write_json
from bequest.training.settings import TrainSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from bequest.training import TrainResult


def run_adapt(context: Context, section: Adapt, life: Life) -> None:
    """Train through the domains in order and publish the last model.

    A finished domain is kept in the working directory (its model, and what the loop said of it), so that a resumed
    stage goes on with the domain it was in.
    """
    tokenizer = checkpoints.load_tokenizer(context.directory(section.from_))
    head = head_for(context, section)
    model = load_checked(context.directory(section.from_), head)
    earlier = context.earlier_corpora(section)
    learnt: list[Learnt] = []
    directories = []
    inherited = kept_state(context.local_directory(section.from_))
    for number, domain in enumerate(section.domains):
        place = life.work / f"{number}-{domain}"
        directories.append(place / "training")
        past = [name for name in [*earlier, *section.domains[:number]] if name != domain]
        if (place / "model").is_dir():
            drop_checkpoints(place)
            model = checkpoints.load_model(place / "model", head=head)
            learnt.append(recall(place, model))
            inherited = kept_state(place / "model")
            continue
        context.say(f"  domain {number + 1}/{len(section.domains)}: {domain}")
        methods = make_methods(section)
        done = learn(
            context,
            section,
            model,
            tokenizer,
            shares={domain: 1.0},
            methods=methods,
            settings=rewarmed(methods, dataclasses.replace(train_settings(section), seed=section.seed + number)),
            directory=place / "training",
            earlier=past,
            inherited=inherited,
        )
        learnt.append(done)
        model = done.result.model
        keep_domain(place, model, done)
        processes.wait()
        inherited = kept_state(place / "model")  # as a resumed stage would find it, on every process
    taken: dict[str, int] = {}
    for part in learnt:
        for name, tokens in part.tokens_by_corpus.items():
            taken[name] = taken.get(name, 0) + tokens
    made = Made(
        section=section,
        method="+".join(call.name for call in section.method),
        parents=[base_parent(context, section.from_, "base", life.final)],
        corpora=taken,
        results=[part.result for part in learnt],
        directories=directories,
    )
    publish_model(context, life, model, tokenizer, made, dtype=stage_dtype(context, section))


def make_methods(section: Adapt) -> list[Any]:
    """The adaptation methods of a stage, made from their registry."""
    from bequest.adaptation import METHODS
    from bequest.training.objective import Objective

    return [make_method(METHODS, call.name, call.options, kind=Objective, verb="adapt") for call in section.method]


def rewarmed(methods: list[Any], settings: TrainSettings) -> TrainSettings:
    """The settings of one domain: every domain warms up again, by the sequential method's rule."""
    from bequest.adaptation import Sequential

    rule = next((method for method in methods if isinstance(method, Sequential)), Sequential())
    return rule.schedule(settings)


def keep_domain(place: Path, model: PreTrainedModel, learnt: Learnt) -> None:
    """Keep a finished domain for a resume.  Its checkpoints, several times its size, are not needed any more."""
    if processes.is_main():
        with atomic_directory(place / "model", force=True) as directory:
            checkpoints.save_model(model, directory)
            keep_state(directory, learnt.result.state)
            write_json(
                directory / "learnt.json",
                {"result": costs_of(learnt.result), "tokens_by_corpus": learnt.tokens_by_corpus},
            )
        drop_checkpoints(place)


def drop_checkpoints(place: Path) -> None:
    """Remove the checkpoints of a domain that is kept; a process killed here leaves the rest to its resume."""
    if processes.is_main():
        shutil.rmtree(place / "training" / "checkpoints", ignore_errors=True)


def costs_of(result: TrainResult) -> dict[str, Any]:
    """What a result says of a domain, without the tensors and the objective's state, which are saved beside it."""
    apart = ("model", "state", "optimizer")
    return {field.name: getattr(result, field.name) for field in dataclasses.fields(result) if field.name not in apart}


def recall(place: Path, model: PreTrainedModel) -> Learnt:
    """What :func:`keep_domain` kept."""
    from bequest.training import TrainResult

    kept = read_json(place / "model" / "learnt.json")
    result = TrainResult(model=model, state=kept_state(place / "model"), **kept["result"])
    return Learnt(result, kept["tokens_by_corpus"])
