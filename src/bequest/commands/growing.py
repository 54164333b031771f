"""``grow``: a model directory in, a larger one out; what it will be is said first, what it kept is measured after."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bequest import lineage
from bequest.commands import terminal
from bequest.commands.growth_text import check_json, check_parts, plan_json, plan_parts
from bequest.commands.terminal import AsJson, Force
from bequest.errors import BequestError, InputError, RunError, did_you_mean
from bequest.recipe.quantities import ExplainedError, parse_count, short_bytes
from bequest.tensor_files import check_target

if TYPE_CHECKING:
    from bequest.growth import GrowthPlan, Preservation

#: What --dtype takes -> the name that configs and files know.
DTYPES = {
    "float32": "float32",
    "fp32": "float32",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "float16": "float16",
    "fp16": "float16",
    "float64": "float64",
    "fp64": "float64",
}
_HALVES = ("bfloat16", "float16")
#: What a Python with torch and transformers takes.
_LIBRARIES = 256 * 2**20


Sizes = Annotated[list[str], typer.Option("--to", metavar="SIZE=N", help="Target sizes; others follow. Repeatable.")]
Methods = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME[:KEY=VALUE,...]", help="auto, or methods by name, such as isometric. Repeatable."),
]
ForTraining = Annotated[
    bool, typer.Option("--for-training", help="Tell copies apart by null-space noise, so that training can use them.")
]
Dtype = Annotated[str | None, typer.Option(help="Store it in fp32, bf16 or fp16; default: as SRC is.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of everything that methods draw.")]
Prompts = Annotated[str | None, typer.Option(metavar="FILE", help="With --check: texts of your own, one per line.")]


def grow(
    source: Annotated[str, typer.Argument(metavar="SRC", help="The model directory to grow.")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="The directory to make.")],
    to: Sizes,
    method: Methods = None,
    for_training: ForTraining = False,
    dtype: Dtype = None,
    seed: Seed = 0,
    plan: Annotated[bool, typer.Option("--plan", help="Say what would be made, and write nothing.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Load both and measure what was preserved.")] = False,
    prompts: Prompts = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Grow a model, checkpoint to checkpoint: wider, deeper, or both, a few rows at a time."""
    place, target = Path(source), Path(out)
    if lineage.kind_of(place) == "adapter":
        raise InputError("is an adapter, and a model is needed", where=place, remedy="grow its base, then carry it")
    if not plan:
        check_target(target, force=force, sources=[place])
    stored, texts = parse_dtype(dtype), _texts(prompts, check)
    calls = [parse_method(word) for words in method or ["auto"] for word in one_by_one(words)]
    planned = _planned(place, parse_sizes(to), calls, seed=seed, for_training=for_training)
    memory = _check_memory(planned, place, stored) if check else None
    given = _encoded(place, Path(prompts), texts, planned) if prompts is not None else []
    if not as_json:
        terminal.show(*plan_parts(planned, place, target, stored, auto="auto" in calls, memory=memory, dry=plan))
    if plan:
        if as_json:
            terminal.show_json({"out": out, "id": None, "params": planned.params, "plan": plan_json(planned)})
        return
    options = {"seed": seed, "training_follows": for_training, "dtype": stored, "force": force}
    made = _written(place, target, planned, calls, options, as_json=as_json)
    proof = _checked(place, target, made, given, as_json=as_json) if check else None
    if as_json:
        found = {"out": out, "id": lineage.read_lineage(target).id, "params": made.params, "plan": plan_json(made)}
        terminal.show_json({**found, "check": check_json(proof, made) if proof is not None else None})
    elif proof is not None:
        terminal.show(*check_parts(proof, made))
    _refuse_broken(proof, made, target)
    if not as_json:
        terminal.finish(target, load=terminal.loading_lines(target), next_step=f"bequest tree {target}")


