"""Files as streams of rows: text, jsonl, csv, tsv and parquet, plain or compressed, never a whole file in memory.

A text file is read as documents of consecutive paragraphs: paragraphs (separated by blank lines) are gathered until
``DOCUMENT_CHARACTERS`` is reached.  A paragraph longer than ``PARAGRAPH_CHARACTERS`` is cut at a line's end.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from bequest.errors import InputError, did_you_mean

DOCUMENT_CHARACTERS = 2000
PARAGRAPH_CHARACTERS = 64_000
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
FIELD_LIMIT = 2**30  # bytes in one csv field: Python's own limit of 128 kB refuses ordinary articles

Row = dict[str, Any]


def file_format(path: Path) -> str:
    """The format that a file's name stands for: txt, jsonl, csv, tsv or parquet.

    Raises:
        InputError: the name says nothing that can be read.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    suffix = suffixes[-1] if suffixes else ""
    if suffix not in FORMATS:
        known = " ".join(FORMATS)
        raise InputError(f"cannot tell the format from the name {path.name!r}", where=path, remedy=f"known: {known}")
    return FORMATS[suffix]


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file for reading, decompressing by its last suffix."""
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    if suffix == ".bz2":
        return cast(IO[bytes], bz2.open(path, "rb"))
    if suffix == ".xz":
        return cast(IO[bytes], lzma.open(path, "rb"))
    if suffix == ".zst":
        import pyarrow

        return cast(IO[bytes], pyarrow.input_stream(str(path), compression="zstd"))
    return path.open("rb")


def read_documents(path: Path) -> Iterator[str]:
    """The documents of one text file: runs of paragraphs of about ``DOCUMENT_CHARACTERS``."""
    gathered: list[str] = []
    size = 0
    for paragraph in _paragraphs(path):
        gathered.append(paragraph)
        size += len(paragraph)
        if size >= DOCUMENT_CHARACTERS:
            yield "\n\n".join(gathered)
            gathered, size = [], 0
    if gathered:
        yield "\n\n".join(gathered)


def _paragraphs(path: Path) -> Iterator[str]:
    lines: list[str] = []
    size = 0
    for line in _lines(path):
        if line.strip():
            lines.append(line)
            size += len(line)
        if lines and (not line.strip() or size >= PARAGRAPH_CHARACTERS):
            yield "".join(lines).strip()
            lines, size = [], 0
    if lines:
        yield "".join(lines).strip()


def _lines(path: Path) -> Iterator[str]:
    """Lines of at most ``PARAGRAPH_CHARACTERS``, so that a file without line ends is not one string."""
    import io

    with _bad_bytes(path), io.TextIOWrapper(open_bytes(path), encoding="utf-8-sig", newline=None) as file:
        while line := file.readline(PARAGRAPH_CHARACTERS):
            yield line


def read_jsonl(path: Path, columns: tuple[str, ...]) -> Iterator[Row]:
    """The rows of a jsonl file; each must be an object with the named ``columns``."""
    with _bad_bytes(path), open_bytes(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"line {number} is not JSON ({error.msg})", where=path) from None
            if not isinstance(row, dict):
                raise InputError(f"line {number} is not an object", where=path, remedy='write {"text": ...} per line')
            for column in columns:
                if column not in row:
                    raise _missing(path, column, row, f"line {number} has no key")
            yield row


def _read_separated(path: Path, columns: tuple[str, ...], separator: str) -> Iterator[Row]:
    import io

    csv.field_size_limit(FIELD_LIMIT)
    with _bad_bytes(path), io.TextIOWrapper(open_bytes(path), encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter=separator)
        for column in columns:
            if column not in (reader.fieldnames or []):
                raise _missing(path, column, reader.fieldnames or [], "the header has no column")
        try:
            yield from reader
        except csv.Error as error:
            raise InputError(f"line {reader.line_num} cannot be read ({error})", where=path) from None


def read_csv(path: Path, columns: tuple[str, ...]) -> Iterator[Row]:
    """The rows of a comma-separated file with a header."""
    yield from _read_separated(path, columns, ",")


def read_tsv(path: Path, columns: tuple[str, ...]) -> Iterator[Row]:
    """The rows of a tab-separated file with a header."""
    yield from _read_separated(path, columns, "\t")


def read_parquet(path: Path, columns: tuple[str, ...]) -> Iterator[Row]:
    """The rows of a parquet file, one row group's batch at a time."""
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise InputError(f"not a parquet file ({error})", where=path) from None
    with file:
        for column in columns:
            if column not in file.schema_arrow.names:
                raise _missing(path, column, file.schema_arrow.names, "the table has no column")
        for batch in file.iter_batches(batch_size=1024, columns=list(columns)):
            yield from batch.to_pylist()


def read_rows(path: Path, columns: tuple[str, ...]) -> Iterator[Row]:
    """The rows of a table file, as dicts that have at least ``columns``.

    Raises:
        InputError: the file cannot be read as what its name says, or a column is missing (with the nearest one's name).
    """
    kind = file_format(path)
    if kind not in TABLES:
        raise InputError(f"a {kind} file has no columns", where=path, remedy=f"use one of {' '.join(TABLES)}")
    yield from TABLES[kind](path, columns)


def _missing(path: Path, column: str, names: Any, what: str) -> InputError:
    return InputError(
        f"{what} {column!r}", where=path, key=column, remedy=did_you_mean(column, [str(n) for n in names])
    )


class _bad_bytes:  # noqa: N801  (reads as a statement: "with _bad_bytes(path)")
    """Undecodable text and torn archives as one line that names the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, UnicodeDecodeError):
            raise InputError(f"not UTF-8 text ({error.reason} at byte {error.start})", where=self.path) from None
        if isinstance(error, EOFError | gzip.BadGzipFile | lzma.LZMAError) or (
            isinstance(error, OSError) and error.errno is None and self.path.suffix in COMPRESSIONS
        ):
            raise InputError(f"the compressed file is damaged ({error})", where=self.path) from None


FORMATS = {
    ".txt": "txt",
    ".text": "txt",
    ".md": "txt",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
TABLES: dict[str, Callable[[Path, tuple[str, ...]], Iterator[Row]]] = {
    "jsonl": read_jsonl,
    "csv": read_csv,
    "tsv": read_tsv,
    "parquet": read_parquet,
}
