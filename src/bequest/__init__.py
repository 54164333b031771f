"""bequest: hand down what one language model has learnt to the next.

The public names, imported lazily so that ``import bequest`` costs nothing, and nothing else.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bequest.growth import check_preservation, grow, grow_checkpoint, plan_growth
    from bequest.recycling import carry
    from bequest.running import run

__version__ = "0.1.0"
__all__ = ["carry", "check_preservation", "grow", "grow_checkpoint", "plan_growth", "run"]

_HOMES = {
    "plan_growth": "bequest.growth",
    "grow": "bequest.growth",
    "grow_checkpoint": "bequest.growth",
    "check_preservation": "bequest.growth",
    "carry": "bequest.recycling",
    "run": "bequest.running",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'bequest' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
