"""Read an experiment file and check what refers to what; every complaint is one line: file, key, remedy.

Try it: ``load_experiment("lab/stream.yaml").methods``.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from bequest.errors import InputError, did_you_mean
from bequest.recipe.quantities import ExplainedError
from bequest.recipe.sections import NAME, STAGES
from lab.experiments import resolving
from lab.experiments.measured import Relative
from lab.experiments.outcomes import KINDS, expectation
from lab.experiments.recipe_checks import check_recipes
from lab.experiments.schema import (
    ONLY,
    RESERVED,
    Choose,
    Claim,
    Experiment,
    Method,
    OwnTuning,
    Scale,
    Tuning,
)
from lab.experiments.tuning import key_of

FILLED_IN = ("name", "out", "seed")
SCREENING_SEEDS, SCREENING_ORDERS = 3, 2
CALL = re.compile(r"\$\{\s*([\w.]+)\s*:")
CALLS = ("corpus", "task", "model")
USE = re.compile(r"\$\{\s*(method|size|scale|tuned)(?:[.\[]\s*([\w-]+)|\s*\})")


def load_experiment(path: str | os.PathLike[str]) -> Experiment:
    """Read and validate an experiment; no data, model or network is touched.

    Args:
        path: the YAML file.

    Raises:
        InputError: anything about it that cannot work, naming the file, the dotted key and the remedy.
    """
    file = Path(path)
    raw = _read(file)
    try:
        experiment = Experiment.model_validate(raw)
    except ValidationError as error:
        raise _explain(error, raw, file) from None
    experiment._source = file
    _check_calls(experiment, raw)
    _check_names(experiment)
    _check_outcomes(experiment)
    _check_tuning(experiment)
    _check_scales(experiment)
    _check_recipe(experiment)
    _check_variables(experiment, raw)
    check_recipes(experiment)
    return experiment


def _read(file: Path) -> Any:
    """The file as plain dicts and lists, ``${...}`` left as they are."""
    import yaml
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import GrammarParseError, OmegaConfBaseException

    try:
        config = OmegaConf.create(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        near = [other.name for other in file.parent.glob("*.yaml")] if file.parent.is_dir() else []
        raise InputError("no such file", where=file, remedy=did_you_mean(file.name, near)) from None
    except IsADirectoryError:
        raise InputError("is a directory", where=file, remedy="name the experiment file itself") from None
    except UnicodeDecodeError:
        raise InputError("is not a text file in UTF-8", where=file) from None
    except GrammarParseError as error:
        raise InputError(
            "a ${ that is no interpolation", where=file, key=error.full_key, remedy="close it: }"
        ) from None
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        raise InputError(f"not valid YAML ({' '.join(str(error).split())})", where=file) from None
    if not isinstance(config, DictConfig) or not config:
        raise InputError("is not a mapping", where=file, remedy="write name: ..., question: ..., methods: ...")
    return OmegaConf.to_container(config, resolve=False)


# -- what refers to what ----------------------------------------------------------------------------------------------


def _refuse(experiment: Experiment, key: str, message: str, remedy: str | None = None) -> InputError:
    return InputError(message, where=experiment.source, key=key, remedy=remedy)


def _check_calls(experiment: Experiment, raw: Any) -> None:
    """Nothing is called but what the lab answers: the environment, say, would be no part of the recipe's hash."""
    for key, text in _texts(raw):
        for call in CALL.findall(text):
            if call not in CALLS:
                remedy = "write the value itself; the calls are ${corpus:NAME}, ${task:NAME} and ${model:NAME}"
                raise _refuse(experiment, key, f"${{{call}:...}} is not answered here", remedy)


def _check_names(experiment: Experiment) -> None:
    """Names become directories and columns; the baseline is one of the methods."""
    sections: dict[str, Mapping[str, object]] = {
        "methods": experiment.methods,
        "orders": experiment.orders,
        "sizes": experiment.sizes,
        "scales": experiment.scales,
    }
    for section, names in sections.items():
        for name in names:
            if not NAME.fullmatch(name) and not (name == ONLY and section in ("orders", "sizes")):
                remedy = "use letters, digits, '.', '_' and '-'"
                raise _refuse(experiment, f"{section}.{name}", f"{name!r} cannot name a directory", remedy)
    if not NAME.fullmatch(experiment.name):
        raise _refuse(experiment, "name", f"{experiment.name!r} cannot name a file", "use letters, digits, '.', '_'")
    if experiment.name != experiment.source.stem:
        message = f"the experiment {experiment.name!r} stands in {experiment.source.name}"
        raise _refuse(experiment, "name", message, f"write name: {experiment.source.stem}, or rename the file")
    if experiment.baseline not in experiment.methods:
        remedy = did_you_mean(experiment.baseline, experiment.methods)
        raise _refuse(experiment, "baseline", f"no method {experiment.baseline!r}", remedy)


