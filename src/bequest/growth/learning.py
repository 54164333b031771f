"""Maps that are trained: the target's weights as a differentiable function of the source's (LiGO, growth.md §10).

    theta' = M theta,   W'_l' = sum_l w_l'l B W_l Aᵀ        minimise the language model's loss at theta' over B, A and w

The source's weights stay as they are; what moves is one matrix for everything that writes an axis, one for everything
that reads it, and for each kind of tensor the mixture of layers.  The target runs in eval mode: without dropout a few
hundred updates see the same function, and a run is the same whenever its seed is.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from bequest.anatomy import Anatomy, Tensor
from bequest.anatomy.axes import Role
from bequest.anatomy.fills import assembled, check_maps, role_of
from bequest.anatomy.maps import PAD, AxisMap, Maps, in_layer
from bequest.anatomy.surgery import check_weights, dense, expand_tensor
from bequest.errors import InputError, RunError
from bequest.growth.growing import holding
from bequest.growth.ligo import LiGO, Start, expansion_flops, kind_of, mixed_layers
from bequest.growth.plan import GrowthPlan
from bequest.training.divergence import cross_entropy_sum
from bequest.training.head_positions import at_positions, find_head
from bequest.training.loading import model_inputs
from bequest.training.progress import Display

if TYPE_CHECKING:
    from rich.console import Console
    from transformers import PreTrainedModel

_READS: frozenset[Role] = frozenset({"read", "raw_read"})
#: Of the paper's mixture of layers at the start.
_DEPTH_NOISE = 0.03


class Expansion(nn.Module):
    """Every parameter of a target as a function of a source's, linear in each of B, A and w, which are parameters.

    Args:
        weights: the source's parameters by their names in memory.
        source, target: the two anatomies.
        maps: where the matrices start.
        start: ``exact`` (as the maps say, shares included) or ``paper`` (see :mod:`bequest.growth.ligo`).
        noise: null-space noise on A, relative to a weight's standard deviation.
        seed: of everything drawn.

    Raises:
        AnatomyError: weights that are not the source's, or maps that do not lead to the target.
    """

    def __init__(
        self,
        weights: Mapping[str, torch.Tensor],
        source: Anatomy,
        target: Anatomy,
        maps: Maps,
        *,
        start: Start = "exact",
        noise: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_weights(weights, source)
        check_maps(source, target, maps)
        self.source, self.target, self.start = source, target, start
        self.weights = {name: weights[name].detach() for name in source.tensors}
        self.generator = torch.Generator().manual_seed(seed)
        wide = next(iter(self.weights.values()))
        self.dtype = torch.float64 if wide.dtype == torch.float64 else torch.float32
        self.axes = {axis: found for axis, found in maps.axes.items() if not found.identity}
        self.widths = nn.ParameterDict()
        self.mixtures = nn.ParameterDict()
        # (axis, role) -> the matrix that stands behind it, and what its rows are multiplied by in this role.
        self.uses: dict[tuple[str, Role], tuple[str, torch.Tensor | None]] = {}
        for axis, role in sorted({use for tensor in target.tensors.values() for use in self._grown(tensor)}):
            self._add_width(axis, role, noise)
        if source.layers != target.layers:
            for kind, tensors in self._kinds().items():
                self._add_mixture(kind, tensors, maps)
        self.to(wide.device)

    def tensors(self, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
        """The target's parameters (tied aliases left out) in ``dtype``, by default that of the matrices."""
        dtype = dtype or self.dtype
        matrices = self.matrices(dtype)
        rows: dict[str, Iterator[torch.Tensor]] = {}
        for kind, tensors in self._kinds().items() if self.mixtures else ():
            stack = torch.stack(
                [self.weights[in_layer(kind, 0, layer)].to(dtype) for layer in mixed_layers(kind, self.source)]
            )
            plus = 1 if tensors[0].line.one_plus else 0
            rows[kind] = iter(torch.tensordot(self.mixtures[_key(kind)].to(dtype), stack + plus, dims=1) - plus)
        made = {}
        for name, tensor in self.target.tensors.items():
            mixed = tensor.layer is not None and self.mixtures
            t = next(rows[kind_of(tensor)]) if mixed else self.weights[name].to(dtype)
            made[name] = expand_tensor(t, tensor, self.source, matrices)
        return made

    def matrices(self, dtype: torch.dtype) -> dict[tuple[str, Role], torch.Tensor]:
        """(axis, role) -> the matrix [target, source] as it stands."""
        found: dict[str, torch.Tensor] = {}
        for key, parameter in self.widths.items():
            matrix = parameter.to(dtype)
            kept = torch.eye(matrix.shape[1], dtype=dtype, device=matrix.device)
            found[key] = torch.cat([kept, matrix]) if self.start == "paper" else matrix
        made = {}
        for use, (key, factors) in self.uses.items():
            made[use] = found[key] if factors is None else found[key] * factors.to(found[key])[:, None]
        return made

    # --- where the matrices start

    def _grown(self, tensor: Tensor) -> Iterator[tuple[str, Role]]:
        for dim in tensor.line.dims:
            for axis in dim.axes:
                if axis in self.axes:
                    yield axis, role_of(tensor, dim, self.source)

    def _add_width(self, axis: str, role: Role, noise: float) -> None:
        axis_map = self.axes[axis]
        if self.start == "paper":
            # The output projection reads what the values wrote (A^o = B^v), where every query head has its own values.
            values = self.axes.get("kv")
            owner = "kv" if axis == "attn" and values is not None and values.target == axis_map.target else axis
            if owner not in self.widths:
                new = self._drawn(axis_map.target - axis_map.source, axis_map.source)
                self.widths[owner] = nn.Parameter((new / new.norm(dim=1, keepdim=True)).to(self.dtype))
            self.uses[axis, role] = (owner, None)
            return
        base: Role = "read" if role in _READS else "write"
        key = f"{base} {axis}"
        began = dense(axis_map, base)
        if key not in self.widths:
            moved = began + self._null_space(axis_map, noise) if base == "read" and noise else began
            self.widths[key] = nn.Parameter(moved.to(self.dtype))
        self.uses[axis, role] = (key, None if role == base else _factors(dense(axis_map, role), began))

    def _null_space(self, axis_map: AxisMap, noise: float) -> torch.Tensor:
        """Noise that sums to zero over the copies of a unit; where a pad's input is zero it is free."""
        n, wide = axis_map.source, axis_map.target
        drawn = self._drawn(wide, n) * (noise * n / wide / math.sqrt(n))
        index = torch.tensor(axis_map.index)
        copies = (index != PAD).nonzero().squeeze(-1)
        counts = torch.bincount(index[copies], minlength=n).to(torch.float64)
        sums = torch.zeros(n, n, dtype=torch.float64).index_add_(0, index[copies], drawn[copies])
        drawn[copies] -= (sums / counts[:, None])[index[copies]]
        return drawn

    def _add_mixture(self, kind: str, tensors: list[Tensor], maps: Maps) -> None:
        layers = mixed_layers(kind, self.source)
        rows = torch.zeros(len(tensors), len(layers), dtype=torch.float64)
        for row, tensor in enumerate(tensors):
            made = assembled(tensor, self.source, maps)
            origin = self.source.tensors[made.origin].layer
            assert origin is not None
            rows[row, layers.index(origin)] = 0.0 if made.silent else 1.0
        if self.start == "paper":
            rows += _DEPTH_NOISE * self._drawn(*rows.shape)
            rows /= rows.sum(dim=1, keepdim=True)
        self.mixtures[_key(kind)] = nn.Parameter(rows.to(self.dtype))

    def _drawn(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=self.generator)

    def _kinds(self) -> dict[str, list[Tensor]]:
        """The target's tensors inside blocks, by what they are called in block 0."""
        found: dict[str, list[Tensor]] = {}
        for tensor in self.target.tensors.values():
            if tensor.layer is not None:
                found.setdefault(kind_of(tensor), []).append(tensor)
        return {kind: sorted(tensors, key=lambda tensor: tensor.layer or 0) for kind, tensors in found.items()}