def _planned(place: Path, sizes: dict[str, Any], calls: list[Any], *, seed: int, for_training: bool) -> GrowthPlan:
    """The plan, after everything that cannot be has been refused."""
    from bequest.growth import plan_growth
    from bequest.growth.plan import source_anatomy

    if for_training and "auto" not in calls:
        raise InputError("goes with auto", key="--for-training", remedy="add --method noise instead")
    with _located(place / "config.json"):
        source_anatomy(place)  # what is wrong with the config itself
    with _located(place):
        planned = plan_growth(place, sizes, calls, seed=seed, training_follows=for_training)
    if planned.refusal is not None:
        nearest = ", ".join(f"{key}={value}" for key, value in (planned.nearest_exact or {}).items())
        silent = nearest and ";" not in planned.refusal  # most methods say themselves what would do
        raise InputError(planned.refusal, where=place, remedy=f"exact would be {nearest}" if silent else None)
    planned.final_maps(where=place)
    return planned


def _refuse_broken(proof: Preservation | None, plan: GrowthPlan, target: Path) -> None:
    """A growth that was planned as exact must be, as far as its dtype lets it."""
    if proof is None or not plan.exact or proof.preserved or proof.rounding:
        return
    remedy = f"{target} is kept for you to look at; do not build on it, and report this as a bug"
    raise RunError(f"planned as exact and not preserved: {', '.join(proof.reasons)}", where=target, remedy=remedy)


# --- words of the command line


def parse_sizes(words: list[str]) -> dict[str, Any]:
    """``["hidden_size=1024", "num_hidden_layers=24"]`` (commas work too) as a mapping.

    Raises:
        InputError: a word without ``=``, a value that is no whole number, or a size named twice.
    """
    sizes: dict[str, Any] = {}
    for pair in (pair for word in words for pair in word.split(",") if pair.strip()):
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or not key:
            raise InputError(f"{pair!r} is not a size", key="--to", remedy="write --to hidden_size=1024")
        if key in sizes:
            raise InputError("is named twice", key=f"--to {key}", remedy="name it once")
        if value.lstrip("-").isdigit() and int(value) < 1:
            raise InputError(f"must be a whole number of at least 1, not {value}", key=f"--to {key}")
        try:
            sizes[key] = parse_count(value)
        except ExplainedError as error:
            raise InputError(str(error), key=f"--to {key}", remedy=error.remedy) from None
    return sizes


def parse_method(word: str) -> str | dict[str, Any]:
    """``fpi``, ``fpi:map=random``, ``my_package.module:Class:std=0.1,scope=formula``.

    Raises:
        InputError: an option that is not ``key=value``.
    """
    from omegaconf import OmegaConf

    name, colon, tail = word.rpartition(":")
    if not colon or "=" not in tail:
        return word
    call: dict[str, Any] = {"name": name}
    for pair in tail.split(","):
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            remedy = f"write --method {name}:key=value"
            raise InputError(f"{pair!r} is not an option", key=f"--method {name}", remedy=remedy)
        try:
            call[key.strip()] = OmegaConf.from_dotlist([f"value={value}"]).value
        except Exception:  # what YAML cannot read: OmegaConf and its parser raise errors of many kinds
            raise InputError(f"{value!r} is not a value", key=f"--method {name}:{key.strip()}") from None
    return call


def one_by_one(words: str) -> list[str]:
    """``isometric,noise:std=0.1`` are two methods; behind a method's colon commas also stand between its options."""
    found: list[str] = []
    for word in (word.strip() for word in words.split(",") if word.strip()):
        before, equals, _ = word.partition("=")
        if found and equals and ":" not in before:
            found[-1] += f",{word}"
        else:
            found.append(word)
    return found


def parse_dtype(word: str | None) -> str | None:
    """A dtype by any of its names.

    Raises:
        InputError: there is none of that name.
    """
    if word is not None and word.lower() not in DTYPES:
        raise InputError(f"no dtype {word!r}", key="--dtype", remedy=did_you_mean(word.lower(), DTYPES))
    return None if word is None else DTYPES[word.lower()]