def _check_outcomes(experiment: Experiment) -> None:
    """Outcomes and methods that are named exist, and tuning goes the way in which its outcome is good."""
    for outcome, spec in experiment.outcomes.items():
        against = spec.against if isinstance(spec, Relative) else None
        for key, named in (("against", against), *(("published", named) for named in spec.published)):
            if named is not None and named not in experiment.methods:
                remedy = did_you_mean(named, experiment.methods)
                raise _refuse(experiment, f"outcomes.{outcome}.{key}", f"no method {named!r}", remedy)
    for index, claim in enumerate(experiment.claims):
        for key, name, known in (
            ("outcome", claim.outcome, experiment.outcomes),
            ("of", claim.of, experiment.methods),
            ("against", claim.against, experiment.methods),
        ):
            if name is not None and name not in known:
                what = "outcome" if key == "outcome" else "method"
                raise _refuse(experiment, f"claims.{index}.{key}", f"no {what} {name!r}", did_you_mean(name, known))
        try:
            expectation(claim.expect)
        except InputError as error:
            raise _refuse(experiment, f"claims.{index}.expect", error.message, error.remedy) from None
        if claim.ratio and claim.against is None:
            remedy = "name the method that it is a ratio to: against: NAME"
            raise _refuse(experiment, f"claims.{index}.ratio", "a ratio needs two methods", remedy)
    for method in experiment.methods:
        tuning = experiment.tuning_of(method)
        if tuning is None:
            continue
        key = key_of(experiment, method, "choose")
        if tuning.choose.outcome not in experiment.outcomes:
            remedy = did_you_mean(tuning.choose.outcome, experiment.outcomes)
            raise _refuse(experiment, f"{key}.outcome", f"no outcome {tuning.choose.outcome!r}", remedy)
        better = experiment.outcomes[tuning.choose.outcome].better
        if better != tuning.choose.best:
            raise _refuse(
                experiment, f"{key}.best", f"{tuning.choose.outcome} is good when {better}", f"write {better}"
            )


def _check_tuning(experiment: Experiment) -> None:
    """Every method tries the same number of distinct candidates, of a variable that something reads."""
    if experiment.tuning is None:
        for name, method in experiment.methods.items():
            if method.tuning is not None:
                remedy = "declare tuning for the experiment, so that every method has the same budget"
                raise _refuse(experiment, f"methods.{name}.tuning", "only this method is tuned", remedy)
        return
    budget = len(experiment.tuning.values)
    for name in experiment.methods:
        tuning = experiment.tuning_of(name)
        assert tuning is not None
        key = key_of(experiment, name, "values")
        if len(tuning.values) != budget:
            message = f"{len(tuning.values)} candidates, and the other methods have {budget}"
            raise _refuse(experiment, key, message, f"give {budget}: every method has the same tuning budget")
        for value in tuning.values:
            if not _is_json(value):
                raise _refuse(experiment, key, f"{value!r} is no candidate", "write finite numbers, or names")
        if any(first == second for first, second in itertools.combinations(tuning.values, 2)):
            raise _refuse(experiment, key, "names a value twice", "1 and 1.0 are the same")


def _is_json(value: Any) -> bool:
    """Whether a value can stand in a row's column as it is."""
    try:
        json.dumps(value, allow_nan=False)
    except (ValueError, TypeError):
        return False
    return True


def _check_scales(experiment: Experiment) -> None:
    """Seeds are distinct, the pilot's is not reported, and screening is as wide as it must be."""
    for name, scale in experiment.scales.items():
        key = f"scales.{name}"
        if len(set(scale.seeds)) < len(scale.seeds):
            raise _refuse(experiment, f"{key}.seeds", "names a seed twice")
        if experiment.tuning is not None and scale.pilot is None:
            raise _refuse(experiment, f"{key}.pilot", "is missing", "give a seed for tuning that is not in seeds")
        if scale.pilot in scale.seeds:
            message = f"the pilot seed {scale.pilot} is among the reported seeds"
            raise _refuse(experiment, f"{key}.pilot", message, "tune on a seed that is not reported")
    wide = experiment.scales.get("cpu") if experiment.tier == "screening" else None
    if wide is not None and (len(wide.seeds) < SCREENING_SEEDS or len(experiment.orders) < SCREENING_ORDERS):
        message = f"screening has {len(wide.seeds)} seeds x {len(experiment.orders)} orders"
        needed = f"give at least {SCREENING_SEEDS} seeds and {SCREENING_ORDERS} orders"
        raise _refuse(experiment, "scales.cpu.seeds", message, needed)


