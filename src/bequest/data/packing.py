"""Tokenise once, pack once: a corpus as memory-mapped blocks of equal length, with a held-out side one can trust.

* **Split** by hash of the group (``splitting.py``).  A held-out document whose normalised text also stands on the
  training side is dropped from the held-out side, so that no text is on both.
* **Blocks.**  Documents follow one another.  With a tokenizer that has CLS and SEP, a block is ``CLS .. SEP`` and
  documents are joined by SEP; otherwise every document ends with EOS (and begins with BOS when the tokenizer itself
  puts a BOS before a text).  Attention is not cut at documents.  What does not fill a last block is dropped.
* **Overlap** of 13-grams of words between the sides is measured (``overlap.py``).
* **Cache**: keyed by the content of the corpus, the tokenizer's digest, block and split; built under a temporary name
  while a lock is held and renamed when whole, so a killed build leaves nothing that is ever read.

Memory is bounded by one batch of documents, the hashes of the held-out side, and one record batch.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import math
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bequest import storage
from bequest.data import splitting
from bequest.data.blocks import Blocks, BlockWriter
from bequest.data.corpora import Corpus
from bequest.data.documents import Document
from bequest.data.overlap import OverlapCounter
from bequest.data.progress import PackingProgress
from bequest.data.tokenizer_training import tokenizer_digest
from bequest.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

#: Raised when the rules of packing change, so that old caches are not read.
RULES = 1
BATCH_CHARACTERS = 2**20
BATCH_DOCUMENTS = 1024
#: Hashes counted at a time when duplicates are counted: 32 MiB.
COUNTED_HASHES = 2**22


@dataclass(frozen=True)
class PackedStatistics:
    """What was measured while packing.

    Attributes:
        documents: documents read.
        groups: different groups among them.
        train_tokens: tokens in the training blocks, special tokens included.
        held_out_tokens: tokens in the held-out blocks.
        held_out_bytes: UTF-8 bytes of the text in the held-out blocks (for bits per byte).
        unigram_entropy_nats: cross entropy of the held-out tokens under the training side's token frequencies (add-one
            over the vocabulary), nats per token; frame tokens (CLS, SEP), which are never targets, are left out.
            A model at this loss has learnt word counts only.
        overlap_13gram: share of the held-out 13-grams of words (with repetition) that the training side also has.
        overlap_sampled: 1 over the share of 13-grams that were looked at; 1 means all of them.
        duplicate_documents: documents whose normalised text was read before.
        dropped_documents: held-out documents dropped because the training side has the same text.
    """

    documents: int
    groups: int
    train_tokens: int
    held_out_tokens: int
    held_out_bytes: int
    unigram_entropy_nats: float
    overlap_13gram: float
    overlap_sampled: int
    duplicate_documents: int
    dropped_documents: int


@dataclass(frozen=True)
class PackedCorpus:
    """A corpus on disk, ready to train on."""

    name: str
    train: Blocks
    held_out: Blocks
    statistics: PackedStatistics
    fingerprint: str


def pack_corpus(
    corpus: Corpus,
    tokenizer: Any,
    *,
    block: int,
    cache: Path | None = None,
    seed: int = 0,
    progress: Console | None = None,
) -> PackedCorpus:
    """Tokenise and pack a corpus, or open it when that has been done before.

    Args:
        corpus: what to pack.
        tokenizer: a transformers tokenizer.
        block: tokens per block, frame included.
        cache: where packed corpora are kept; by default in bequest's cache directory.
        seed: of the held-out split.
        progress: where progress is shown (documents, rate, ETA); plain lines where it is no terminal.

    Raises:
        InputError: one side is smaller than one block, or the corpus cannot be read.
        RunError: the disk is full.
    """
    frame = Frame.of(tokenizer)
    if block <= frame.size:
        raise InputError(f"a block of {block} has no room for text", key="block", remedy=f"take more than {frame.size}")
    fingerprint = storage.value_digest(
        {
            "rules": RULES,
            "corpus": corpus.fingerprint(),
            "tokenizer": tokenizer_digest(tokenizer),
            "frame": asdict(frame),
            "block": block,
            "held_out": corpus.spec.held_out,
            "seed": seed,
        }
    )
    target = (cache or storage.cache_directory() / "packed") / fingerprint[:32]
    if not (target / "statistics.json").exists():
        with _locked(target):
            if not (target / "statistics.json").exists():  # another process may have made it while we waited
                with (
                    storage.atomic_directory(target, force=True) as temporary,
                    PackingProgress(corpus.name, progress) as shown,
                ):
                    _build(corpus, tokenizer, frame, block, seed, temporary, shown)
    statistics = PackedStatistics(**storage.read_json(target / "statistics.json"))
    return PackedCorpus(
        corpus.name, Blocks(target / "train.arrow"), Blocks(target / "held_out.arrow"), statistics, fingerprint
    )


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[None]:
    """One builder per target at a time, ranks of one run included; a killed process's lock is gone with it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f"{target.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True)
