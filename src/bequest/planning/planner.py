"""The plan of a recipe, stage by stage.  No weights are read; no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from bequest import storage
from bequest.anatomy import Anatomy, anatomy_of, complete_config, family_named, objective_of, sizes_of
from bequest.errors import InputError
from bequest.planning import estimates
from bequest.planning.artefacts import Artefact, Known, complaint, tokenizer_signature, vocabulary_size
from bequest.planning.checks import check_data, check_positions
from bequest.planning.learning import check_learning, with_learning
from bequest.planning.partial import check_optimizer, part_trained
from bequest.planning.plan import Plan, StagePlan
from bequest.planning.settings import train_settings
from bequest.recipe.ancestry import grown_between, training_follows
from bequest.recipe.parts import MethodCall, TokenizerSpec
from bequest.recipe.references import key_of, locate
from bequest.recipe.sections import (
    DEFAULT_LENGTH,
    Adapt,
    Budgeted,
    Grow,
    Measure,
    Pretrain,
    Recipe,
    Recycle,
    Reference,
    Section,
    Tune,
)

HEADS = {"causal": "causal-lm", "masked": "masked-lm"}


def make_plan(recipe: Recipe) -> Plan:
    """Decide everything about a recipe without loading weights.

    Raises:
        InputError: a config that no model can have, a file that is missing or empty, an outside model that cannot be
            read, tokenizers that differ where they must not, a block longer than the positions.
    """
    packed, examples = check_data(recipe)
    known = Known(recipe, examples)
    stages = []
    for section in recipe.stages:
        planned, artefact = _PLANNERS[section.kind](recipe, section, known)
        stages.append(planned)
        if artefact is not None:
            known.stages[section.name] = replace(artefact, name=section.name, stage=section)
    return Plan(recipe, tuple(stages), packed)


# -- stages -----------------------------------------------------------------------------------------------------------

Planned = tuple[StagePlan, Artefact | None]


def _plan_pretrain(recipe: Recipe, section: Pretrain, known: Known) -> Planned:
    new = section.model is not None
    start = _new_model(recipe, section, known) if new else known[section, section.references()[0]]
    check_optimizer(recipe, section, None if new else start)
    teachers = [(ref, known[section, ref]) for ref in section.references() if ref.role == "teacher"]
    for reference, teacher in teachers:
        _same_tokenizer(recipe, section, reference, start, teacher)
    planned, made = _trained(recipe, section, start, section.tokens, tuple(t.anatomy for _, t in teachers))
    share = _head_share(planned.objective)
    flops = 0.0
    for spec, (_, teacher) in zip(section.teachers, teachers, strict=True):
        tokens = section.tokens * spec.until if spec.until <= 1 else min(spec.until, section.tokens)
        tokens = {"none": 0, "constant": section.tokens}.get(spec.schedule, tokens)
        flops += tokens * teacher.anatomy.flops(section.block, head_share=share).forward
    return replace(planned, teacher_flops=flops), made


def _new_model(recipe: Recipe, section: Pretrain, known: Known) -> Artefact:
    """The config and tokenizer of a model that starts from nothing."""
    assert section.model is not None
    family = section.model["family"]
    sizes = {key: value for key, value in section.model.items() if key not in ("family", "vocab_size")}
    if isinstance(section.tokenizer, TokenizerSpec):
        vocab = section.tokenizer.vocab_size
        corpora = {name: recipe.corpora[name].model_dump(mode="json") for name in section.corpus}
        signature = storage.value_digest({"spec": section.tokenizer.model_dump(), "corpora": corpora})
    else:
        reference = next(ref for ref in section.references() if ref.role == "tokenizer")
        where = locate(recipe, reference.target)
        with complaint(recipe, section, "tokenizer"):
            if isinstance(where, Section):
                owner = known[section, reference]
                vocab, signature = owner.config["vocab_size"], owner.tokenizer
            else:
                vocab, signature = vocabulary_size(where), tokenizer_signature(where)
    with complaint(recipe, section, "model"):
        objective = section.objective or {v: k for k, v in HEADS.items()}[objective_of(family_named(family))]
        wanted = section.model.get("vocab_size", vocab)
        if not isinstance(wanted, int) or wanted < vocab:
            raise InputError(
                f"{wanted} is smaller than the tokenizer's {vocab}", key="vocab_size", remedy="leave it out"
            )
        config = complete_config(family, sizes, head=HEADS[objective], vocab_size=wanted)
    return Artefact(section.name, config, signature)


def _same_tokenizer(recipe: Recipe, section: Section, reference: Reference, mine: Artefact, other: Artefact) -> None:
    if mine.tokenizer != other.tokenizer:
        fresh = isinstance(section, Pretrain) and section.model is not None
        raise InputError(
            f"the tokenizer of {reference.target} differs from the one of {mine.name}",
            where=recipe.source,
            key=key_of(section, reference.key),
            remedy=f"use {key_of(section, 'tokenizer')}={reference.target}" if fresh else "choose one that shares it",
        )


def _trained(
    recipe: Recipe, section: Budgeted, artefact: Artefact, tokens: int, teachers: tuple[Anatomy, ...] = ()
) -> Planned:
    """What every language-model stage takes."""
    objective = artefact.objective
    if objective is None or section.objective not in (None, objective):
        has = f"a {objective} language-model head" if objective else "no language-model head"
        raise InputError(
            f"{artefact.name} has {has}",
            where=recipe.source,
            key=key_of(section, "objective" if section.objective else "from"),
            remedy="leave objective out" if objective else "name a causal or masked language model",
        )
    anatomy = artefact.anatomy
    check_positions(recipe, section, "block", section.block, anatomy)
    with complaint(recipe, section, ""):
        batches = train_settings(section).batches()
    share, params = _head_share(objective), anatomy.parameters()
    part = part_trained(recipe, section, artefact, share)
    keeps = isinstance(section, Pretrain) and section.keep_optimizer
    micro = batches.micro_batch * section.block
    made = params * estimates.DTYPE_BYTES[section.dtype or _dtype(artefact.config)]
    domains = len(section.domains) if isinstance(section, Adapt) else 1
    kept = (domains - 1) * estimates.FLOAT * params  # every finished domain keeps its model, not its checkpoints
    planned = StagePlan(
        section.name,
        section.kind,
        section,
        section.references(),
        config=artefact.config,
        params=params,
        trainable=part.trainable,
        tokens=batches.updates * batches.tokens_per_update * domains,
        updates=batches.updates * domains,
        train_flops=tokens * domains * part.flops_per_token,
        memory_bytes=estimates.training_bytes(
            anatomy,
            trainable=part.trainable,
            micro_tokens=micro,
            head_share=share,
            teachers=tuple(teacher.parameters() for teacher in teachers),
        ),
        disk_bytes=made + (estimates.ADAM * part.trainable if keeps else 0),
        checkpoint_bytes=(section.keep + 1) * estimates.checkpoint_bytes(params, part.trainable) + kept,
        objective=objective,
        block=section.block,
        inferred=_inferred(section, artefact.config),
        notes=part.notes,
    )
    return planned, replace(artefact, stage=section, optimizer=keeps)


def _plan_adapt(recipe: Recipe, section: Adapt, known: Known) -> Planned:
    return _trained(recipe, section, known[section, section.references()[0]], section.tokens)


def _plan_grow(recipe: Recipe, section: Grow, known: Known) -> Planned:
    from bequest.growth import plan_growth
    from bequest.growth.optimizer import state_refusal

    base = known[section, section.references()[0]]
    check_optimizer(recipe, section, base)
    follows = training_follows(recipe, section)
    with complaint(recipe, section, "to"):
        method = method_argument(section.method)
        growth = plan_growth(base.config, section.to, method=method, seed=section.seed, training_follows=follows)
        if growth.refusal is not None:
            nearest = f"the nearest that works: {_sizes(growth.nearest_exact)}" if growth.nearest_exact else None
            raise InputError(growth.refusal, remedy=nearest)
        refused = state_refusal(growth) if section.optimizer != "reset" else None
        if refused is not None:
            raise InputError(refused, key="optimizer", remedy="use optimizer: reset")
    check_learning(recipe, section, growth, base)
    params, before = growth.params, base.anatomy.parameters()
    state = section.optimizer != "reset"
    exact = () if growth.nearest_exact is None else (f"nearest exact: {_sizes(growth.nearest_exact)}",)
    planned = StagePlan(
        section.name,
        section.kind,
        section,
        section.references(),
        config=growth.target_config,
        params=params,
        memory_bytes=estimates.growing_bytes(before, params) + (estimates.ADAM * (before + params) if state else 0),
        disk_bytes=params * estimates.DTYPE_BYTES[_dtype(base.config)] + (estimates.ADAM * params if state else 0),
        exact=growth.exact,
        verdict=f"{'exact' if growth.exact else 'approximate'}: {growth.reason}",
        inferred=growth.inferred,
        notes=(*exact, *growth.notes),
    )
    planned = with_learning(planned, section, growth, base.objective)
    added = growth.new_layers or base.new_layers  # growing the width leaves the layers where they were
    return planned, replace(base, config=growth.target_config, new_layers=added, optimizer=state)


def _plan_tune(recipe: Recipe, section: Tune, known: Known) -> Planned:
    base = known[section, section.references()[0]]
    rank = (section.adapter.model_extra or {}).get("r", 8) if section.adapter is not None else None
    adapter = section.adapter.model_dump() if section.adapter is not None else None
    planned = _tuned(recipe, section, base.anatomy, known.examples.get(section.task), adapter, rank)
    return planned, replace(base, tuned=True, adapter=adapter, task=section.task)


def _plan_recycle(recipe: Recipe, section: Recycle, known: Known) -> Planned:
    tuned_ref, onto_ref = section.references()
    tuned, onto = known[section, tuned_ref], known[section, onto_ref]
    _same_tokenizer(recipe, section, onto_ref, tuned, onto)
    task = section.task or tuned.task
    rank = (tuned.adapter or {}).get("r", 8)
    with complaint(recipe, section, "onto"):
        names = {call.name for call in section.method}
        if sizes_of(tuned.config) != sizes_of(onto.config) and (
            "direct" in names or grown_between(recipe, section.tuned, section.onto) is False
        ):
            raise InputError(
                f"{section.tuned} was tuned on a base of another shape",
                remedy="use carry or initialise on a base that grew from the one it was tuned on, or tune anew",
            )
    trains = bool(names - {"direct", "carry"})
    planned = _tuned(recipe, section, onto.anatomy, known.examples.get(task or ""), tuned.adapter, rank, trains=trains)
    return planned, replace(onto, tuned=True, adapter=tuned.adapter, task=task)


def _tuned(
    recipe: Recipe,
    section: Tune | Recycle,
    anatomy: Anatomy,
    examples: int | None,
    adapter: Mapping[str, Any] | None,
    rank: int | None,
    *,
    trains: bool = True,
) -> StagePlan:
    """What tuning takes; ``examples`` is None where they are not known before the run."""
    if trains and section.max_length is not None:  # without one, recycled weights keep the length they were tuned with
        check_positions(recipe, section, "max_length", section.max_length, anatomy)
    length = section.max_length or DEFAULT_LENGTH
    params = anatomy.parameters()
    kind = str((adapter or {}).get("type", (adapter or {}).get("peft_type", ""))).lower()
    is_lora = adapter is not None and kind == "lora" and isinstance(rank, int)
    trainable = params if adapter is None else estimates.lora_parameters(anatomy, rank or 8) if is_lora else None
    guess = trainable if trainable is not None else params // 100
    updates = math.ceil(section.epochs * examples / section.batch) if examples else None
    tokens = round(section.epochs * examples) * length if examples else None
    flops = anatomy.flops(length, head_share=0.0)
    # Weights that are not trained need no gradient of their own: the backward pass then costs as much as the forward.
    per_token = flops.train if adapter is None else 2 * flops.forward
    micro = section.batch * length
    memory = estimates.training_bytes(anatomy, trainable=guess, micro_tokens=micro, head_share=0.0)
    return StagePlan(
        section.name,
        section.kind,
        section,
        section.references(),
        params=params if adapter is None else None,
        trainable=trainable,
        tokens=tokens if trains else 0,
        updates=updates if trains else 0,
        train_flops=(None if tokens is None else tokens * per_token) if trains else 0.0,
        memory_bytes=memory if trains else estimates.inference_bytes(anatomy, micro, 0.0),
        disk_bytes=estimates.FLOAT * guess,
        checkpoint_bytes=3 * estimates.checkpoint_bytes(params, guess) if trains else 0,
        block=length,
        notes=() if examples or not trains else ("tokens depend on the task's examples",),
    )


def _plan_measure(recipe: Recipe, section: Measure, known: Known) -> Planned:
    measured = [known[section, reference] for reference in section.references()]
    for artefact in measured:
        if section.corpora and not artefact.tuned:
            check_positions(recipe, section, "block", section.block, artefact.anatomy)
        if section.tasks and section.max_length is not None and not artefact.tuned:
            check_positions(recipe, section, "max_length", section.max_length, artefact.anatomy)
    memory = max(estimates.inference_bytes(a.anatomy, 32 * section.block, _head_share(a.objective)) for a in measured)
    planned = StagePlan(
        section.name, section.kind, section, section.references(), memory_bytes=memory, block=section.block
    )
    return planned, None


_PLANNERS: dict[str, Callable[[Recipe, Any, Known], Planned]] = {
    "pretrain": _plan_pretrain,
    "grow": _plan_grow,
    "adapt": _plan_adapt,
    "tune": _plan_tune,
    "recycle": _plan_recycle,
    "measure": _plan_measure,
}


# -- small parts ------------------------------------------------------------------------------------------------------


def method_argument(calls: tuple[MethodCall, ...]) -> Any:
    """The methods as the Python API takes them: a name where it is only that, else names and mappings."""
    plain = [{"name": call.name, **call.options} if call.options else call.name for call in calls]
    return plain[0] if len(plain) == 1 else plain


def _head_share(objective: str | None) -> float:
    return estimates.MASKED_SHARE if objective == "masked" else 1.0


def _dtype(config: Mapping[str, Any]) -> str:
    named = str(config.get("dtype") or config.get("torch_dtype") or "float32").removeprefix("torch.")
    return named if named in estimates.DTYPE_BYTES else "float32"


def _inferred(section: Section, config: Mapping[str, Any]) -> dict[str, str]:
    """The sizes of a new model that its recipe does not name."""
    if not isinstance(section, Pretrain) or section.model is None:
        return {}
    family = anatomy_of(config).family
    named = {family.canonical(key) for key in section.model}
    sizes = {**sizes_of(config), "vocab_size": config["vocab_size"]}
    return {key: str(value) for key, value in sizes.items() if key not in named}


def _sizes(value: Any) -> str:
    return ", ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)
