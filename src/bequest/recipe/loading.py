"""Read a recipe: YAML file, ``key=value`` overrides, validation; every complaint is one line: file, key, remedy.

Stages are addressed by name on the command line (``stages.v1.tokens=5M``), and errors name them the same way.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from bequest.data.specs import CorpusSpec, TaskSpec
from bequest.errors import InputError, did_you_mean
from bequest.recipe.method_checks import check_methods
from bequest.recipe.parts import AdapterSpec, Teacher, TokenizerSpec, TwoStageSpec
from bequest.recipe.quantities import ExplainedError
from bequest.recipe.references import check
from bequest.recipe.sections import STAGES, Recipe

# What to write for a key that is missing.
EXAMPLES = {
    "tokens": "tokens: 20M",
    "corpus": "corpus: NAME",
    "from": "from: STAGE",
    "to": "to: {hidden_size: 256}",
    "task": "task: NAME",
    "tuned": "tuned: STAGE",
    "onto": "onto: STAGE",
    "models": "models: [STAGE]",
    "domains": "domains: [CORPUS]",
    "name": "name: my-recipe",
    "stages": "stages: [...], or start from `bequest new`",
    "train": "train: FILE",
    "test": "test: FILE",
    "model": "model: STAGE",
}
NESTED: dict[str, type[BaseModel]] = {"teachers": Teacher, "tokenizer": TokenizerSpec, "adapter": AdapterSpec}
NESTED |= {"two_stage": TwoStageSpec}


def load_recipe(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """Read, override and validate a recipe; nothing is loaded or written.

    Args:
        path: the YAML file.
        overrides: ``key=value`` pairs in dotted form; stages by name.

    Raises:
        InputError: anything about it that cannot work, naming the file, the dotted key and the remedy.
    """
    file = Path(path)
    raw = _overridden(_read(file), overrides, file)
    _check_shape(raw, file)
    merged = _merged_text(raw, overrides) if overrides else None
    raw = _filled(raw)
    names = [stage["name"] for stage in raw["stages"]]
    _check_names(names, file)
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        raise _explain(error, raw, file) from None
    recipe._source, recipe._merged = file, merged
    check(recipe)
    check_methods(recipe)
    return recipe


def _read(file: Path) -> Any:
    """The YAML file as OmegaConf sees it (``${...}`` interpolation included)."""
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if file.is_dir():
        raise InputError("is a directory", where=file, remedy="name the recipe file itself")
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = [other.name for other in file.parent.glob("*.y*ml")] if file.parent.is_dir() else []
        remedy = did_you_mean(file.name, near) if near else "make one: bequest new"
        raise InputError("no such file", where=file, remedy=remedy) from None
    except UnicodeDecodeError:
        raise InputError("is not a text file in UTF-8", where=file) from None
    if not text.strip():
        raise InputError("is empty", where=file, remedy="start from `bequest new`")
    try:
        return OmegaConf.create(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise InputError(f"{place}not valid YAML ({error.problem})", where=file) from None
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        raise InputError(f"not valid YAML ({_first_line(error)})", where=file) from None


def _overridden(config: Any, overrides: Sequence[str], file: Path) -> Any:
    """Apply the overrides and return plain dicts and lists."""
    import yaml
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if not isinstance(config, DictConfig):
        raise InputError("is not a mapping", where=file, remedy="start from `bequest new`")
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals or not key.strip():
            raise InputError(
                "is not an override", where=override, remedy="write key=value, such as stages.v1.tokens=5M"
            )
        address = _address(key.strip(), config, file)
        try:
            value = OmegaConf.from_dotlist([f"value={override[len(key) + 1 :]}"]).value
        except (yaml.YAMLError, OmegaConfBaseException) as error:
            raise InputError(f"the value is not valid YAML ({_first_line(error)})", where=override) from None
        try:
            _promote_method(config, address)
            OmegaConf.update(config, address, value, merge=False, force_add=True)
        except (OmegaConfBaseException, AttributeError, IndexError, TypeError, ValueError):
            remedy = "name the entries of a list by number (method.0.share), and a key only below a mapping"
            raise InputError("there is no such place to put a value", where=file, key=key, remedy=remedy) from None
    try:
        return OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise InputError(_first_line(error), where=file, key=error.full_key) from None


def _merged_text(raw: Mapping[str, Any], overrides: Sequence[str]) -> str:
    """The recipe with its overrides as YAML again, in OmegaConf's own spelling, which reads back as the same values."""
    from omegaconf import OmegaConf

    named = "  ".join(" ".join(override.split()) for override in overrides)
    return f"# with the command line's changes: {named}\n{OmegaConf.to_yaml(OmegaConf.create(dict(raw)))}"


