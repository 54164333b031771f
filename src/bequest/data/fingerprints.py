"""Content digests of files, remembered by path, size and modification time, so that a plan need not read gigabytes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from pathlib import Path

from bequest import storage

#: A file changed less than this long ago may change again within one tick of its clock: its digest is not remembered.
SETTLED_SECONDS = 2.0


def content_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, from the memory of digests when the file has not changed since."""
    status = path.stat()
    state = [str(path.resolve()), status.st_size, status.st_mtime_ns]
    key = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]
    memory = storage.cache_directory() / "digests" / f"{key}.json"
    try:
        remembered = json.loads(memory.read_text(encoding="utf-8"))
        if remembered["state"] == state:
            return str(remembered["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # nothing remembered, or not readable: both mean that the file is read
    digest = storage.file_digest(path)
    if time.time() - status.st_mtime > SETTLED_SECONDS:
        # Another process may be remembering the same file at this moment and win the rename; its digest is as good.
        with contextlib.suppress(FileNotFoundError):
            storage.write_json(memory, {"state": state, "digest": digest})
    return digest
