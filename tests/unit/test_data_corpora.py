"""Corpora: every format and compression gives the same documents, streams, and answers bad input in one line."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from bequest.data import readers
from bequest.data.corpora import open_corpus
from bequest.data.specs import CorpusSpec, TaskSpec
from bequest.errors import InputError

TEXTS = ["The first text has a comma, and a line.", 'The second "quotes" an umlaut: ü.', "Third one here.\nTwo lines."]


def texts_of(root: Path, **spec: object) -> list[str]:
    return [document.text for document in open_corpus("c", CorpusSpec(**spec), root).documents()]


def test_every_table_format_gives_the_same_documents(tmp_path: Path) -> None:
    import csv

    import pyarrow
    import pyarrow.parquet

    lines = "".join(json.dumps({"text": text, "n": 1}) + "\n" for text in TEXTS)
    (tmp_path / "a.jsonl").write_text(lines)
    for name, separator in (("a.csv", ","), ("a.tsv", "\t")):
        with (tmp_path / name).open("w", newline="") as file:
            writer = csv.writer(file, delimiter=separator)
            writer.writerows([["n", "text"], *([1, text] for text in TEXTS)])
    pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS}), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.csv", "a.tsv", "a.parquet"):
        assert texts_of(tmp_path, files=name) == TEXTS


def test_every_compression_gives_the_same_documents(tmp_path: Path) -> None:
    import pyarrow

    data = ("\n\n".join(TEXTS) + "\n").encode()
    (tmp_path / "plain.txt").write_bytes(data)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(data, mtime=0))
    (tmp_path / "a.txt.bz2").write_bytes(bz2.compress(data))
    (tmp_path / "a.txt.xz").write_bytes(lzma.compress(data))
    with pyarrow.output_stream(str(tmp_path / "a.txt.zst"), compression="zstd") as file:
        file.write(data)
    plain = texts_of(tmp_path, files="plain.txt")
    assert plain == ["\n\n".join(TEXTS)]
    for suffix in ("gz", "bz2", "xz", "zst"):
        assert texts_of(tmp_path, files=f"a.txt.{suffix}") == plain


def test_globs_are_sorted_and_recursive_and_files_are_listed_once(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "deep/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"text of {name}")
    assert texts_of(tmp_path, files=["**/*.txt", "a.txt"]) == ["text of a.txt", "text of b.txt", "text of deep/c.txt"]
    assert texts_of(tmp_path, files=str(tmp_path / "*.txt")) == ["text of a.txt", "text of b.txt"]


def test_text_files_are_cut_at_paragraphs_and_lose_nothing(tmp_path: Path) -> None:
    paragraphs = [f"Paragraph {number} " + "word " * 60 for number in range(100)]
    (tmp_path / "a.txt").write_text("\n\n\n".join(paragraphs))
    found = texts_of(tmp_path, files="a.txt")
    assert 10 < len(found) < 20
    assert "\n\n".join(found).split("\n\n") == [paragraph.strip() for paragraph in paragraphs]


def test_a_file_without_line_ends_is_not_one_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x" * (3 * readers.PARAGRAPH_CHARACTERS + 5))
    found = texts_of(tmp_path, files="a.txt")
    assert len(found) == 4
    assert sum(map(len, found)) == 3 * readers.PARAGRAPH_CHARACTERS + 5


def test_saved_datasets(tmp_path: Path) -> None:
    import datasets

    rows = datasets.Dataset.from_dict({"body": TEXTS, "author": ["a", "b", "a"]})
    datasets.DatasetDict({"train": rows}).save_to_disk(str(tmp_path / "saved"))
    corpus = open_corpus("c", CorpusSpec(dataset="saved", text="body", group="author"), tmp_path)
    assert list(corpus.documents()) == list(zip(TEXTS, ["a", "b", "a"], strict=True))
    with pytest.raises(InputError, match=r"no split 'validation'"):
        list(open_corpus("c", CorpusSpec(dataset="saved", split="validation"), tmp_path).documents())
    with pytest.raises(InputError, match=r"no column 'boddy'; did you mean 'body'"):
        list(open_corpus("c", CorpusSpec(dataset="saved", text="boddy"), tmp_path).documents())


def test_a_hub_dataset_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot load the dataset"):
        list(open_corpus("c", CorpusSpec(dataset="nobody/nothing"), tmp_path).documents())


def test_groups(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"text": "one", "who": 7}\n{"text": "two", "who": null}\n{"text": "", "who": 1}\n'
    )
    corpus = open_corpus("c", CorpusSpec(files="a.jsonl", group="who"), tmp_path)
    first, second = corpus.documents()
    assert first.group == "7"
    assert second.group.startswith("text:")
    for number in range(8):
        (tmp_path / f"{number}.txt").write_text("some text")
    few = open_corpus("c", CorpusSpec(files="*.txt"), tmp_path)
    many = open_corpus("c", CorpusSpec(files="*.txt", held_out=0.999), tmp_path)
    assert (few.group_rule, many.group_rule) == ("document", "document")
    assert open_corpus("c", CorpusSpec(files="*.txt", group="file"), tmp_path).group_rule == "file"
    for number in range(8, 80):
        (tmp_path / f"{number}.txt").write_text("some text")
    assert open_corpus("c", CorpusSpec(files="*.txt", held_out=0.1), tmp_path).group_rule == "file"


def test_the_fingerprint_follows_the_content_and_how_it_is_read(tmp_path: Path) -> None:
    def fingerprint(**spec: object) -> str:
        return open_corpus("c", CorpusSpec(**spec), tmp_path).fingerprint()

    (tmp_path / "a.jsonl").write_text('{"text": "one", "body": "two"}\n')
    (tmp_path / "b.jsonl").write_text('{"text": "one", "body": "two"}\n')
    before = fingerprint(files="a.jsonl")
    assert before == fingerprint(files="b.jsonl")  # the same content by another name
    assert before != fingerprint(files="a.jsonl", text="body")
    old = (tmp_path / "a.jsonl").stat()
    os.utime(tmp_path / "a.jsonl", ns=(old.st_atime_ns, old.st_mtime_ns - 10**10))
    assert before == fingerprint(files="a.jsonl")  # remembered from here on
    (tmp_path / "a.jsonl").write_text('{"text": "onE", "body": "two"}\n')  # the same size
    assert before != fingerprint(files="a.jsonl")


@pytest.mark.parametrize(
    ("name", "content", "spec", "message"),
    [
        ("a.txt", b"", {}, "a.txt: corpora.c.files: the file is empty"),
        ("a.doc", b"text", {}, "cannot tell the format from the name 'a.doc'; known: .txt"),
        ("a.jsonl", b'{"text": "x"}\nnope\n', {}, "a.jsonl: line 2 is not JSON"),
        ("a.jsonl", b'["x"]\n', {}, "line 1 is not an object"),
        ("a.jsonl", b'{"test": "x"}\n', {}, "text: line 1 has no key 'text'; did you mean 'test'?"),
        ("a.jsonl", b'{"text": 3}\n', {}, "row 1: text: holds int, not text"),
        ("a.csv", b"txt\nx\n", {}, "the header has no column 'text'; did you mean 'txt'?"),
        ("a.txt", b"\xff\xfe\x00", {}, "a.txt: not UTF-8 text"),
        ("a.txt.gz", b"not gzip at all", {}, "the compressed file is damaged"),
        ("a.txt.gz", gzip.compress(b"some text here" * 50, mtime=0)[:-12], {}, "the compressed file is damaged"),
        ("a.txt.xz", b"not xz", {}, "the compressed file is damaged"),
        ("a.parquet", b"PAR", {}, "not a parquet file"),
        ("a.txt", b"x", {"files": "b.txt"}, "b.txt: corpora.c.files: no such file"),
        ("a.txt", b"x", {"files": "*.jsonl"}, "*.jsonl: corpora.c.files: matches no file"),
        ("a.txt", b"x", {"files": "."}, "is a directory"),
        (
            "a.txt",
            b"x",
            {"files": None, "demo": "pyton"},
            "no embedded corpus is called 'pyton'; did you mean 'python'?",
        ),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, name: str, content: bytes, spec: dict[str, object], message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        list(open_corpus("c", CorpusSpec(**{"files": name, **spec}), tmp_path).documents())
    assert message in caught.value.line()
    assert "\n" not in caught.value.line()


def test_specs_refuse_what_makes_no_sense() -> None:
    assert CorpusSpec(demo="python").held_out == 0.05
    assert CorpusSpec(demo="python", held_out=0.1).held_out == 0.1
    assert CorpusSpec(files="a").held_out == 0.02
    for bad in ({}, {"files": "a", "demo": "python"}, {"files": "a", "held_out": 0.0}, {"files": "a", "fiels": "b"}):
        with pytest.raises(ValidationError):
            CorpusSpec(**bad)
    for bad in ({}, {"train": "a"}, {"demo": "x", "train": "a"}, {"train": "a", "test": "b", "lable": "c"}):
        with pytest.raises(ValidationError):
            TaskSpec(**bad)


def test_specs_corpora_and_demo_need_no_heavy_library() -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from bequest.data import corpora, demo, demo_tasks, masking, mixtures, packing\n"
        "from bequest.data import specs, tasks, tokenizer_training\n"
        "corpora.open_corpus('c', specs.CorpusSpec(demo='python'), Path.cwd()).fingerprint()\n"
        "heavy = {'torch', 'transformers', 'datasets', 'accelerate', 'peft', 'pandas', 'sklearn', 'sympy'}\n"
        "sys.exit(str(sorted(heavy & set(sys.modules))) if heavy & set(sys.modules) else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