def _promote_method(config: Any, address: str) -> None:
    """Turn ``method: replay`` into ``method: {name: replay}`` when an option below it is about to be set."""
    from omegaconf import OmegaConf

    place, found, _ = address.partition(".method.")
    if found and isinstance(name := OmegaConf.select(config, f"{place}.method"), str):
        OmegaConf.update(config, f"{place}.method", {"name": name}, merge=False)


def _address(key: str, config: Any, file: Path) -> str:
    """``stages.v1.tokens`` as OmegaConf addresses it: ``stages[2].pretrain.tokens``."""
    if not key.startswith("stages."):
        return key
    rest = key.removeprefix("stages.")
    stages = config.get("stages") or []
    items = [next(iter(stage.items()), ("", None)) for stage in stages if isinstance(stage, Mapping)]
    named = _stage_names([(kind, body if isinstance(body, Mapping) else {}) for kind, body in items])
    for index, name in sorted(enumerate(named), key=lambda pair: -len(pair[1])):
        if rest.startswith(f"{name}."):
            return f"stages[{index}].{items[index][0]}.{rest.removeprefix(f'{name}.')}"
    first = rest.partition(".")[0]
    if first.isdigit() and int(first) < len(items) and "." in rest:
        return f"stages[{first}].{items[int(first)][0]}.{rest.partition('.')[2]}"
    if first in named:
        raise InputError("names a whole stage", where=file, key=key, remedy=f"name one of its keys: {key}.tokens=5M")
    raise InputError("no such stage", where=file, key=f"stages.{first}", remedy=did_you_mean(first, named))


def _stage_names(items: Sequence[tuple[Any, Mapping[Any, Any]]]) -> list[str]:
    """The stages' names; a stage without one is called by its kind, and by kind-2, kind-3 when that is taken."""
    taken = Counter(str(body["name"]) for _, body in items if body.get("name") is not None)
    names = []
    for kind, body in items:
        if body.get("name") is not None:
            names.append(str(body["name"]))
            continue
        name, number = str(kind), 1
        while name in taken:
            number += 1
            name = f"{kind}-{number}"
        taken[name] += 1
        names.append(name)
    return names


def _check_shape(raw: Any, file: Path) -> None:
    """Top-level keys, and every stage a mapping with exactly one known kind."""
    unknown = [key for key in raw if key not in Recipe.model_fields]
    if unknown:
        key = str(unknown[0])
        hint = f"put it under stages, as `- {key}: ...`" if key in STAGES else did_you_mean(key, Recipe.model_fields)
        raise InputError("unknown key", where=file, key=key, remedy=hint)
    stages = raw.get("stages")
    if not isinstance(stages, list) or not stages:
        what = "is missing" if stages is None else "is not a list of stages"
        raise InputError(what, where=file, key="stages", remedy="write a list: - pretrain: {...}")
    for index, stage in enumerate(stages):
        key = f"stages.{index}"
        if not isinstance(stage, dict) or len(stage) != 1:
            raise InputError(
                "a stage is a mapping with one kind", where=file, key=key, remedy=f"write - KIND: {{...}}; {_kinds()}"
            )
        kind, body = next(iter(stage.items()))
        if kind not in STAGES:
            raise InputError(
                "unknown stage kind", where=file, key=f"{key}.{kind}", remedy=did_you_mean(str(kind), STAGES)
            )
        if not isinstance(body, dict):
            raise InputError("is not a mapping", where=file, key=f"{key}.{kind}", remedy=f"write - {kind}: {{...}}")


def _kinds() -> str:
    return f"known: {', '.join(STAGES)}"