def _check_variables(experiment: Experiment, raw: Any) -> None:
    """A variable that nothing reads is a misspelt key more often than not."""
    uses = list(_uses(raw))
    owners: list[tuple[str, str, Mapping[str, Any], Sequence[str]]] = [
        *(("method", f"methods.{n}", m.variables, [*Method.model_fields]) for n, m in experiment.methods.items()),
        *(("size", f"sizes.{n}", variables, []) for n, variables in experiment.sizes.items()),
        *(("scale", f"scales.{n}", s.variables, [*Scale.model_fields]) for n, s in experiment.scales.items()),
    ]
    for kind, key, variables, reserved in owners:
        read = {name for used, name in uses if used == kind}
        if "" in read:  # the whole mapping is taken somewhere
            continue
        for variable in variables:
            if variable not in read:
                remedy = did_you_mean(variable, [*reserved, *read])
                raise _refuse(experiment, f"{key}.{variable}", f"no ${{{kind}.{variable}}} reads it", remedy)
    for name, scale in experiment.scales.items():
        for variable in scale.pilot_variables:
            if variable not in scale.variables:
                key = f"scales.{name}.pilot_variables.{variable}"
                raise _refuse(experiment, key, "replaces no variable", did_you_mean(variable, scale.variables))
    for method in experiment.methods:
        tuning = experiment.tuning_of(method)
        if tuning is not None and not {("tuned", tuning.variable), ("tuned", "")} & set(uses):
            key, remedy = key_of(experiment, method, "variable"), f"write ${{tuned.{tuning.variable}}} in the recipe"
            raise _refuse(experiment, key, "every candidate would come to the same: nothing reads it", remedy)


