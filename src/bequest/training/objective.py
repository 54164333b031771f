"""What training minimises: named, weighted sums over target positions, divided once by the global number of targets.

``loss = sum_terms weight * (sum over all targets of the update) / (number of targets of the update)``, where the update
is every micro-batch of every process.  An objective only adds up over *its own* micro-batch; the trainer divides, and
undoes the averaging of gradients over processes.  Models never see ``labels``.

An objective works in any loop::

    step = Step(model=model, batch=inputs, targets=targets, global_targets=int((targets != -100).sum()), head=head)
    terms = Objective().terms(step)
    loss = sum(term.weight * term.total for term in terms.values()) / step.global_targets
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bequest.errors import InputError
from bequest.training.divergence import cross_entropy_sum
from bequest.training.head_positions import forward_positions

IGNORED = -100
"""The target id of a position that is not a target."""


@dataclass(frozen=True)
class Term:
    """One addend of the loss: ``total`` is the fp32 sum over this micro-batch's targets, 0-dimensional."""

    total: Tensor
    weight: float = 1.0


@dataclass(frozen=True)
class Progress:
    """Where the run stands, in optimizer updates already done (0-based) and in tokens."""

    update: int = 0
    updates: int = 1
    tokens: int = 0
    total_tokens: int = 1
    tokens_per_update: int = 1

    def updates_for(self, amount: float) -> int:
        """A share of the run (up to 1) or a number of tokens (above 1) as updates, at least one."""
        if amount <= 1:
            return max(1, round(amount * self.updates))
        return max(1, -(-int(amount) // self.tokens_per_update))


@dataclass(frozen=True, eq=False)
class Step:
    """One micro-batch on its way through the model.

    ``batch`` holds the model's inputs (``input_ids`` [B, T], ...); ``targets`` is [B, T] with -100 where there is no
    target, already shifted for causal models, or [B] class ids for classification.
    """

    model: nn.Module
    """The wrapped root model (DDP, FSDP, compiled, ...): always call this one."""
    batch: Mapping[str, Tensor]
    targets: Tensor
    global_targets: int
    """Targets of the whole update: all micro-batches, all processes."""
    head: nn.Module | None = None
    """The module through which only target positions are sent; ``None`` sends every position."""
    positions: Tensor | None = None
    """Flat indices [N] of the target positions when they are known already."""
    generator: torch.Generator | None = None
    progress: Progress = field(default_factory=Progress)
    domains: Tensor | None = None
    """Domain id of every sequence, [B]."""
    autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    """Mixed precision as the trainer uses it, for models that the trainer did not wrap (teachers)."""
    cache: dict[str, Any] = field(default_factory=dict, repr=False)
    """What terms of one step share: the logits are computed once."""

    def target_positions(self) -> Tensor:
        """Flat indices [N] into the batch's B*T positions, in order."""
        if self.positions is not None:
            return self.positions
        if "positions" not in self.cache:
            self.cache["positions"] = (self.targets.reshape(-1) != IGNORED).nonzero().squeeze(-1)
        found: Tensor = self.cache["positions"]
        return found

    def target_ids(self) -> Tensor:
        """The ids to be predicted, [N] (language models) or [B] (classification)."""
        if self.targets.dim() == 1:
            return self.targets
        return self.targets.reshape(-1).index_select(0, self.target_positions())

    def logits(self) -> Tensor:
        """The model's logits at the target positions, [N, vocabulary], or [B, classes] for classification.

        The root model runs once per step; later calls return the same tensor.
        """
        if "logits" not in self.cache:
            positions = None if self.targets.dim() == 1 else self.target_positions()
            self.cache["logits"] = forward_positions(self.model, self.head, self.batch, positions)
        logits: Tensor = self.cache["logits"]
        return logits


@dataclass(frozen=True)
class Source:
    """A corpus of a mixture: ``blocks`` is a map-style data set and ``share`` its part of the tokens."""

    name: str
    blocks: Any
    share: float


@dataclass(frozen=True)
class Stage:
    """What an objective sees when a stage begins and ends: the plain model, a place for files, the parent's state."""

    model: nn.Module
    directory: Path
    updates: int
    tokens_per_update: int
    inherited: Mapping[str, Any] = field(default_factory=dict)


class Objective(ABC):
    """What training minimises.  ``terms`` is required; the other moments do nothing unless a method needs them."""

    @abstractmethod
    def terms(self, step: Step) -> dict[str, Term]:
        """The named, weighted addends of the loss for one micro-batch; a method that adds none returns ``{}``."""

    def mixture(self, current: Sequence[Source], earlier: Sequence[Source]) -> Sequence[Source]:
        """The corpora to train on, given the stage's own and those of earlier stages (shares add up to one)."""
        return current

    def prepare(self, model: nn.Module) -> nn.Module:
        """Change or wrap the model before training; a plan refuses two methods that both do."""
        return model

    def update_masks(self) -> Mapping[str, Tensor]:
        """Importance in [0, 1] by parameter name, broadcastable to it: 1 forbids motion, 0 leaves it free."""
        return {}

    def begin(self, stage: Stage) -> None:  # noqa: B027  # optional on purpose
        """Called once before the first update, and again when a run resumes."""

    def end(self, stage: Stage) -> Mapping[str, Any]:
        """Called after the last update, with the trained model; what it returns is handed to the next stage.

        Tensors, numbers, text, lists and mappings by text; it lies beside the generation (``objective/``), and the next
        stage's objective of this class finds it in ``begin(stage).inherited``.
        """
        return {}

    def flops(self, tokens: int, targets: int, progress: Progress) -> int:
        """FLOPs of one update beyond the student's own (a teacher's forward), for the global batch."""
        return 0

    def state(self) -> Mapping[str, Any]:
        """What must survive a resume (JSON-like); saved in every checkpoint."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:  # noqa: B027  # optional on purpose
        """Take back what :meth:`state` gave."""


@dataclass(frozen=True)
class LanguageModelling(Objective):
    """The bare language-model objective, masked or causal as the collator made the targets: ``-log p(y)``."""

    def terms(self, step: Step) -> dict[str, Term]:
        """One term, ``lm``."""
        return {"lm": Term(cross_entropy_sum(step.logits(), step.target_ids()))}


@dataclass(frozen=True)
class Classification(Objective):
    """Cross-entropy of a sequence-classification head; ``targets`` are class ids [B]."""

    def terms(self, step: Step) -> dict[str, Term]:
        """One term, ``classification``."""
        return {"classification": Term(cross_entropy_sum(step.logits(), step.target_ids()))}


@dataclass(frozen=True)
class Composed(Objective):
    """Methods on top of a base objective: a term of a method replaces the base's term of the same name.

    So a teacher's ``{"lm": 1 - a, "inherit": a}`` replaces the bare ``lm``, and a penalty stands beside it.
    """

    methods: tuple[Objective, ...] = ()
    base: Objective = field(default_factory=LanguageModelling)

    def terms(self, step: Step) -> dict[str, Term]:
        """All methods' terms, and the base's where no method gave it; two methods must not name one term alike."""
        terms: dict[str, Term] = {}
        for method in self.methods:
            for name, term in method.terms(step).items():
                if name in terms:
                    raise InputError(f"two methods both give the term {name!r}", key="method", remedy="drop one")
                terms[name] = term
        if any(name in terms for name in BASE_TERMS):
            return terms
        return {**self.base.terms(step), **terms}

    def mixture(self, current: Sequence[Source], earlier: Sequence[Source]) -> Sequence[Source]:
        """Each method's mixture in turn."""
        for method in self.methods:
            current = method.mixture(current, earlier)
        return current

    def prepare(self, model: nn.Module) -> nn.Module:
        """Each method's preparation in turn (at most one has any)."""
        for method in self.methods:
            model = method.prepare(model)
        return model

    def update_masks(self) -> Mapping[str, Tensor]:
        """The methods' masks; where two protect one parameter, the stronger protection."""
        masks: dict[str, Tensor] = {}
        for method in self.methods:
            for name, importance in method.update_masks().items():
                masks[name] = torch.maximum(masks[name], importance) if name in masks else importance
        return masks

    def begin(self, stage: Stage) -> None:
        """Begin every method; each inherits what its own class handed on."""
        for method in self.methods:
            method.begin(replace(stage, inherited=stage.inherited.get(type(method).__name__, {})))

    def end(self, stage: Stage) -> Mapping[str, Any]:
        """End every method; the states by class name."""
        states = {type(method).__name__: method.end(stage) for method in self.methods}
        return {name: state for name, state in states.items() if state}

    def flops(self, tokens: int, targets: int, progress: Progress) -> int:
        """The sum over methods."""
        return sum(method.flops(tokens, targets, progress) for method in self.methods)

    def state(self) -> Mapping[str, Any]:
        """The methods' states by class name."""
        states = {type(method).__name__: method.state() for method in self.methods}
        return {name: state for name, state in states.items() if state}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Give every method its state back."""
        for method in self.methods:
            if type(method).__name__ in state:
                method.restore(state[type(method).__name__])


BASE_TERMS = frozenset({"lm", "classification"})


def compose(objective: Objective | Sequence[Objective]) -> Objective:
    """One objective out of one or several; the bare language model is underneath where none gives its term.

    Raises:
        InputError: two methods both change the model (``prepare``).
    """
    methods = (objective,) if isinstance(objective, Objective) else tuple(objective)
    changing = [type(method).__name__ for method in methods if type(method).prepare is not Objective.prepare]
    if len(changing) > 1:
        raise InputError(f"{' and '.join(changing)} both change the model", key="method", remedy="use one of them")
    if len(methods) == 1 and isinstance(methods[0], LanguageModelling | Classification | Composed):
        return methods[0]
    return Composed(methods)
