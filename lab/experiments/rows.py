"""The CSV of an experiment: one row per finished cell, appended whole, so that work survives the machine it ran on.

A row is one physical line.  Writers hold a lock, write the line at once and flush it to the disk; what a killed writer
left of a line is dropped with a remark.  A line that says what no cell can have come to is refused by file, line and
column.  Try it: ``read_rows(Path("lab/results/stream.csv"))``.
"""

from __future__ import annotations

import csv
import dataclasses
import fcntl
import io
import json
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bequest.errors import InputError
from bequest.storage import disk_errors, sync_file
from lab.experiments.cells import Cell, Key, tuned_text
from lab.experiments.columns import JSON, column

DECIMALS = 6
LONGEST_FIELD = 1 << 26


@dataclass(frozen=True)
class Row:
    """What one cell came to.  The columns of the CSV are these fields, in this order.

    Attributes:
        experiment: the experiment's name.
        tier: screening, finals or scratch.
        scale: smoke, cpu or gpu.
        recipe: hash of what was computed, seed, order and tuned value apart.
        method: the method compared.
        size: a name of the experiment's sizes, ``-`` where there is one only.
        order: a name of its orders, ``-`` where there is one only.
        seed: of data order, masks and everything random.
        role: ``pilot`` (tuning only, never reported) or ``final``.
        tuned: the tuned value by its variable.
        code: digest of the code that can change a number.
        commit: the revision, for the reader.
        date: UTC day.
        machine: processor (or accelerator) x how many.
        threads: of torch.
        batches: digest of the first batches of every student stage; empty where none was recorded.
        tokens: that the student stages trained on.
        train_flops: of the student stages.
        teacher_flops: of their teachers.
        source_flops: of everything trained before: other stages of the cell, and bases whose lineage knows their cost.
        wall_seconds: of the whole cell, measuring included.
        bases: weights digest of every model taken from outside, by its name.
        measures: losses, task scores and curves; ``order`` the domains in order; ``unpaired`` the methods whose batches
            should have been the same and were not; ``failed`` why a cell came to nothing.
    """

    experiment: str
    tier: str
    scale: str
    recipe: str
    method: str
    size: str
    order: str
    seed: int
    role: str
    tuned: Mapping[str, Any]
    code: str
    commit: str
    date: str
    machine: str
    threads: int
    batches: str
    tokens: int
    train_flops: int
    teacher_flops: int
    source_flops: int
    wall_seconds: float
    bases: Mapping[str, str]
    measures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        """What its cell is found by, the code apart."""
        tuned = tuned_text(self.tuned)
        return (
            self.experiment,
            self.scale,
            self.recipe,
            self.method,
            self.size,
            self.seed,
            self.order,
            self.role,
            tuned,
        )

    @property
    def sequence(self) -> tuple[str, ...]:
        """The domains of its order."""
        return tuple(self.measures.get("order", ()))

    @property
    def failed(self) -> str | None:
        """Why the cell came to nothing, or None."""
        found = self.measures.get("failed")
        return str(found) if found is not None else None

    def is_of(self, cell: Cell, *, any_code: bool = False) -> bool:
        """Whether this is the cell's row: the same key, the same domains in the order, and the same code if it must."""
        return self.key == cell.key and self.sequence == cell.sequence and (any_code or self.code == cell.code)


COLUMNS = tuple(entry.name for entry in dataclasses.fields(Row))


def read_rows(path: Path) -> tuple[list[Row], list[str]]:
    """Every row of a file, and remarks: a torn last line is left out.  A file that is not there has none.

    Raises:
        InputError: other columns than these, or a line that is no row; file, line and column are named.
    """
    if not path.is_file():
        return [], []
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # a line that another process is writing is not a torn one
        return _read(file.read(), path)


def _read(data: bytes, path: Path) -> tuple[list[Row], list[str]]:
    lines = _whole_lines(data)
    remarks = []
    if sum(map(len, lines)) < len(data):
        remarks.append(f"{path}: the last line is torn and was dropped; its cell runs again")
    if not lines:
        return [], remarks
    _check_header(_text(lines[0], "line 1", path), path)
    keyed = [(_text(line, f"line {number}", path), f"line {number}") for number, line in enumerate(lines[1:], start=2)]
    return [_parsed(line, key, path) for line, key in keyed if line], remarks


