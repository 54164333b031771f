"""The recipe's schema: six stage kinds, corpora, tasks.  Unknown keys are refused; everything is frozen.

Defaults are filled in here, so that two recipes that mean the same thing validate to the same value (and hash alike):
a method by name, as a mapping or as a list of these becomes a tuple of calls, a corpus or a list of corpora becomes
a mapping to shares that sum to one, and a stage without a seed takes the recipe's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, PrivateAttr, model_validator

from bequest.anatomy.families import FAMILIES
from bequest.data.specs import CorpusSpec, TaskSpec
from bequest.recipe.parts import (
    VOCABULARY,
    AdapterSpec,
    MethodCall,
    Methods,
    Names,
    Shares,
    Sizes,
    Strict,
    Teacher,
    Tokenizer,
    TwoStageSpec,
)
from bequest.recipe.quantities import Count, ExplainedError, Seed, ShareOrCount

DEFAULT_LENGTH = 128
"""Tokens of a labelled example where nothing says otherwise."""
# What a stage's directory may be called: the run directory holds other files, and hidden names are work in progress.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
RESERVED = {"run.json", "report.html", "recipe.yaml", "checkpoints"}


class Reference(NamedTuple):
    """A stage's mention of another artefact: at which dotted key, the stage name, directory or Hub id, and its role."""

    key: str
    target: str
    role: Literal["base", "teacher", "tuned", "tokenizer"]


# -- stages -----------------------------------------------------------------------------------------------------------


class Section(Strict):
    """What every stage has: a kind, a name and a seed."""

    kind: str
    name: str
    seed: Seed = 0

    makes: ClassVar[Literal["model", "tuned", "measures"]] = "model"

    @model_validator(mode="after")
    def _usable_name(self) -> Section:
        if not NAME.fullmatch(self.name) or self.name in RESERVED:
            raise ExplainedError(
                f"{self.name!r} cannot name a stage's directory", "use letters, digits, '.', '_' and '-'", key="name"
            )
        return self

    def references(self) -> tuple[Reference, ...]:
        """What the stage takes from other stages, directories or the Hub, in a fixed order."""
        return ()

    def corpora_used(self) -> tuple[str, ...]:
        """The corpora of the recipe that the stage reads."""
        return ()

    def tasks_used(self) -> tuple[str, ...]:
        """The tasks of the recipe that the stage reads."""
        return ()


class Trained(Section):
    """A stage that trains: ``training`` passes through to ``transformers.TrainingArguments``."""

    training: dict[str, Any] = Field(default_factory=dict)


class Budgeted(Trained):
    """The fields of a stage that trains a language model for a budget of tokens.

    ``train_only: new_blocks`` trains the blocks that the base's growth added, and freezes everything else.
    """

    tokens: Count
    block: Count = 128
    batch_tokens: Count = 4096
    micro_batch_tokens: Count | None = None
    lr: float = Field(3e-4, gt=0, allow_inf_nan=False)
    schedule: str = "cosine"
    warmup: ShareOrCount = 0.05
    weight_decay: float = Field(0.01, ge=0)
    mask_seed: Seed = 0
    mask_variants: Count = 10
    whole_word: bool = False
    objective: Literal["causal", "masked"] | None = None
    evaluate_every: float = Field(0.1, gt=0, le=1)
    evaluate_blocks: Count | None = 256
    checkpoint_every: int | str | None = "10min"
    keep: Count = 2
    max_grad_norm: float = Field(1.0, ge=0)
    min_lr_ratio: float = Field(0.0, ge=0, le=1)
    bf16: bool | Literal["auto"] = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    train_only: Literal["new_blocks"] | None = None

    @model_validator(mode="after")
    def _whole_batches(self) -> Budgeted:
        micro = self.micro_batch_tokens
        if self.block < 2:
            raise ExplainedError(
                f"a block of {self.block} leaves nothing to predict", "use at least 2, usually 128 or more", key="block"
            )
        if self.batch_tokens % self.block:
            nearest = max(1, round(self.batch_tokens / self.block)) * self.block
            raise ExplainedError(
                f"{self.batch_tokens} tokens are no whole number of blocks of {self.block}",
                f"use {nearest}",
                key="batch_tokens",
            )
        if micro is not None and micro < self.block:
            raise ExplainedError(
                f"{micro} tokens do not hold one block of {self.block}",
                f"use {self.block}, or leave it out",
                key="micro_batch_tokens",
            )
        if self.tokens < self.batch_tokens:
            raise ExplainedError(
                f"{self.tokens} tokens are less than one batch of {self.batch_tokens}",
                "raise tokens or lower batch_tokens",
                key="tokens",
            )
        return self


