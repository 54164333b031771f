"""What a reader sees while training: a bar with tokens per second and ETA on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class Display:
    """Progress of one run on ``console``; silent where ``console`` is ``None``."""

    def __init__(self, name: str, updates: int, console: Console | None, *, every_seconds: float = 10.0) -> None:
        self.name, self.updates, self.console, self.every = name, updates, console, every_seconds
        self.bar: Progress | None = None
        self.last_line = 0.0
        self.started = time.monotonic()
        self.first_update: int | None = None

    def __enter__(self) -> Display:
        if self.console is not None and self.console.is_terminal:
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total}"),
                TextColumn("loss {task.fields[loss]}"),
                TextColumn("{task.fields[rate]} tokens/s"),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self.bar.start()
            self.task = self.bar.add_task(self.name, total=self.updates, loss="-", rate="-")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def train(self, update: int, tokens: int, loss: float, rate: float) -> None:
        """After a logged update."""
        if self.bar is not None:
            self.bar.update(self.task, completed=update, loss=f"{loss:.3f}", rate=f"{rate:,.0f}")
            return
        now = time.monotonic()
        if self.first_update is None:
            self.first_update, self.started = update, now
        if self.console is None or (now - self.last_line < self.every and update != self.updates):
            return
        self.last_line = now
        done = update - self.first_update
        left = (now - self.started) / done * (self.updates - update) if done else None
        eta = "" if left is None or update == self.updates else f", {left:.0f} s left"
        self.line(f"update {update}/{self.updates}, {tokens:,} tokens, loss {loss:.3f}, {rate:,.0f} tokens/s{eta}")

    def evaluation(self, corpus: str, loss: float, unigram: float | None, update: int) -> None:
        """After a held-out corpus was measured."""
        beside = "" if unigram is None else f" (unigram {unigram:.3f})"
        self.line(f"update {update}: {corpus} held-out loss {loss:.3f}{beside}")

    def note(self, text: str) -> None:
        """A remark."""
        self.line(text)

    def line(self, text: str) -> None:
        """Print one line above the bar, or plainly."""
        if self.console is not None:
            self.console.print(f"{self.name}: {text}", markup=False, highlight=False, soft_wrap=True)