def check_writable(path: Path) -> None:
    """Notice before hours of work that rows could not be written; leaves nothing behind.

    Raises:
        InputError: the file, or the directory for it, cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            path.open("ab").close()
        else:
            tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise InputError(
            f"rows cannot be written here ({error.strerror or error})",
            where=path,
            remedy="make the file and its directory writable",
        ) from None


def append_row(path: Path, row: Row) -> list[str]:
    """Append one row, whole or not at all, under a lock; returns remarks.

    Nothing is appended when a row of the same cell and code stands already: another process was faster.

    Raises:
        InputError: the file has other columns, or the row says what none can, and could not be read again.
        RunError: the disk is full.
    """
    line = _line(_values(row))
    _parsed(line.removesuffix("\n"), "a new row", path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        new = not path.exists()
        with path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            data = file.read()
            rows, remarks = _read(data, path)
            if any(
                other.key == row.key and other.code == row.code and other.sequence == row.sequence for other in rows
            ):
                return [*remarks, f"{path}: another process had written this row already"]
            whole = _whole_lines(data)
            file.truncate(sum(map(len, whole)))
            text = (_line(COLUMNS) if not whole else "" if whole[-1].endswith(b"\n") else "\n") + line
            before = file.seek(0, os.SEEK_END)
            try:
                file.write(text.encode("utf-8"))
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.ftruncate(file.fileno(), before)
                raise
        if new:
            sync_file(path.parent)
    return remarks


def rounded(value: Any) -> Any:
    """A JSON-like value with floats to six decimals; what JSON cannot hold becomes None."""
    if isinstance(value, Mapping):
        return {str(key): rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    if isinstance(value, float):
        return round(value, DECIMALS) if math.isfinite(value) else None
    return value


def _whole_lines(data: bytes) -> list[bytes]:
    """The lines with their ends; a last one without its end counts where it is a whole header or row for all that."""
    *lines, last = data.split(b"\n")
    found = [line + b"\n" for line in lines]
    try:
        text = _text(last, "the last line", None)
        if found:
            _parsed(text, "the last line", None)
        else:
            _check_header(text, None)
    except InputError:
        return found
    return [*found, last]


def _text(line: bytes, key: str, path: Path | None) -> str:
    try:
        return line.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise _no_row("not text in UTF-8", key, path) from None


def _check_header(line: str, path: Path | None) -> None:
    found = line.split(",")
    if tuple(found) == COLUMNS:
        return
    lacks = [name for name in COLUMNS if name not in found]
    more = [name for name in found if name not in COLUMNS]
    told = [f"lacks {', '.join(lacks)}"] if lacks else []
    told += [f"has {', '.join(repr(name) for name in more)}"] if more else []
    raise InputError(
        f"other columns than this lab writes ({'; '.join(told) or 'another order'})",
        where=path,
        key="line 1",
        remedy="move the file away, or write its rows anew with these columns",
    )


def _parsed(line: str, key: str, path: Path | None) -> Row:
    """The row of a line without its end; ``key`` names the line in the complaint."""
    csv.field_size_limit(LONGEST_FIELD)
    try:
        fields = next(csv.reader([line], strict=True))
        if len(fields) != len(COLUMNS):
            raise ValueError(f"{len(fields)} fields instead of {len(COLUMNS)}")
        return Row(**{name: column(name, text) for name, text in zip(COLUMNS, fields, strict=True)})
    except (ValueError, csv.Error, StopIteration) as error:
        raise _no_row(str(error), key, path) from None


def _no_row(why: str, key: str, path: Path | None) -> InputError:
    return InputError(f"no row ({why})", where=path, key=key, remedy="remove the line, and its cell runs again")


def _values(row: Row) -> list[object]:
    def text(name: str) -> object:
        value = getattr(row, name)
        if name not in JSON:
            return value
        value = value if name == "tuned" else rounded(value)
        return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(", ", ": "))

    return [text(name) for name in COLUMNS]


def _line(values: Any) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(values)
    return out.getvalue()
