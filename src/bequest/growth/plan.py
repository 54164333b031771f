"""What a growth would do, from configs alone: no weights, no torch."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bequest.anatomy import Anatomy, Flops, head_of, sizes_of, target_config
from bequest.anatomy.experts import width_notes
from bequest.anatomy.fills import assembled
from bequest.anatomy.map_records import maps_record
from bequest.anatomy.maps import Maps
from bequest.checkpoints import load_config
from bequest.errors import InputError
from bequest.growth.exact import exact_name
from bequest.growth.method import Direction, Growth, Verdict
from bequest.methods import make_method

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from bequest.growth.upcycle import Upcycle

_WIDTH_AXES = ("hidden", "embed", "q", "kv", "ffn", "shared")

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
        predicted_error: an upper estimate of max|logit difference| / max|logit|; 0 where exact.
        nearest_exact: canonical sizes that would be exact, where these are not; None where these are.
        refusal: why these methods cannot do it at all; None where they can.
        tensors: the target's tensors, tied ones once.
        params: the target's parameters, tied ones once.
        flops: the target's FLOPs per token at ``block`` tokens.
        inferred: canonical key -> ``"value (why)"`` of the sizes that were not named.
        methods: names (or dotted paths) of the methods used, and what ``auto`` chose.
        calls: the same with their options: what remakes the plan.
        order: for each target layer its source layer.
        seed: of everything drawn.
        maps: what surgery works from; None where the methods refuse.
        learner: the method that has yet to learn its maps on a corpus, starting from ``maps``; None for the others.
        upcycling: the method where the target has experts and the source has none; else None.
    """

    source: Anatomy
    target: Anatomy
    to: Mapping[str, Any]
    exact: bool
    reason: str
    predicted_error: float
    nearest_exact: Mapping[str, int] | None
    refusal: str | None
    tensors: tuple[PlannedTensor, ...]
    params: int
    flops: Flops
    block: int
    target_config: dict[str, Any]
    inferred: Mapping[str, str]
    methods: tuple[str, ...]
    calls: tuple[Mapping[str, Any], ...]
    order: tuple[int, ...]
    seed: int
    maps: Maps | None = field(repr=False, default=None)
    learner: Growth | None = field(repr=False, default=None)
    upcycling: Upcycle | None = None

    @property
    def new_layers(self) -> tuple[int, ...]:
        """The target's layers that are not the first copy of their source layer."""
        return self.maps.new_layers if self.maps is not None else ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know of the target before it is made."""
        found = width_notes(self.target.family, sizes_of(self.target_config))
        return tuple(f"{note}: grow to it first, then upcycle" for note in found) if self.upcycling else found

    def final_maps(self, where: object = None) -> Maps:
        """The maps to grow by; ``where`` the source lies, for errors.

        Raises:
            InputError: the methods refuse, or one has yet to learn its maps.
        """
        if self.maps is None:
            raise InputError(self.refusal or self.reason, where=where)
        if self.learner is not None:
            raise InputError(
                f"{' + '.join(self.methods)} learns its maps on a corpus, and none was given",
                where=where,
                key="method",
                remedy="write corpus: in the recipe's grow stage, or call bequest.growth.learn_maps",
            )
        return self.maps

    def record(self) -> dict[str, Any]:
        """What the lineage keeps: everything that remakes the maps, the maps themselves, their digest, the verdict."""
        record: dict[str, Any] = {
            "methods": list(self.methods),
            "calls": [dict(call) for call in self.calls],
            "seed": self.seed,
            "order": list(self.order),
            "new_layers": list(self.new_layers),
            "to": dict(self.to),
            "inferred": dict(self.inferred),
            "exact": self.exact,
            "reason": self.reason,
            "predicted_error": self.predicted_error,
            "source_config": _sizes_and_switches(self.source),
            "head": self.source.head,
        }
        if self.maps is not None:
            record |= {
                "rule": dict(self.maps.rule),
                "identity_layers": sorted(self.maps.silent),
                "digest": self.maps.digest(),
            }
            if self.learner is None:  # learned maps are not those that learning starts from
                record["maps"] = maps_record(self.maps)
        return record


def plan_growth(
    config_or_model: Mapping[str, Any] | str | Path | PreTrainedModel,
    to: Mapping[str, Any],
    method: Method = "auto",
    *,
    block: int = 128,
    seed: int = 0,
    training_follows: bool = False,
) -> GrowthPlan:
    """Decide how a model would grow; nothing is loaded.

    Args:
        config_or_model: a config, a model directory, a Hub id or a live model.
        to: canonical (``hidden_size``, ...) or native size names -> target values; the others follow.
        method: ``auto``, a method's name, a mapping with ``name``, ``"module:Class"``, or a list of these.
        block: tokens in a sequence, for the FLOPs.
        seed: of everything that methods draw.
        training_follows: whether the grown model will be trained; ``auto`` then tells copies apart (``noise``).

    Raises:
        InputError: a source without a table, a size that is smaller or unknown, an unknown method, or methods that
            leave a direction (width, depth) ungrown.
    """
    from bequest.growth.upcycle import plan_upcycling, upcycling  # it is planned here, and it plans with this module

    source = source_anatomy(config_or_model)
    if (upcycle := upcycling(method, source, to)) is not None:
        return plan_upcycling(source, to, upcycle, block=block, seed=seed)
    config, inferred = target_config(source.config, to)
    target = Anatomy(config, source.head)
    needed = _directions(source, target)
    calls, methods = _methods(method, needed, source, training_follows)
    verdicts = [found.verdict(source, target) for _, found in methods]
    refusal: str | None = None
    maps: Maps | None = None
    try:
        maps = _combined(methods, source, target, needed, seed)
    except InputError as error:
        refusal = error.line()
    order = maps.order if maps is not None else tuple(layer % source.layers for layer in range(target.layers))
    _rearrange(config, source, order)
    verdict = _together(verdicts)
    nearest = _accepted(source, to, verdict.nearest, methods)
    return GrowthPlan(
        source=source,
        target=target,
        to=dict(to),
        exact=verdict.exact and refusal is None,
        reason=verdict.reason + _nearest_words(nearest, to),
        predicted_error=verdict.predicted,
        nearest_exact=nearest,
        refusal=refusal,
        tensors=_planned(source, target, maps or Maps({}, order)),
        params=target.parameters(),
        flops=target.flops(block),
        block=block,
        target_config=config,
        inferred=inferred,
        methods=tuple(name for name, _ in methods),
        calls=calls,
        order=order,
        seed=seed,
        maps=maps,
        learner=next((found for _, found in methods if found.learns), None),
    )


def _rearrange(config: dict[str, Any], source: Anatomy, order: Sequence[int]) -> None:
    """What a config lists layer by layer moves with the layers."""
    for key in source.family.per_layer:
        if isinstance(source.config.get(key), (list, tuple)):
            config[key] = [source.config[key][layer] for layer in order]


def _sizes_and_switches(source: Anatomy) -> dict[str, Any]:
    """Those keys of a config that an anatomy stands on, whatever else a live model's config carries."""
    family = source.family
    kept = {*family.defaults, *family.native.values(), "head_dim"}
    told = {key: value for key, value in source.config.items() if key in kept}
    labels = {"num_labels": source.sizes["label"]} if source.head == "sequence-classification" else {}
    return {**told, **labels, "model_type": family.name, "architectures": [source.class_name]}


