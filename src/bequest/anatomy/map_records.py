"""Growth maps as a lineage keeps them: run lengths, small and complete, and read back only when the digest proves them.

Whoever holds the record of a growth can take anything through it (adapters, differences, optimizer states, masks)
without the method that made the maps.  The record of one axis::

    index    [[source, length], ...]            runs of consecutive source units; source -1 for pads
    classes  [[class, length], ...]             units with equal factors in every role share a class
    scales   {role: [factor of each class]}
    pads     {role: what stands at the pads}

Imports neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from bequest.anatomy.maps import PAD, AxisMap, Maps, Noise
from bequest.errors import InputError

_DAMAGED = "restore its lineage.json, or grow again"


def maps_record(maps: Maps) -> dict[str, Any]:
    """Everything that decides a value, as JSON; ``rule`` stands beside it in the record of the growth."""
    return {
        "axes": {name: _axis_record(axis) for name, axis in sorted(maps.axes.items())},
        "order": list(maps.order),
        "silent": sorted(maps.silent),
        "fresh": sorted(maps.fresh),
        "donors": {str(layer): donor for layer, donor in sorted(maps.donors.items())},
        "scope": maps.scope,
        "noise": None if maps.noise is None else {"std": maps.noise.std, "seed": maps.noise.seed},
        "seed": maps.seed,
    }


def maps_from_record(record: Mapping[str, Any], digest: str) -> Maps:
    """The maps of a record.

    Args:
        record: what :func:`maps_record` returned, possibly after a way through JSON.
        digest: what :meth:`Maps.digest` said of them then.

    Raises:
        InputError: the record is damaged, or holds other maps than those of the digest.
    """
    try:
        noise = record["noise"]
        maps = Maps(
            axes={str(name): _axis(axis) for name, axis in record["axes"].items()},
            order=tuple(record["order"]),
            silent=frozenset(record["silent"]),
            fresh=frozenset(record["fresh"]),
            donors={int(layer): donor for layer, donor in record["donors"].items()},
            scope=record["scope"],
            noise=None if noise is None else Noise(noise["std"], noise["seed"]),
            seed=record["seed"],
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, InputError) as error:
        said = f"the recorded growth maps are damaged ({type(error).__name__})"
        raise InputError(said, key="maps", remedy=_DAMAGED) from None
    if maps.digest() != digest:
        raise InputError("the recorded growth maps are not those of their digest", key="maps.digest", remedy=_DAMAGED)
    return maps


def _axis_record(axis: AxisMap) -> dict[str, Any]:
    roles = sorted(axis.scales)
    factors = list(zip(*(axis.scales[role] for role in roles), strict=True)) if roles else []
    classes = {found: number for number, found in enumerate(dict.fromkeys(factors))}
    numbers = [classes[found] for found in factors]
    return {
        "source": axis.source,
        "index": _index_runs(axis.index),
        "classes": [[number, len(list(run))] for number, run in groupby(numbers)],
        "scales": {role: [found[place] for found in classes] for place, role in enumerate(roles)},
        "pads": dict(sorted(axis.pads.items())),
    }


def _index_runs(index: Sequence[int]) -> list[list[int]]:
    runs: list[list[int]] = []
    for unit in index:
        if runs and unit == (PAD if runs[-1][0] == PAD else sum(runs[-1])):
            runs[-1][1] += 1
        else:
            runs.append([unit, 1])
    return runs


def _axis(record: Mapping[str, Any]) -> AxisMap:
    index = [
        unit
        for start, length in record["index"]
        for unit in ([PAD] * length if start == PAD else range(start, start + length))
    ]
    numbers = [number for number, length in record["classes"] for _ in range(length)]
    scales = {role: tuple(factors[number] for number in numbers) for role, factors in record["scales"].items()}
    return AxisMap(record["source"], tuple(index), scales, dict(record["pads"]))
