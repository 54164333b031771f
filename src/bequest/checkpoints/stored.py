"""A model's tensors as they lie on the disk, by their names in memory, read in blocks of rows.

A parameter in memory may be several tensors on the disk (each expert of a Mixtral by itself): its :class:`Segment` s.
Rows are read by ``pread`` into memory of our own, never mapped: a file that another process cuts short is an error in
one line and not a signal, and what was read can be counted.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from bequest.checkpoints.names import Part, to_disk_names, to_memory_names, to_memory_parts
from bequest.errors import AnatomyError, InputError, RunError
from bequest.tensor_files import StoredTensor

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

#: Floating-point dtypes: a header's name -> torch's.
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# Blocks read before they are asked for.
_AHEAD = 2


@dataclass(frozen=True)
class Segment:
    """Rows of a parameter that lie together on the disk, as a tensor of their own.

    Args:
        name: on the disk.
        first, rows: counted through all matrices of the parameter; a vector is one row.
        shape: on the disk.
    """

    name: str
    first: int
    rows: int
    shape: tuple[int, ...]


def saved_segments(shapes: Mapping[str, Sequence[int]], model: PreTrainedModel) -> dict[str, tuple[Segment, ...]]:
    """Parameter -> its segments under the names that ``save_pretrained`` writes.

    Args:
        shapes: the parameters' shapes by their names in memory.
        model: a model of that class; one from ``meta_model`` will do.

    Raises:
        AnatomyError: transformers stores a parameter as something other than stretches of its rows.
    """
    disk = to_disk_names(shapes, model)
    parts = to_memory_parts([name for names in disk.values() for name in names], model)
    found = {}
    for memory, names in disk.items():
        segments = [_segment(name, parts[name] or Part(memory), shapes[memory]) for name in names]
        found[memory] = _covering(memory, segments, shapes[memory])
    return found


def found_segments(
    names: Iterable[str], shapes: Mapping[str, Sequence[int]], model: PreTrainedModel
) -> dict[str, tuple[Segment, ...]]:
    """Parameter -> its segments under the names that files hold it by: with or without the base prefix, old or new.

    Args:
        names: in the files.
        shapes: the parameters' shapes by their names in memory; a name that leads to none of them is left out.
        model: a model of the class that holds them.

    Raises:
        AnatomyError: a parameter is stored in parts that do not make it up.
    """
    memory = {name: found for name, found in to_memory_names(names, model).items() if found in shapes}
    stored: dict[str, list[str]] = {}
    for name, parameter in memory.items():
        assert parameter is not None
        stored.setdefault(parameter, []).append(name)
    split = [parameter for parameter, held in stored.items() if len(held) > 1]
    saved = saved_segments({parameter: shapes[parameter] for parameter in split}, model)
    found = {}
    for parameter, held in stored.items():
        if parameter in saved:
            segments = [_renamed(name, saved[parameter], parameter) for name in held]
        else:
            segments = [_segment(held[0], Part(parameter), shapes[parameter])]
        found[parameter] = _covering(parameter, segments, shapes[parameter])
    return found


def _segment(name: str, part: Part, shape: Sequence[int]) -> Segment:
    rows = shape[-2] if len(shape) > 1 else 1
    if part.expert is None and part.rows is None:
        return Segment(name, 0, math.prod(shape[:-1]), tuple(shape))
    start, stop, _ = (part.rows or slice(None)).indices(rows)
    return Segment(name, (part.expert or 0) * rows + start, stop - start, (stop - start, shape[-1]))


def _covering(memory: str, segments: Iterable[Segment], shape: Sequence[int]) -> tuple[Segment, ...]:
    """The segments in order, after checking that they are all rows once."""
    ordered = sorted(segments, key=lambda segment: segment.first)
    end = 0
    for segment in ordered:
        if segment.first != end:
            break
        end += segment.rows
    if end != math.prod(shape[:-1]) or sum(segment.rows for segment in ordered) != end:
        raise AnatomyError("its parts on the disk do not make it up", key=memory)
    return tuple(ordered)


def _renamed(name: str, segments: Iterable[Segment], memory: str) -> Segment:
    """The segment that a file holds under a name with another prefix than ``save_pretrained`` would write."""
    for segment in segments:
        if segment.name == name or segment.name.endswith(f".{name}") or name.endswith(f".{segment.name}"):
            return Segment(name, segment.first, segment.rows, segment.shape)
    raise AnatomyError(f"is no part of {memory}", key=name)


# --- reading


@dataclass
class _Digest:
    """SHA-256 of a stored tensor as far as it was read, in order."""

    place: StoredTensor
    state: Any = field(default_factory=hashlib.sha256)
    done: int = 0


class RowReader:
    """Rows of parameters from their files; what was read is counted and, on request, digested on the way.

    Args:
        stored: tensor on the disk -> where it lies.
        segments: parameter -> its segments.
        digest: whether the tensors' digests are wanted; rows must then be read in order.

    Attributes:
        bytes_read: of all files so far.
    """

    def __init__(
        self, stored: Mapping[str, StoredTensor], segments: Mapping[str, tuple[Segment, ...]], *, digest: bool = False
    ) -> None:
        self.bytes_read = 0
        self._stored, self._segments = stored, segments
        self._open: dict[Path, int] = {}
        self._digests = {
            segment.name: _Digest(stored[segment.name]) for held in segments.values() for segment in held if digest
        }

    def __enter__(self) -> RowReader:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()

    def dtype(self, name: str) -> str:
        """The stored dtype of a parameter, as a header writes it."""
        return self._stored[self._segments[name][0].name].dtype

    def rows(self, name: str, first: int, count: int) -> torch.Tensor:
        """Rows of a parameter, [count, columns] in its stored dtype.

        Raises:
            InputError: the file was cut short since its header was read.
            RunError: the disk cannot read it.
        """
        import torch

        segments = self._segments[name]
        columns = segments[0].shape[-1]
        dtype = getattr(torch, FLOATS[self.dtype(name)])
        made = torch.empty(count, columns, dtype=dtype)
        if not made.numel():
            return made
        width = columns * made.element_size()
        room = made.view(torch.uint8).numpy().data.cast("B")
        for segment in segments:
            start, stop = max(first, segment.first), min(first + count, segment.first + segment.rows)
            if start < stop:
                part = room[(start - first) * width : (stop - first) * width]
                self._fill(segment.name, (start - segment.first) * width, part)
        return made

    def digests(self) -> list[tuple[StoredTensor, str]]:
        """The SHA-256 of every tensor that was read whole and in order."""
        held = self._digests.values()
        return [(found.place, found.state.hexdigest()) for found in held if found.done == found.place.length]

    def _fill(self, name: str, offset: int, room: memoryview) -> None:
        place = self._stored[name]
        done = 0
        try:
            if place.file not in self._open:
                self._open[place.file] = os.open(place.file, os.O_RDONLY)
            while done < len(room):
                read = os.preadv(self._open[place.file], [room[done:]], place.start + offset + done)
                if not read:
                    raise InputError("was cut short while it was read", where=place.file, key=name)
                done += read
        except OSError as error:
            raise RunError(f"cannot be read ({error.strerror})", where=place.file, key=name) from error
        self.bytes_read += done
        digest = self._digests.get(name)
        if digest is not None and digest.done == offset:
            digest.state.update(room)
            digest.done += done


class ReadAhead:
    """Blocks of rows in the order in which they will be asked for, some read ahead on a second thread.

    Args:
        reader: what reads them.
        blocks: (parameter, first row, count) of every block, in order.
    """

    def __init__(self, reader: RowReader, blocks: Iterable[tuple[str, int, int]]) -> None:
        self._reader, self._blocks = reader, iter(blocks)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="read")
        self._next: deque[Future[torch.Tensor]] = deque()
        for _ in range(_AHEAD):
            self._submit()

    def __enter__(self) -> ReadAhead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def take(self) -> torch.Tensor:
        """The next block."""
        made = self._next.popleft().result()
        self._submit()
        return made

    def _submit(self) -> None:
        block = next(self._blocks, None)
        if block is not None:
            self._next.append(self._pool.submit(self._reader.rows, *block))
