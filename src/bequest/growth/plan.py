"""What a growth would do, from configs alone: no weights, no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bequest.anatomy import Anatomy, Flops, head_of, target_config
from bequest.anatomy.maps import Maps, origin_of
from bequest.checkpoints import load_config
from bequest.errors import InputError
from bequest.growth.method import Direction, Growth, Verdict
from bequest.methods import make_method

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_AUTO: dict[Direction, str] = {"width": "fpi", "depth": "stack"}
_WIDTH_AXES = ("hidden", "embed", "q", "kv", "ffn")

Method = str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]]


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of the target: its name, its shape, and the source tensor it is made from."""

    name: str
    shape: tuple[int, ...]
    source: str
    source_shape: tuple[int, ...]


@dataclass(frozen=True)
class GrowthPlan:
    """Everything decided about a growth, nothing loaded.

    Attributes:
        exact: whether the function is preserved up to rounding.
        reason: why, in words.
        nearest_exact: canonical sizes that would be exact, where these are not; None where these are.
        refusal: why these methods cannot do it at all; None where they can.
        tensors: the target's tensors, tied ones once.
        params: the target's parameters, tied ones once.
        flops: the target's FLOPs per token at ``block`` tokens.
        inferred: canonical key -> ``"value (why)"`` of the sizes that were not named.
        methods: names (or dotted paths) of the methods used, and what ``auto`` chose.
    """

    source: Anatomy
    target: Anatomy
    to: Mapping[str, Any]
    exact: bool
    reason: str
    nearest_exact: Mapping[str, int] | None
    refusal: str | None
    tensors: tuple[PlannedTensor, ...]
    params: int
    flops: Flops
    block: int
    target_config: dict[str, Any]
    inferred: Mapping[str, str]
    methods: tuple[str, ...]
    order: tuple[int, ...]
    maps: Maps | None = field(repr=False, default=None)

    def record(self) -> dict[str, Any]:
        """What the lineage keeps: the methods, the rule that remakes the maps, the order of layers, the verdict."""
        return {
            "methods": list(self.methods),
            "rule": dict(self.maps.rule) if self.maps is not None else {},
            "order": list(self.order),
            "to": dict(self.to),
            "inferred": dict(self.inferred),
            "exact": self.exact,
            "reason": self.reason,
        }


def plan_growth(
    config_or_model: Mapping[str, Any] | str | Path | PreTrainedModel,
    to: Mapping[str, Any],
    method: Method = "auto",
    *,
    block: int = 128,
) -> GrowthPlan:
    """Decide how a model would grow; nothing is loaded.

    Args:
        config_or_model: a config, a model directory, a Hub id or a live model.
        to: canonical (``hidden_size``, ...) or native size names -> target values; the others follow.
        method: ``auto``, a method's name, a mapping with ``name``, ``"module:Class"``, or a list of these.
        block: tokens in a sequence, for the FLOPs.

    Raises:
        InputError: a source without a table, a size that is smaller or unknown, an unknown method, or methods that
            leave a direction (width, depth) ungrown.
    """
    source = source_anatomy(config_or_model)
    config, inferred = target_config(source.config, to)
    target = Anatomy(config, source.head)
    needed = _directions(source, target)
    methods = _methods(method, needed)
    verdicts = [found.verdict(source, target) for _, found in methods]
    refusal: str | None = None
    maps: Maps | None = None
    try:
        maps = _combined([found for _, found in methods], source, target)
    except InputError as error:
        refusal = error.line()
    order = maps.order if maps is not None else tuple(layer % source.layers for layer in range(target.layers))
    if config.get("layer_types") is not None:
        config["layer_types"] = [source.config["layer_types"][layer] for layer in order]
    verdict = _together(verdicts, to)
    return GrowthPlan(
        source=source,
        target=target,
        to=dict(to),
        exact=verdict.exact and refusal is None,
        reason=verdict.reason,
        nearest_exact=verdict.nearest,
        refusal=refusal,
        tensors=_planned(source, target, order),
        params=target.parameters(),
        flops=target.flops(block),
        block=block,
        target_config=config,
        inferred=inferred,
        methods=tuple(name for name, _ in methods),
        order=order,
        maps=maps,
    )