class Pretrain(Budgeted):
    """Train a language model: a new one (``model``) or one that exists (``from``), with or without teachers.

    ``keep_optimizer`` leaves Adam's state beside the weights; ``optimizer: inherit`` starts from the base's.
    """

    kind: Literal["pretrain"] = "pretrain"
    model: Sizes | None = None
    from_: str | None = Field(None, alias="from")
    corpus: Shares
    tokenizer: Tokenizer | None = None
    teachers: tuple[Teacher, ...] = ()
    two_stage: TwoStageSpec | None = None
    keep_optimizer: bool = False
    optimizer: Literal["fresh", "inherit"] = "fresh"

    @model_validator(mode="before")
    @classmethod
    def _default_tokenizer(cls, value: Any) -> Any:
        """A new model gets a tokenizer of its own, of the family's kind and of the vocabulary that the model names."""
        model = value.get("model") if isinstance(value, Mapping) else None
        spec = value.get("tokenizer") if isinstance(value, Mapping) else None
        if not isinstance(model, Mapping) or not (spec is None or isinstance(spec, Mapping)):
            return value
        family = FAMILIES.get(str(model.get("family")))  # an unknown one is complained of later, by name
        filled = {
            **({"kind": family.tokenizer} if family else {}),
            "vocab_size": model.get("vocab_size", VOCABULARY),
            **(spec or {}),
        }
        return {**value, "tokenizer": filled}

    @model_validator(mode="after")
    def _one_start(self) -> Pretrain:
        if (self.model is None) == (self.from_ is None):
            what = "neither model nor from" if self.model is None else "both model and from"
            raise ExplainedError(
                f"has {what}", "give model: {family: ...} for a new model, or from: for one that exists"
            )
        if self.model is not None and not isinstance(self.model.get("family"), str):
            raise ExplainedError("is missing", "write model: {family: llama, hidden_size: ...}", key="model.family")
        if self.from_ is not None and self.tokenizer is not None:
            raise ExplainedError(
                "does not go with from", "a model that exists keeps its tokenizer: leave it out", key="tokenizer"
            )
        return self

    @model_validator(mode="after")
    def _what_a_base_gives(self) -> Pretrain:
        if self.train_only is not None and self.two_stage is not None:
            raise ExplainedError(
                "does not go with two_stage, which trains every layer in turn", "drop one", key="train_only"
            )
        for key, given in (("train_only", self.train_only is not None), ("optimizer", self.optimizer == "inherit")):
            if given and self.from_ is None:
                raise ExplainedError("needs a base, and a new model has none", "name it: from: STAGE", key=key)
        return self

    def references(self) -> tuple[Reference, ...]:
        """The base, the tokenizer's owner where it is named, and the teachers."""
        found = [Reference("from", self.from_, "base")] if self.from_ else []
        if isinstance(self.tokenizer, str):
            found.append(Reference("tokenizer", self.tokenizer, "tokenizer"))
        return (*found, *(Reference(f"teachers.{i}.model", t.model, "teacher") for i, t in enumerate(self.teachers)))

    def corpora_used(self) -> tuple[str, ...]:
        """The corpora that are mixed."""
        return tuple(self.corpus)


class Grow(Section):
    """Make a larger model out of a smaller one.

    ``optimizer`` grows the Adam state that the base keeps: by the law of gradients (``grow``), for the first copies
    only (``zero_new``), or not at all (``reset``).  A method that learns its maps (``ligo``) learns them on ``corpus``,
    ``batch_tokens`` (4096) a step in blocks of ``block`` (128) tokens.
    """

    kind: Literal["grow"] = "grow"
    from_: str = Field(alias="from")
    to: Annotated[Sizes, Field(min_length=1)]
    method: Methods = (MethodCall(name="auto"),)
    optimizer: Literal["reset", "grow", "zero_new"] = "reset"
    corpus: Shares | None = None
    block: Count | None = None
    batch_tokens: Count | None = None

    @model_validator(mode="after")
    def _whole_batches(self) -> Grow:
        for key, value in (("block", self.block), ("batch_tokens", self.batch_tokens)):
            if value is not None and self.corpus is None:
                raise ExplainedError("is for learning maps on a corpus", "leave it out, or name a corpus", key=key)
        if self.learning_block < 2:
            raise ExplainedError("a block of 1 leaves nothing to predict", "use at least 2", key="block")
        if self.learning_tokens % self.learning_block:
            raise ExplainedError(
                f"{self.learning_tokens} tokens are no whole number of blocks of {self.learning_block}",
                f"use {max(1, round(self.learning_tokens / self.learning_block)) * self.learning_block}",
                key="batch_tokens",
            )
        return self

    @property
    def learning_block(self) -> int:
        """Tokens in a block on which maps are learned."""
        return self.block or 128

    @property
    def learning_tokens(self) -> int:
        """Tokens in each step of learning maps."""
        return self.batch_tokens or 4096

    def corpora_used(self) -> tuple[str, ...]:
        """The corpora that maps are learned on."""
        return tuple(self.corpus or ())

    def references(self) -> tuple[Reference, ...]:
        """The smaller model."""
        return (Reference("from", self.from_, "base"),)