def _texts(file: str | None, check: bool) -> list[str]:
    if file is None:
        return []
    if not check:
        raise InputError("are for the check", key="--prompts", remedy="add --check")
    try:
        lines = [line.strip() for line in Path(file).read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        raise InputError("no such file", where=file, key="--prompts") from None
    except (UnicodeDecodeError, IsADirectoryError):
        raise InputError("is not a text file in UTF-8", where=file, key="--prompts") from None
    texts = [line for line in lines if line]
    if not texts:
        raise InputError("is empty", where=file, key="--prompts", remedy="write one prompt per line")
    return texts


def _encoded(place: Path, file: Path, texts: list[str], plan: GrowthPlan) -> list[list[int]]:
    """The prompts as token ids, before anything is written.

    Raises:
        InputError: the source has no tokenizer, or a prompt is too long for it.
    """
    from bequest.checkpoints import load_tokenizer
    from bequest.growth.pairs import encoded

    try:
        tokenizer = load_tokenizer(place)
    except InputError as error:
        raise InputError(error.message, where=place, key="--prompts", remedy="leave --prompts out") from None
    try:
        return encoded(texts, tokenizer, plan.source)
    except InputError as error:
        raise InputError(error.message, where=file, key="--prompts", remedy=error.remedy) from None


# --- making


@contextlib.contextmanager
def _located(where: Path) -> Iterator[None]:
    """An error that names no place is about this one."""
    try:
        yield
    except BequestError as error:
        error.where = error.where or where
        raise


def _written(
    place: Path,
    target: Path,
    planned: GrowthPlan,
    method: Any,
    options: Mapping[str, Any],
    *,
    as_json: bool,
) -> GrowthPlan:
    """The directory made, with its model card."""
    from bequest.growth import grow_checkpoint
    from bequest.reports.card import write_card

    with _located(place), terminal.Advance(f"writing {target.name}", terminal.progress(as_json)) as writing:
        made = grow_checkpoint(place, target, planned.to, method, progress=writing, **options)
    write_card(target)
    return made


# --- checking


def _check_memory(planned: GrowthPlan, place: Path, stored: str | None) -> int:
    """Bytes that the check will take: both models in float32, and the smaller one once more where it is rounded.

    Raises:
        InputError: it is more than the machine has left.
    """
    from bequest.checkpoints import stored_dtype

    small = planned.source.parameters()
    half = (stored or stored_dtype(place)) in _HALVES
    logits = 8 * 240 * planned.source.sizes["vocab"] if planned.source.head != "bare" else 0
    needed = _LIBRARIES + 4 * (small + planned.params) + (4 * small if half else 0) + logits
    left = terminal.free_memory()
    if needed > left:
        raise InputError(
            f"loads both models, about {short_bytes(needed)}, and {short_bytes(left)} of memory are free",
            key="--check",
            remedy="leave it out, and check where there is more memory: bequest.check_preservation",
        )
    return needed


def _checked(source: Path, target: Path, plan: GrowthPlan, prompts: list[list[int]], *, as_json: bool) -> Preservation:
    """What a growth preserved, measured, and kept in the lineage."""
    import torch

    from bequest.checkpoints import load_model, stored_dtype
    from bequest.growth import check_preservation
    from bequest.reports.card import write_card

    dtype = stored_dtype(target)
    console = terminal.progress(as_json)
    with terminal.Advance(f"checking {target.name}", console, words=terminal.steps) as checking:
        proof = check_preservation(
            load_model(source),
            load_model(target),
            plan=plan,
            prompts=prompts,
            stored=getattr(torch, dtype) if dtype in _HALVES else None,
            progress=checking,
        )
    lineage.add_measures(target, {"growth": proof.as_json()})
    write_card(target)
    return proof
