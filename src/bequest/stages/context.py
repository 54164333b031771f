"""What every stage of a run shares: the recipe, its plan, the run directory, opened corpora and tasks, the console."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bequest import lineage, processes, storage
from bequest.data.specs import CorpusSpec
from bequest.errors import InputError
from bequest.planning import Plan
from bequest.recipe import Grow, MethodCall, Pretrain, Recipe, Section, earlier_corpora, training_follows
from bequest.recipe.references import locate
from bequest.stages.handed_on import optimizer_digest

if TYPE_CHECKING:
    from rich.console import Console
    from transformers import PreTrainedTokenizerBase

    from bequest.data.corpora import Corpus
    from bequest.data.packing import PackedCorpus
    from bequest.data.tasks import Task
    from bequest.recycling import Generation


@dataclass
class Context:
    """One run: ``recipe`` in ``out``.  Corpora and tasks are opened once."""

    recipe: Recipe
    plan: Plan
    out: Path
    console: Console
    _corpora: dict[str, Corpus] = field(default_factory=dict)
    _tasks: dict[str, Task] = field(default_factory=dict)
    _packed: dict[tuple[str, str, int], PackedCorpus] = field(default_factory=dict)

    def say(self, text: str) -> None:
        """One line to the user, from the main process only."""
        if processes.is_main():
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def directory(self, reference: str) -> str:
        """Where an artefact lies: a stage's directory, a directory beside the recipe, or a Hub id as it is."""
        place = locate(self.recipe, reference)
        return str(self.out / reference) if isinstance(place, Section) else str(place)

    def hub_id(self, reference: str) -> str | None:
        """The reference, where it is a Hub id; None for a stage or a directory."""
        place = locate(self.recipe, reference)
        return place if isinstance(place, str) else None

    def generation(self, reference: str) -> Generation:
        """A base for recycling: on this disk, and called by its Hub id where it has one."""
        from bequest.recycling import Generation

        return Generation(self.local_directory(reference), called=self.hub_id(reference))

    def base_under(self, tuned: str) -> Generation | None:
        """The base under weights that a stage of this run tuned or recycled; None for weights from outside."""
        stage = self.recipe.stage(tuned)
        bases = [ref.target for ref in stage.references() if ref.role == "base"] if stage is not None else []
        return self.generation(bases[0]) if bases else None

    def local_directory(self, reference: str) -> Path:
        """The same as a path on this disk; a Hub id is fetched first (into the Hub's own cache)."""
        from bequest.checkpoints import fetch

        return fetch(self.directory(reference))

    def corpus(self, name: str) -> Corpus:
        """An opened corpus of the recipe."""
        if name not in self._corpora:
            from bequest.data.corpora import open_corpus

            self._corpora[name] = open_corpus(name, self.recipe.corpora[name], self.recipe.root)
        return self._corpora[name]

    def task(self, name: str) -> Task:
        """A loaded task of the recipe."""
        if name not in self._tasks:
            self._tasks[name] = open_task(self.recipe, name)
        return self._tasks[name]

    def packed(self, name: str, tokenizer: PreTrainedTokenizerBase, block: int) -> PackedCorpus:
        """A corpus tokenised and packed for a tokenizer and block length; from the cache where it is there already."""
        from bequest.data.packing import pack_corpus
        from bequest.data.tokenizer_training import tokenizer_digest

        key = (name, tokenizer_digest(tokenizer), block)
        if key not in self._packed:
            with processes.main_first():
                packed = pack_corpus(self.corpus(name), tokenizer, block=block, progress=self.console)
            self._packed[key] = packed
        return self._packed[key]

    def unigram(self, names: Iterable[str], tokenizer: PreTrainedTokenizerBase, block: int) -> dict[str, float]:
        """The unigram entropy in nats per token of each corpus' held-out text."""
        return {name: self.packed(name, tokenizer, block).statistics.unigram_entropy_nats for name in names}

    def parent_ids(self, section: Section) -> list[str]:
        """The ids of everything a stage refers to, in order; its parents stand finished on the disk."""
        ids = []
        for reference in section.references():
            stage = self.recipe.stage(reference.target)
            directory = self.local_directory(reference.target)
            if stage is not None and not directory.is_dir():
                raise InputError(f"stage {reference.target!r} has not run", where=self.recipe.source, key=section.name)
            ids.append(lineage.identity_of(directory) if stage is not None else outside_id(directory, reference.role))
        return ids

    def fingerprints(self, section: Section) -> dict[str, str]:
        """What a stage's hash covers besides its section and parents: corpora and tasks read (replayed ones included),
        the source of methods from outside, and its circumstances."""
        corpora = {f"corpus {name}": self.corpus(name).fingerprint() for name in self.corpora_read(section)}
        tasks = {f"task {name}": self.task(name).fingerprint for name in section.tasks_used()}
        return corpora | tasks | sources_of(section) | self.circumstances(section)

    def circumstances(self, section: Section) -> dict[str, str]:
        """What else decides what a stage makes: the base's optimizer, and whether training follows a growth."""
        found = {}
        if isinstance(section, Pretrain | Grow) and section.from_ and section.optimizer not in ("fresh", "reset"):
            found["optimizer of the base"] = optimizer_digest(self.local_directory(section.from_))
        chosen = isinstance(section, Grow) and any(call.name == "auto" for call in section.method)
        if chosen and training_follows(self.recipe, section):
            found["training"] = "follows"
        return found

    def corpora_read(self, section: Section) -> list[str]:
        """The corpora a stage reads: its own, and for an adapt stage those of its ancestors, which it may replay."""
        own = list(section.corpora_used())
        return own + [name for name in self.earlier_corpora(section) if name not in own]

    def earlier_corpora(self, section: Section) -> list[str]:
        """The corpora that an adapt stage's ancestors were trained on, oldest first; empty for other kinds."""
        return earlier_corpora(self.recipe, section) if section.kind == "adapt" else []

    def licence(self, name: str) -> str | None:
        """The licence that the recipe gives a corpus."""
        spec: CorpusSpec = self.recipe.corpora[name]
        return spec.licence


def outside_id(directory: Path, role: str) -> str:
    """What an artefact from outside the run is: its lineage may be older than an edit of its config or tokenizer."""
    if role == "tokenizer":
        return lineage.tokenizer_digest(directory) or "no tokenizer"
    return storage.value_digest([lineage.identity_of(directory), lineage.digests(directory).model_dump()])


def sources_of(section: Section) -> dict[str, str]:
    """The source files of methods that are given by a dotted path: an edited method is another method."""
    calls: tuple[MethodCall, ...] = getattr(section, "method", ())
    found = {}
    for call in calls:
        module, dotted, _ = call.name.partition(":")
        spec = importlib.util.find_spec(module) if dotted else None
        if spec is not None and spec.origin is not None:
            found[f"source of {call.name}"] = storage.file_digest(Path(spec.origin))
    return found


def open_task(recipe: Recipe, name: str) -> Task:
    """A task of a recipe."""
    from bequest.data.tasks import load_task

    return load_task(name, recipe.tasks[name], recipe.root)