def _filled(raw: dict[str, Any]) -> dict[str, Any]:
    """The recipe with stages tagged by kind, named, seeded, and ``all`` written out."""
    items = [next(iter(stage.items())) for stage in raw["stages"]]
    seed = raw.get("seed", 0)
    stages = []
    for (kind, body), name in zip(items, _stage_names(items), strict=True):
        stage = {"seed": seed, **{str(key): value for key, value in body.items()}, "kind": kind, "name": name}
        if "mask_seed" in STAGES[kind].model_fields:
            stage.setdefault("mask_seed", stage["seed"])
        if kind == "measure":
            for what in ("corpora", "tasks"):
                if stage.get(what) == "all":
                    stage[what] = list(raw.get(what) or {})
        stages.append(stage)
    return {**raw, "stages": stages}


def _check_names(names: Iterable[str], file: Path) -> None:
    """No two stages may share a directory, on any file system."""
    seen: dict[str, str] = {}
    for name in names:
        folded = name.casefold()
        if folded in seen:
            raise InputError(
                f"two stages are called {seen[folded]!r} and {name!r}"
                if seen[folded] != name
                else "two stages share a name",
                where=file,
                key=f"stages.{name}.name",
                remedy="give each stage a name of its own",
            )
        seen[folded] = name


# -- explaining -------------------------------------------------------------------------------------------------------


def _explain(error: ValidationError, raw: Mapping[str, Any], file: Path) -> InputError:
    """pydantic's first complaint as one line."""
    problem = error.errors()[0]
    parts, owner = _located(problem["loc"], raw)
    kind, context, given = problem["type"], problem.get("ctx", {}), problem["input"]
    message, remedy = _plain_message(kind, context, given) or f"{problem['msg']}", None
    if kind == "extra_forbidden":
        known = [field.alias or name for name, field in owner.model_fields.items() if name != "kind"]
        message, remedy = "unknown key", did_you_mean(parts[-1], known)
    elif kind == "missing":
        message, remedy = "is missing", f"add {EXAMPLES.get(parts[-1], f'{parts[-1]}: ...')}"
    elif kind == "value_error":
        message, cause = str(context["error"]), context["error"]
        if isinstance(cause, ExplainedError):
            remedy = cause.remedy
            parts += [cause.key] if cause.key else []
    elif kind == "literal_error":
        message = f"{given!r} is not known here"
        remedy = did_you_mean(str(given), re.findall(r"'([^']*)'", str(context["expected"])))
    return InputError(message, where=file, key=".".join(parts), remedy=remedy)


def _plain_message(kind: str, context: Mapping[str, Any], given: Any) -> str | None:
    """pydantic's commoner complaints in plain words; None for the rest."""
    shown = repr(given) if len(repr(given)) < 60 else f"{repr(given)[:57]}..."
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        word = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
        name = next(key for key in word if key in context)
        return f"must be {word[name]} {context[name]}, not {shown}"
    if kind in ("too_short", "string_too_short"):
        return "is empty"
    if kind in ("float_parsing", "float_type", "int_parsing", "int_type", "int_from_float"):
        return f"{shown} is not a {'whole ' if kind.startswith('int') else ''}number"
    if kind in ("tuple_type", "list_type"):
        return f"{shown} is not a list"
    if kind in ("dict_type", "model_type", "model_attributes_type", "mapping_type"):
        return f"{shown} is not a mapping"
    if kind == "string_type":
        return f"{shown} is not a text"
    if kind in ("bool_parsing", "bool_type"):
        return f"{shown} is neither true nor false"
    return None


def _located(loc: Sequence[int | str], raw: Mapping[str, Any]) -> tuple[list[str], type[BaseModel]]:
    """pydantic's location as a dotted key with stage names, and the model that owns the key."""
    owner: type[BaseModel] = Recipe
    parts: list[str] = []
    rest = [part for part in loc if not str(part).startswith("<")]
    if rest and rest[0] == "stages" and len(rest) > 1 and isinstance(rest[1], int):
        stage = raw["stages"][rest[1]]
        owner = STAGES[stage["kind"]]
        parts, rest = ["stages", stage["name"]], rest[3:]
    elif len(rest) > 2 and rest[0] in ("corpora", "tasks"):
        owner = CorpusSpec if rest[0] == "corpora" else TaskSpec
    for part in rest[:-1]:
        owner = NESTED.get(str(part), owner)
    return [*parts, *(str(part) for part in rest)], owner


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
