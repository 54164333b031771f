"""A corpus: a named stream of documents, each with the group that decides its side of the held-out split.

Sources are files (globs, compressed), saved or Hub ``datasets``, and the embedded demo corpora.  Documents are
streamed: nothing here holds more than one batch of them.

Try it: ``next(open_corpus("python", CorpusSpec(demo="python"), Path.cwd()).documents())``.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bequest import storage
from bequest.data import demo, readers, splitting
from bequest.data.documents import Document
from bequest.data.fingerprints import content_digest
from bequest.data.specs import CorpusSpec
from bequest.errors import InputError, did_you_mean

__all__ = ["Corpus", "Document", "open_corpus"]


@dataclass(frozen=True)
class Corpus:
    """A corpus that has been found: its files exist and are not empty.  Nothing has been read yet.

    Attributes:
        name: its name in the recipe.
        spec: what the recipe says about it.
        root: the directory that relative paths start from.
        files: the files it is read from, sorted; empty for embedded corpora and Hub datasets.
    """

    name: str
    spec: CorpusSpec
    root: Path
    files: tuple[Path, ...]

    @property
    def bytes(self) -> int:
        """Size on disk of what is read (compressed size where compressed)."""
        if self.spec.demo is not None:
            return demo.demo_bytes(self.spec.demo)
        if self.spec.dataset is not None and not self.files:
            return sum(Path(file["filename"]).stat().st_size for file in self._load_dataset().cache_files)
        return sum(path.stat().st_size for path in self.files)

    @property
    def group_rule(self) -> str:
        """What a group is: ``column NAME``, ``file``, ``module`` (embedded corpora) or ``document``."""
        if self.spec.demo is not None:
            return "module"
        if self.spec.group == "file":
            return "file"
        if self.spec.group is not None:
            return f"column {self.spec.group}"
        text_files = self.files and all(readers.file_format(path) == "txt" for path in self.files)
        enough = len(self.files) * self.spec.held_out >= splitting.EXPECTED_HELD_OUT_FILES
        return "file" if text_files and enough and self.spec.dataset is None else "document"

    def documents(self) -> Iterator[Document]:
        """Every document with some text in it, in a fixed order.

        Raises:
            InputError: a file is missing, damaged, or lacks the text or group column.
        """
        if self.spec.demo is not None:
            return demo.demo_documents(self.spec.demo)
        return self._dataset_documents() if self.spec.dataset is not None else self._file_documents()

    def fingerprint(self) -> str:
        """SHA-256 of the content that is read and of how it is read; paths and times are no part of it."""
        how: dict[str, Any] = {key: getattr(self.spec, key) for key in ("text", "split", "subset", "held_out")}
        how["groups"] = self.group_rule
        if self.spec.demo is not None:
            content: Any = demo.demo_fingerprint(self.spec.demo)
        elif self.spec.dataset is not None and not self.files:
            content = [content_digest(Path(file["filename"])) for file in self._load_dataset().cache_files]
        else:
            content = [[path.suffixes[-2:], content_digest(path)] for path in self.files]
            if self.group_rule == "file":  # then the names deal the groups
                content = [content, [self._relative(path) for path in self.files]]
        return storage.value_digest({"how": how, "content": content})

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else path.name

    def _file_documents(self) -> Iterator[Document]:
        rule = self.group_rule
        columns = (self.spec.text, *([self.spec.group] if self.spec.group and rule.startswith("column") else []))
        for path in self.files:
            file_group = self._relative(path)
            if readers.file_format(path) == "txt":
                for text in readers.read_documents(path):
                    yield self._document(text, file_group if rule == "file" else None)
            else:
                for number, row in enumerate(readers.read_rows(path, columns), start=1):
                    yield from self._row_documents(row, file_group, f"{path}: row {number}")

    def _row_documents(self, row: dict[str, Any], file_group: str, place: str) -> Iterator[Document]:
        text = row[self.spec.text]
        if text is None or text == "":
            return
        if not isinstance(text, str):
            raise InputError(f"holds {type(text).__name__}, not text", where=place, key=self.spec.text)
        group = None
        if self.group_rule == "file":
            group = file_group
        elif self.spec.group is not None and row[self.spec.group] is not None:
            group = str(row[self.spec.group])
        if text.strip():
            yield self._document(text, group)

    @staticmethod
    def _document(text: str, group: str | None) -> Document:
        """A document; without a group of its own it is grouped with the documents of the same normalised text."""
        if not text.isascii():  # JSON can hold half a surrogate pair, which no tokenizer takes
            text = text.encode("utf-8", "replace").decode("utf-8")
        return Document(text, group if group is not None else f"text:{splitting.text_digest(text):016x}")

    def _load_dataset(self) -> Any:
        import datasets

        name = str(self.spec.dataset)
        where = self.root / name
        try:
            if where.is_dir():
                found = datasets.load_from_disk(str(where))
                if isinstance(found, datasets.DatasetDict):
                    if self.spec.split not in found:
                        remedy = did_you_mean(self.spec.split, [str(key) for key in found])
                        raise InputError(f"no split {self.spec.split!r}", where=where, key="split", remedy=remedy)
                    found = found[self.spec.split]
            else:
                found = datasets.load_dataset(name, self.spec.subset, split=self.spec.split)
        except (OSError, ValueError) as error:  # not found, no network, no such split or configuration
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"cannot load the dataset ({first})",
                where=name,
                key="dataset",
                remedy="name a directory made by save_to_disk or an existing Hub id, and check split and subset",
            ) from None
        for column in (self.spec.text, self.spec.group):
            if column not in (None, "file") and column not in found.column_names:
                remedy = did_you_mean(str(column), found.column_names)
                raise InputError(f"the dataset has no column {column!r}", where=name, key=str(column), remedy=remedy)
        return found

    def _dataset_documents(self) -> Iterator[Document]:
        data = self._load_dataset()
        columns = [self.spec.text, *([self.spec.group] if self.spec.group not in (None, "file") else [])]
        number = 0
        for batch in data.select_columns(columns).iter(batch_size=256):
            for values in zip(*(batch[column] for column in columns), strict=True):
                number += 1
                row = dict(zip(columns, values, strict=True))
                yield from self._row_documents(row, str(self.spec.dataset), f"{self.spec.dataset}: row {number}")


def open_corpus(name: str, spec: CorpusSpec, root: Path) -> Corpus:
    """Find a corpus; nothing is read beyond the names and sizes of its files.

    Args:
        name: its name in the recipe, for messages.
        spec: what the recipe says about it.
        root: the directory that relative paths start from (the recipe's own).

    Raises:
        InputError: no file matches, a file is empty or of an unknown format, or the embedded corpus is unknown.
    """
    root = root.absolute()
    key = f"corpora.{name}"
    if spec.demo is not None:
        if spec.demo not in demo.demo_corpora():
            remedy = did_you_mean(spec.demo, demo.demo_corpora())
            raise InputError(f"no embedded corpus is called {spec.demo!r}", key=f"{key}.demo", remedy=remedy)
        return Corpus(name, spec, root, ())
    if spec.dataset is not None:
        directory = root / spec.dataset
        files = tuple(sorted(directory.rglob("*.arrow"))) if directory.is_dir() else ()
        if directory.is_dir() and not files:
            raise InputError("holds no saved dataset", where=directory, key=f"{key}.dataset", remedy="see save_to_disk")
        return Corpus(name, spec, root, files)
    patterns = [spec.files] if isinstance(spec.files, str) else list(spec.files or [])
    files = tuple(sorted({path for pattern in patterns for path in _matches(pattern, root, key)}))
    if not files:
        raise InputError("names no file", key=f"{key}.files", remedy="give a path or a glob")
    for path in files:
        readers.file_format(path)
        if path.stat().st_size == 0:
            raise InputError("the file is empty", where=path, key=f"{key}.files", remedy="remove it from the corpus")
    return Corpus(name, spec, root, files)


def _matches(pattern: str, root: Path, key: str) -> list[Path]:
    full = str(root / Path(pattern).expanduser())
    if not glob.has_magic(full) or Path(full).exists():
        path = Path(os.path.normpath(full))
        if not path.exists():
            raise InputError("no such file", where=path, key=f"{key}.files", remedy=f"paths start from {root}")
        if path.is_dir():
            raise InputError("is a directory", where=path, key=f"{key}.files", remedy=f"write {pattern}/*.txt, say")
        return [path]
    anchor = Path(full).anchor
    found = [Path(os.path.normpath(match)) for match in Path(anchor).glob(full.removeprefix(anchor))]
    found = [path for path in found if path.is_file()]
    if not found:
        raise InputError("matches no file", where=pattern, key=f"{key}.files", remedy=f"paths start from {root}")
    return found
