"""The smoke scale's text, tasks and models: made up from a seed, small, and the same everywhere.

Every name gets its own flavour of one invented language: words of the same syllables, a share of them its own, in
sentences in which some words follow others, so that domains differ and there is something to learn.  ``minilm`` is a
tiny BERT, every other model a tiny llama (those of ``SHAPES`` in shapes of their own), untrained, with tokenizers of
about 300 entries.  Any name is answered: a smoke run shows that an experiment runs, and its numbers mean nothing.
Try it: ``MadeUp(Path("x")).corpus("general")``.
"""

from __future__ import annotations

import fcntl
import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bequest import storage
from lab.experiments.resolving import Sources

ENCODERS = ("minilm",)
SYLLABLES = [f"{first}{vowel}" for first in "bdfgklmnprst" for vowel in "aeiou"]
SHARED, OWN, FOLLOWERS = 60, 40, 3
GROUPS, WORDS = 600, 30
TASK_CLASSES = ("first", "second", "third")
TASK_EXAMPLES = {"train": 120, "test": 60, "probe-train": 60, "probe-test": 60}
WORDPIECE, BYTES = 300, 320
SHAPES = {"llama32x4": {"num_hidden_layers": 4}}
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def _identity(name: str) -> str:
    return f"{name}@made-up"


IDENTITIES = Sources(_identity, _identity, _identity)
"""What made-up things are: their makers stand under the code's digest."""


@dataclass(frozen=True)
class MadeUp:
    """Makes what is asked for below ``directory``, once; several processes may ask at the same time."""

    directory: Path

    def sources(self) -> Sources:
        """The places of corpora, tasks and models, for a recipe."""
        return Sources(self.corpus, self.task, self.model)

    def corpus(self, name: str) -> Path:
        """A jsonl file of documents with ``text`` and ``group``."""

        def write(directory: Path) -> None:
            random_, words = random.Random(f"corpus {name}"), Language(name)
            lines = (
                {"text": words.text(random_, WORDS), "group": f"{name} {number}", "year": 1800 + number % 200}
                for number in range(GROUPS)
            )
            _write_lines(directory / f"{name}.jsonl", lines)

        return self._made(f"corpora/{name}", write) / f"{name}.jsonl"

    def task(self, name: str) -> Path:
        """A directory with the four files of a task: three classes, each with words of its own in a shared text."""

        def write(directory: Path) -> None:
            words = {label: Language(f"{name} {label}") for label in TASK_CLASSES}
            for split, count in TASK_EXAMPLES.items():
                random_ = random.Random(f"task {name} {split}")
                labels = [TASK_CLASSES[number % len(TASK_CLASSES)] for number in range(count)]
                lines = ({"text": words[label].text(random_, WORDS), "label": label} for label in labels)
                _write_lines(directory / f"{split}.jsonl", lines)

        return self._made(f"tasks/{name}", write)

    def model(self, name: str) -> Path:
        """A ``from_pretrained`` directory with tokenizer and lineage."""

        def write(directory: Path) -> None:
            from bequest import checkpoints, lineage
            from bequest.anatomy import complete_config
            from bequest.data.corpora import open_corpus
            from bequest.data.specs import CorpusSpec
            from bequest.data.tokenizer_training import train_tokenizer

            encoder = name in ENCODERS
            family, kind = ("bert", "wordpiece") if encoder else ("llama", "byte-bpe")
            text = open_corpus("general", CorpusSpec(files=str(self.corpus("general")), group="group"), self.directory)
            tokenizer = train_tokenizer(kind, [text], WORDPIECE if encoder else BYTES, family=family)
            special = {
                f"{role}_token_id": getattr(tokenizer, f"{role}_token_id")
                for role in (("pad",) if encoder else ("pad", "bos", "eos"))
            }
            head = "masked-lm" if encoder else "causal-lm"
            sizes = {**SIZES, **SHAPES.get(name, {})}
            config = complete_config(family, sizes, head=head, vocab_size=len(tokenizer), **special)
            checkpoints.save_model(checkpoints.new_model(config, seed=0), directory)
            checkpoints.save_tokenizer(tokenizer, directory)
            # As the lab's own bases: one was trained on general text, which is what replay takes first.
            data = [lineage.DataUse(name="general", fingerprint=text.fingerprint(), tokens=0)]
            made = lineage.make_lineage(directory, name=name, stage="adopt", data=data)
            lineage.write_lineage(directory, made)

        return self._made(f"models/{name}", write)

    def _made(self, place: str, write: Callable[[Path], None]) -> Path:
        """The directory at ``place``, made whole by one process if it is not there."""
        target = self.directory / place
        if target.is_dir():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.with_name(f".{target.name}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not target.is_dir():
                with storage.atomic_directory(target) as directory:
                    write(directory)
        return target


class Language:
    """Words and what follows what: most words are shared by all flavours, some are the flavour's own."""

    def __init__(self, flavour: str) -> None:
        own = random.Random(f"words of {flavour}")
        words = _words(random.Random("shared words"), SHARED) + _words(own, OWN)
        self.starts = words
        self.follows = {word: own.choices(words, k=FOLLOWERS) for word in words}

    def text(self, random_: random.Random, count: int) -> str:
        """``count`` words in sentences."""
        word, out = random_.choice(self.starts), []
        for number in range(1, count + 1):
            ends = number % 10 == 0 or number == count
            out.append(f"{word}." if ends else word)
            word = random_.choice(self.starts if ends or random_.random() < 0.2 else self.follows[word])
        return " ".join(out)


def _words(random_: random.Random, count: int) -> list[str]:
    return ["".join(random_.choices(SYLLABLES, k=random_.choice((2, 2, 3)))) for _ in range(count)]


def _write_lines(path: Path, lines: Iterator[Mapping[str, object]]) -> None:
    storage.write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
