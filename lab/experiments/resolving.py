"""From an experiment to an ordinary recipe: what its ``${...}`` stand for.

``${seed}``, ``${order[0]}``, ``${method.X}``, ``${size.X}``, ``${scale.X}`` and ``${tuned.X}`` are the variables of a
cell; ``${corpus:NAME}``, ``${task:NAME}`` and ``${model:NAME}`` are answered by :class:`Sources`.  There are two kinds
of answers: places (the data is fetched, the model made, when it is not there) and identities (a name with a digest,
which need no data).  The recipe's hash comes from identities, with seed, order and tuned value left open, so that it
groups the cells that differ in these only.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bequest import storage
from bequest.errors import InputError, did_you_mean
from lab.experiments.schema import Experiment

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA = 1
"""Raised when the same recipe text comes to mean another computation."""
DIGITS = 12
CALL = re.compile(r"\$\{\s*(corpus|task|model)\s*:((?:[^${}]|\$\{[^{}]*\})*)\}")
MARK = re.compile(r"<<(corpus|task|model):([^<>]*)>>")
OPEN = "#"
"""Stands in a value that is left open, such as ``order#0``; no corpus, task or model has it in its name."""


@dataclass(frozen=True)
class Sources:
    """What the three calls of a recipe answer, by name; each raises InputError for an unknown name."""

    corpus: Callable[[str], object]
    task: Callable[[str], object]
    model: Callable[[str], object]

    def answer(self, kind: str, name: str) -> str:
        """The answer to ``${kind:name}``."""
        return str({"corpus": self.corpus, "task": self.task, "model": self.model}[kind](name))


@dataclass(frozen=True)
class Resolved:
    """An experiment with its variables filled in.

    Attributes:
        recipe: the recipe as plain values, without name and seed.
        student: the stages whose cost is the method's own.
        variables: the method's, size's and scale's variables, resolved.
        models: the lab's name of every model that the recipe takes from outside, by what stands for it there.
    """

    recipe: dict[str, Any]
    student: tuple[str, ...]
    variables: dict[str, Any]
    models: dict[str, str]


def places(console: Console) -> Sources:
    """Where things lie; what is not there is fetched or made, and the console told."""
    from lab.kit.fetching import corpus_path, task_directory
    from lab.models import model_directory

    return Sources(
        functools.partial(corpus_path, console=console),
        functools.partial(task_directory, console=console),
        functools.partial(model_directory, console=console),
    )


def identities() -> Sources:
    """What things are, without having them: ``general@0123456789ab``."""
    from lab.kit.fetching import corpus_identity, task_identity
    from lab.models import model_identity

    return Sources(corpus_identity, task_identity, model_identity)


def _named(name: str) -> str:
    return name


UNCHECKED = Sources(_named, _named, _named)
"""Every name stands for itself."""


def resolve(
    experiment: Experiment,
    *,
    scale: str,
    role: str,
    method: str,
    size: str,
    order: tuple[str, ...],
    seed: object,
    tuned: Mapping[str, Any],
    sources: Sources,
) -> Resolved:
    """Fill in the variables of one cell.

    Raises:
        InputError: an interpolation that stands for nothing, or a corpus, task or model that is unknown.
    """
    known = {
        "seed": seed,
        "order": list(order),
        "method": experiment.methods[method].variables,
        "size": experiment.sizes[size],
        "scale": experiment.scales[scale].variables_of(role),
        "tuned": dict(tuned),
        "recipe": experiment.recipe,
        "student": experiment.student,
    }
    values = _interpolated(experiment, known)
    models: dict[str, str] = {}

    def answered(kind: str, name: str) -> str:
        if OPEN in name:
            raise InputError(
                f"${{{kind}:...}} depends on the seed, the order or the tuned value",
                where=experiment.source,
                key="recipe",
                remedy="name corpora, tasks and models in the recipe itself, and let the order choose by their names",
            )
        try:
            found = sources.answer(kind, name)
        except InputError as error:
            remedy, key = error.remedy, f"${{{kind}:{name}}}"
            raise InputError(error.message, where=experiment.source, key=key, remedy=remedy) from None
        if kind == "model":
            models[found] = name
        return found

    filled = _map(values, lambda text: MARK.sub(lambda match: answered(match[1], match[2].strip()), text))
    student = filled["student"]
    return Resolved(
        recipe=filled["recipe"],
        student=(student,) if isinstance(student, str) else tuple(student),
        variables={kind: filled[kind] for kind in ("method", "size", "scale")},
        models=models,
    )


def outline(
    experiment: Experiment, scale: str, method: str, size: str, order: str, sources: Sources, role: str = "final"
) -> Resolved:
    """The recipe with seed, order and tuned value left open, as its hash sees it."""
    tuning = experiment.tuning_of(method)
    return resolve(
        experiment,
        scale=scale,
        role=role,
        method=method,
        size=size,
        order=tuple(f"order{OPEN}{place}" for place in range(len(experiment.orders[order]))),
        seed=f"seed{OPEN}",
        tuned={tuning.variable: f"tuned{OPEN}"} if tuning is not None else {},
        sources=sources,
    )


def recipe_hash(
    experiment: Experiment, scale: str, method: str, size: str, order: str, sources: Sources, role: str = "final"
) -> str:
    """Twelve hex digits of what is computed, whichever the seed, the order and the tuned value.

    Args:
        experiment: the experiment.
        scale: a scale of it.
        method: a method of it.
        size: a size of it.
        order: an order of it; only its length counts.
        sources: identities, not places.
        role: ``final`` or ``pilot``; they differ where the scale has ``pilot_variables``.
    """
    found = outline(experiment, scale, method, size, order, sources, role)
    value = {"schema": SCHEMA, "recipe": found.recipe, "student": list(found.student), "variables": found.variables}
    return storage.value_digest(value)[:DIGITS]


def _interpolated(experiment: Experiment, known: Mapping[str, Any]) -> dict[str, Any]:
    """Resolve plain interpolation; calls become marks, so that OmegaConf has none to make."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    marked = _map(known, lambda text: CALL.sub(lambda match: f"<<{match[1]}:{match[2]}>>", text))
    config = OmegaConf.create(marked)
    try:
        found = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        message = str(error).strip().splitlines()[0]
        raise InputError(message, where=experiment.source, key=error.full_key, remedy=_remedy(message, known)) from None
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


def _remedy(message: str, known: Mapping[str, Any]) -> str | None:
    """What an interpolation may have meant: a variable of its section, else a section."""
    named = re.search(r"'([\w.\[\]-]+)'", message)
    if named is None:
        return None
    section, _, variable = named[1].partition(".")
    sections = [name for name in known if name not in ("recipe", "student")]
    if variable and isinstance(known.get(section), Mapping):
        return did_you_mean(variable, known[section])
    return f"known: {', '.join(sections)} and ${{corpus:NAME}}, ${{task:NAME}}, ${{model:NAME}}"


def _map(value: Any, change: Callable[[str], str]) -> Any:
    """A JSON-like value with every string in it changed."""
    if isinstance(value, Mapping):
        return {key: _map(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_map(item, change) for item in value]
    return change(value) if isinstance(value, str) else value