class Adapt(Budgeted):
    """Go on training a model through a sequence of domains; ``tokens`` is the budget of each domain."""

    kind: Literal["adapt"] = "adapt"
    from_: str = Field(alias="from")
    domains: Names = Field(min_length=1)
    method: Methods = (MethodCall(name="sequential"),)
    lr: float = Field(1e-4, gt=0, allow_inf_nan=False)

    def references(self) -> tuple[Reference, ...]:
        """The model that is adapted."""
        return (Reference("from", self.from_, "base"),)

    def corpora_used(self) -> tuple[str, ...]:
        """The domains, in order."""
        return self.domains


class Tune(Trained):
    """Tune a model for a task: a PEFT adapter, or the whole model where ``adapter`` is null."""

    kind: Literal["tune"] = "tune"
    makes: ClassVar[Literal["model", "tuned", "measures"]] = "tuned"
    from_: str = Field(alias="from")
    task: str
    adapter: AdapterSpec | None = None
    epochs: float = Field(3.0, gt=0)
    batch: Count = 16
    lr: float = Field(gt=0, allow_inf_nan=False)
    max_length: Count = 128
    warmup: ShareOrCount = 0.05
    schedule: str = "linear"
    weight_decay: float = Field(0.01, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _default_lr(cls, value: Any) -> Any:
        """An adapter starts from nothing and takes a larger step than a whole model does."""
        if isinstance(value, Mapping) and "lr" not in value:
            return {**value, "lr": 1e-3 if value.get("adapter") is not None else 5e-5}
        return value

    def references(self) -> tuple[Reference, ...]:
        """The base."""
        return (Reference("from", self.from_, "base"),)

    def tasks_used(self) -> tuple[str, ...]:
        """The task."""
        return (self.task,)


class Recycle(Trained):
    """Bring weights that were tuned for an old base onto a new one."""

    kind: Literal["recycle"] = "recycle"
    makes: ClassVar[Literal["model", "tuned", "measures"]] = "tuned"
    tuned: str
    onto: str
    method: Methods = (MethodCall(name="direct"),)
    task: str | None = None
    epochs: float = Field(1.0, gt=0)
    batch: Count = 16
    lr: float = Field(5e-4, gt=0, allow_inf_nan=False)
    max_length: Count | None = None

    def references(self) -> tuple[Reference, ...]:
        """The tuned weights and the new base."""
        return (Reference("tuned", self.tuned, "tuned"), Reference("onto", self.onto, "base"))

    def tasks_used(self) -> tuple[str, ...]:
        """The task, where one is named."""
        return (self.task,) if self.task else ()


class Measure(Section):
    """Measure models on corpora (perplexity) and on tasks (accuracy, macro-F1)."""

    kind: Literal["measure"] = "measure"
    makes: ClassVar[Literal["model", "tuned", "measures"]] = "measures"
    models: Names = Field(min_length=1)
    corpora: Names = ()
    tasks: Names = ()
    seeds: Count = 3
    probe: Literal["linear", "tune"] = "linear"
    max_length: Count | None = None
    block: Count = 128
    blocks: Count | None = None
    examples: Count | None = None

    def references(self) -> tuple[Reference, ...]:
        """The models and tuned weights measured."""
        return tuple(Reference(f"models.{index}", model, "base") for index, model in enumerate(self.models))

    def corpora_used(self) -> tuple[str, ...]:
        """The corpora that perplexity is measured on."""
        return self.corpora

    def tasks_used(self) -> tuple[str, ...]:
        """The tasks measured."""
        return self.tasks


STAGES: dict[str, type[Section]] = {
    "pretrain": Pretrain,
    "grow": Grow,
    "adapt": Adapt,
    "tune": Tune,
    "recycle": Recycle,
    "measure": Measure,
}
Stage = Annotated[Pretrain | Grow | Adapt | Tune | Recycle | Measure, Field(discriminator="kind")]


class Recipe(Strict):
    """The whole recipe; make one with :func:`bequest.recipe.load_recipe`, which also checks what refers to what."""

    name: str
    seed: Seed = 0
    out: str | None = None
    corpora: dict[str, CorpusSpec] = Field(default_factory=dict)
    tasks: dict[str, TaskSpec] = Field(default_factory=dict)
    stages: tuple[Stage, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _usable_name(self) -> Recipe:
        if not NAME.fullmatch(self.name):
            remedy = "use letters, digits, '.', '_' and '-'"
            raise ExplainedError(f"{self.name!r} cannot name a run", remedy, key="name")
        return self

    _source: Path = PrivateAttr(default=Path("recipe.yaml"))
    _merged: str | None = PrivateAttr(default=None)

    @property
    def source(self) -> Path:
        """The file it was read from."""
        return self._source

    def text(self) -> str:
        """The YAML that says what is run: the file's own, or with overrides the two merged, which a comment names."""
        return self._merged if self._merged is not None else self._source.read_text(encoding="utf-8")

    @property
    def root(self) -> Path:
        """The directory that relative paths in the recipe start from: the recipe's own."""
        return self._source.parent

    def stage(self, name: str) -> Section | None:
        """The stage of this name, or None."""
        return next((stage for stage in self.stages if stage.name == name), None)
