"""Would bequest run the recipes that an experiment makes, and do they measure what its outcomes read?

An experiment that cannot work is refused when it is read, by its own keys, not cell after cell by the keys of recipes
that nobody wrote.  Every recipe goes through bequest's own reading, with stand-ins for corpora, tasks and models; every
outcome is computed from made-up numbers for what the recipe measures.  No data, no network, no torch.

Try it: ``check_recipes(experiment)``; :func:`lab.experiments.reading.load_experiment` does.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bequest import lineage, storage
from bequest.errors import InputError
from bequest.recipe import Recipe, load_recipe
from bequest.recipe.sections import Budgeted, Grow, Measure
from lab.experiments import resolving
from lab.experiments.curves import COUNTS
from lab.experiments.harvesting import TUNED
from lab.experiments.outcomes import compute
from lab.experiments.resolving import Resolved, Sources
from lab.experiments.schema import ONLY, Experiment
from lab.experiments.tuning import not_given

# Only that they were measured counts, not what came out.
LOSS = {"loss": 1.0, "unigram": 2.0}
POINTS = ((0, 3.0), (1, 1.0))
COPIES = {kind: {"units": 1, "duplicated": 0, "locked": 0} for kind in ("head", "neuron", "hidden")}
SCORE = {"accuracy": [0.5], "macro_f1": [0.5]}


@dataclass(frozen=True)
class Variant:
    """One way of filling in an experiment's variables, seeds apart; ``roles`` are the cells that it stands for."""

    method: str
    scale: str
    size: str
    order: str
    roles: tuple[str, ...]
    tuned: dict[str, Any]

    def __str__(self) -> str:
        named = {"method": self.method, "scale": self.scale, "size": self.size, "order": self.order, **self.tuned}
        told = [f"{kind} {name}" for kind, name in named.items() if name != ONLY]
        return ", ".join([*told, *(["pilot"] if "final" not in self.roles else [])])


def check_recipes(experiment: Experiment) -> None:
    """Check what an experiment's cells would run, and what they would measure.

    Raises:
        InputError: the first thing that cannot work, by the experiment's file and key.
    """
    given: set[tuple[str, str]] = set()
    lacking: dict[tuple[str, str], InputError] = {}
    with tempfile.TemporaryDirectory() as place:
        reader = _Reader(experiment, Path(place))
        for variant in variants(experiment):
            measures = reader.measures(variant)
            tuning = experiment.tuning_of(variant.method)
            for name, spec in experiment.outcomes.items():
                chosen_by = "pilot" in variant.roles and tuning is not None and tuning.choose.outcome == name
                partner = None if chosen_by else {**measures, "curves": _slower(measures["curves"])}  # pilots have none
                try:
                    compute(spec, measures, order=experiment.orders[variant.order], partner=partner)
                except InputError as error:
                    if chosen_by:
                        raise not_given(experiment, variant.method, error) from None
                    lacking.setdefault((name, variant.method), error)
                else:
                    given |= {(name, variant.method)} if "final" in variant.roles else set()
    _check_outcomes(experiment, given, lacking)


def variants(experiment: Experiment) -> Iterator[Variant]:
    """Every method at every scale and size, final and pilot; at the first of them with every order and candidate too.

    What one order or candidate makes wrong at one scale only is left to its cells: all combinations would take seconds.
    """
    first, *others = experiment.orders
    for method in experiment.methods:
        tuning = experiment.tuning_of(method)
        tried = [{tuning.variable: value} for value in tuning.values] if tuning is not None else [{}]
        places = [(scale, size) for scale in experiment.scales for size in experiment.sizes]
        for scale, size in places:
            roles = ("final", "pilot") if tuning is not None else ("final",)
            alike = not experiment.scales[scale].pilot_variables
            for group in [roles] if alike else [(role,) for role in roles]:
                yield Variant(method, scale, size, first, group, tried[0])
        yield from (Variant(method, *places[0], first, ("final",), tuned) for tuned in tried[1:])
        yield from (Variant(method, *places[0], order, ("final",), tried[0]) for order in others)


def _check_outcomes(
    experiment: Experiment, given: set[tuple[str, str]], lacking: dict[tuple[str, str], InputError]
) -> None:
    """Some scale measures every outcome, and does so for the methods that a claim is about."""
    for name in experiment.outcomes:
        if not any((name, method) in given for method in experiment.methods):
            error = next(lacking[name, method] for method in experiment.methods if (name, method) in lacking)
            raise InputError(
                f"no measure stage gives it ({error.message})",
                where=experiment.source,
                key=f"outcomes.{name}",
                remedy=error.remedy,
            )
    for index, claim in enumerate(experiment.claims):
        for key, method in (("of", claim.of), ("against", claim.against)):
            if method is not None and (claim.outcome, method) not in given:
                error = lacking[claim.outcome, method]
                raise InputError(
                    f"{method} does not measure {claim.outcome} ({error.message})",
                    where=experiment.source,
                    key=f"claims.{index}.{key}",
                    remedy=error.remedy,
                )


