"""How commands speak: results on standard output, progress on standard error, colour and boxes on a terminal only.

With ``--json`` standard output holds one JSON document and nothing else.  Of several processes the main one speaks.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from bequest import processes
from bequest.recipe.quantities import short_bytes

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there already.")]
# Where there is no terminal nothing is wrapped: a line of a log is one line.
PLAIN_WIDTH = 400


def output() -> Console:
    """Standard output as a rich console; without a terminal: no colour, no wrapping."""
    from rich.console import Console

    plain = not sys.stdout.isatty()
    return Console(
        highlight=False, soft_wrap=plain, width=PLAIN_WIDTH if plain else None, quiet=not processes.is_main()
    )


def progress(as_json: bool = False) -> Console:
    """Where a long command tells how it gets on: standard output, or standard error beside ``--json``."""
    from rich.console import Console

    plain = not (sys.stderr if as_json else sys.stdout).isatty()
    return Console(
        stderr=as_json,
        highlight=False,
        soft_wrap=plain,
        width=PLAIN_WIDTH if plain else None,
        quiet=not processes.is_main(),
    )


def show(*parts: RenderableType) -> None:
    """Print to standard output; strings are taken as they are, without markup."""
    console = output()
    for part in parts:
        console.print(part, markup=False)


def show_json(value: Any) -> None:
    """Print one JSON document."""
    if processes.is_main():
        sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def grid(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[str] = ()) -> Table:
    """A table with a heading; ``right`` names the columns of numbers."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    terminal = sys.stdout.isatty()
    table = Table(
        title=Text(title, style="bold"),
        show_header=any(columns),
        title_justify="left",
        box=box.SIMPLE_HEAD if terminal else None,
        header_style="bold",
        pad_edge=False,
        padding=(0, 1 if terminal else 2, 0, 0),  # a box brings a space between columns of its own
    )
    numbers = set(right)
    for name in columns:
        table.add_column(name, justify="right" if name in numbers else "left", overflow="fold", no_wrap=name in numbers)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def announce(what: str, *, as_json: bool) -> None:
    """Say what is about to be written, before it is."""
    if not as_json:
        show(what)


def finish(path: Path | str, *, load: Sequence[str] = (), next_step: str | None = None) -> None:
    """The end of every command that makes something: the path, the lines of Python that load it, what comes next."""
    from rich.text import Text

    console = output()
    console.print(Text.assemble(("made ", "bold green"), str(path)), soft_wrap=True)
    if load:
        console.print(Text("load it:", style="bold"))
        for line in load:
            console.print(Text(f"    {line}", style="cyan"), soft_wrap=True)
    if next_step:
        console.print(Text.assemble(("next: ", "bold"), next_step), soft_wrap=True)


class Advance:
    """How far a long piece of work has got: a bar with rate and time left on a terminal, elsewhere a line now and then.

    Called with the amount done and the amount in all; a context manager.

    Args:
        doing: what is done, in words: ``"writing big"``.
        console: where it is shown.
        words: an amount in words.
        every_seconds: between lines.
    """

    def __init__(
        self,
        doing: str,
        console: Console,
        *,
        words: Callable[[float], str] = short_bytes,
        every_seconds: float = 10.0,
    ) -> None:
        self.doing, self.console, self.words, self.every = doing, console, words, every_seconds
        self.begun = self.last_line = 0.0
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            from rich import progress

            columns = (
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.TextColumn("{task.fields[amount]}"),
                progress.TimeRemainingColumn(),
            )
            self._bar = progress.Progress(*columns, console=self.console, transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self.doing, total=None, amount="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        """``done`` of ``total`` is done."""
        now = time.monotonic()
        self.begun = self.begun or now
        self.last_line = self.last_line or now
        rate = done / max(now - self.begun, 1e-6)
        amount = f"{self.words(done)} of {self.words(total)}, {self.words(rate)}/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, amount=amount)
        elif now - self.last_line >= self.every and done:
            self.last_line = now
            left = f"{(total - done) / rate:.0f} s left"
            self.console.print(f"{self.doing}: {amount}, {left}", markup=False, soft_wrap=True)


def steps(amount: float) -> str:
    """An amount of steps in words."""
    return f"{amount:.3g} step{'' if amount == 1 else 's'}"


def free_memory() -> float:
    """Bytes of memory that a program may still take, as Linux estimates it; infinite where nobody says."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024 * float(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
    except (OSError, StopIteration):
        return math.inf


def loading_lines(directory: Path) -> list[str]:
    """The lines of Python that load a model or an adapter."""
    from bequest.storage import read_json

    if (directory / "adapter_config.json").is_file():
        config = read_json(directory / "adapter_config.json")
        base = _base_of(directory) or str(config.get("base_model_name_or_path") or "BASE")
        wrapper = {"SEQ_CLS": "AutoModelForSequenceClassification", "CAUSAL_LM": "AutoModelForCausalLM"}
        name = wrapper.get(str(config.get("task_type")), "AutoModel")
        labels = _labels_of(directory)
        extra = f", num_labels={len(labels)}" if labels else ""
        return [
            "from peft import PeftModel",
            f"from transformers import {name}",
            f'base = {name}.from_pretrained("{base}"{extra})',
            f'model = PeftModel.from_pretrained(base, "{directory}")',
        ]
    if not (directory / "config.json").is_file():
        return []
    architecture = (read_json(directory / "config.json").get("architectures") or ["Model"])[0]
    name = next((auto for end, auto in AUTO.items() if architecture.endswith(end)), "AutoModel")
    model = f'model = {name}.from_pretrained("{directory}")'
    if not any(directory.glob("tokenizer*")):
        return [f"from transformers import {name}", model]
    tokenizer = f'tokenizer = AutoTokenizer.from_pretrained("{directory}")'
    return [f"from transformers import {name}, AutoTokenizer", model, tokenizer]


AUTO: Mapping[str, str] = {
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForMaskedLM": "AutoModelForMaskedLM",
    "ForPreTraining": "AutoModelForPreTraining",
    "ForCausalLM": "AutoModelForCausalLM",
    "LMHeadModel": "AutoModelForCausalLM",
}


def _base_of(directory: Path) -> str | None:
    """Where an adapter's base lies according to its lineage."""
    from bequest import lineage

    if not (directory / lineage.FILE).is_file():
        return None
    parent = lineage.read_lineage(directory).parent("base")
    if parent is None:
        return None
    return os.path.normpath(directory / parent.path) if parent.path else parent.name


def _labels_of(directory: Path) -> list[str]:
    from bequest import lineage

    if not (directory / lineage.FILE).is_file():
        return []
    return list(lineage.read_lineage(directory).operation.parameters.get("labels") or [])