def _key(kind: str) -> str:
    return kind.replace(".", " ")  # a module's parameters have no dots in their names


def _factors(wanted: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """What the rows of one matrix are multiplied by to give another that has its rows' directions."""
    at = base.abs().argmax(dim=1, keepdim=True)
    below, above = base.gather(1, at).squeeze(1), wanted.gather(1, at).squeeze(1)
    return torch.where(below == 0, torch.ones_like(below), above / torch.where(below == 0, 1.0, below))


# --- learning


@dataclass(frozen=True)
class Learning:
    """What learning the maps came to.

    Attributes:
        steps, lr, start: as asked for.
        parameters: numbers learned.
        tokens, targets: tokens the grown model read, and those it was asked to predict.
        train_flops: of all steps, the grown model's and those of making its weights.
        wall_seconds: it took.
        first_loss, last_loss: mean loss in nats per target of the first and the last step's batch, before its update.
        digest: SHA-256 of the learned matrices.
        device: on which it ran.
    """

    steps: int
    lr: float
    start: str
    parameters: int
    tokens: int
    targets: int
    train_flops: int
    wall_seconds: float
    first_loss: float
    last_loss: float
    digest: str
    device: str

    def as_json(self) -> dict[str, Any]:
        """The figures as plain values, for a lineage."""
        return asdict(self)


def learn_maps(
    model: PreTrainedModel,
    plan: GrowthPlan,
    batches: Iterable[Mapping[str, torch.Tensor]],
    *,
    steps: int | None = None,
    lr: float | None = None,
    console: Console | None = None,
    name: str = "grow",
) -> tuple[PreTrainedModel, Learning]:
    """Learn a plan's maps on a corpus and grow the model through them.

    Args:
        model: the source, a causal or masked language model; it is left as it was.
        plan: made for it with a method that learns, ``plan_growth(model, to, "ligo")``.
        batches: at least ``steps`` of them: ``input_ids`` and ``targets`` [B, T], -100 where there is none (already
            shifted for causal models), as the collators of :mod:`bequest.data.masking` make them.
        steps, lr: other than the method's own.
        console: where progress is shown; silent by default.
        name: what the progress lines are headed with.

    Returns:
        The larger model, of the source's dtype and device, and what learning came to.

    Raises:
        InputError: a plan whose method does not learn, a model without a language-model head, too few batches.
        RunError: a loss that is not a number.
    """
    method = _learner(plan)
    steps, lr = steps or method.steps, lr or method.lr
    assert plan.maps is not None
    weights = {key: parameter.detach() for key, parameter in model.named_parameters(remove_duplicate=False)}
    expansion = Expansion(
        weights, plan.source, plan.target, plan.maps, start=method.start, noise=method.noise, seed=plan.seed
    )
    with torch.no_grad():
        runner = holding(model, plan, expansion.tensors()).to(expansion.dtype).eval().requires_grad_(False)
    loop = _Loop(runner, expansion, plan.target, steps, lr, expansion_flops(plan.source, plan.target, plan.maps))
    with Display(f"{name}: maps", steps, console) as display:
        loop.run(batches, display)
    with torch.no_grad():
        grown = {key: made.to(model.dtype) for key, made in expansion.tensors(torch.float64).items()}
    bigger = holding(model, plan, grown)
    return bigger, loop.learning(method.start)


def _learner(plan: GrowthPlan) -> LiGO:
    if plan.maps is None:
        raise InputError(plan.refusal or plan.reason)
    if not isinstance(plan.learner, LiGO):
        raise InputError(f"{' + '.join(plan.methods)} has nothing to learn", key="method", remedy="use ligo, or grow")
    if plan.target.lm_head is None:
        raise InputError(
            f"maps are learned on a language model's loss, and this is a {plan.source.head} variant",
            key="method",
            remedy="grow its language model",
        )
    return plan.learner


class _Loop:
    """Adam on the matrices, one batch a step."""

    def __init__(
        self, runner: Any, expansion: Expansion, target: Anatomy, steps: int, lr: float, expanding: int
    ) -> None:
        self.runner, self.expansion, self.target, self.steps, self.lr = runner, expansion, target, steps, lr
        self.expanding = expanding
        assert target.lm_head is not None
        self.head = find_head(runner, target.lm_head)
        self.optimizer = torch.optim.Adam(expansion.parameters(), lr=lr)
        rise = max(1, round(0.1 * steps))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: min((step + 1) / rise, (steps - step) / max(1, steps - rise + 1))
        )
        self.tokens = self.targets = self.flops = 0
        self.losses: list[float] = []
        self.seconds = 0.0

    def run(self, batches: Iterable[Mapping[str, torch.Tensor]], display: Display) -> None:
        """All steps."""
        began = time.monotonic()
        for batch in itertools.islice(batches, self.steps):
            self.optimizer.zero_grad()
            loss = self.loss(batch)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.expansion.parameters(), 1.0)
            self.optimizer.step()
            self.schedule.step()
            self.losses.append(float(loss.detach()))
            if not math.isfinite(self.losses[-1]):
                raise RunError(
                    f"is not a finite number in step {len(self.losses)}", key="loss of the maps", remedy="lower lr"
                )
            self.seconds = time.monotonic() - began
            display.train(len(self.losses), self.tokens, self.losses[-1], self.tokens / max(1e-9, self.seconds))
        if len(self.losses) < self.steps:
            raise InputError(f"the batches ended after {len(self.losses)} of {self.steps} steps", key="steps")

    def loss(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The mean loss of one batch at the weights that the matrices make; counts what it costs."""
        device = self.runner.device
        targets = batch["targets"].reshape(-1)
        positions = (targets != -100).nonzero().squeeze(-1)
        inputs = {key: value.to(device) for key, value in model_inputs(batch).items()}
        with at_positions(self.head, positions.to(device)):
            made = torch.func.functional_call(self.runner, self.expansion.tensors(), kwargs=inputs)
        self._count(tuple(batch["input_ids"].shape), len(positions))
        return cross_entropy_sum(made.logits, targets[positions].to(device)) / max(1, len(positions))

    def _count(self, shape: tuple[int, ...], targets: int) -> None:
        tokens, block = math.prod(shape), shape[-1]
        body, whole = (self.target.flops(block, head_share=share).train for share in (0.0, 1.0))
        self.tokens += tokens
        self.targets += targets
        self.flops += round(body * tokens + (whole - body) * targets) + 3 * self.expanding

    def learning(self, start: str) -> Learning:
        """What it came to."""
        digest = hashlib.sha256()
        for key, parameter in sorted(self.expansion.named_parameters()):
            digest.update(key.encode() + parameter.detach().cpu().contiguous().numpy().tobytes())
        return Learning(
            steps=self.steps,
            lr=self.lr,
            start=start,
            parameters=sum(parameter.numel() for parameter in self.expansion.parameters()),
            tokens=self.tokens,
            targets=self.targets,
            train_flops=self.flops + self.expanding,
            wall_seconds=round(self.seconds, 3),
            first_loss=self.losses[0],
            last_loss=self.losses[-1],
            digest=digest.hexdigest(),
            device=str(self.runner.device),
        )
