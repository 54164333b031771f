"""What a stage refers to must exist, be of the right kind, and come earlier; families, schedules and adapter types.

A stage comes first in ``from``; then a directory, seen from the recipe's own; then a Hub id, which the plan looks up.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path

from bequest.anatomy.families import FAMILIES
from bequest.errors import InputError, did_you_mean
from bequest.recipe import catalogue
from bequest.recipe.sections import Adapt, Measure, Pretrain, Recipe, Reference, Section, Trained, Tune
from bequest.training import settings

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
NEEDS = {"base": "a model is", "teacher": "a model is", "tokenizer": "a model is", "tuned": "tuned weights are"}


def check(recipe: Recipe) -> None:
    """Check every reference of a recipe.

    Raises:
        InputError: the first one that cannot work.
    """
    _check_cycles(recipe)
    for index, stage in enumerate(recipe.stages):
        earlier = {other.name: other for other in recipe.stages[:index]}
        for reference in stage.references():
            _check_reference(recipe, stage, reference, earlier)
        _check_data(recipe, stage)
        _check_names(recipe, stage)


def key_of(stage: Section, key: str) -> str:
    """The dotted key of a stage's entry, as errors and overrides write it."""
    return f"stages.{stage.name}.{key}"


def locate(recipe: Recipe, target: str) -> Section | Path | str:
    """What a reference means: a stage, a directory, or a Hub id."""
    stage = recipe.stage(target)
    if stage is not None:
        return stage
    directory = recipe.root / Path(target).expanduser()
    return directory if directory.is_dir() else target


def _check_cycles(recipe: Recipe) -> None:
    """No stage may need itself, directly or through others."""
    needs = {
        stage.name: [ref.target for ref in stage.references() if recipe.stage(ref.target)] for stage in recipe.stages
    }
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            circle = " -> ".join([*path[path.index(name) :], name])
            stage = recipe.stage(path[-1])
            assert stage is not None
            key = next(ref.key for ref in stage.references() if ref.target == name)
            raise InputError(
                f"the stages need each other in a circle ({circle})",
                where=recipe.source,
                key=key_of(stage, key),
                remedy="start one of them from another model",
            )
        if name not in done:
            for target in needs[name]:
                visit(target, (*path, name))
            done.add(name)

    for stage in recipe.stages:
        visit(stage.name, ())


def _check_reference(recipe: Recipe, stage: Section, reference: Reference, earlier: Mapping[str, Section]) -> None:
    key, target = key_of(stage, reference.key), reference.target
    other = recipe.stage(target)
    if other is not None and target not in earlier:
        raise InputError(
            f"stage {target!r} comes later", where=recipe.source, key=key, remedy=f"move {target} above {stage.name}"
        )
    if other is not None:
        _check_kind(recipe, stage, reference, other)
        return
    directory = recipe.root / Path(target).expanduser()
    if directory.is_dir():
        if reference.role != "tokenizer" and not any(
            (directory / name).is_file() for name in ("config.json", "adapter_config.json")
        ):
            raise InputError(
                f"the directory {target} holds neither a model (config.json) nor an adapter (adapter_config.json)",
                where=recipe.source,
                key=key,
            )
        return
    near = difflib.get_close_matches(target, earlier, n=1, cutoff=0.6)
    as_path = target.startswith((".", "/", "~")) or target.count("/") > 1 or not HUB_ID.fullmatch(target)
    if near or as_path or directory.exists():
        raise InputError(
            f"{target!r} is neither a stage above nor a directory",
            where=recipe.source,
            key=key,
            remedy=f"did you mean {near[0]!r}?" if near else did_you_mean(target, earlier),
        )


def _check_kind(recipe: Recipe, stage: Section, reference: Reference, other: Section) -> None:
    """A base must be a model, tuned weights must be tuned; whatever exists may be measured."""
    wanted = {"model", "tuned"} if isinstance(stage, Measure) else {"tuned" if reference.role == "tuned" else "model"}
    if other.makes not in wanted:
        fitting = [s.name for s in recipe.stages if s.makes in wanted and s is not stage]
        raise InputError(
            f"{other.name!r} is a {other.kind} stage, and {NEEDS[reference.role]} needed",
            where=recipe.source,
            key=key_of(stage, reference.key),
            remedy=f"name one of: {', '.join(fitting)}" if fitting else None,
        )


def _check_data(recipe: Recipe, stage: Section) -> None:
    """Corpora and tasks that a stage names must be in the recipe."""
    fields = {"pretrain": "corpus", "grow": "corpus", "adapt": "domains", "measure": "corpora"}
    for name in stage.corpora_used():
        if name not in recipe.corpora:
            raise InputError(
                f"no corpus {name!r} under corpora",
                where=recipe.source,
                key=key_of(stage, fields[stage.kind]),
                remedy=did_you_mean(name, recipe.corpora),
            )
    for name in stage.tasks_used():
        if name not in recipe.tasks:
            raise InputError(
                f"no task {name!r} under tasks",
                where=recipe.source,
                key=key_of(stage, "tasks" if isinstance(stage, Measure) else "task"),
                remedy=did_you_mean(name, recipe.tasks),
            )
    if isinstance(stage, Adapt) and len(set(stage.domains)) < len(stage.domains):
        raise InputError("a domain is named twice", where=recipe.source, key=key_of(stage, "domains"))


def _check_names(recipe: Recipe, stage: Section) -> None:
    """Families, schedules and adapter types must be known (read from source; nothing is imported)."""
    where = recipe.source
    if isinstance(stage, Pretrain):
        if stage.model is not None and stage.model["family"] not in FAMILIES:
            raise InputError(
                f"no anatomy table for the family {stage.model['family']!r}",
                where=where,
                key=key_of(stage, "model.family"),
                remedy=did_you_mean(stage.model["family"], FAMILIES),
            )
        for index, teacher in enumerate(stage.teachers):
            known = catalogue.schedules()
            if teacher.schedule not in known:
                raise InputError(
                    f"unknown schedule {teacher.schedule!r}",
                    where=where,
                    key=key_of(stage, f"teachers.{index}.schedule"),
                    remedy=did_you_mean(teacher.schedule, known),
                )
    if isinstance(stage, Trained):
        _check_training(recipe, stage)
    if isinstance(stage, Tune) and stage.adapter is not None:
        _check_adapter(recipe, stage)


def _check_training(recipe: Recipe, stage: Trained) -> None:
    """What passes through to transformers, and the learning-rate schedule."""
    settings.check_passthrough(stage.training, where=recipe.source, prefix=key_of(stage, "training"))
    schedule = getattr(stage, "schedule", None)
    if schedule is not None and schedule not in settings.SCHEDULES:
        raise InputError(
            f"unknown schedule {schedule!r}",
            where=recipe.source,
            key=key_of(stage, "schedule"),
            remedy=did_you_mean(schedule, settings.SCHEDULES),
        )


def _check_adapter(recipe: Recipe, stage: Tune) -> None:
    assert stage.adapter is not None
    types = catalogue.adapter_types()
    if stage.adapter.type not in types:
        raise InputError(
            f"PEFT has no adapter type {stage.adapter.type!r}",
            where=recipe.source,
            key=key_of(stage, "adapter.type"),
            remedy=did_you_mean(stage.adapter.type, types),
        )
    fields = catalogue.adapter_fields(stage.adapter.type)
    for option in stage.adapter.model_extra or {}:
        if fields and option not in fields:
            raise InputError(
                f"PEFT's {stage.adapter.type} config has no such field",
                where=recipe.source,
                key=key_of(stage, f"adapter.{option}"),
                remedy=did_you_mean(option, fields),
            )
