"""Progress of packing: a bar with rate and ETA on a terminal, one plain line where there is none."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rich.console import Console

#: Packing that takes less than this many seconds is not worth a line.
QUIET_SECONDS = 5.0


class PackingProgress:
    """Shows documents scanned and packed; silent without a console.  A context manager."""

    def __init__(self, name: str, console: Console | None) -> None:
        self.name, self.console = name, console
        self.documents = 0
        self.begun = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if self.console is not None and self.console.is_terminal:
            from rich import progress

            columns = (
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.TextColumn("{task.completed:,.0f} documents, {task.fields[rate]:,.0f}/s"),
                progress.TimeRemainingColumn(),
            )
            self._bar = progress.Progress(*columns, console=self.console, transient=True)
            self._bar.start()
            self._task = self._bar.add_task(f"scanning {self.name}", total=None, rate=0.0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        seconds = time.monotonic() - self.begun
        if self.console is not None and error is None and seconds > QUIET_SECONDS:
            self.console.print(f"packed {self.name}: {self.documents:,} documents in {seconds:.0f} s", highlight=False)

    def _show(self, done: int, **fields: Any) -> None:
        if self._bar is not None:
            seconds = max(time.monotonic() - self.begun, 1e-6)
            self._bar.update(self._task, completed=done, rate=done / seconds, **fields)

    def scanned(self, done: int) -> None:
        """``done`` documents have been read once."""
        self.documents = done
        self._show(done)

    def packed(self, done: int, total: int) -> None:
        """``done`` of about ``total`` documents have been tokenised."""
        self._show(done, total=total, description=f"packing {self.name}")
