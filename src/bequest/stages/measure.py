"""``measure``: perplexity of bases per corpus, scores of bases and of tuned weights per task.

Every model measured is kept in the working directory, so that an interrupted stage goes on with the next one.  The
results go into ``measures.json`` and into the lineages (and cards) of the run's own generations.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bequest import checkpoints, lineage, processes, storage
from bequest.errors import InputError
from bequest.recipe import Measure
from bequest.recipe.sections import DEFAULT_LENGTH
from bequest.stages.context import Context
from bequest.stages.life import MEASURES_FILE, Life


def run_measure(context: Context, section: Measure, life: Life) -> None:
    """Measure every model and publish the numbers.

    Every process measures, because they train tuned copies together; the main one writes.
    """
    found: dict[str, Any] = {"perplexity": {}, "tasks": {}}
    for number, model in enumerate(section.models, start=1):
        kept = life.work / f"{number}.json"
        standing = kept.is_file()
        processes.wait()  # all have looked before one writes
        if not standing:
            result = measure_model(context, section, model, life.work / f"{number}.tuning")
            if processes.is_main():
                storage.write_json(kept, result)
            processes.wait()
        result = storage.read_json(kept)
        say_result(context, model, result)
        for kind, values in result.items():
            if values:
                found[kind][model] = values
    if not processes.is_main():
        return
    # Before the stage counts as done: a kill in between leaves it to be done, and doing it again is the same.
    for model in section.models:
        if context.recipe.stage(model) is not None:
            remember(context.out / model, found, model)
    with life.publish() as directory:
        storage.write_json(directory / MEASURES_FILE, found)


def remember_all(context: Context, section: Measure) -> None:
    """Put the numbers of a stage that stands into lineages that lack them: a model may have been made again since."""
    if not processes.is_main():
        return
    found = storage.read_json(context.out / section.name / MEASURES_FILE)
    for model in section.models:
        if context.recipe.stage(model) is not None:
            known = lineage.read_lineage(context.out / model).measures
            if any(name not in known.get(kind, {}) for kind in found for name in found[kind].get(model, {})):
                remember(context.out / model, found, model)


def measure_model(context: Context, section: Measure, model: str, work: Path) -> dict[str, Any]:
    """Everything the stage asks of one model: ``{"perplexity": {corpus: ...}, "tasks": {task: ...}}``."""
    from bequest.recycling.tuned import read_tuned

    directory = context.local_directory(model)
    config = {} if checkpoints.is_adapter(directory) else checkpoints.load_config(directory)
    tuned = not config or str((config.get("architectures") or [""])[0]).endswith("ForSequenceClassification")
    if tuned:
        task = read_tuned(directory).task
        names = [name for name in section.tasks if task in (None, name)]
        return {"perplexity": {}, "tasks": {name: own_score(context, model, name) for name in names}}
    return {
        "perplexity": perplexities(context, section, directory),
        # A directory each: copies tuned for one task leave checkpoints that those for another must not go on from.
        "tasks": {
            name: base_score(context, section, directory, name, work / str(number))
            for number, name in enumerate(section.tasks)
        },
    }


def perplexities(context: Context, section: Measure, directory: Path) -> dict[str, Any]:
    """A base's held-out perplexity on every corpus of the stage."""
    from bequest.measures.perplexity import perplexity

    tokenizer = checkpoints.load_tokenizer(directory)
    packed = {name: context.packed(name, tokenizer, section.block) for name in section.corpora}
    found = perplexity(directory, packed, limit=section.blocks) if packed else {}
    return {name: value.as_json() for name, value in found.items()}


def own_score(context: Context, model: str, task: str) -> dict[str, Any]:
    """Tuned weights by their own head, on the base that the recipe gives them, else on the one their lineage names.

    Raises:
        InputError: an adapter whose base cannot be found.
    """
    from bequest.measures.scores import score_tuned
    from bequest.recycling.carrying import recorded_base
    from bequest.recycling.tuned import read_tuned

    directory = context.local_directory(model)
    base = context.base_under(model) or recorded_base(read_tuned(directory))
    if base is None and checkpoints.is_adapter(directory):
        raise InputError(
            "the base of this adapter is not recorded, or not where it was",
            where=directory,
            remedy=f"bequest adopt {directory} --base BASE",
        )
    return score_tuned(directory, base.path if base is not None else None, context.task(task)).as_json()


def base_score(context: Context, section: Measure, directory: Path, task: str, work: Path) -> dict[str, Any]:
    """A base by a linear probe, or by tuned copies, one per seed."""
    from bequest.data.tasks import thinned
    from bequest.measures.scores import score_base

    seeds = [section.seed + number for number in range(section.seeds)]
    return score_base(
        directory,
        context.task(task) if section.examples is None else thinned(context.task(task), section.examples),
        how=section.probe,
        seeds=seeds,
        max_length=section.max_length or DEFAULT_LENGTH,
        directory=work,
        console=context.console,
    ).as_json()


def say_result(context: Context, model: str, result: dict[str, Any]) -> None:
    """One line per measured corpus and task."""
    for corpus, value in result["perplexity"].items():
        context.say(
            f"  {model} on {corpus}: loss {value['loss']:.3f}, perplexity {value['perplexity']:.1f}"
            f" (unigram entropy {value['unigram']:.3f})"
        )
    for task, value in result["tasks"].items():
        accuracies = ", ".join(f"{accuracy:.1%}" for accuracy in value["accuracy"])
        context.say(f"  {model} on {task} ({value['how']}): accuracy {accuracies}")


def remember(directory: Path, found: dict[str, Any], model: str) -> None:
    """Put a model's numbers into its lineage and its card; the long lists stay in ``measures.json``."""
    from bequest.reports.card import write_card

    short = {
        kind: {
            name: {key: value for key, value in values.items() if key not in ("blocks", "correct")}
            for name, values in found[kind].get(model, {}).items()
        }
        for kind in found
    }
    lineage.add_measures(directory, {kind: values for kind, values in short.items() if values})
    write_card(directory)
