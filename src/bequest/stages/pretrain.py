"""``pretrain``: a new model, or one that exists, on a mixture of corpora, with or without teachers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bequest import checkpoints, processes
from bequest.planning import train_settings
from bequest.recipe import Pretrain
from bequest.stages.context import Context
from bequest.stages.handed_on import kept_optimizer, kept_state
from bequest.stages.language import head_for, learn, load_checked, stage_dtype
from bequest.stages.life import Life
from bequest.stages.publishing import Made, base_parent, publish_model

SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def run_pretrain(context: Context, section: Pretrain, life: Life) -> None:
    """Train and publish one generation."""
    tokenizer = stage_tokenizer(context, section, life.work)
    model = starting_model(context, section, tokenizer)
    methods = [make_teacher(context, section, index, tokenizer) for index in range(len(section.teachers))]
    base = context.local_directory(section.from_) if section.from_ is not None else None
    learnt = learn(
        context,
        section,
        model,
        tokenizer,
        shares=section.corpus,
        methods=methods,
        settings=train_settings(section),
        directory=life.work / "training",
        inherited=kept_state(base) if base is not None else None,
        optimizer=kept_optimizer(base) if base is not None and section.optimizer == "inherit" else None,
    )
    parents = [base_parent(context, reference.target, reference.role, life.final) for reference in section.references()]
    made = Made(
        section=section,
        method="+".join(teacher.schedule for teacher in section.teachers) or None,
        parents=parents,
        corpora=learnt.tokens_by_corpus,
        results=[learnt.result],
        directories=[life.work / "training"],
        optimizer=learnt.result.optimizer,
    )
    publish_model(context, life, learnt.result.model, tokenizer, made, dtype=stage_dtype(context, section))


def stage_tokenizer(context: Context, section: Pretrain, work: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a pretrain stage: the base's, a named one, or one trained here (once, kept for a resume)."""
    if section.from_ is not None:
        return checkpoints.load_tokenizer(context.directory(section.from_))
    if isinstance(section.tokenizer, str):
        return checkpoints.load_tokenizer(context.directory(section.tokenizer))
    from bequest.data.tokenizer_training import train_tokenizer

    spec = section.tokenizer
    assert spec is not None  # the schema fills one in where there is no base
    assert section.model is not None
    kept = work / "tokenizer"
    with processes.main_first():
        if not kept.is_dir():
            context.say(f"  training a {spec.kind} tokenizer of {spec.vocab_size:,} on {', '.join(section.corpus)}")
            corpora = [context.corpus(name) for name in section.corpus]
            train_tokenizer(spec.kind, corpora, spec.vocab_size, kept, family=section.model["family"])
    return checkpoints.load_tokenizer(kept)


def starting_model(context: Context, section: Pretrain, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The model that training starts from: the base, or a fresh one of the planned config."""
    if section.from_ is not None:
        return load_checked(context.directory(section.from_), head_for(context, section))
    planned = context.plan.stage(section.name).config
    assert planned is not None
    special = {key: getattr(tokenizer, key) for key in SPECIAL_IDS}
    # A small corpus may not fill the vocabulary that was asked for: the spare rows stay, so that the plan holds.
    return checkpoints.new_model({**planned, **special}, seed=section.seed)


def make_teacher(context: Context, section: Pretrain, index: int, tokenizer: PreTrainedTokenizerBase) -> Any:
    """The inheritance objective of one teacher; refuses one with another vocabulary.

    Raises:
        InputError: the teacher's tokenizer differs from the student's.
    """
    from bequest.anatomy import check_model
    from bequest.inheritance import Inherit, LiveTeacher
    from bequest.inheritance.teacher import check_same_tokens

    teacher = section.teachers[index]
    place = context.directory(teacher.model)
    theirs = checkpoints.load_tokenizer(place)
    check_same_tokens(theirs.get_vocab(), tokenizer.get_vocab(), where=context.recipe.source)
    model = load_checked(place, head_for(context, section))
    return Inherit(
        LiveTeacher(model, check_model(model), section.block),
        schedule=teacher.schedule,
        until=teacher.until,
        temperature=teacher.temperature,
        vocabulary=len(tokenizer),
    )
