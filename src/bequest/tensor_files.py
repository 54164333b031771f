"""safetensors files by their headers: which files a directory's weights lie in, and what each holds.  No torch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bequest.errors import InputError
from bequest.storage import read_json

ADAPTER_CONFIG = "adapter_config.json"


#: Bytes of one element by the dtype's name in a header.
ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}
# The library that reads these files refuses longer ones.
_LONGEST_HEADER = 100_000_000
_AGAIN = "make, copy or download it again"


@dataclass(frozen=True)
class StoredTensor:
    """One tensor as it lies on the disk.

    Args:
        file: the safetensors file.
        dtype: as the header writes it: ``"BF16"``.
        shape: its sizes.
        start, length: its bytes in the file.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    length: int


def weight_files(directory: str | Path) -> list[Path]:
    """The safetensors files of a model (all its shards) or of an adapter, in order.

    Raises:
        InputError: there is none, the index is none, or a shard that it names is missing.
    """
    single, index = _single_and_index(directory)
    if single.is_file():
        return [single]
    if index.is_file():
        files = sorted({index.parent / name for name in _weight_map(index).values()})
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise InputError(f"shard {missing[0]} is missing", where=index, remedy="copy or download it again")
        return files
    remedy = "load it and save it again with save_pretrained (safetensors)"
    raise InputError("no safetensors weights", where=single, remedy=remedy)


def stored_tensors(directory: str | Path) -> dict[str, StoredTensor]:
    """Every tensor of a model or an adapter by its name on disk; the index and the shards must agree.

    Raises:
        InputError: no weights, a torn file, or an index that says what is not so; the tensor is named.
    """
    found: dict[str, StoredTensor] = {}
    for file in weight_files(directory):
        header, data = read_header(file)
        for name, entry in header.items():
            if name in found:
                raise InputError(f"lies in {found[name].file.name} and in {file.name}", where=directory, key=name)
            first, last = entry["data_offsets"]
            found[name] = StoredTensor(file, entry["dtype"], tuple(entry["shape"]), data + first, last - first)
    single, index = _single_and_index(directory)
    if single.is_file():
        return found
    named = _weight_map(index)
    for name in [*named, *found]:
        told = named.get(name)
        if name not in found:
            raise InputError(f"{told} does not hold this tensor", where=index, key=name, remedy=_AGAIN)
        if told != found[name].file.name:
            says = "names no shard for it" if told is None else f"says {told}"
            message = f"lies in {found[name].file.name}, but the index {says}"
            raise InputError(message, where=index, key=name, remedy=_AGAIN)
    return found


def read_header(file: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """The header of a safetensors file (name -> dtype, shape, data_offsets) and the position of its data.

    Raises:
        InputError: the file is empty, cut short, or not safetensors: its tensors must fill it without gap or overlap.
    """
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= min(size - 8, _LONGEST_HEADER):
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            header: dict[str, dict[str, Any]] = json.loads(stream.read(length), object_pairs_hook=_without_doubles)
        header.pop("__metadata__", None)
        end = 0
        for name in sorted(header, key=lambda name: header[name]["data_offsets"]):
            end = _checked_end(name, header[name], end)
        if 8 + length + end != size:
            raise ValueError(f"{size} bytes where the header says {8 + length + end}")
    except RecursionError:
        message = "torn or not a safetensors file (its header is nested too deeply)"
        raise InputError(message, where=file, remedy=_AGAIN) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"torn or not a safetensors file ({error})", where=file, remedy=_AGAIN) from None
    return header, 8 + length


def _single_and_index(directory: str | Path) -> tuple[Path, Path]:
    """Where the weights lie: in one file, or in the shards of an index."""
    place = Path(directory)
    stem = "adapter_model" if (place / ADAPTER_CONFIG).is_file() else "model"
    return place / f"{stem}.safetensors", place / f"{stem}.safetensors.index.json"


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in the header")
    return found


def _checked_end(name: str, entry: Mapping[str, Any], start: int) -> int:
    """Where the tensor that must begin at ``start`` ends."""
    shape, (first, last) = entry["shape"], entry["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in (*shape, first, last)):
        raise ValueError(f"{name} has sizes or offsets that are no whole numbers")
    if first != start:
        raise ValueError(f"{name} begins at {first}, not behind the tensor before it at {start}")
    width = ITEM_BYTES.get(entry["dtype"])
    if last < first or (width is not None and last - first != width * math.prod(shape)):
        raise ValueError(f"{name} has {last - first} bytes for {entry['dtype']} {shape}")
    return int(last)


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor -> shard, as the index says.

    Raises:
        InputError: it has no such map, or names something that is no file beside it.
    """
    value = read_json(index)
    named = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(named, dict) or not named:
        raise InputError("has no weight_map", where=index, remedy=_AGAIN)
    for name, file in named.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise InputError(f"{file!r} is no file beside the index", where=index, key=name, remedy=_AGAIN)
    return named


def check_target(target: str | Path, *, force: bool, sources: Iterable[str | Path] = ()) -> Path:
    """The directory to make, made absolute, after refusing one whose making would destroy something.

    Args:
        target: the directory to make.
        force: a model or adapter that stands there may be replaced.
        sources: what it is made from.

    Raises:
        InputError: it is, holds or lies in a source; it exists and is not to be replaced, or is no model or adapter;
            it is a symbolic link.
    """
    place = Path(target).absolute()
    if place.is_symlink():
        remedy = "name the directory it points to, or another one"
        raise InputError("is a symbolic link, and is not replaced", where=target, remedy=remedy)
    real = place.resolve()
    for source in sources:
        other = Path(source).resolve()
        if Path(source).exists() and (real == other or real in other.parents or other in real.parents):
            message = f"is, holds or lies in its own source {source}"
            raise InputError(message, where=target, remedy="name another directory")
    if place.is_dir() and any(place.iterdir()):
        if not force:
            remedy = "pass --force to replace it, or name another directory"
            raise InputError("already exists", where=target, remedy=remedy)
        if not any((place / name).is_file() for name in (ADAPTER_CONFIG, "config.json")):
            raise InputError(
                "is not a model or adapter, and is not replaced",
                where=target,
                remedy="name another directory, or remove it yourself",
            )
    elif place.exists() and not place.is_dir():
        raise InputError("is a file", where=target, remedy="name another directory")
    return place
