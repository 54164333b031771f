"""How something was made, with nothing secret in it: no environment dump, no token, no absolute path."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from bequest.lineage.records import Environment

PACKAGES = ("bequest", "torch", "transformers", "tokenizers", "safetensors", "peft", "accelerate", "datasets", "numpy")
SECRET_KEY = re.compile(
    r"((^|hub|hf|auth|access|api|secret)[_-]*(token|key)|secret|password|passwd|credentials?)$", re.I
)
SECRET_VALUE = re.compile(r"\b(hf_|sk-|ghp_|github_pat_)[A-Za-z0-9_\-]{8,}")


def environment(seed: int | None = None) -> Environment:
    """The versions, the revision of the repository that the process stands in, and the command, cleaned."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    words = [Path(sys.argv[0]).name, *sys.argv[1:]] if sys.argv and sys.argv[0] not in ("", "-c") else []
    hidden = [index > 0 and bool(SECRET_KEY.search(words[index - 1])) for index in range(len(words))]
    command = " ".join("***" if hide else _clean_word(word) for word, hide in zip(words, hidden, strict=True)) or None
    return Environment(versions=versions, seed=seed, git_revision=_git_revision(), command=command)


def _git_revision() -> str | None:
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def clean(value: Any) -> Any:
    """A JSON-like value without secrets and without absolute paths.

    A string under a key such as hub_token, password or api_key becomes ``***``, and so does a string that looks
    like a token; an absolute path keeps its last part only.
    """
    if isinstance(value, Mapping):
        return {
            str(key): "***" if SECRET_KEY.search(str(key)) and isinstance(item, str) else clean(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    if isinstance(value, str):
        text = SECRET_VALUE.sub("***", value)
        return Path(text).name if text.startswith("/") or re.match(r"[A-Za-z]:\\", text) else text
    return value


def _clean_word(word: str) -> str:
    """One word of a command line, cleaned; ``key=value`` by its key."""
    key, equals, value = word.partition("=")
    if equals and SECRET_KEY.search(key):
        return f"{key}=***"
    return f"{key}={clean(value)}" if equals else str(clean(word))


def plain(value: Any) -> Any:
    """A value as JSON knows it; pydantic models and paths are allowed inside."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