def plan_from_record(record: Mapping[str, Any]) -> GrowthPlan:
    """The plan that a lineage records, made again: the same maps, which the digest proves.

    Raises:
        InputError: the record is older than these keys, its methods are not here, or the maps come out otherwise.
    """
    missing = [key for key in ("source_config", "head", "calls", "seed", "to", "digest") if key not in record]
    if missing:
        raise InputError("this record of a growth is too old to be made again", key=missing[0], remedy="grow again")
    config = {**record["source_config"]}
    plan = plan_growth(config, record["to"], [dict(call) for call in record["calls"]], seed=record["seed"])
    if plan.learner is not None:
        raise InputError("the maps of this growth were learned, and only the model they made was kept", key="maps")
    if plan.maps is None or plan.maps.digest() != record["digest"]:
        raise InputError("the maps of this growth come out otherwise than recorded", key="maps.digest")
    return plan


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
    if config.get("quantization_config"):
        remedy = "dequantise it first, and save it in float32 or bfloat16"
        raise InputError("a quantised model cannot be grown", key="quantization_config", remedy=remedy)
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


def _auto(needed: frozenset[Direction], source: Anatomy, training_follows: bool) -> list[str]:
    """What ``auto`` stands for: the family's exact map, identity blocks, and noise when training follows."""
    chosen = []
    if "width" in needed:
        chosen.append(exact_name(source))
    if "depth" in needed:
        chosen.append("stack" if source.family.norm == "layer-post" else "identity")
    if "width" in needed and training_follows:
        chosen.append("noise")
    return chosen


