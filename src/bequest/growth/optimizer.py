"""Growing an optimizer's state with its model: Adam's moments follow the gradients through the maps (growth.md §9).

Where the grown model computes the source's function, the chain rule gives ``Mᵀ g' = g``.  A coordinate with scale s
whose source coordinate has k copies that contribute alike therefore has

    g'_i = g_g(i) / (k_i s_i)        m' = m / (k s)        v' = v / (k s)²        the number of steps stays

with k and s the products over the tensor's dimensions.  If besides every coordinate's learning rate is multiplied by s
and its eps by 1 / (k s) (``lockstep_rates``), source and grown model take the same steps for ever; with one plain rate
they part at once, because Adam's step does not see s.

Where it does not hold: key-value heads that serve unequal numbers of copies obey the sum but not the equal split, and
so do a scaled average map's writers (their pads take a share) and whatever null-space noise tells apart.  Pads, blocks
that start as identities and newly initialised ones have no history: their state is zero, or none at all.  A zero under
an old number of steps makes the first steps up to ``(1 - beta1) / sqrt(1 - beta2)`` (3.2) times as large as the
learning rate: warm up again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, get_args

from bequest.anatomy import Tensor
from bequest.anatomy.axes import Role
from bequest.anatomy.fills import assembled
from bequest.anatomy.maps import PAD, AxisMap, Maps
from bequest.errors import InputError
from bequest.growth.plan import GrowthPlan

if TYPE_CHECKING:
    import torch

Policy = Literal["grow", "zero_new", "reset"]
"""By the law; by the law for first copies and zero for all others; not at all."""


def state_refusal(plan: GrowthPlan) -> str | None:
    """Why an optimizer's state cannot follow this growth, or ``None`` where it can."""
    if plan.learner is not None:
        return f"{' + '.join(plan.methods)} learns its maps: each weight is a mixture of many"
    if plan.source.family.name != plan.target.family.name:
        return f"a {plan.target.family.name} routes each token to a part of what a {plan.source.family.name} was"
    return None


def grow_optimizer(state: Mapping[str, torch.Tensor], plan: GrowthPlan, policy: Policy) -> dict[str, torch.Tensor]:
    """Adam's state of the grown model from the source's.

    Args:
        state: ``<parameter>.exp_avg``, ``.exp_avg_sq`` (the parameter's shape) and ``.step``, by the source's names in
            memory; parameters without a state are left out.
        plan: the growth.
        policy: ``grow``, ``zero_new`` or ``reset``.

    Returns:
        The same for the target, in the dtypes of ``state``; parameters that start anew are left out.

    Raises:
        InputError: a state that is not the source's, or a growth that no state can follow.
    """
    from bequest.training.adam import MOMENTS, STEP, check_state

    if policy == "reset":
        return {}
    refused = state_refusal(plan)
    if refused is not None:
        raise InputError(refused, key="optimizer", remedy="use optimizer: reset")
    check_state(state, {name: tensor.shape for name, tensor in plan.source.tensors.items()})
    maps = plan.final_maps()
    followed = [adjoint(maps, power, first_only=policy == "zero_new") for power in (1, 2)]
    new = frozenset(plan.new_layers) if policy == "zero_new" else maps.silent | maps.fresh
    grown: dict[str, torch.Tensor] = {}
    for name, tensor in plan.target.tensors.items():
        origin = assembled(tensor, plan.source, maps).origin
        if f"{origin}.{STEP}" not in state or tensor.layer in new:
            continue
        grown[f"{name}.{STEP}"] = state[f"{origin}.{STEP}"].clone()
        for part, through in zip(MOMENTS, followed, strict=True):
            grown[f"{name}.{part}"] = follow(moment_reader(state, part, plan), tensor, plan, through)
    return grown


def lockstep_rates(plan: GrowthPlan) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """What keeps the grown model's Adam in step with the source's: (factor of the learning rate, factor of eps).

    Returns:
        For each of the target's parameters s and 1 / (k s), float64 of the parameter's shape; 0 at pads.
    """
    import torch

    maps = plan.final_maps()
    plain = Maps({axis: filled(found, lambda s, k: s) for axis, found in maps.axes.items()}, maps.order)
    shared = adjoint(maps, 1)

    def ones(name: str) -> torch.Tensor:
        return torch.ones(plan.source.tensors[name].shape, dtype=torch.float64)

    return {
        name: (follow(ones, tensor, plan, plain), follow(ones, tensor, plan, shared))
        for name, tensor in plan.target.tensors.items()
    }


def adjoint(maps: Maps, power: int, *, first_only: bool = False) -> Maps:
    """The maps that gradients (``power`` 1) or their squares (2) follow: 1 / (k s) where weights have s, 0 at pads.

    Args:
        maps: the weights' own.
        power: of the factor.
        first_only: leave 0 at every unit that is not the first copy of its source unit.
    """
    axes = {
        axis: filled(found, lambda s, k: (1.0 / (k * s)) ** power, first_only=first_only)
        for axis, found in maps.axes.items()
    }
    return Maps(axes, maps.order, donors=maps.donors, scope=maps.scope)


def filled(axis_map: AxisMap, factor: Callable[[float, int], float], *, first_only: bool = False) -> AxisMap:
    """The same index, with ``factor(scale, copies)`` in every role, and zeros at the pads."""
    plain = (1.0,) * axis_map.target
    scales: dict[Role, tuple[float, ...]] = {
        role: tuple(
            0.0 if unit == PAD or (first_only and not original) else factor(scale, copies)
            for unit, scale, copies, original in zip(
                axis_map.index, axis_map.scale(role) or plain, axis_map.copies, axis_map.originals, strict=True
            )
        )
        for role in get_args(Role)
    }
    return AxisMap(axis_map.source, axis_map.index, scales)


def moment_reader(state: Mapping[str, torch.Tensor], part: str, plan: GrowthPlan) -> Callable[[str], torch.Tensor]:
    """One moment of a source parameter; zeros for one that no update has trained (a donor layer may be)."""
    import torch

    def read(name: str) -> torch.Tensor:
        found = state.get(f"{name}.{part}")
        return torch.zeros(plan.source.tensors[name].shape) if found is None else found

    return read


def follow(read: Callable[[str], torch.Tensor], tensor: Tensor, plan: GrowthPlan, maps: Maps) -> torch.Tensor:
    """A quantity of a weight's shape through the linear part of its maps (of ``1 + w`` norms without the 1)."""
    from bequest.anatomy.surgery import make_tensor

    return make_tensor(read, replace(tensor, line=replace(tensor.line, one_plus=False)), plan.source, maps)
