"""What a directory says of itself before anything is loaded: config, names, shapes.  No torch, no transformers."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import re
import socket
import urllib.parse
from pathlib import Path
from typing import Any

from bequest.errors import InputError
from bequest.storage import read_json
from bequest.tensor_files import ADAPTER_CONFIG, read_header, weight_files

_REPOSITORY = re.compile(r"[\w.-]+(/[\w.-]+)?")


def load_config(path: str | Path) -> dict[str, Any]:
    """The ``config.json`` of a model directory or of a Hub id, as it stands.

    Raises:
        InputError: there is none, or it is not JSON.
    """
    directory = Path(path)
    if directory.is_file() and directory.name == "config.json":
        file = directory
    elif directory.is_dir():
        file = directory / "config.json"
        if not file.is_file():
            what = "this is an adapter, not a model" if is_adapter(directory) else "no config.json in this directory"
            raise InputError(what, where=path, remedy="give a model directory")
    else:
        file = hub_file(path, "config.json")
    config = read_json(file)
    if not isinstance(config, dict):
        raise InputError("not a config", where=file)
    return config


def is_adapter(path: str | Path) -> bool:
    """Whether a directory holds a PEFT adapter."""
    return (Path(path) / ADAPTER_CONFIG).is_file()


def header_shapes(path: str | Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Names on disk -> (shape, dtype as safetensors writes it), from the files' headers only.

    Raises:
        InputError: no safetensors weights there, or a file that is torn.
    """
    shapes: dict[str, tuple[tuple[int, ...], str]] = {}
    for file in weight_files(path):
        for name, entry in read_header(file)[0].items():
            shapes[name] = (tuple(entry["shape"]), entry["dtype"])
    return shapes


def hub_file(path: str | Path, name: str) -> Path:
    """One file of a Hub model, in the Hub's own cache."""
    refuse_unless_hub(path)
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(str(path), name, local_files_only=not hub_answers()))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise _unreachable(path, error) from None


def hub_tokenizer(path: str | Path) -> Path:
    """The directory of the Hub's own cache with a Hub model's tokenizer files, fetched without its weights.

    Raises:
        InputError: no tokenizer there, or the Hub cannot be reached.
    """
    place: Path | None = None
    slow = (("vocab.txt",), ("vocab.json", "merges.txt"), ("spiece.model",), ("tokenizer.model",))
    for names in (("tokenizer.json",), *slow):
        for name in names:
            with contextlib.suppress(InputError):
                place = hub_file(path, name).parent
        if place is not None:
            break
    if place is None:
        raise InputError("no tokenizer in this Hub model", where=path, remedy="name a model with a tokenizer.json")
    with contextlib.suppress(InputError):
        hub_file(path, "tokenizer_config.json")
    return place


@functools.cache
def hub_answers() -> bool:
    """Whether the Hub can be reached at all; asked once, because its client retries for half a minute by itself.

    Behind a proxy, only the client itself can tell.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    parts = urllib.parse.urlsplit(constants.ENDPOINT)
    try:
        port = parts.port or (80 if parts.scheme == "http" else 443)
        socket.create_connection((parts.hostname or "", port), timeout=5).close()
    except OSError:
        return False
    return True


def refuse_unless_hub(path: str | Path) -> None:
    """Refuse what is no directory and cannot be a Hub id either."""
    if isinstance(path, Path) or not _REPOSITORY.fullmatch(str(path)) or Path(path).exists():
        raise InputError("no such model directory", where=path, remedy="give a model directory or a Hub id")


def stored_bytes(path: str | Path) -> int:
    """The bytes of a model's tensors as stored, from the headers only."""
    widths = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
    return sum(math.prod(shape) * widths.get(dtype, 4) for shape, dtype in header_shapes(path).values())


def stored_dtype(path: str | Path) -> str:
    """The floating-point type that most of a model's numbers are stored in, as torch names it: ``bfloat16``."""
    names = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    counts: dict[str, int] = {}
    for shape, dtype in header_shapes(path).values():
        if dtype in names:
            counts[names[dtype]] = counts.get(names[dtype], 0) + math.prod(shape)
    return max(counts, key=lambda name: counts[name], default="float32")


def fetch(path: str | Path) -> Path:
    """A model's directory on this disk: a local one as it is, a Hub id after a download into the Hub's own cache.

    Raises:
        InputError: neither a directory nor a Hub model that can be reached.
    """
    if Path(path).is_dir():
        return Path(path)
    refuse_unless_hub(path)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        unwanted = ["*.bin", "*.h5", "*.msgpack", "*.onnx", "*.pt"]
        return Path(snapshot_download(str(path), ignore_patterns=unwanted, local_files_only=not hub_answers()))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise _unreachable(path, error) from None


def _unreachable(path: str | Path, error: Exception) -> InputError:
    return InputError(
        f"neither a directory nor a Hub model that can be reached ({type(error).__name__})",
        where=path,
        remedy="check the path or the Hub id",
    )