def _methods(
    method: Method, needed: frozenset[Direction], source: Anatomy, training_follows: bool
) -> tuple[tuple[dict[str, Any], ...], list[tuple[str, Growth]]]:
    """The calls and the methods that serve a needed direction; at most one for each."""
    wanted = [method] if isinstance(method, (str, Mapping)) else list(method)
    named: list[str | Mapping[str, Any]] = []
    for entry in wanted:
        name = entry.get("name") if isinstance(entry, Mapping) else entry
        named += _auto(needed, source, training_follows) if name == "auto" else [entry]
    made = [(entry, *method_named(entry)) for entry in named]
    auto = _auto(needed, source, training_follows)
    for direction in (*sorted(needed), "symmetry"):
        able = [name for _, name, found in made if direction in found.directions]
        if len(able) > 1 or (not able and direction in needed):
            doing = {"width": "grow the width", "depth": "grow the depth", "symmetry": "break the symmetry"}[direction]
            raise InputError(
                f"{len(able)} of the methods named ({', '.join(name for _, name, _ in made)}) {doing}",
                key="method",
                remedy="use auto, or exactly one such method"
                + (f" ({auto[0] if direction == 'width' else auto[-1]})" if direction in needed else ""),
            )
    served = needed | {"symmetry"} if "width" in needed else needed
    kept = [(entry, name, found) for entry, name, found in made if found.directions & served]
    calls = tuple(dict(entry) if isinstance(entry, Mapping) else {"name": entry} for entry, _, _ in kept)
    return calls, [(name, found) for _, name, found in kept]


def _combined(
    methods: Sequence[tuple[str, Growth]],
    source: Anatomy,
    target: Anatomy,
    needed: frozenset[Direction],
    seed: int,
) -> Maps:
    """The maps of all methods together: each gives what its directions decide."""
    together = Maps({}, tuple(range(source.layers)))
    for name, method in methods:
        made = method.maps(source, target, rng=random.Random(f"{seed} {name}"))
        decides = method.directions
        if "width" in decides:
            together = replace(together, axes=made.axes, donors=made.donors, scope=made.scope, seed=made.seed)
        if "depth" in decides:
            together = replace(together, order=made.order, silent=made.silent, fresh=made.fresh)
        if "symmetry" in decides and "width" in needed:
            together = replace(together, noise=made.noise)
        together = replace(together, rule={**together.rule, str(made.rule["method"]): made.rule})
    return together


def _together(verdicts: Sequence[Verdict]) -> Verdict:
    inexact = [verdict for verdict in verdicts if not verdict.exact]
    if not inexact:
        return Verdict(True, "; ".join(verdict.reason for verdict in verdicts))
    nearest = {key: value for verdict in inexact for key, value in (verdict.nearest or {}).items()}
    reason = "; ".join(verdict.reason for verdict in inexact)
    return Verdict(False, reason, nearest or None, max(verdict.predicted for verdict in inexact))


def _nearest_words(nearest: Mapping[str, int] | None, to: Mapping[str, Any]) -> str:
    changed = {key: value for key, value in (nearest or {}).items() if to.get(key) != value}
    if list(changed) == ["hidden_size"]:
        return f"; nearest exact width {changed['hidden_size']}"
    return f"; nearest exact {', '.join(f'{key} {value}' for key, value in changed.items())}" if changed else ""


def _accepted(
    source: Anatomy, to: Mapping[str, Any], nearest: Mapping[str, int] | None, methods: Sequence[tuple[str, Growth]]
) -> dict[str, int] | None:
    """The sizes near the wanted ones at which the same methods are exact, as the family's config takes them.

    Named sizes that do not fit there follow instead.
    """
    if nearest is None:
        return None
    canonical = {source.family.canonical(key): value for key, value in to.items()}
    for kept in (canonical, {key: value for key, value in canonical.items() if key == "num_hidden_layers"}):
        wish = {**kept, **nearest}
        try:
            config, _ = target_config(source.config, wish)
            target = Anatomy(config, source.head)
        except InputError:
            continue
        if all(found.verdict(source, target).exact for _, found in methods):
            return wish
    return None


def _planned(source: Anatomy, target: Anatomy, maps: Maps) -> tuple[PlannedTensor, ...]:
    planned = []
    for name, tensor in target.tensors.items():
        origin = assembled(tensor, source, maps).origin
        planned.append(PlannedTensor(name, tensor.shape, origin, source.tensors[origin].shape))
    return tuple(planned)