class Frame:
    """The special tokens around blocks (``head``, ``tail``) and documents (``before``, ``after``), as ids."""

    head: tuple[int, ...] = ()
    tail: tuple[int, ...] = ()
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """Tokens of a block that are not text."""
        return len(self.head) + len(self.tail)

    @classmethod
    def of(cls, tokenizer: Any) -> Frame:
        """The frame that suits a tokenizer."""
        cls_id, sep_id = tokenizer.cls_token_id, tokenizer.sep_token_id
        if cls_id is not None and sep_id is not None:
            return cls(head=(cls_id,), tail=(sep_id,), after=(sep_id,))
        bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        puts_bos = bos is not None and list(tokenizer("a")["input_ids"])[:1] == [bos]
        return cls(before=(bos,) if puts_bos else (), after=(eos,) if eos is not None else ())


class _Encoder:
    """Texts to ids, without special tokens, truncation or padding; marks of special tokens in the text stay text."""

    def __init__(self, tokenizer: Any) -> None:
        self._slow = None if tokenizer.is_fast else tokenizer
        if tokenizer.is_fast:
            from tokenizers import Tokenizer

            self._fast = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
            self._fast.no_truncation()
            self._fast.no_padding()
            self._fast.encode_special_tokens = True

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        if self._slow is not None:
            found = self._slow(list(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]
            return [list(ids) for ids in found]
        return [encoding.ids for encoding in self._fast.encode_batch_fast(list(texts), add_special_tokens=False)]


class _Packer:
    """Joins documents' ids and cuts them into framed blocks."""

    def __init__(self, path: Path, frame: Frame, block: int, vocabulary: int) -> None:
        self.frame, self.content = frame, block - frame.size
        self.counts = np.zeros(vocabulary, dtype=np.int64)
        self.rest: npt.NDArray[np.int32] = np.empty(0, dtype=np.int32)
        self.writer = BlockWriter(path, block, vocabulary)
        self._head = np.array(frame.head, dtype=np.int32)
        self._tail = np.array(frame.tail, dtype=np.int32)

    def add(self, documents: Iterable[list[int]]) -> None:
        """Append documents."""
        before, after = self.frame.before, self.frame.after
        flat = itertools.chain.from_iterable(itertools.chain(before, ids, after) for ids in documents)
        ids = np.concatenate([self.rest, np.fromiter(flat, dtype=np.int32)])
        whole = len(ids) // self.content * self.content
        rows = ids[:whole].reshape(-1, self.content)
        self.rest = ids[whole:]
        if len(rows):
            self.counts += np.bincount(ids[:whole], minlength=len(self.counts))
            ends = [np.broadcast_to(part, (len(rows), len(part))) for part in (self._head, self._tail)]
            self.writer.write(np.concatenate([ends[0], rows, ends[1]], axis=1))

    def target_counts(self) -> npt.NDArray[np.int64]:
        """How often each id occurs where it can be a target: frame tokens of framed blocks never are."""
        counts = self.counts.copy()
        if self.frame.size:
            counts[[*self.frame.head, *self.frame.tail, *self.frame.after]] = 0
        return counts


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= BATCH_CHARACTERS or len(batch) >= BATCH_DOCUMENTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


@dataclass
class _Scan:
    """What the first pass over a corpus leaves: held-out documents and hashes on disk, their hashes in memory."""

    directory: Path
    documents: int = 0
    held_out_hashes: npt.NDArray[np.uint64] | None = None

    def held_out(self) -> Iterator[tuple[str, int]]:
        """The held-out texts, each with the hash of its normalised form, in order."""
        with (self.directory / "held_out.jsonl").open(encoding="utf-8") as file:
            for line in file:
                text, digest = json.loads(line)
                yield text, digest


def _scan(corpus: Corpus, seed: int, directory: Path, overlap: OverlapCounter, progress: PackingProgress) -> _Scan:
    """First pass: deal the groups, set the held-out documents aside, note the hashes of texts and groups."""
    scan = _Scan(directory)
    kept: list[int] = []
    with (
        (directory / "texts.u64").open("wb") as texts,
        (directory / "groups.u64").open("wb") as groups,
        (directory / "held_out.jsonl").open("w", encoding="utf-8") as aside,
    ):
        for batch in _batches(corpus.documents()):
            digests = [splitting.text_digest(document.text) for document in batch]
            texts.write(np.array(digests, dtype=np.uint64).tobytes())
            groups.write(np.array([splitting.group_digest(d.group, seed) for d in batch], dtype=np.uint64).tobytes())
            held = [
                (document.text, digest)
                for document, digest in zip(batch, digests, strict=True)
                if splitting.is_held_out(document.group, corpus.spec.held_out, seed)
            ]
            aside.writelines(json.dumps(pair) + "\n" for pair in held)
            overlap.collect([text for text, _ in held])
            kept += [digest for _, digest in held]
            scan.documents += len(batch)
            progress.scanned(scan.documents)
    overlap.seal()
    scan.held_out_hashes = np.unique(np.array(kept, dtype=np.uint64))
    return scan


def _build(
    corpus: Corpus, tokenizer: Any, frame: Frame, block: int, seed: int, directory: Path, progress: PackingProgress
) -> None:
    """Write ``train.arrow``, ``held_out.arrow`` and ``statistics.json`` into ``directory``."""
    spool = directory / "spool"
    spool.mkdir()
    overlap = OverlapCounter()
    scan = _scan(corpus, seed, spool, overlap, progress)
    if scan.documents == 0:
        raise InputError("holds no text", key=f"corpora.{corpus.name}", remedy="check the files and the text column")
    encode, vocabulary = _Encoder(tokenizer), len(tokenizer)
    train = _Packer(directory / "train.arrow", frame, block, vocabulary)
    with train.writer:
        repeated = _pack_train(corpus, seed, scan, encode, train, overlap, progress)
    held = _Packer(directory / "held_out.arrow", frame, block, vocabulary)
    dropped = size = 0
    with held.writer:
        for batch in _batches(Document(text, str(digest)) for text, digest in scan.held_out()):
            texts = [document.text for document in batch if int(document.group) not in repeated]
            held.add(encode(texts))
            dropped += len(batch) - len(texts)
            size += sum(len(text.encode("utf-8", "replace")) for text in texts)
    _check_sizes(corpus, train, held, block)
    kept = (text for text, digest in scan.held_out() if digest not in repeated)
    statistics = PackedStatistics(
        documents=scan.documents,
        groups=_distinct(spool / "groups.u64"),
        train_tokens=train.writer.count * block,
        held_out_tokens=held.writer.count * block,
        held_out_bytes=size - len(tokenizer.decode(held.rest.tolist(), skip_special_tokens=True).encode()),
        unigram_entropy_nats=_unigram_entropy(train.target_counts(), held.target_counts()),
        overlap_13gram=overlap.share([d.text for d in batch] for batch in _batches(Document(t, "") for t in kept)),
        overlap_sampled=2**overlap.zero_bits,
        duplicate_documents=scan.documents - _distinct(spool / "texts.u64"),
        dropped_documents=dropped,
    )
    shutil.rmtree(spool)
    storage.write_json(directory / "statistics.json", asdict(statistics))


def _pack_train(
    corpus: Corpus,
    seed: int,
    scan: _Scan,
    encode: _Encoder,
    train: _Packer,
    overlap: OverlapCounter,
    progress: PackingProgress,
) -> set[int]:
    """Second pass: pack the training side; returns the held-out hashes that were met there."""
    known = set((scan.held_out_hashes if scan.held_out_hashes is not None else np.empty(0)).tolist())
    repeated: set[int] = set()
    share, done = corpus.spec.held_out, 0
    for batch in _batches(d for d in corpus.documents() if not splitting.is_held_out(d.group, share, seed)):
        texts = [document.text for document in batch]
        repeated.update(digest for text in texts if (digest := splitting.text_digest(text)) in known)
        overlap.look_up(texts)
        train.add(encode(texts))
        done += len(batch)
        progress.packed(done, scan.documents)
    return repeated


def _check_sizes(corpus: Corpus, train: _Packer, held: _Packer, block: int) -> None:
    for packer, side in ((train, "training"), (held, "held-out")):
        if packer.writer.count == 0:
            remedy = f"add text, or take a block below {len(packer.rest) + packer.frame.size}"
            if side == "held-out" or corpus.spec.held_out > 0.5:
                remedy = f"change held_out (now {corpus.spec.held_out:g}), or add text"
                if corpus.group_rule != "document":
                    remedy += f", or group more finely (now by {corpus.group_rule})"
            raise InputError(
                f"the {side} side has {len(packer.rest)} tokens, which is less than one block of {block}",
                where=corpus.files[0] if len(corpus.files) == 1 else None,
                key=f"corpora.{corpus.name}",
                remedy=remedy,
            )


def _distinct(path: Path) -> int:
    """How many different hashes a file of 64-bit hashes holds, a bounded number of them in memory at a time."""
    hashes = np.memmap(path, dtype=np.uint64, mode="r")
    parts = math.ceil(len(hashes) / COUNTED_HASHES)
    if parts == 1:
        return len(np.unique(hashes))
    total = 0
    for part in range(parts):  # hashes are spread evenly, so each part holds about COUNTED_HASHES of them
        low, high = (2**64 * part) // parts, (2**64 * (part + 1)) // parts - 1
        mine: list[npt.NDArray[np.uint64]] = []
        for start in range(0, len(hashes), COUNTED_HASHES):
            piece = hashes[start : start + COUNTED_HASHES]
            mine.append(piece[(piece >= np.uint64(low)) & (piece <= np.uint64(high))])
        total += len(np.unique(np.concatenate(mine)))
    return total


def _unigram_entropy(train: npt.NDArray[np.int64], held: npt.NDArray[np.int64]) -> float:
    """Cross entropy in nats of the counts ``held`` under the add-one frequencies of the counts ``train``."""
    logs = np.log(train + 1.0) - math.log(float(train.sum() + len(train)))
    return float(-(held * logs).sum() / held.sum())
