"""What a reader sees while a corpus is tokenised and packed: a counter on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

EVERY_SECONDS = 10.0
PHASES = {"scan": "reading", "pack": "packing", "held-out": "packing the held-out side of"}


@contextlib.contextmanager
def packing_display(console: Console, corpus: str) -> Iterator[Callable[[str, int], None]]:
    """Yield the callback that packing calls with its phase and the documents done in it."""
    started = last = time.monotonic()
    with console.status(f"  packing {corpus}") if console.is_terminal else contextlib.nullcontext() as status:

        def show(phase: str, documents: int) -> None:
            nonlocal last
            now = time.monotonic()
            rate = documents / max(now - started, 1e-3)
            text = f"  {PHASES.get(phase, phase)} {corpus}: {documents:,} documents, {rate:,.0f}/s"
            if status is not None:
                status.update(text)
            elif now - last >= EVERY_SECONDS:
                last = now
                console.print(text, highlight=False)

        yield show
