"""Adaptation: continual pre-training through new domains.  ``METHODS`` lists what there is; one file each."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bequest.adaptation.replay import Replay
    from bequest.adaptation.sequential import Sequential

METHODS: dict[str, str] = {
    "sequential": "bequest.adaptation.sequential:Sequential",
    "replay": "bequest.adaptation.replay:Replay",
}
_HOMES = {"Sequential": "sequential", "Replay": "replay"}
__all__ = ["METHODS", "Replay", "Sequential"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
