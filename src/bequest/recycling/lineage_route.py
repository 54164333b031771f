"""From the base that weights were tuned on to the new one: the growths and trainings that the lineage names.

A grown model remembers its maps, so what was tuned on its source can follow it exactly.  A base that was trained as
well is no longer M θ: what is carried onto it is a start, to be measured or tuned on.

What a lineage says is believed as far as it can be proven: its id is that of its content, and the weights beside it are
those that it names.  A generation whose weights are others counts as trained.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bequest import checkpoints, lineage
from bequest.anatomy.map_records import maps_from_record
from bequest.anatomy.maps import Maps
from bequest.errors import InputError

RESTORE = "restore the file, or grow it again"


@dataclass(frozen=True)
class Growth:
    """One growth on the way.

    Attributes:
        name: of the grown generation.
        record: what its lineage says of the growth.
        config: the grown model's.
        file: that lineage.
    """

    name: str
    record: Mapping[str, Any]
    config: Mapping[str, Any]
    file: Path

    def maps(self) -> Maps:
        """Its maps.

        Raises:
            InputError: its lineage does not hold them, or they are not those of their digest.
        """
        methods = " + ".join(self.record["methods"]) or "unknown"
        if "maps" not in self.record or "digest" not in self.record:
            raise InputError(
                f"it does not hold the maps of its growth ({methods})",
                where=self.file,
                key="operation.maps",
                remedy="grow it again by a method whose maps are recorded, or tune anew",
            )
        return maps_from_record(self.record["maps"], self.record["digest"])


@dataclass(frozen=True)
class Route:
    """How a new base came from the old one.

    Attributes:
        growths: oldest first.
        trained: generations on the way that something else than growth made.
        start: where the old base lies, if it still does, unchanged.
        changed: directories on the way, both ends included, whose weights are not those of their lineage.
    """

    growths: tuple[Growth, ...]
    trained: tuple[str, ...]
    start: Path | None
    changed: tuple[str, ...] = ()

    @property
    def inexact(self) -> tuple[Growth, ...]:
        """The growths that did not preserve the function."""
        return tuple(growth for growth in self.growths if not growth.record["exact"])


def route_to(base: str, onto: str | Path) -> Route | None:
    """The route from a base to a model, by the ids in lineages; None where they do not lead there.

    Once there is a route, the weights of every generation on it that still lies there are read once, to compare them
    with its lineage: seconds for models of some GB, minutes for hundreds, and nothing a second time in a process.

    Args:
        base: the lineage id of the base that the weights were tuned on.
        onto: the new base's directory.

    Raises:
        InputError: a lineage on the way is damaged, or was changed by hand.
    """
    growths: list[Growth] = []
    trained: list[str] = []
    passed: list[Path] = []
    for place, record in generations(onto):
        passed.append(place)
        if record.id == base:
            return _ended(growths, trained, passed, place)
        parent = record.parent("base")
        if parent is None:
            return None
        if record.operation.stage == "grow" and record.operation.maps is not None:
            growths.append(_growth(place, record))
        else:
            trained.append(record.name)
        if parent.id == base:
            start = behind(place, parent)
            return _ended(growths, trained, [*passed, *([start] if start is not None else [])], start)
    return None


def generations(onto: str | Path) -> Iterator[tuple[Path, lineage.Lineage]]:
    """A model and the bases behind it with their lineages, as far as they lie where the one before says.

    Raises:
        InputError: a lineage is damaged, or was changed by hand.
    """
    place: Path | None = Path(onto)
    seen: set[str] = set()
    while place is not None and (place / lineage.FILE).is_file():
        record = lineage.read_lineage(place)
        if record.id in seen:
            return
        lineage.check_id(record, place)
        seen.add(record.id)
        yield place, record
        parent = record.parent("base")
        place = behind(place, parent) if parent is not None else None


def behind(place: Path, parent: lineage.Parent) -> Path | None:
    """Where the base behind a generation lies; None where it is gone, or something else lies there by now."""
    found = _recorded(place, parent)
    return found if found is not None and found.is_dir() and lineage.identity_of(found) == parent.id else None


def broken_at(onto: str | Path) -> str | None:
    """Where the growths behind a model get out of reach, in words; None where they are all there (or it has none)."""
    for place, record in generations(onto):
        parent = record.parent("base")
        if parent is not None and parent.path is not None and behind(place, parent) is None:
            how = "grew from" if record.operation.stage == "grow" else "was made from"
            return f"{record.name} {how} {parent.name} ({parent.id[:12]}), which is not at {_recorded(place, parent)}"
    return None


# --- parts


def _recorded(place: Path, parent: lineage.Parent) -> Path | None:
    return Path(os.path.normpath(place / parent.path)) if parent.path is not None else None


def _ended(growths: list[Growth], trained: list[str], passed: list[Path], start: Path | None) -> Route:
    """The route, with the generations on it whose weights are not those of their lineage."""
    changed = [
        place
        for place in passed
        if (place / lineage.FILE).is_file() and not lineage.describes(lineage.read_lineage(place), place)
    ]
    return Route(
        growths=tuple(reversed(growths)),
        trained=tuple(reversed(trained)),
        start=None if start in changed else start,
        changed=tuple(place.resolve().name for place in reversed(changed)),
    )


def _growth(place: Path, record: lineage.Lineage) -> Growth:
    """The growth that made a generation.

    Raises:
        InputError: its lineage lacks what a growth records, or holds values of another kind.
    """
    file, maps = place / lineage.FILE, record.operation.maps or {}
    methods, config = maps.get("methods"), maps.get("source_config")
    wrong = {
        "methods": not isinstance(methods, list) or not all(isinstance(name, str) for name in methods),
        "exact": not isinstance(maps.get("exact"), bool),
        "source_config": not isinstance(config, dict) or not isinstance(config.get("model_type"), str),
    }
    for key, bad in wrong.items():
        if bad:
            said = f"holds {maps[key]!r:.60}" if key in maps else "is missing"
            raise InputError(said, where=file, key=f"operation.maps.{key}", remedy=RESTORE)
    return Growth(record.name, maps, checkpoints.load_config(place), file)
