"""What an artefact is, as SHA-256: of its weights, its config, its tokenizer.  Streams; no torch."""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from bequest import storage
from bequest.errors import InputError
from bequest.lineage.records import Digests
from bequest.tensor_files import read_header, weight_files

CHUNK = 8 << 20
# Names under which transformers' families tie a second name to a tensor that the file already holds (the output
# embedding to the input embedding, a decoder's bias to its head's).  Whether a file stores the copy is the writer's
# whim, so a copy that equals another tensor bit for bit is counted once.
TIED_NAMES = re.compile(
    r"(^|\.)(lm_head\.weight|lm_head\.decoder\.(weight|bias)|cls\.predictions\.decoder\.(weight|bias)|decoder\.weight"
    r"|vocab_projector\.weight|generator_lm_head\.weight|embed_out\.weight)$"
)
# Keys of config.json and adapter_config.json that say who wrote the file, or where, and not what the model is.
# The dtype is part of the weights digest.
VOLATILE = {"_name_or_path", "transformers_version", "peft_version", "torch_dtype", "dtype", "use_cache"}
VOLATILE |= {"base_model_name_or_path", "revision", "inference_mode"}
# Padding changes no ids of a text: a tokenizer that tuning gives a padding token stays the same tokenizer.
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "cls_token", "mask_token")


def kind_of(directory: Path) -> Literal["model", "adapter"]:
    """Whether a directory holds a PEFT adapter or a model.

    Raises:
        InputError: it holds neither.
    """
    if (directory / "adapter_config.json").is_file():
        return "adapter"
    if (directory / "config.json").is_file():
        return "model"
    if not directory.exists():
        raise InputError("no such directory", where=directory)
    raise InputError(
        "holds neither a model (config.json) nor a PEFT adapter (adapter_config.json)",
        where=directory,
        remedy="name the directory that save_pretrained wrote",
    )


_Bytes = tuple[Path, int, int, int]
_known: dict[_Bytes, str] = {}


def remember_digest(file: Path, start: int, length: int, digest: str) -> None:
    """Keep the SHA-256 of ``length`` bytes of a file that were read or written anyway, so that nobody reads them again.

    It holds for as long as the file stays where it is and is not changed.
    """
    _known[file.resolve(), file.stat().st_mtime_ns, start, length] = digest


@functools.lru_cache(maxsize=1 << 16)
def _tensor_digest(file: Path, changed: int, start: int, length: int) -> str:
    """SHA-256 of ``length`` bytes of a file last changed at ``changed``; read once a process, in chunks."""
    known = _known.get((file, changed, start, length))
    if known is not None:
        return known
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        stream.seek(start)
        while length > 0:
            chunk = stream.read(min(CHUNK, length))
            digest.update(chunk)
            length -= len(chunk)
    return digest.hexdigest()


def weights_digest(directory: str | os.PathLike[str]) -> str:
    """The digest of a directory's weights: names in order, shapes, dtypes and bytes.

    Independent of the sharding, of the order inside the files and of their metadata; a tied tensor counts once, whether
    or not the file stores its copy.  Streams: no more than a few MB are held.

    Raises:
        InputError: the directory holds no whole safetensors weights.
    """
    entries: dict[str, tuple[str, tuple[int, ...], str]] = {}
    for file in weight_files(Path(directory)):
        header, start = read_header(file)
        place, changed = file.resolve(), file.stat().st_mtime_ns
        for name, entry in header.items():
            first, last = entry["data_offsets"]
            digest = _tensor_digest(place, changed, start + first, last - first)
            entries[name] = (entry["dtype"], tuple(entry["shape"]), digest)
    owners = {entry for name, entry in entries.items() if not TIED_NAMES.search(name)}
    kept = {name: entry for name, entry in entries.items() if entry not in owners or not TIED_NAMES.search(name)}
    return storage.value_digest([[name, dtype, list(shape), sha] for name, (dtype, shape, sha) in sorted(kept.items())])


def config_digest(directory: str | os.PathLike[str]) -> str:
    """The digest of ``config.json`` (or ``adapter_config.json``) without the keys that say who wrote it, and where."""
    path = Path(directory)
    name = "adapter_config.json" if kind_of(path) == "adapter" else "config.json"
    config = storage.read_json(path / name)
    return storage.value_digest({key: value for key, value in config.items() if key not in VOLATILE})


def tokenizer_digest(directory: str | os.PathLike[str]) -> str | None:
    """The digest of what a directory's tokenizer does to text: vocabulary, merges, normaliser, pre-tokeniser, specials.

    Truncation and padding are settings of a call and do not count.  None where the directory holds no tokenizer.
    """
    path = Path(directory)
    fast = path / "tokenizer.json"
    if fast.is_file():
        settings = path / "tokenizer_config.json"
        named = storage.read_json(settings) if settings.is_file() else {}
        return tokenizer_value_digest(storage.read_json(fast), named)
    slow = [path / name for name in ("vocab.txt", "vocab.json", "merges.txt", "spiece.model", "tokenizer.model")]
    found = {file.name: storage.file_digest(file) for file in slow if file.is_file()}
    return storage.value_digest(found) if found else None


def tokenizer_value_digest(tokenizer: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """The same digest from the content of ``tokenizer.json`` and of ``tokenizer_config.json``."""
    parts = {key: tokenizer.get(key) for key in ("model", "normalizer", "pre_tokenizer", "post_processor", "decoder")}
    parts["added_tokens"] = tokenizer.get("added_tokens", [])
    specials = {key: settings.get(key) for key in SPECIAL_TOKENS}
    # A special token is a string, or a mapping with its text under "content".
    parts["specials"] = {k: v.get("content") if isinstance(v, Mapping) else v for k, v in specials.items() if v}
    return storage.value_digest(parts)


def digests(directory: str | os.PathLike[str]) -> Digests:
    """All three digests of a directory."""
    return Digests(
        weights=weights_digest(directory), config=config_digest(directory), tokenizer=tokenizer_digest(directory)
    )
