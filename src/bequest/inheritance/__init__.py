"""Inheritance: an earlier, usually smaller model teaches the next one, then steps back.

``METHODS`` and ``SCHEDULES`` list what there is; ``Inherit`` is the objective.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bequest.inheritance.schedules import SCHEDULES

if TYPE_CHECKING:
    from bequest.inheritance.inherit import Inherit
    from bequest.inheritance.teacher import LiveTeacher

METHODS: dict[str, str] = {"inherit": "bequest.inheritance.inherit:Inherit"}
_HOMES = {"Inherit": "inherit", "LiveTeacher": "teacher"}
__all__ = ["METHODS", "SCHEDULES", "Inherit", "LiveTeacher"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