def _uses(value: Any) -> Iterator[tuple[str, str]]:
    """Every ``${kind.name}`` below a value as (kind, name); the name is empty where the whole mapping is taken."""
    for _, text in _texts(value):
        yield from ((match[1], match[2] or "") for match in USE.finditer(text))


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text below a value, with its dotted key."""
    if isinstance(value, Mapping | list):
        for name, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _texts(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, str):
        yield key, value


def _check_recipe(experiment: Experiment) -> None:
    """Every ``${...}`` resolves in every combination, and the student stages are there and train."""
    for key in FILLED_IN:
        if key in experiment.recipe:
            raise _refuse(experiment, f"recipe.{key}", "is filled in for every cell", "leave it out")
    stages = experiment.recipe.get("stages")
    if not isinstance(stages, list | str) or not stages:
        raise _refuse(experiment, "recipe.stages", "is not a list of stages", "write a list: - adapt: {...}")
    real = any(name != "smoke" for name in experiment.scales)
    asked = resolving.identities() if real else resolving.UNCHECKED
    sources = resolving.Sources(*(functools.cache(ask) for ask in (asked.corpus, asked.task, asked.model)))
    lengths = {len(domains): order for order, domains in experiment.orders.items()}  # all that an outline sees of one
    missing = set([experiment.student] if isinstance(experiment.student, str) else experiment.student)
    for method in experiment.methods:
        for scale in experiment.scales:
            for size in experiment.sizes:
                for order in lengths.values():
                    found = resolving.outline(experiment, scale, method, size, order, sources)
                    kinds = stage_kinds(experiment, found.recipe)
                    student = {name for name in found.student if kinds.get(name, "measure") != "measure"}
                    if not student:
                        raise _refuse(
                            experiment,
                            "student",
                            f"{', '.join(map(repr, found.student))}: no stage that trains when the method is {method}",
                            did_you_mean(found.student[0], [n for n, kind in kinds.items() if kind != "measure"]),
                        )
                    missing -= student
    for name in sorted(missing):
        if "${" not in name:
            raise _refuse(experiment, "student", f"no stage {name!r} that trains", did_you_mean(name, kinds))


def stage_kinds(experiment: Experiment, recipe: Mapping[str, Any]) -> dict[str, str]:
    """The kind of every stage of a resolved recipe, by name.

    Raises:
        InputError: a stage is not a mapping with one known kind.
    """
    found = {}
    for index, stage in enumerate(recipe["stages"]):
        kind, body = next(iter(stage.items()), ("", None)) if isinstance(stage, Mapping) else ("", None)
        if kind not in STAGES or not isinstance(body, Mapping) or len(stage) > 1:
            raise _refuse(
                experiment,
                f"recipe.stages.{index}",
                "a stage is a mapping with one kind",
                did_you_mean(str(kind), STAGES) if kind and kind not in STAGES else "write - adapt: {...}",
            )
        found[str(body.get("name", kind))] = kind
    return found


# -- explaining -------------------------------------------------------------------------------------------------------

NESTED: dict[str, type[BaseModel]] = {"tuning": Tuning, "choose": Choose, "claims": Claim}
LIST, MAPPING = "write a list: [...]", "write a mapping: {...}"
# What pydantic complains of: in plain words, and what to write.
PLAIN: dict[str, tuple[str, str | None]] = {
    **dict.fromkeys(("tuple_type", "list_type"), ("is not a list", LIST)),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), ("is not a mapping", MAPPING)),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), ("is not a whole number", None)),
    **dict.fromkeys(("float_type", "float_parsing", "finite_number"), ("is not a finite number", None)),
    **dict.fromkeys(("bool_type", "bool_parsing"), ("is neither true nor false", None)),
    **dict.fromkeys(("string_type", "invalid_key"), ("is not a text", "put it in quotes")),
}
BOUNDS = {"greater_than": ("above", "gt"), "greater_than_equal": ("at least", "ge"), "less_than": ("below", "lt")}


def _explain(error: ValidationError, raw: Any, file: Path) -> InputError:
    """pydantic's first complaint as one line."""
    problems = error.errors()  # of a misspelt key it is more help to say that than what is missing for it
    problem = next((found for found in problems if found["type"] == "extra_forbidden"), problems[0])
    loc = [str(part) for part in problem["loc"] if part != "[key]"]
    message, remedy = problem["msg"], None
    if problem["type"] == "extra_forbidden":
        message, remedy = "unknown key", did_you_mean(loc[-1], _owner(loc, raw).model_fields)
    elif problem["type"] == "missing":
        message, remedy = "is missing", f"add {loc[-1]}: ..."
    elif problem["type"] == "value_error":
        cause = problem["ctx"]["error"]
        message = str(cause)
        if isinstance(cause, ExplainedError):
            remedy = cause.remedy
            loc += [cause.key] if cause.key else []
    elif problem["type"] == "union_tag_invalid":
        message, remedy = f"unknown kind {problem['ctx']['tag']!r}", did_you_mean(problem["ctx"]["tag"], KINDS)
        loc.append("kind")
    elif problem["type"] == "union_tag_not_found":
        message, remedy = "has no kind", f"known: {', '.join(KINDS)}"
    elif problem["type"] == "literal_error":
        message = f"{problem['input']!r} is not known here"
        remedy = did_you_mean(str(problem["input"]), re.findall(r"'([^']*)'", str(problem["ctx"]["expected"])))
    elif loc[0] == "student":
        loc, message, remedy = loc[:1], "is neither a stage nor a list of stages", "write a list of stages: [...]"
    elif problem["type"] in PLAIN or problem["type"] == "too_short":
        message, remedy = _plain(problem["type"], problem["input"])
    elif problem["type"] in BOUNDS:
        word, bound = BOUNDS[problem["type"]]
        message = f"must be {word} {problem['ctx'][bound]}, not {problem['input']!r}"
    dotted = [part for part in loc if not (loc[0] == "outcomes" and part in KINDS and part != loc[1])]
    return InputError(message, where=file, key=".".join(dotted), remedy=remedy)


def _plain(kind: str, given: Any) -> tuple[str, str | None]:
    """A complaint about a value of the wrong kind, and what to write instead."""
    message, remedy = PLAIN.get(kind, ("", LIST if isinstance(given, Sequence) else MAPPING))
    shown = repr(given) if len(repr(given)) < 60 else f"{repr(given)[:57]}..."
    return ("is empty" if not message or given is None else f"{shown} {message}"), remedy


def _owner(loc: Sequence[str], raw: Any) -> type[BaseModel]:
    """The model that the last part of a location was looked for in."""
    if loc[0] == "outcomes" and len(loc) > 2:
        return KINDS.get(loc[2], KINDS["matrix"])
    owner: type[BaseModel] = Experiment
    for depth, part in enumerate(loc[:-1]):
        if depth == 1 and loc[0] in RESERVED:
            owner = RESERVED[loc[0]]
        elif part == "tuning" and depth > 0:
            owner = OwnTuning
        else:
            owner = NESTED.get(part, owner)
    return owner