class _Reader:
    """Has bequest read the recipes of variants, in a directory of stand-ins."""

    def __init__(self, experiment: Experiment, place: Path) -> None:
        self.experiment, self.place = experiment, place
        self.sources = Sources("corpora/{}.jsonl".format, "tasks/{}".format, "models/{}".format)

    def measures(self, variant: Variant) -> dict[str, Any]:
        """What stands in the measures of a variant's rows.

        Raises:
            InputError: bequest refuses its recipe, or it takes a model that is not the lab's.
        """
        experiment = self.experiment
        found = resolving.resolve(
            experiment,
            scale=variant.scale,
            role=variant.roles[0],
            method=variant.method,
            size=variant.size,
            order=experiment.orders[variant.order],
            seed=experiment.scales[variant.scale].seeds[0],
            tuned=variant.tuned,
            sources=self.sources,
        )
        return _measured(self._read(variant, found), found)

    def _read(self, variant: Variant, found: Resolved) -> Recipe:
        for model in found.models:
            self._stand_in(model, found)
        whole = {"name": self.experiment.name, **found.recipe}
        storage.write_text(self.place / "recipe.yaml", json.dumps(whole, default=str))  # JSON is YAML too
        try:
            recipe = load_recipe(self.place / "recipe.yaml")
        except InputError as error:
            key = f"recipe.{error.key}" if error.key else "recipe"
            message = f"{error.message} ({variant})"
            raise InputError(message, where=self.experiment.source, key=key, remedy=error.remedy) from None
        for stage in recipe.stages:
            for reference in stage.references():
                if recipe.stage(reference.target) is None and reference.target not in found.models:
                    raise InputError(
                        f"{reference.target!r} is neither a stage nor a model of the lab ({variant})",
                        where=self.experiment.source,
                        key=f"recipe.stages.{stage.name}.{reference.key}",
                        remedy="name a stage above, or write ${model:NAME}",
                    )
        return recipe

    def _stand_in(self, model: str, found: Resolved) -> None:
        """A directory that passes for a model which was trained on every corpus: what replay may take is not known."""
        directory = self.place / model
        directory.mkdir(parents=True, exist_ok=True)
        storage.write_json(directory / "config.json", {})
        corpora = found.recipe.get("corpora")
        made = lineage.Lineage(
            id=found.models[model],
            name=found.models[model],
            digests=lineage.Digests(weights="", config=""),
            operation=lineage.Operation(stage="adopt"),
            data=[
                lineage.DataUse(name=str(name), fingerprint="", tokens=0)
                for name in (corpora if isinstance(corpora, dict) else ())
            ],
        )
        lineage.write_lineage(directory, made)


def _measured(recipe: Recipe, found: Resolved) -> dict[str, Any]:
    """Made-up measures with every model, corpus and task that the measure stages name, as a row has them."""
    perplexity: dict[str, dict[str, Any]] = {}
    tasks: dict[str, dict[str, Any]] = {}
    for stage in recipe.stages:
        if not isinstance(stage, Measure):
            continue
        for target in stage.models:
            name, other = found.models.get(target, target), recipe.stage(target)
            tuned = other is not None and other.makes == "tuned"
            how = "own" if tuned else stage.probe
            losses, scores = perplexity.setdefault(name, {}), tasks.setdefault(name, {})
            losses.update({} if tuned else dict.fromkeys(stage.corpora_used(), LOSS))
            for task in stage.tasks_used():
                scores[f"{task}{TUNED}" if how == "tune" else task] = {**SCORE, "how": how}
    return {"perplexity": perplexity, "tasks": tasks, **_trained(recipe, found)}


def _slower(curves: dict[str, Any]) -> dict[str, Any]:
    """The same curves, a half higher at their ends: something is saved against them."""
    return {
        stage: [{**point, "loss": point["loss"] + 0.5 * point["tokens"]} for point in points]
        for stage, points in curves.items()
    }


def _trained(recipe: Recipe, found: Resolved) -> dict[str, Any]:
    """Made-up curves, costs and symmetries of the stages that train or grow."""
    curves: dict[str, Any] = {}
    costs: list[dict[str, Any]] = []
    grown: dict[str, Any] = {}
    for stage in recipe.stages:
        if isinstance(stage, Measure):
            continue
        costs.append({"of": stage.name, "own": stage.name in found.student, **dict.fromkeys(COUNTS, 1)})
        curves[stage.name] = [
            {**dict.fromkeys(COUNTS, at), "corpus": corpus, "loss": loss}
            for at, loss in POINTS
            for corpus in stage.corpora_used()
            if isinstance(stage, Budgeted)
        ]
        if isinstance(stage, Grow) or any(reference.target in grown for reference in stage.references()):
            grown[stage.name] = COPIES
    return {"curves": curves, "costs": costs, "symmetry": grown}
