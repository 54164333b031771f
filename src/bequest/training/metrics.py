"""metrics.jsonl, one JSON object a line, and the counters behind it, which a checkpoint carries.

Kinds: ``train`` (mean loss and terms since the last line, rates, totals), ``eval`` (pure loss of one held-out corpus
beside its unigram entropy), ``batches`` (digests of what the first updates were trained on: two runs whose digests
agree saw the same text under the same masks) and ``note``.  On resume, lines past the checkpoint are cut off, and a
torn last line too.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bequest.storage import disk_errors, write_text

FIRST_BATCHES = 4
"""Of so many updates the batches' digests are kept."""


class MetricsFile:
    """An append-only ``metrics.jsonl``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, **line: Any) -> None:
        """Write one line; numbers that JSON cannot hold become null."""
        clean = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in line.items()
        }
        with disk_errors(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(clean) + "\n")

    def flush(self) -> None:
        """Make every line durable; done before a checkpoint that counts on them."""
        if self.path.exists():
            with disk_errors(self.path), self.path.open("rb") as file:
                os.fsync(file.fileno())

    def truncate(self, update: int | None) -> None:
        """Drop lines after ``update`` (all of them for ``None``), torn ones, and what follows a torn one."""
        if not self.path.exists():
            return
        kept: list[str] = []
        if update is not None:
            for text in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    line = json.loads(text)
                except ValueError:
                    break
                if line.get("update", 0) <= update:
                    kept.append(text)
        write_text(self.path, "".join(f"{text}\n" for text in kept))


@dataclass
class Meter:
    """What has been spent and measured so far; exact integers where they count tokens and FLOPs."""

    update: int = 0
    tokens: int = 0
    targets: int = 0
    train_flops: int = 0
    teacher_flops: int = 0
    wall_seconds: float = 0.0
    last_loss: float | None = None
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    since: dict[str, float] = field(default_factory=dict)
    """Sums of the terms' means since the last train line."""
    since_updates: int = 0
    batches: list[str] = field(default_factory=list)
    """Digests of what the first updates were trained on."""

    def add(self, losses: dict[str, float]) -> None:
        """One update's mean loss (``loss``) and terms."""
        for name, value in losses.items():
            self.since[name] = self.since.get(name, 0.0) + value
        self.since_updates += 1
        self.last_loss = losses["loss"]

    def drain(self) -> dict[str, float]:
        """The means since the last call, and start again."""
        count = max(1, self.since_updates)
        means = {name: value / count for name, value in self.since.items()}
        self.since, self.since_updates = {}, 0
        return means

    def as_json(self) -> dict[str, Any]:
        """For a checkpoint."""
        return asdict(self)
