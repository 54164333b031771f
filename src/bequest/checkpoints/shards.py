"""Safetensors shards written as their rows come, in any order: each header first, the bytes on a second thread.

Every shape is known beforehand, so every offset is: a file begins with the header's length (8 bytes, little-endian) and
the header (JSON, padded with spaces to 8 bytes), and rows go straight to their place behind it.  Nothing but the rows
that wait for the disk is held.  What was written is digested from the page cache, tensor by tensor, as it is completed.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import queue
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from bequest.checkpoints.stored import Segment
from bequest.storage import write_json
from bequest.tensor_files import ITEM_BYTES, StoredTensor

if TYPE_CHECKING:
    import torch

#: The most bytes of one file of weights.
SHARD_BYTES = 2 * 1024**3
# Bytes of rows that may wait for the disk.
_WAITING = 32 << 20
# Bytes digested at once, and then given back to the page cache.
_CHUNK = 8 << 20


@dataclass(frozen=True)
class ToStore:
    """A parameter to be written: its segments and the dtype as a header writes it."""

    segments: tuple[Segment, ...]
    dtype: str

    @property
    def row_bytes(self) -> int:
        """The bytes of one row."""
        return self.segments[0].shape[-1] * ITEM_BYTES[self.dtype]

    @property
    def bytes(self) -> int:
        """The bytes of all segments."""
        return sum(segment.rows for segment in self.segments) * self.row_bytes


@dataclass(frozen=True)
class _Rows:
    """Bytes on their way to the disk."""

    descriptor: int
    offset: int
    data: memoryview


class ShardWriter:
    """Writes the weights of one model directory; use it as a context, and :meth:`finish` when all rows are there.

    Args:
        directory: where to; it exists.
        tensors: parameter -> what to store, in the order of the files.
        shard_bytes: the most bytes of one file; a single tensor may exceed it.

    Attributes:
        total: bytes of all tensors.
    """

    def __init__(self, directory: Path, tensors: Mapping[str, ToStore], *, shard_bytes: int = SHARD_BYTES) -> None:
        self._directory, self._tensors = directory, tensors
        self.total = sum(tensor.bytes for tensor in tensors.values())
        self.places = _placed(directory, tensors, shard_bytes)
        self._open: dict[Path, int] = {}
        self._queue: queue.SimpleQueue[_Rows | list[str] | None] = queue.SimpleQueue()
        self._waiting, self._room = 0, threading.Condition()
        self._error: BaseException | None = None
        self._digests: dict[str, Future[str]] = {}
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="digest")
        self._thread = threading.Thread(target=self._run, name="write", daemon=True)

    def __enter__(self) -> ShardWriter:
        for file in dict.fromkeys(place.file for place in self.places.values()):
            held = {name: place for name, place in self.places.items() if place.file == file}
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            self._open[file] = descriptor
            _write_all(descriptor, memoryview(_header(held)), 0)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread.is_alive():
            if error is not None:
                self._error = self._error or error
            self._queue.put(None)
            self._thread.join()
        self._pool.shutdown(cancel_futures=True)
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()

    def write(self, name: str, row: int, values: torch.Tensor) -> None:
        """Rows of a parameter, in its dtype; they are written later and must not be changed until then.

        Raises:
            OSError: an earlier write failed.
        """
        import torch

        if not values.numel():
            return
        tensor = self._tensors[name]
        data = values.view(torch.uint8).numpy().data.cast("B")
        width = tensor.row_bytes
        for segment in tensor.segments:
            start, stop = max(row, segment.first), min(row + len(values), segment.first + segment.rows)
            if start < stop:
                place = self.places[segment.name]
                offset = place.start + (start - segment.first) * width
                self._put(_Rows(self._open[place.file], offset, data[(start - row) * width : (stop - row) * width]))

    def complete(self, names: Sequence[str]) -> None:
        """All rows of these parameters are written; they are equal to one another, and their digest may be taken."""
        self._put(list(names))

    def finish(self) -> list[tuple[StoredTensor, str]]:
        """Wait for the disk, write the index; returns the SHA-256 of every tensor.

        Raises:
            OSError: a write failed.
        """
        self._put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error
        digests = [(self.places[name], future.result()) for name, future in self._digests.items()]
        files = {place.file for place in self.places.values()}
        if len(files) > 1:
            named = {name: place.file.name for name, place in self.places.items()}
            parameters = sum(math.prod(place.shape) for place in self.places.values())
            about = {"total_size": self.total, "total_parameters": parameters}
            write_json(self._directory / "model.safetensors.index.json", {"metadata": about, "weight_map": named})
        return digests

    def _put(self, item: _Rows | list[str] | None) -> None:
        """Hand something to the second thread, when the rows that wait for it leave room."""
        if isinstance(item, _Rows):
            size = len(item.data)
            with self._room:
                self._room.wait_for(lambda: not self._waiting or self._waiting + size <= _WAITING)
                self._waiting += size
        if self._error is not None:
            raise self._error
        self._queue.put(item)

    def _run(self) -> None:
        """The second thread: it empties the queue whatever happens, so that nobody waits for it in vain."""
        while (item := self._queue.get()) is not None:
            try:
                if self._error is not None:
                    pass  # what still waits is dropped
                elif isinstance(item, _Rows):
                    _write_all(item.descriptor, item.data, item.offset)
                else:
                    self._digest(item)
            except BaseException as error:
                self._error = error
            if isinstance(item, _Rows):
                with self._room:
                    self._waiting -= len(item.data)
                    self._room.notify()

    def _digest(self, names: Sequence[str]) -> None:
        """Digest the first of equal parameters; the others have the same bytes."""
        for number, segment in enumerate(self._tensors[names[0]].segments):
            found = self._pool.submit(_digest_of, self.places[segment.name])
            for name in names:
                self._digests[self._tensors[name].segments[number].name] = found


def _placed(directory: Path, tensors: Mapping[str, ToStore], shard_bytes: int) -> dict[str, StoredTensor]:
    """Where each tensor will lie: shards filled in order, wider dtypes first in each, so that all are aligned."""
    shards: list[list[StoredTensor]] = [[]]
    names: list[list[str]] = [[]]
    filled = 0
    for tensor in tensors.values():
        for segment in tensor.segments:
            length = segment.rows * tensor.row_bytes
            if shards[-1] and filled + length > shard_bytes:
                shards.append([])
                names.append([])
                filled = 0
            shards[-1].append(StoredTensor(directory, tensor.dtype, segment.shape, 0, length))
            names[-1].append(segment.name)
            filled += length
    placed: dict[str, StoredTensor] = {}
    for number, (held, called) in enumerate(zip(shards, names, strict=True), start=1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        ordered = sorted(zip(called, held, strict=True), key=lambda pair: -ITEM_BYTES[pair[1].dtype])
        start = 0
        inside = {}
        for name, one in ordered:
            inside[name] = StoredTensor(directory / file, one.dtype, one.shape, start, one.length)
            start += one.length
        behind = len(_header(inside))
        for name, one in inside.items():
            placed[name] = StoredTensor(one.file, one.dtype, one.shape, one.start + behind, one.length)
    return placed


def _header(held: Mapping[str, StoredTensor]) -> bytes:
    """The first bytes of a file; offsets count from the first tensor on."""
    begin = min(place.start for place in held.values())
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    for name, place in held.items():
        offsets = [place.start - begin, place.start - begin + place.length]
        header[name] = {"dtype": place.dtype, "shape": list(place.shape), "data_offsets": offsets}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write_all(descriptor: int, data: memoryview, offset: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done:], offset + done)


def _digest_of(place: StoredTensor) -> str:
    """SHA-256 of a tensor in a file of our own, from the page cache, without a copy."""
    state = hashlib.sha256()
    if not place.length:
        return state.hexdigest()
    begin = place.start // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
    with place.file.open("rb") as file:
        length = place.start + place.length - begin
        with mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ, offset=begin) as held, memoryview(held) as view:
            for start in range(place.start - begin, length, _CHUNK):
                with view[start : start + _CHUNK] as chunk:
                    state.update(chunk)
                held.madvise(mmap.MADV_DONTNEED, start // mmap.PAGESIZE * mmap.PAGESIZE, _CHUNK)
    return state.hexdigest()
