"""Packed token blocks on disk: written as an Arrow file, read back memory-mapped, one block in O(1).

A file holds two columns, ``input_ids`` (a fixed-size list of uint16, or int32 for vocabularies above 65,536) and
``digest`` (63-bit hash of the block's ids), in record batches of equal length.  Only the path is pickled, so a data
loader's workers share one page cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypedDict

import numpy as np
import numpy.typing as npt

#: Tokens of one record batch: the unit of writing, and what a reader maps at once.
BATCH_TOKENS = 2**18

Ids = npt.NDArray[np.integer[Any]]


class Sample(TypedDict):
    """One block: its ids (int64, shape ``[block]``) and its digest."""

    input_ids: npt.NDArray[np.int64]
    digest: int


def block_digest(ids: Ids) -> int:
    """63-bit hash of the ids (it fits a signed 64-bit tensor), whatever integer type they are stored in."""
    data = np.ascontiguousarray(ids, dtype="<i4").tobytes()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") >> 1


class BlockWriter:
    """Writes blocks of ``block`` ids each to ``path``; a context manager."""

    def __init__(self, path: Path, block: int, vocabulary: int) -> None:
        import pyarrow

        self.block, self.count = block, 0
        self._type = pyarrow.uint16() if vocabulary <= 2**16 else pyarrow.int32()
        self._rows = max(1, BATCH_TOKENS // block)
        self._waiting: list[Ids] = []
        self._waiting_rows = 0
        self._schema = pyarrow.schema([("input_ids", pyarrow.list_(self._type, block)), ("digest", pyarrow.int64())])
        self._writer = pyarrow.ipc.new_file(str(path), self._schema)

    def write(self, blocks: Ids) -> None:
        """Append blocks, shape ``[any, block]``."""
        self._waiting.append(blocks)
        self._waiting_rows += len(blocks)
        self.count += len(blocks)
        if self._waiting_rows >= self._rows:
            rows = np.concatenate(self._waiting)
            whole = len(rows) // self._rows * self._rows
            for start in range(0, whole, self._rows):
                self._write_batch(rows[start : start + self._rows])
            self._waiting, self._waiting_rows = [rows[whole:]], len(rows) - whole

    def _write_batch(self, rows: Ids) -> None:
        import pyarrow

        flat = pyarrow.array(np.ascontiguousarray(rows).reshape(-1).astype(self._type.to_pandas_dtype()))
        ids = pyarrow.FixedSizeListArray.from_arrays(flat, self.block)
        digests = pyarrow.array([block_digest(row) for row in rows], pyarrow.int64())
        self._writer.write_batch(pyarrow.record_batch([ids, digests], schema=self._schema))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and self._waiting_rows:
            self._write_batch(np.concatenate(self._waiting))
        self._writer.close()


class Blocks:
    """Packed blocks, map-style and memory-mapped: ``len(blocks)``, ``blocks[i]``.

    Args:
        path: the Arrow file.
        limit: look at the first ``limit`` blocks only.
    """

    def __init__(self, path: Path, limit: int | None = None) -> None:
        self.path, self.limit = path, limit
        self._open()

    def _open(self) -> None:
        import pyarrow

        reader = pyarrow.ipc.open_file(pyarrow.memory_map(str(self.path)))
        self.block: int = reader.schema.field("input_ids").type.list_size
        self._ids: list[Ids] = []
        self._digests: list[npt.NDArray[np.int64]] = []
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            self._ids.append(batch.column(0).flatten().to_numpy().reshape(-1, self.block))
            self._digests.append(batch.column(1).to_numpy())
        self._rows = len(self._ids[0]) if self._ids else 1
        stored = sum(len(ids) for ids in self._ids)
        self._length = stored if self.limit is None else min(stored, self.limit)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "limit": self.limit}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # opening again is all there is to unpickling

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        if not -self._length <= index < self._length:
            raise IndexError(f"block {index} of {self._length}")
        batch, row = divmod(index % self._length, self._rows)
        return {"input_ids": self._ids[batch][row].astype(np.int64), "digest": int(self._digests[batch][row])}

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(self._length))

    @property
    def tokens(self) -> int:
        """Tokens in all blocks."""
        return self._length * self.block

    def first(self, count: int) -> Blocks:
        """The first ``count`` blocks."""
        return Blocks(self.path, min(count, self._length))
