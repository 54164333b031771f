"""What the stages that train a language model share: the objective's kind, packed data, one call of the loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bequest import checkpoints
from bequest.anatomy import Anatomy, check_model
from bequest.errors import InputError
from bequest.recipe import Adapt, Pretrain, new_blocks
from bequest.stages.context import Context
from bequest.training.settings import TrainSettings

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from bequest.data.mixtures import Mixture
    from bequest.training import Source, TrainResult


@dataclass(frozen=True)
class Learnt:
    """What one call of the loop gave, and how many tokens of each corpus it took."""

    result: TrainResult
    tokens_by_corpus: dict[str, int]


def head_for(context: Context, section: Pretrain | Adapt) -> str:
    """``causal-lm`` or ``masked-lm``, as the plan decided."""
    return f"{context.plan.stage(section.name).objective}-lm"


def stage_dtype(context: Context, section: Pretrain | Adapt) -> str | None:
    """What a generation is stored in: as the recipe says, else as its base is; a new model in float32."""
    if section.dtype is not None or section.from_ is None:
        return section.dtype
    return checkpoints.stored_dtype(context.local_directory(section.from_))


def load_checked(directory: str | Path, head: str | None = None) -> PreTrainedModel:
    """Load a model and hold it against its family's table, before anything is written.

    Raises:
        AnatomyError: a tensor that no line names, a line without a tensor, or a size that disagrees.
    """
    model = checkpoints.load_model(directory, head=head)
    check_model(model)
    return model


def learn(
    context: Context,
    section: Pretrain | Adapt,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    shares: Mapping[str, float],
    methods: Sequence[Any],
    settings: TrainSettings,
    directory: Path,
    earlier: Sequence[str] = (),
    inherited: Mapping[str, Any] | None = None,
    optimizer: Mapping[str, Tensor] | None = None,
) -> Learnt:
    """Train ``model`` in place on a mixture of corpora; the held-out side of every corpus involved is measured.

    Args:
        shares: corpus -> share of the tokens.
        methods: objectives on top of the bare language model.
        settings: budget, schedule, checkpoints.
        directory: where the loop keeps checkpoints and ``metrics.jsonl``; it resumes from there.
        earlier: corpora that earlier stages were trained on, which a method may replay; they are measured too.
        inherited: what the methods of the stage before handed on.
        optimizer: Adam's state to go on from, by name.
    """
    from bequest.data.mixtures import Mixture
    from bequest.training import TrainingData, train
    from bequest.training.objective import Source, compose

    head = head_for(context, section)
    anatomy = Anatomy(model.config.to_dict(), head)
    objective = compose(methods)

    def sources(parts: Mapping[str, float]) -> list[Source]:
        packed = {name: context.packed(name, tokenizer, section.block) for name in parts}
        return [Source(name, packed[name].train, share) for name, share in parts.items()]

    mixed = list(objective.mixture(sources(shares), sources(dict.fromkeys(earlier, 1.0))))
    mixture = Mixture([(source.blocks, source.share) for source in mixed], seed=settings.seed)
    measured = [*shares, *(name for name in earlier if name not in shares)]
    data = TrainingData(
        train=mixture,
        collator=_collator(section, head, tokenizer),
        eval={name: context.packed(name, tokenizer, section.block).held_out for name in measured},
        unigram=context.unigram(measured, tokenizer, section.block),
    )
    describe(context, mixed, tokenizer, section.block)
    result = train(
        model,
        data,
        objective,
        settings,
        directory,
        anatomy=anatomy,
        console=context.console,
        name=f"  {section.name}",
        inherited=inherited,
        only=trained_names(context, section, anatomy),
        optimizer=optimizer,
    )
    return Learnt(result, tokens_taken(mixed, mixture, result.tokens))


def _collator(section: Pretrain | Adapt, head: str, tokenizer: PreTrainedTokenizerBase) -> Any:
    """What makes batches of blocks, masked where the head asks for it."""
    from bequest.data.masking import collator_for

    return collator_for(
        head, tokenizer, mask_seed=section.mask_seed, variants=section.mask_variants, whole_word=section.whole_word
    )


def trained_names(context: Context, section: Pretrain | Adapt, anatomy: Anatomy) -> frozenset[str] | None:
    """The parameters that a stage trains; ``None`` for all of them.

    Raises:
        InputError: the base records no new blocks.
    """
    if section.train_only is None or section.from_ is None:
        return None
    added = new_blocks(context.local_directory(section.from_))
    if not added:
        raise InputError(f"{section.from_} records no new blocks", key="train_only", remedy="grow it in depth first")
    return frozenset(name for name, tensor in anatomy.tensors.items() if tensor.layer in added)


def describe(context: Context, mixed: Sequence[Source], tokenizer: PreTrainedTokenizerBase, block: int) -> None:
    """One line per corpus: its share, its size, how much of its held-out text stands in the training side too."""
    for source in mixed:
        statistics = context.packed(source.name, tokenizer, block).statistics
        context.say(
            f"  {source.name}: {source.share:.1%} of the tokens; {statistics.train_tokens:,} tokens to train on, "
            f"{statistics.held_out_tokens:,} held out ({statistics.overlap_13gram:.1%} of their 13-grams are in "
            f"training), unigram entropy {statistics.unigram_entropy_nats:.3f} nats"
        )


def tokens_taken(mixed: Sequence[Source], mixture: Mixture, tokens: int) -> dict[str, int]:
    """Tokens that a run of ``tokens`` took from each corpus of its mixture, exactly."""
    taken: dict[str, int] = {}
    for source, blocks in zip(mixed, mixture.taken(tokens // mixture.block), strict=True):
        taken[source.name] = taken.get(source.name, 0) + blocks * mixture.block
    return taken
