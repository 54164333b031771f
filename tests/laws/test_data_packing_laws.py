"""Laws of packing: nothing lost, nothing on two sides, the same whoever builds it and however often it is killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import resource
import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bequest.data import overlap, packing, splitting
from bequest.data.blocks import Blocks, BlockWriter, block_digest
from bequest.data.corpora import Corpus, open_corpus
from bequest.data.packing import PackedCorpus, pack_corpus
from bequest.data.specs import CorpusSpec
from bequest.data.tokenizer_training import train_tokenizer
from bequest.errors import InputError, RunError

WORDS = [f"{a}{b}{c}" for a in "bdfgkl" for b in "aeiou" for c in "mnprst"]


def sentence(rng: random.Random, words: int = 25) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words)) + "."


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """600 documents by 60 authors; every tenth copies an earlier one in other case and spacing."""
    rng = random.Random(0)
    found: list[dict[str, Any]] = []
    for number in range(600):
        text = sentence(rng)
        if number % 10 == 9:
            text = found[rng.randrange(number)]["text"].upper().replace(" ", "  ")
        found.append({"text": text, "author": f"author {number % 60}"})
    return found


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> Corpus:
    root = tmp_path_factory.mktemp("corpus")
    write_rows(root / "a.jsonl", rows)
    return open_corpus("letters", CorpusSpec(files="a.jsonl", group="author", held_out=0.2), root)


@pytest.fixture(scope="module")
def tokenizer(corpus: Corpus) -> Any:
    return train_tokenizer("byte-bpe", [corpus], 400)


@pytest.fixture(scope="module")
def wordpiece(corpus: Corpus) -> Any:
    return train_tokenizer("wordpiece", [corpus], 300)


@pytest.fixture(scope="module")
def packed(corpus: Corpus, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> PackedCorpus:
    return pack_corpus(corpus, tokenizer, block=32, cache=tmp_path_factory.mktemp("packed"))


def normal(text: str) -> str:
    return " ".join(text.casefold().split())


def documents_of(blocks: Blocks, tokenizer: Any) -> list[str]:
    """The documents that stand in the blocks; the last one may be cut."""
    ids = np.concatenate([sample["input_ids"] for sample in blocks])
    return [normal(text) for text in tokenizer.decode(ids).split(tokenizer.eos_token) if text]


# -- sides


def sides_leak(rows: list[dict[str, Any]], side: Callable[[dict[str, Any]], bool]) -> tuple[int, int]:
    """How many authors, and how many normalised texts, a split has on both sides."""
    held = [row for row in rows if side(row)]
    kept = [row for row in rows if not side(row)]
    return (
        len({row["author"] for row in held} & {row["author"] for row in kept}),
        len({normal(row["text"]) for row in held} & {normal(row["text"]) for row in kept}),
    )


def test_no_group_and_no_text_is_on_two_sides(rows: list[dict[str, Any]], packed: PackedCorpus, tokenizer: Any) -> None:
    train, held = documents_of(packed.train, tokenizer), documents_of(packed.held_out, tokenizer)
    author = {}
    for row in rows:
        author.setdefault(normal(row["text"]), set()).add(row["author"])
    assert not set(train[:-1]) & set(held[:-1])
    on_train = {name for text in train[:-1] for name in author[text] if len(author[text]) == 1}
    on_held = {name for text in held[:-1] for name in author[text] if len(author[text]) == 1}
    assert on_train
    assert on_held
    assert not on_train & on_held


def test_control_a_split_by_row_or_without_the_duplicate_rule_leaks(rows: list[dict[str, Any]]) -> None:
    authors, texts = sides_leak(rows, lambda row: splitting.is_held_out(row["text"], 0.2))
    assert authors > 10
    authors, texts = sides_leak(rows, lambda row: splitting.is_held_out(row["author"], 0.2))
    assert authors == 0
    assert texts > 5  # which is what dropping is for


def test_nothing_is_lost_but_repeated_texts_and_tails(
    rows: list[dict[str, Any]], packed: PackedCorpus, tokenizer: Any
) -> None:
    def held(row: dict[str, Any]) -> bool:
        return splitting.is_held_out(row["author"], 0.2)

    kept = [normal(row["text"]) for row in rows if not held(row)]
    aside = [normal(row["text"]) for row in rows if held(row) and normal(row["text"]) not in set(kept)]
    for blocks, wanted in ((packed.train, kept), (packed.held_out, aside)):
        found = documents_of(blocks, tokenizer)
        assert found[:-1] == wanted[: len(found) - 1]
        assert len(wanted) - len(found) <= 2
        assert wanted[len(found) - 1].startswith(found[-1])
    statistics = packed.statistics
    assert statistics.documents == 600
    assert statistics.groups == 60
    assert statistics.duplicate_documents == 600 - len({normal(row["text"]) for row in rows})
    assert statistics.dropped_documents == sum(map(held, rows)) - len(aside)
    assert (statistics.train_tokens, statistics.held_out_tokens) == (packed.train.tokens, packed.held_out.tokens)
    found = sum(len(text.encode()) for text in documents_of(packed.held_out, tokenizer))
    spaces = sum(row["text"].count("  ") for row in rows if held(row))
    assert found <= statistics.held_out_bytes <= found + spaces


def test_more_text_moves_no_group(rows: list[dict[str, Any]]) -> None:
    sides = {row["author"]: splitting.is_held_out(row["author"], 0.2) for row in rows}
    assert 0.1 < sum(sides.values()) / len(sides) < 0.3
    assert sides != {name: splitting.is_held_out(name, 0.2, seed=1) for name in sides}
    assert all(splitting.is_held_out(name, 0.5) for name, held in sides.items() if held)  # a larger share only adds


# -- overlap


def slow_overlap(train: list[str], held: list[str]) -> float:
    def grams(text: str) -> list[tuple[str, ...]]:
        folded = "".join(letter.lower() if letter.isascii() else letter for letter in text)
        words = re.findall(r"[a-z0-9\u0080-\U0010ffff]+", folded)
        return [tuple(words[start : start + 13]) for start in range(len(words) - 12)]

    known = {gram for text in train for gram in grams(text)}
    found = [gram in known for text in held for gram in grams(text)]
    return sum(found) / len(found)


def test_overlap_is_that_of_the_slow_reference() -> None:
    rng = random.Random(1)
    train = [sentence(rng, 40) for _ in range(50)] + ["kurz", "", "ein Satz über größere Dinge " * 5]
    held = [sentence(rng, 30) + " " + text.split(" ", 5)[5].upper().replace(" ", ", ") for text in train[:20]]
    held += [sentence(rng, 40), "zu kurz", "Ein Satz über größere dinge " * 4]
    wanted = slow_overlap(train, held)
    counter = overlap.OverlapCounter()
    counter.collect(held[:7])
    counter.collect(held[7:])
    counter.seal()
    for text in train:
        counter.look_up([text])
    assert 0.3 < wanted < 0.7
    assert counter.share([held]) == pytest.approx(wanted, abs=1e-12)
    nothing = overlap.OverlapCounter()
    nothing.collect(held)
    nothing.seal()
    assert nothing.share([held]) == 0.0  # control: nothing was looked up


def test_overlap_in_bounded_memory_is_a_fair_sample() -> None:
    rng = random.Random(2)
    train = [sentence(rng, 200) for _ in range(200)]
    held = [text if number % 4 == 0 else sentence(rng, 200) for number, text in enumerate(train)]
    counter = overlap.OverlapCounter(limit=2000)
    for text in held:
        counter.collect([text])
    counter.seal()
    for start in range(0, 200, 7):
        counter.look_up(train[start : start + 7])
    assert counter.zero_bits >= 4
    assert len(counter._known) <= 2000
    assert counter.share([held]) == pytest.approx(0.25, abs=0.04)


def test_packing_reports_the_overlap_of_what_it_kept(rows: list[dict[str, Any]], packed: PackedCorpus) -> None:
    kept = [row["text"] for row in rows if not splitting.is_held_out(row["author"], 0.2)]
    known = {normal(text) for text in kept}
    aside = [row["text"] for row in rows if splitting.is_held_out(row["author"], 0.2)]
    assert packed.statistics.overlap_13gram == slow_overlap(kept, [t for t in aside if normal(t) not in known]) == 0.0
    assert slow_overlap(kept, aside) > 0.02  # control: with the repeated texts there is some


# -- blocks


def test_blocks_are_framed_for_encoders(corpus: Corpus, wordpiece: Any, tmp_path: Path) -> None:
    packed = pack_corpus(corpus, wordpiece, block=24, cache=tmp_path)
    for sample in packed.train:
        ids = sample["input_ids"]
        assert ids[0] == wordpiece.cls_token_id
        assert ids[-1] == wordpiece.sep_token_id
        assert wordpiece.cls_token_id not in ids[1:]
        assert wordpiece.pad_token_id not in ids
    counts = Counter(int(token) for sample in packed.held_out for token in sample["input_ids"])
    other = Counter(int(token) for sample in packed.train for token in sample["input_ids"])
    for special in (wordpiece.cls_token_id, wordpiece.sep_token_id):
        counts.pop(special), other.pop(special)
    total = sum(other.values()) + len(wordpiece)
    wanted = -sum(n * np.log((other[token] + 1) / total) for token, n in counts.items()) / sum(counts.values())
    assert packed.statistics.unigram_entropy_nats == pytest.approx(wanted, rel=1e-9)


def test_marks_of_special_tokens_in_the_text_stay_text(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "a.txt").write_text("\n\n".join(f"the mark <|endoftext|> number {n} is text. " * 40 for n in range(50)))
    packed = pack_corpus(
        open_corpus("c", CorpusSpec(files="a.txt", held_out=0.3), tmp_path), tokenizer, block=32, cache=tmp_path
    )
    ids = np.concatenate([sample["input_ids"] for sample in packed.train])
    assert 10 < (ids == tokenizer.eos_token_id).sum() <= 50  # the ends of documents only


def test_blocks_are_read_back_whole_in_any_order_and_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pickle

    monkeypatch.setattr("bequest.data.blocks.BATCH_TOKENS", 64)
    rows = np.random.default_rng(0).integers(0, 70_000, (37, 8))
    with BlockWriter(tmp_path / "b.arrow", 8, 70_000) as writer:
        for start, end in ((0, 1), (1, 20), (20, 20), (20, 37)):
            writer.write(rows[start:end])
    blocks = pickle.loads(pickle.dumps(Blocks(tmp_path / "b.arrow")))
    assert len(blocks) == writer.count == 37
    assert (blocks.block, blocks.tokens) == (8, 37 * 8)
    for index in (36, 0, 8, 7, -1, 20):
        assert (blocks[index]["input_ids"] == rows[index]).all()
        assert blocks[index]["digest"] == block_digest(rows[index].astype(np.uint32))
        assert 0 <= blocks[index]["digest"] < 2**63
    assert len(blocks.first(5)) == len(list(blocks.first(5))) == 5
    with pytest.raises(IndexError):
        blocks.first(5)[5]
    with BlockWriter(tmp_path / "small.arrow", 8, 2**16) as writer:
        writer.write(rows % 2**16)
    assert (Blocks(tmp_path / "small.arrow")[3]["input_ids"] == rows[3] % 2**16).all()
    assert (tmp_path / "small.arrow").stat().st_size < (tmp_path / "b.arrow").stat().st_size


# -- bad input


@pytest.mark.parametrize(
    ("count", "spec", "block", "message"),
    [
        (3, {"held_out": 0.001}, 4096, "corpora.c: the training side has"),
        (
            300,
            {"held_out": 0.0001},
            16,
            "the held-out side has 0 tokens, which is less than one block of 16; change held_out",
        ),
        (300, {"held_out": 0.5, "group": "author"}, 16, "or group more finely (now by column author)"),
        (300, {}, 0, "a block of 0 has no room for text"),
    ],
)
def test_too_small_is_one_line(
    tmp_path: Path, tokenizer: Any, count: int, spec: dict[str, Any], block: int, message: str
) -> None:
    rng = random.Random(3)
    write_rows(tmp_path / "a.jsonl", [{"text": sentence(rng), "author": "a"} for _ in range(count)])
    corpus = open_corpus("c", CorpusSpec(files="a.jsonl", **spec), tmp_path)
    with pytest.raises(InputError) as caught:
        pack_corpus(corpus, tokenizer, block=block, cache=tmp_path / "cache")
    assert message in caught.value.line()
    assert not [path for path in (tmp_path / "cache").glob("*") if path.is_dir()]  # nothing half-written


def test_a_corpus_of_blanks_holds_no_text(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "a.txt").write_text("\n \n\n")
    with pytest.raises(InputError, match=r"corpora\.c: holds no text"):
        pack_corpus(open_corpus("c", CorpusSpec(files="a.txt"), tmp_path), tokenizer, block=8, cache=tmp_path)


# -- the same however it is built


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def packed_directory(packed: PackedCorpus) -> Path:
    return packed.train.path.parent


def in_child(work: Callable[[], None]) -> int:
    """Run in a forked process; its exit code (minus the signal that ended it)."""
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(60)
    assert child.exitcode is not None
    return child.exitcode


#: Where the killed process dies: a function and the number of the call, before or after it.
MOMENTS = [
    ("bequest.data.splitting.text_digest", 300, "before"),
    ("bequest.data.packing._pack_train", 1, "before"),
    ("bequest.data.blocks.BlockWriter._write_batch", 1, "after"),
    ("bequest.data.blocks.BlockWriter._write_batch", 4, "before"),
    ("bequest.data.packing._unigram_entropy", 1, "before"),
    ("bequest.storage.write_json", 1, "before"),
    ("bequest.storage.write_json", 1, "after"),
    ("bequest.storage.sync_tree", 1, "after"),
    ("bequest.storage.swap_directory", 1, "before"),
    ("bequest.storage.swap_directory", 1, "after"),
]


@pytest.mark.parametrize(("place", "call", "when"), MOMENTS)
def test_killed_packing_leaves_nothing_that_is_read(
    corpus: Corpus, tokenizer: Any, packed: PackedCorpus, tmp_path: Path, place: str, call: int, when: str
) -> None:
    from pkgutil import resolve_name

    from _pytest.monkeypatch import MonkeyPatch

    def die() -> None:
        packing.BATCH_DOCUMENTS = 100
        original, calls = resolve_name(place), [0]

        def deadly(*args: Any, **kwargs: Any) -> Any:
            calls[0] += 1
            if calls[0] == call and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            result = original(*args, **kwargs)
            if calls[0] == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        MonkeyPatch().setattr("bequest.data.blocks.BATCH_TOKENS", 1024)
        MonkeyPatch().setattr(place, deadly)
        pack_corpus(corpus, tokenizer, block=32, cache=tmp_path)

    corpus.fingerprint()  # remembered, so that the child's first write is the packing's own
    assert in_child(die) == -signal.SIGKILL
    whole = [path for path in tmp_path.iterdir() if path.is_dir() and not path.name.startswith(".")]
    if (place, when) == ("bequest.storage.swap_directory", "after"):
        assert len(whole) == 1
    else:
        assert whole == []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bequest.data.blocks.BATCH_TOKENS", 1024 if whole else 2**18)
        again = pack_corpus(corpus, tokenizer, block=32, cache=tmp_path)
    assert again.statistics == packed.statistics
    assert not list(tmp_path.glob(".*"))
    if not whole:
        assert contents(packed_directory(again)) == contents(packed_directory(packed))
    assert [s["digest"] for s in again.train] == [s["digest"] for s in packed.train]


def test_batches_and_processes_change_nothing(
    corpus: Corpus, tokenizer: Any, packed: PackedCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "BATCH_DOCUMENTS", 7)
    monkeypatch.setattr(packing, "COUNTED_HASHES", 50)
    assert in_child(lambda: pack_corpus(corpus, tokenizer, block=32, cache=tmp_path) and None) == 0
    again = pack_corpus(corpus, tokenizer, block=32, cache=tmp_path)
    assert contents(packed_directory(again)) == contents(packed_directory(packed))


def test_two_builders_at_once_build_once(corpus: Corpus, tokenizer: Any, tmp_path: Path) -> None:
    built: list[int] = []
    original = packing._build

    def counted(*args: Any) -> None:
        built.append(1)
        original(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "_build", counted)
        threads = [
            threading.Thread(target=lambda: pack_corpus(corpus, tokenizer, block=32, cache=tmp_path)) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(built) == 1


def test_the_cache_is_keyed_by_everything_that_matters(
    corpus: Corpus, tokenizer: Any, wordpiece: Any, packed: PackedCorpus, tmp_path: Path
) -> None:
    def key(what: Corpus = corpus, by: Any = tokenizer, **more: Any) -> str:
        return pack_corpus(what, by, **{"block": 32, "cache": tmp_path, **more}).fingerprint

    root = corpus.root
    edited = tmp_path / "b.jsonl"
    edited.write_text((root / "a.jsonl").read_text().replace("author 3", "author 4", 1))
    other_share = open_corpus("letters", CorpusSpec(files="a.jsonl", group="author", held_out=0.3), root)
    other_text = open_corpus("letters", CorpusSpec(files="b.jsonl", group="author", held_out=0.2), tmp_path)
    renamed = open_corpus("other", corpus.spec, root)
    keys = [key(), key(block=16), key(seed=1), key(by=wordpiece), key(other_share), key(other_text)]
    assert len(set(keys)) == len(keys)
    assert keys[0] == packed.fingerprint == key(renamed)


def test_disk_full_is_one_line_and_leaves_nothing(corpus: Corpus, tokenizer: Any, tmp_path: Path) -> None:
    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))
        try:
            pack_corpus(corpus, tokenizer, block=32, cache=tmp_path)
        except RunError:
            os._exit(3 if not [p for p in tmp_path.iterdir() if p.is_dir()] else 4)

    assert in_child(work) == 3
