"""What a corpus or task is, in twelve hex digits, without having it: package, converter and rules.

Two checkouts with the same identity make the same files, byte for byte; an edit to a converter, to a module of the lab
that it imports, or to the rules of dealing gives another one.

Try it: ``identity_of(SOURCES["kjv"])``.
"""

from __future__ import annotations

import ast

from bequest import storage
from bequest.errors import InputError, did_you_mean
from lab import places
from lab.kit.holding_out import RULES
from lab.kit.packages import SOURCES, Source

DIGITS = 12
#: Not hashed by their bytes: the first only names types, and ``RULES`` stands for the second.
_STANDING = ("lab.kit.documents", "lab.kit.holding_out")


def source_of(name: str) -> Source:
    """The source that is called ``name`` or makes the corpus or task of that name.

    Raises:
        InputError: no source does.
    """
    if name in SOURCES:
        return SOURCES[name]
    for source in SOURCES.values():
        if name in source.corpora or name in source.tasks:
            return source
    known = {word for source in SOURCES.values() for word in (source.name, *source.corpora, *source.tasks)}
    raise InputError(f"no source, corpus or task is called {name!r}", key=name, remedy=did_you_mean(name, known))


def converter_digest(source: Source) -> str:
    """SHA-256 over the converter's file and the modules of the lab that it imports, as hex."""
    digests: dict[str, str] = {}
    waiting = [source.converter]
    while waiting:
        module = waiting.pop()
        path = places.checkout() / (module.replace(".", "/") + ".py")
        if module in digests or module in _STANDING or not path.is_file():
            continue
        digests[module] = storage.file_digest(path)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("lab."):
                waiting += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return storage.value_digest(digests)


def identity_of(source: Source, sha256: str | None = None) -> str:
    """The identity of everything that a source makes.

    Args:
        source: the source.
        sha256: the package file's digest where it is not the pinned one (a rolling package's newer version).
    """
    package = source.package
    parts = {
        "registry": package.registry,
        "package": package.name,
        "sha256": sha256 or package.sha256,
        "converter": converter_digest(source),
        "rules": RULES,
    }
    return storage.value_digest(parts)[:DIGITS]
