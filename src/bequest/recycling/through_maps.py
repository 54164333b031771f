"""``carry``: tuned weights follow the growth maps that the new base's lineage records; no training, no data.

Because growth is linear in the weights, merging and growing commute: the adapted new base is the growth of the adapted
old one, weight by weight, whether or not growth preserved the function (growth.md §11).  Where it did, the adapted
function is unchanged too.  On a base that was trained since, the same weights are a start.

    adapter : each part by the rule of its kind (:mod:`bequest.recycling.adapter_maps`), one growth after the other
    full    : θ = θ_new + M (θ_tuned − θ_old)     head = M head_tuned

Between bases of one shape there are no maps; there this is :mod:`bequest.recycling.direct`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bequest import checkpoints, lineage, processes
from bequest.anatomy import Anatomy
from bequest.anatomy.fills import check_maps
from bequest.errors import InputError
from bequest.recycling.direct import Direct
from bequest.recycling.fitting import check_adapter, check_origin, is_known_as, labelled, tokenizer_notes
from bequest.recycling.lineage_route import RESTORE, Route, broken_at, route_to
from bequest.recycling.places import located
from bequest.recycling.recycler import Recycler, Tuning
from bequest.recycling.tuned import Carried, Generation, Tuned

if TYPE_CHECKING:
    from torch import Tensor

    from bequest.data.tasks import Task
    from bequest.recycling.adapter_maps import Passage
    from bequest.recycling.adapter_parts import Adapter


@dataclass(frozen=True)
class Carry(Recycler):
    """Carry through the maps between the old base and the new one; without maps between them, apply directly."""

    def __call__(
        self,
        tuned: Tuned,
        old: Generation | None,
        new: Generation,
        task: Task | None,
        *,
        out: Path,
        tuning: Tuning | None = None,
    ) -> Tuned:
        """See :class:`Recycler`; neither task nor tuning is used, and additive adapters do not need ``old``."""
        check_origin(tuned, old)
        route = route_between(tuned, old, new)
        if route is None or not route.growths:
            return applied_directly(tuned, old, new, out)
        if old is None and route.start is not None:
            old = Generation(route.start)
        if processes.is_main():
            out.mkdir(parents=True, exist_ok=True)
        passages = passages_of(tuned, route)
        with located(tuned.path):
            moved = (move_adapter if tuned.kind == "adapter" else move_full)(tuned, old, new, passages, out)
        if processes.is_main():
            checkpoints.copy_tokenizer(tuned.path if lineage.tokenizer_digest(tuned.path) else new.path, out)
        processes.wait()
        here = replace(tuned, path=out, base=None, base_name=new.name, training=None, carried=verdict_of(route, moved))
        notes = check_adapter(here, new, mapped=True) if tuned.kind == "adapter" else tuple(tokenizer_notes(tuned, new))
        return replace(here, notes=(*moved.notes, *notes))


@dataclass(frozen=True)
class Moved:
    """What was written: parts by kind, ranks that changed (module -> before, after), and what to say of it."""

    modules: dict[str, int]
    ranks: dict[str, tuple[int, int]]
    notes: tuple[str, ...] = ()


def route_between(tuned: Tuned, old: Generation | None, new: Generation) -> Route | None:
    """The growths between the base that the weights were tuned on and the new one, by their lineages."""
    if not Path(new.path).is_dir():
        return None
    given = lineage.proven_id(old.path) if old is not None and Path(old.path).is_dir() else None
    # One base may be known by two ids (fitting.is_known_as); growths remember the one that it had then.
    routes = (route_to(base, new.path) for base in dict.fromkeys((given, tuned.base)) if base is not None)
    return next((route for route in routes if route is not None), None)


def passages_of(tuned: Tuned, route: Route) -> list[Passage]:
    """The growths of a route as maps between anatomies of the tuned weights' variant.

    Raises:
        InputError: maps that were not recorded, or do not fit the recorded sizes, a base of another family, or a
            variant that has no table.
    """
    from bequest.recycling.adapter_maps import Passage

    found = []
    for growth in route.growths:
        before = growth.record["source_config"]
        if before["model_type"] != growth.config["model_type"]:
            raise InputError(
                f"it became {growth.config['model_type']}, and the weights were tuned on {before['model_type']}",
                where=growth.file,
                key="model_type",
                remedy="distil or tune anew",
            )
        with located(growth.file):
            maps = growth.maps()
            try:
                source, target = (Anatomy(labelled(config, tuned), tuned.head) for config in (before, growth.config))
            except (KeyError, TypeError, ValueError) as error:
                said = f"no sizes of a {before['model_type']} ({type(error).__name__}: {error})"
                raise InputError(said, key="operation.maps.source_config", remedy=RESTORE) from None
            check_maps(source, target, maps)
        found.append(Passage(source, target, maps))
    return found


def move_adapter(
    tuned: Tuned, old: Generation | None, new: Generation, passages: Sequence[Passage], out: Path
) -> Moved:
    """Write the adapter as it is on the new base."""
    from bequest.recycling.adapter_maps import carried
    from bequest.recycling.adapter_parts import fitted_config, read_adapter, rounding, write_adapter

    first, last = passages[0].source, passages[-1].target
    before = read_adapter(tuned.path, layers=first.layers)
    after = with_row_factors(before, tuned, old, first) if before.dora else before
    for passage in passages:
        after = carried(after, passage)
    if after.dora:
        after = with_magnitudes(after, tuned, new, last)
    after = replace(after, config=fitted_config(after, before, last))
    if processes.is_main():
        write_adapter(after, out, base=new.name)
    ranks = {name: (part.began or part.rank, part.rank) for name, part in sorted(after.modules.items())}
    lost = rounding(after)
    coarse = after.dtype.itemsize == 2 and lost > 0
    notes = (f"about {lost:.1%} of the adapter is rounding: its file is 16-bit",) if coarse else ()
    return Moved(after.counts(), {name: pair for name, pair in ranks.items() if pair[0] != pair[1]}, notes)


def move_full(tuned: Tuned, old: Generation | None, new: Generation, passages: Sequence[Passage], out: Path) -> Moved:
    """Write the new base with what tuning changed of the old one.

    Raises:
        InputError: no old base, or a tensor that differs in name or shape.
    """
    from bequest.recycling.adapter_maps import carried_tensors
    from bequest.recycling.full_models import change_made, write_changed
    from bequest.weights.deltas import Delta

    change = change_made(tuned, old)
    difference, head = change.delta.difference, change.delta.absolute
    for passage in passages:
        difference = carried_tensors(difference, passage, difference=True)
        head = carried_tensors(head, passage, difference=False)
    write_changed(tuned, new, change, Delta(difference, head), out)
    counts = {"differences": len(difference), "head": len(head)}
    return Moved({name: number for name, number in counts.items() if number}, {}, change.notes)


# --- verdicts


def verdict_of(route: Route, moved: Moved) -> Carried:
    """What carrying along a route preserves."""
    through = tuple(growth.name for growth in route.growths)
    if route.trained:
        names = ", ".join(route.trained)
        verdict, reason = "initialisation", f"{names} was trained as well as grown: measure the result, or tune on"
    elif route.changed:
        said = f"the weights of {', '.join(route.changed)} are not those of the lineage beside them (see bequest adopt)"
        verdict, reason = "initialisation", f"{said}: measure the result, or tune on"
    elif route.inexact:
        growth = route.inexact[0]
        said = f"{growth.name} is no exact growth ({growth.record.get('reason', 'its lineage gives no reason')})"
        verdict, reason = "approximate", f"{said}; the tuned weights follow the base's, weight by weight"
    else:
        verdict, reason = "exact", "the new base computes what the old one did, and so do the tuned weights on it"
    return Carried(verdict, reason, through, moved.modules, moved.ranks)  # type: ignore[arg-type]


def applied_directly(tuned: Tuned, old: Generation | None, new: Generation, out: Path) -> Tuned:
    """The weights as they are on a base that no growth of theirs leads to.

    Raises:
        InputError: they do not fit it; where the growths behind it are out of reach, the error says which.
    """
    broken = broken_at(new.path) if Path(new.path).is_dir() else None
    try:
        made = Direct()(tuned, old, new, None, out=out)
    except InputError as error:
        if broken is None:
            raise
        remedy = "; ".join(said for said in (error.remedy, broken) if said)
        raise InputError(error.message, where=error.where, key=error.key, remedy=remedy) from None
    carried = applied(tuned, old, new)
    notes = (broken,) if broken is not None and carried.verdict != "exact" else ()
    return replace(made, carried=carried, notes=(*made.notes, *notes))


def applied(tuned: Tuned, old: Generation | None, new: Generation) -> Carried:
    """What applying the weights as they are preserves."""
    place = Path(new.path)
    base = lineage.proven_id(old.path) if old is not None and Path(old.path).is_dir() else tuned.base
    if base is not None and place.is_dir() and is_known_as(place, base):
        return Carried("exact", "the new base is the one that they were tuned on")
    return Carried("initialisation", "the new base has other weights: measure the result, or tune on")


# --- DoRA


def with_row_factors(adapter: Adapter, tuned: Tuned, old: Generation | None, anatomy: Anatomy) -> Adapter:
    """DoRA's magnitudes as multiples of the rows that they scale, which is what maps can carry.

    Raises:
        InputError: no old base, or an adapter without magnitudes.
    """
    if old is None or not Path(old.path).is_dir():
        raise InputError(
            "DoRA's magnitudes are relative to the base they were tuned on, and it is not where it was, or has changed",
            where=tuned.path,
            key="old",
            remedy="give the old base (--old-base)",
        )
    norms = row_norms(adapter, tuned, old, anatomy)
    modules = {}
    for name, part in adapter.modules.items():
        if part.magnitude is None:
            raise InputError("DoRA without its magnitudes", where=tuned.path, key=name, remedy="save the adapter again")
        modules[name] = replace(part, factor=part.magnitude / norms[name], magnitude=None)
    return replace(adapter, modules=modules)


def with_magnitudes(adapter: Adapter, tuned: Tuned, new: Generation, anatomy: Anatomy) -> Adapter:
    """The magnitudes on the new base: the carried multiples of its own rows."""
    norms = row_norms(adapter, tuned, new, anatomy)
    modules = {}
    for name, part in adapter.modules.items():
        assert part.factor is not None
        modules[name] = replace(part, magnitude=part.factor * norms[name], factor=None)
    return replace(adapter, modules=modules)


def row_norms(adapter: Adapter, tuned: Tuned, base: Generation, anatomy: Anatomy) -> dict[str, Tensor]:
    """For each module the length of each row of W + s B A, over what the weight reads; [out], float64."""
    from bequest.recycling.adapter_maps import sides
    from bequest.recycling.base_tensors import BaseTensors

    weights = BaseTensors(base.path, labelled(checkpoints.load_config(base.path), tuned), anatomy)
    everything = {**anatomy.tensors, **anatomy.aliases}
    found = {}
    for name, part in adapter.modules.items():
        weight, described = weights[f"{name}.weight"], everything[f"{name}.weight"]
        if tuple(weight.shape) != described.shape:
            raise InputError(
                f"{tuple(weight.shape)} where the config gives {described.shape}",
                where=base.path,
                key=f"{name}.weight",
                remedy="DoRA needs the weights themselves; a quantised base does not hold them",
            )
        written, _ = sides(described)
        rows = weight if written == 0 else weight.T
        found[name] = (rows + part.scaling(rslora=adapter.rslora) * part.b @ part.a).norm(dim=1)
    return found