def source_anatomy(config_or_model: Mapping[str, Any] | str | Path | PreTrainedModel) -> Anatomy:
    """The anatomy of a config, a model directory, a Hub id or a live model."""
    if isinstance(config_or_model, (str, Path)):
        config = load_config(config_or_model)
    elif isinstance(config_or_model, Mapping):
        config = dict(config_or_model)
    else:
        config = config_or_model.config.to_dict()
        config["architectures"] = [type(config_or_model).__name__]
        config.pop("_name_or_path", None)
    return Anatomy(config, head_of(config))


def method_named(wanted: str | Mapping[str, Any]) -> tuple[str, Growth]:
    """A method by name, by a mapping of ``name`` and its fields, or by a dotted path ``"module:Class"``.

    Raises:
        InputError: there is no such method, or it has no such field.
    """
    from bequest.growth import METHODS  # the registry stands in the package, which imports this module

    options = dict(wanted) if isinstance(wanted, Mapping) else {"name": wanted}
    name = str(options.pop("name", ""))
    return name, make_method(METHODS, name, options, kind=Growth, verb="grow")


def _directions(source: Anatomy, target: Anatomy) -> frozenset[Direction]:
    found: set[Direction] = set()
    if any(source.sizes.get(axis) != target.sizes.get(axis) for axis in _WIDTH_AXES):
        found.add("width")
    if source.layers != target.layers:
        found.add("depth")
    if not found:
        raise InputError("the target is no larger than the source", key="to", remedy="name a larger size")
    return frozenset(found)


def _methods(method: Method, needed: frozenset[Direction]) -> list[tuple[str, Growth]]:
    wanted = [method] if isinstance(method, (str, Mapping)) else list(method)
    named: list[str | Mapping[str, Any]] = []
    for entry in wanted:
        name = entry.get("name") if isinstance(entry, Mapping) else entry
        chosen = [_AUTO[direction] for direction in _AUTO if direction in needed]
        named += chosen if name == "auto" else [entry]
    methods = [method_named(entry) for entry in named]
    for direction in sorted(needed):
        able = [name for name, found in methods if direction in found.directions]
        if len(able) != 1:
            raise InputError(
                f"{len(able)} of the methods named ({', '.join(name for name, _ in methods)}) grow the {direction}",
                key="method",
                remedy=f"use auto, or exactly one such method ({_AUTO[direction]})",
            )
    return [(name, found) for name, found in methods if found.directions & needed]


def _combined(methods: Sequence[Growth], source: Anatomy, target: Anatomy) -> Maps:
    """The maps of all methods together: axes from those that grow the width, the order from the one for the depth."""
    together = Maps({}, tuple(range(source.layers)))
    for method in methods:
        made = method.maps(source, target)
        together = replace(
            together,
            axes={**together.axes, **made.axes},
            order=made.order if "depth" in method.directions else together.order,
            rule={**together.rule, made.rule["method"]: made.rule},
        )
    return together


def _together(verdicts: Sequence[Verdict], to: Mapping[str, Any]) -> Verdict:
    inexact = [verdict for verdict in verdicts if not verdict.exact]
    if not inexact:
        return Verdict(True, "; ".join(verdict.reason for verdict in verdicts))
    nearest = {key: value for verdict in inexact for key, value in (verdict.nearest or {}).items()}
    return Verdict(False, "; ".join(verdict.reason for verdict in inexact), {**to, **nearest} if nearest else None)


def _planned(source: Anatomy, target: Anatomy, order: Sequence[int]) -> tuple[PlannedTensor, ...]:
    planned = []
    for name, tensor in target.tensors.items():
        origin = origin_of(name, tensor.layer, order)
        planned.append(PlannedTensor(name, tensor.shape, origin, source.tensors[origin].shape))
    return tuple(planned)
