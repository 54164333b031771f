"""Packing needs no more memory for a larger corpus.

This file measures itself as a script, in an interpreter of its own: a process forked from one that has run other tests
inherits their freed memory, and what is held there is not seen.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from bequest.data import packing
from bequest.data.corpora import Corpus, open_corpus
from bequest.data.packing import pack_corpus
from bequest.data.specs import CorpusSpec
from bequest.data.tokenizer_training import train_tokenizer

WORDS = [f"{a}{b}{c}" for a in "bdfgkl" for b in "aeiou" for c in "mnprst"]


def write_corpora(place: Path) -> None:
    """2, 2 and 8 MB of sentences of made-up words; no line stands in two of the files."""
    rng = random.Random(4)
    rows = (" ".join(rng.choice(WORDS) for _ in range(400)) + "." for _ in range(1000))
    lines = "".join(json.dumps({"text": row}) + "\n" for row in rows)
    for name, times in (("first", 2), ("small", 2), ("large", 8)):
        (place / f"{name}.jsonl").write_text("".join(lines.replace("ba", f"{name}{n}") for n in range(times)))


def measure(place: Path) -> dict[str, int]:
    """Peak bytes of packing the small corpus, the large one, and the small one while much is held."""
    write_corpora(place)
    packing.BATCH_CHARACTERS = 2**17
    tokenizer = train_tokenizer("byte-bpe", [open_corpus("c", CorpusSpec(files="first.jsonl"), place)], 400)

    def pack(corpus: Corpus, block: int = 128) -> object:
        return pack_corpus(corpus, tokenizer, block=block, cache=place)

    def peak(name: str, use: Callable[[Corpus], object]) -> int:
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        kept = use(open_corpus("c", CorpusSpec(files=f"{name}.jsonl"), place))
        status = Path("/proc/self/status").read_text()
        del kept
        return int(re.search(r"VmHWM:\s+(\d+)", status).group(1)) * 1024  # type: ignore[union-attr]

    pack(open_corpus("c", CorpusSpec(files="first.jsonl"), place))  # buffers and caches reach their size
    found = {"small": peak("small", pack), "large": peak("large", pack)}
    documents = open_corpus("c", CorpusSpec(files="large.jsonl"), place).documents()
    everything = [f"{document.text} {copy}" for document in documents for copy in range(4)]  # 48 MB
    found["held"] = peak("small", lambda corpus: pack(corpus, 64))
    del everything
    return found


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    """Peak memory of packing 12 MB is that of packing 3 MB, give or take 4 MB."""
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (tmp_path / "large.jsonl").stat().st_size > 12e6 > 3.5 * (tmp_path / "small.jsonl").stat().st_size
    assert found["large"] < found["small"] + 4e6, found
    assert found["held"] > found["small"] + 20e6, found  # control: what is held is seen


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]))))
