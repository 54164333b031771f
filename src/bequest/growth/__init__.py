"""Grow a small model into a larger one that knows what the small one knows.

``METHODS`` is the registry: name -> class.  A method from outside comes by its dotted path, ``"package.module:Class"``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bequest.growth.aki import AKI
from bequest.growth.composed import HyperCloning, Lemon, Net2Net
from bequest.growth.direct_copy import DirectCopy
from bequest.growth.fpi import FPI
from bequest.growth.identity import Identity
from bequest.growth.interpolate import Interpolate
from bequest.growth.isometric import Isometric
from bequest.growth.ligo import LiGO
from bequest.growth.method import Growth, Verdict
from bequest.growth.noise import Noise
from bequest.growth.plan import GrowthPlan, plan_from_record, plan_growth
from bequest.growth.scaled_average import ScaledAverage
from bequest.growth.stack import Stack
from bequest.growth.upcycle import Upcycle

if TYPE_CHECKING:
    from bequest.growth.check import Preservation, check_preservation
    from bequest.growth.growing import grow, grow_planned
    from bequest.growth.learning import Expansion, Learning, learn_maps
    from bequest.growth.stream import grow_checkpoint

METHODS: dict[str, type[Growth]] = {
    "fpi": FPI,
    "aki": AKI,
    "isometric": Isometric,
    "scaled_average": ScaledAverage,
    "direct_copy": DirectCopy,
    "net2net": Net2Net,
    "stack": Stack,
    "interpolate": Interpolate,
    "identity": Identity,
    "lemon": Lemon,
    "hypercloning": HyperCloning,
    "noise": Noise,
    "ligo": LiGO,
    "upcycle": Upcycle,
}

__all__ = [
    "METHODS",
    "Expansion",
    "Growth",
    "GrowthPlan",
    "Learning",
    "Preservation",
    "Verdict",
    "check_preservation",
    "grow",
    "grow_checkpoint",
    "grow_planned",
    "learn_maps",
    "plan_from_record",
    "plan_growth",
]

# What needs torch comes only when it is asked for, so that planning stays without it.
_HEAVY = {
    "Preservation": "bequest.growth.check",
    "check_preservation": "bequest.growth.check",
    "grow": "bequest.growth.growing",
    "grow_planned": "bequest.growth.growing",
    "grow_checkpoint": "bequest.growth.stream",
    "Expansion": "bequest.growth.learning",
    "Learning": "bequest.growth.learning",
    "learn_maps": "bequest.growth.learning",
}


def __getattr__(name: str) -> Any:
    if name in _HEAVY:
        return getattr(importlib.import_module(_HEAVY[name]), name)
    raise AttributeError(f"module 'bequest.growth' has no attribute {name!r}")
