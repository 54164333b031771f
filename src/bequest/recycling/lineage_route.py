"""From the base that weights were tuned on to the new one: the growths and trainings that the lineage names.

A grown model remembers its maps, so what was tuned on its source can follow it exactly.  A base that was trained as
well is no longer M θ: what is carried onto it is a start, to be measured or tuned on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bequest import checkpoints, lineage
from bequest.anatomy.map_records import maps_from_record
from bequest.anatomy.maps import Maps
from bequest.errors import InputError


@dataclass(frozen=True)
class Growth:
    """One growth on the way.

    Attributes:
        name: of the grown generation.
        record: what its lineage says of the growth.
        config: the grown model's.
    """

    name: str
    record: Mapping[str, Any]
    config: Mapping[str, Any]

    def maps(self) -> Maps:
        """Its maps.

        Raises:
            InputError: its lineage does not hold them, or they are not those of their digest.
        """
        methods = " + ".join(self.record.get("methods") or ["unknown"])
        if "maps" not in self.record or "digest" not in self.record:
            raise InputError(
                f"its lineage does not hold the maps of its growth ({methods})",
                where=self.name,
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
        start: where the old base lies, if it still does.
    """

    growths: tuple[Growth, ...]
    trained: tuple[str, ...]
    start: Path | None

    @property
    def inexact(self) -> tuple[Growth, ...]:
        """The growths that did not preserve the function."""
        return tuple(growth for growth in self.growths if not growth.record.get("exact"))


def route_to(base: str, onto: str | Path) -> Route | None:
    """The route from a base to a model, by the ids in lineages; None where they do not lead there.

    Args:
        base: the lineage id of the base that the weights were tuned on.
        onto: the new base's directory.
    """
    place: Path | None = Path(onto)
    growths: list[Growth] = []
    trained: list[str] = []
    seen: set[str] = set()
    while place is not None and (place / lineage.FILE).is_file():
        record = lineage.read_lineage(place)
        parent = record.parent("base")
        if record.id == base:
            return Route(tuple(reversed(growths)), tuple(reversed(trained)), place)
        if parent is None or record.id in seen:
            return None
        seen.add(record.id)
        if record.operation.stage == "grow" and record.operation.maps is not None:
            growths.append(Growth(record.name, record.operation.maps, checkpoints.load_config(place)))
        else:
            trained.append(record.name)
        behind = place / parent.path if parent.path is not None else None
        stands = behind is not None and behind.is_dir() and lineage.identity_of(behind) == parent.id
        place = behind if stands else None
        if parent.id == base:
            return Route(tuple(reversed(growths)), tuple(reversed(trained)), place)
    return None
