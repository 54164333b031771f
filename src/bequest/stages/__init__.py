"""What each kind of stage does: one module per kind, and the life of a stage directory (:mod:`bequest.stages.life`).

A stage is a function ``(context, section, life) -> None`` that leaves one whole directory behind; ``RUNNERS`` names it
for each kind.  Heavy libraries are imported inside the functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bequest.stages.adapt import run_adapt
from bequest.stages.context import Context
from bequest.stages.expand import run_grow
from bequest.stages.life import Life
from bequest.stages.measure import run_measure
from bequest.stages.pretrain import run_pretrain
from bequest.stages.recycle import run_recycle
from bequest.stages.tune import run_tune

RUNNERS: dict[str, Callable[[Context, Any, Life], None]] = {
    "pretrain": run_pretrain,
    "grow": run_grow,
    "adapt": run_adapt,
    "tune": run_tune,
    "recycle": run_recycle,
    "measure": run_measure,
}

__all__ = ["RUNNERS", "Context", "Life"]
