"""safetensors files by their headers: which files a directory's weights lie in, and what each holds.  No torch."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bequest.errors import InputError
from bequest.storage import read_json

ADAPTER_CONFIG = "adapter_config.json"


def weight_files(directory: str | Path) -> list[Path]:
    """The safetensors files of a model (all its shards) or of an adapter, in order.

    Raises:
        InputError: there is none, or a shard that the index names is missing.
    """
    place = Path(directory)
    stem = "adapter_model" if (place / ADAPTER_CONFIG).is_file() else "model"
    index, single = place / f"{stem}.safetensors.index.json", place / f"{stem}.safetensors"
    if single.is_file():
        return [single]
    if index.is_file():
        files = sorted({place / name for name in read_json(index)["weight_map"].values()})
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise InputError(f"shard {missing[0]} is missing", where=index, remedy="copy or download it again")
        return files
    remedy = "load it and save it again with save_pretrained (safetensors)"
    raise InputError("no safetensors weights", where=single, remedy=remedy)


def read_header(file: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """The header of a safetensors file (name -> dtype, shape, data_offsets) and the position of its data.

    Raises:
        InputError: the file is empty, cut short, or not safetensors.
    """
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= size - 8:
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            header: dict[str, dict[str, Any]] = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        if 8 + length + end != size:
            raise ValueError(f"{size} bytes where the header says {8 + length + end}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"torn or not a safetensors file ({error})", where=file, remedy="make, copy or download it again"
        ) from None
    return header, 8 + length


def check_target(target: str | Path, *, force: bool, sources: Iterable[str | Path] = ()) -> Path:
    """The directory to make, made absolute, after refusing one whose making would destroy something.

    Args:
        target: the directory to make.
        force: a model or adapter that stands there may be replaced.
        sources: what it is made from.

    Raises:
        InputError: it is, holds or lies in a source; it exists and is not to be replaced, or is no model or adapter.
    """
    place = Path(target).absolute()
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
