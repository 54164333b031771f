"""The section of docs/benchmarks.md that bench/growth.py writes, and what stands in it."""

from __future__ import annotations

import platform
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

HEADING = "## Growing a checkpoint"
ACCEPTED = 3  # times the time of cp and sync


@dataclass(frozen=True)
class Case:
    """One growth: the source's dtype and sizes (hidden, ffn, layers), the target's, the method."""

    name: str
    dtype: str
    source: tuple[int, int, int]
    to: dict[str, int]
    method: str


@dataclass(frozen=True)
class Line:
    """What a case measured: seconds of each round, seconds of a processor (growing, copying), memory, reads."""

    case: Case
    result: float
    largest: float
    grown: list[float]
    copied: list[float]
    computed: tuple[float, float]
    started: float
    memory: float
    read: float

    @property
    def ratios(self) -> list[float]:
        """Of growing to copying, round by round."""
        return [grown / copied for grown, copied in zip(self.grown, self.copied, strict=True)]


def machine() -> str:
    names = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    assert memory
    name, size = names[0] if names else platform.machine(), int(memory.group(1)) / 2**20
    libraries = f"torch {version('torch')}, transformers {version('transformers')}"
    return f"{name} x {len(names)}, {size:.0f} GiB of memory, {libraries}"


def spread(values: Sequence[float], digits: int = 1) -> str:
    middle = f"{statistics.median(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.{digits}f}–{max(values):.{digits}f})"


ABOUT = """\
`python bench/growth.py` grows a synthetic llama from disk to disk and copies the result with `cp`, in turn, several
rounds. Both times include flushing to the disk; the source lies in the page cache. Growing is timed inside its process;
start-up is what the process did before (the interpreter, torch, transformers). CPU: what growing and what copying took
of the processors, which says more than seconds do on a machine that is busy otherwise; growing digests what it writes.
Memory is the peak of anonymous memory over the interpreter with torch loaded; the project accepts 3 × the largest
tensor + 200 MB. Read: the bytes that the process asked the system for, over the source's size."""

BESIDE = """\
A depth-only copy ({case}, result {size:.1f} GB) by the whole command, start-up and flushing included, beside {other}
in a virtual environment of its own (`passthrough`, the same layers twice, its default options). Both make the same
tensors; bequest also digests them for the lineage. Memory here is all anonymous memory of the process."""


def remark(lines: Sequence[Line]) -> list[str]:
    """Which lines miss what is accepted, said first where any does."""
    middles = {line.case.name: statistics.median(line.ratios) for line in lines}
    missed = [f"{name} ({middle:.2f})" for name, middle in middles.items() if middle > ACCEPTED]
    if not missed:
        return []
    return [
        f"**Above {ACCEPTED} on this machine:** {', '.join(missed)}. Growing takes some four times the processor time "
        "of `cp`, and there are two cores for it: the digests of what is read and written (SHA-256, about a quarter of "
        "that time), the scaling in float64, laying out the columns, and writing through the page cache, which `cp` "
        "does inside the kernel.",
        "",
    ]


def page(lines: Sequence[Line], weighings: Sequence[Line], depth: dict[str, Any] | None, load: float) -> str:
    """The section of docs/benchmarks.md."""
    text = [
        HEADING,
        "",
        ABOUT,
        "",
        f"Machine: {machine()}. Recorded {date.today()}; load average at the start {load:.1f}. "
        f"The ratio is between sides that took turns; the project accepts at most {ACCEPTED}.",
        "",
        "| growth | result | grow, s | `cp` + `sync`, s | ratio (over rounds) | CPU, s | start-up, s | memory | read |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        *(row(line) for line in lines),
        "",
        *remark(lines),
        "Memory does not grow with the model (bf16, width × 2, more and more layers):",
        "",
        "| result | largest tensor | memory | accepted |",
        "| ---: | ---: | ---: | ---: |",
    ]
    for line in weighings:
        text.append(
            f"| {line.result / 1e9:.1f} GB | {line.largest / 1e6:.0f} MB | {line.memory / 1e6:.0f} MB | "
            f"{(3 * line.largest) / 1e6 + 200:.0f} MB |"
        )
    if depth is not None:
        text += ["", *beside_lines(depth)]
    return "\n".join(text) + "\n"


def row(line: Line) -> str:
    """One case as a line of the table."""
    cells = [
        line.case.name,
        f"{line.result / 1e9:.1f} GB",
        spread(line.grown),
        spread(line.copied),
        spread(line.ratios, 2),
        f"{line.computed[0]:.1f} and {line.computed[1]:.1f}",
        f"{line.started:.1f}",
        f"{line.memory / 1e6:.0f} MB",
        f"{line.read:.3f}",
    ]
    return f"| {' | '.join(cells)} |"


def beside_lines(depth: dict[str, Any]) -> list[str]:
    lines = [
        BESIDE.format(case=depth["case"], size=depth["bytes"] / 1e9, other=depth["other"]),
        "",
        "| command | seconds | the same for a tiny model | memory |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, runs in depth["runs"].items():
        seconds = spread([run["seconds"] for run in runs])
        memory = max(run["memory"] for run in runs)
        start = f"{depth['started'][name]:.1f}" if name in depth["started"] else ""
        lines.append(f"| {name} | {seconds} | {start} | {f'{memory / 1e6:.0f} MB' if memory else ''} |")
    return lines


def write_section(file: Path, section: str) -> None:
    """Replace the section of that heading, or add it."""
    old = file.read_text(encoding="utf-8")
    pattern = re.compile(rf"^{re.escape(HEADING)}\n.*?(?=^## |\Z)", re.M | re.S)
    new = pattern.sub(lambda _: section + "\n", old) if pattern.search(old) else f"{old.rstrip()}\n\n{section}"
    file.write_text(new.rstrip() + "\n", encoding="utf-8")
