"""Grow a small model into a larger one that knows what the small one knows.

``METHODS`` is the registry: name -> class.  A method from outside comes by its dotted path, ``"package.module:Class"``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bequest.growth.fpi import FPI
from bequest.growth.method import Growth, Verdict
from bequest.growth.plan import GrowthPlan, plan_growth
from bequest.growth.stack import Stack

if TYPE_CHECKING:
    from bequest.growth.check import Preservation, check_preservation
    from bequest.growth.growing import grow, grow_planned
    from bequest.growth.stream import grow_checkpoint

METHODS: dict[str, type[Growth]] = {
    "fpi": FPI,
    "stack": Stack,
}

__all__ = [
    "METHODS",
    "Growth",
    "GrowthPlan",
    "Preservation",
    "Verdict",
    "check_preservation",
    "grow",
    "grow_checkpoint",
    "grow_planned",
    "plan_growth",
]

# What needs torch comes only when it is asked for, so that planning stays without it.
_HEAVY = {
    "Preservation": "bequest.growth.check",
    "check_preservation": "bequest.growth.check",
    "grow": "bequest.growth.growing",
    "grow_planned": "bequest.growth.growing",
    "grow_checkpoint": "bequest.growth.stream",
}


def __getattr__(name: str) -> Any:
    if name in _HEAVY:
        return getattr(importlib.import_module(_HEAVY[name]), name)
    raise AttributeError(f"module 'bequest.growth' has no attribute {name!r}")
