"""safetensors files by their headers: which files a directory's weights lie in, and what each holds.  No torch."""

from __future__ import annotations

import json
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
