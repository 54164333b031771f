"""What a reference stands for before anything has run: its config, its tokenizer by signature, its task.

For a stage of the recipe this is what the plan says it will make; for a directory or a Hub id it is read from the files
there (config and tokenizer only, never weights).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bequest import checkpoints, lineage, storage
from bequest.anatomy import Anatomy, anatomy_of, head_of
from bequest.errors import InputError
from bequest.recipe.ancestry import new_blocks
from bequest.recipe.references import key_of, locate
from bequest.recipe.sections import Measure, Recipe, Reference, Section

OPTIMIZER_FILE = "optimizer.safetensors"
"""Adam's state beside the weights of a generation that keeps it."""


@dataclass(frozen=True)
class Artefact:
    """A model or tuned weights, known by description only.

    ``config`` is the (base) model's; ``tokenizer`` is a signature that two artefacts share when they share a tokenizer;
    ``adapter`` is the PEFT config of an adapter, None for a whole model; ``new_layers`` are the blocks that the latest
    growth in depth added; ``optimizer`` says whether Adam's state lies beside the weights.
    """

    name: str
    config: dict[str, Any]
    tokenizer: str
    stage: Section | None = None
    adapter: Mapping[str, Any] | None = None
    tuned: bool = False
    task: str | None = None
    new_layers: tuple[int, ...] = ()
    optimizer: bool = False

    @property
    def anatomy(self) -> Anatomy:
        """The anatomy of the (base) model."""
        return anatomy_of(self.config)

    @property
    def objective(self) -> str | None:
        """``causal`` or ``masked`` by its head; None for heads that are neither."""
        return {"causal-lm": "causal", "masked-lm": "masked"}.get(head_of(self.config))


@contextlib.contextmanager
def complaint(recipe: Recipe, stage: Section, key: str) -> Iterator[None]:
    """Put the recipe's file and the stage's dotted key on an error that comes from below."""
    try:
        yield
    except InputError as error:
        inner, own = "", error.key in type(stage).model_fields
        if error.key and not own and error.key != key.rpartition(".")[2]:
            inner = f".{error.key}" if key else str(error.key)
        place = f"{error.where}: " if error.where not in (None, "", recipe.source) else ""
        full = key_of(stage, str(error.key) if own else f"{key}{inner}")
        raise InputError(f"{place}{error.message}", where=recipe.source, key=full, remedy=error.remedy) from None


class Known:
    """The artefacts of one plan: those of the stages planned so far, and outside ones as they are asked for.

    ``examples`` counts the training examples of the tasks that are known before the run.
    """

    def __init__(self, recipe: Recipe, examples: Mapping[str, int]) -> None:
        self.recipe, self.examples = recipe, examples
        self.stages: dict[str, Artefact] = {}

    def __getitem__(self, place: tuple[Section, Reference]) -> Artefact:
        """The artefact that a stage's reference means.

        Raises:
            InputError: an outside one that cannot be read.
        """
        stage, reference = place
        if reference.target in self.stages:
            return self.stages[reference.target]
        where = locate(self.recipe, reference.target)
        with complaint(self.recipe, stage, reference.key):
            found = self._outside(where, reference.target)
            wanted = "tuned weights" if reference.role == "tuned" else "a base model"
            if not isinstance(stage, Measure) and found.tuned != (reference.role == "tuned"):
                has = "tuned weights" if found.tuned else "a base model"
                raise InputError(f"{reference.target} holds {has}, and {wanted} must stand here")
            return found

    def _outside(self, where: Any, name: str) -> Artefact:
        """What lies in a directory or behind a Hub id."""
        if isinstance(where, Path) and checkpoints.is_adapter(where):
            return self._adapter(where, name)
        config = checkpoints.load_config(where)
        anatomy_of(config)
        tuned = head_of(config) == "sequence-classification"
        made = Artefact(name, config, tokenizer_signature(where), tuned=tuned)
        if not isinstance(where, Path):  # a lineage and an optimizer are not asked for behind a Hub id
            return made
        return replace(made, new_layers=new_blocks(where), optimizer=(where / OPTIMIZER_FILE).is_file())

    def _adapter(self, where: Path, name: str) -> Artefact:
        """An outside adapter; its base is the one its lineage names, else the one that PEFT wrote down."""
        adapter = storage.read_json(where / "adapter_config.json")
        base: Path | str | None = adapter.get("base_model_name_or_path")
        if (where / lineage.FILE).is_file():
            parent = lineage.read_lineage(where).parent("base")
            if parent is not None and parent.path is not None and (where / parent.path).is_dir():
                base = where / parent.path
        if not base:
            raise InputError("names no base model", where=where / "adapter_config.json", remedy="bequest adopt --base")
        config = checkpoints.load_config(base)
        signature = tokenizer_signature(where) if lineage.tokenizer_digest(where) else tokenizer_signature(base)
        return Artefact(name, config, signature, adapter=adapter, tuned=True)


def tokenizer_signature(where: Path | str) -> str:
    """The signature of an outside artefact's tokenizer: a digest of what makes ids of text.

    Which tokens are called padding, start or end is a setting beside that: tuning names a padding token where there is
    none, and the ids stay what they were.
    """
    directory = Path(where) if Path(where).is_dir() else checkpoints.hub_tokenizer(where)
    if (directory / "tokenizer.json").is_file():
        return lineage.tokenizer_value_digest(storage.read_json(directory / "tokenizer.json"), {})
    digest = lineage.tokenizer_digest(directory)
    if digest is None:
        raise InputError("holds no tokenizer", where=where, remedy="save the model's tokenizer into it")
    return digest


def vocabulary_size(where: Path | str) -> int:
    """The number of entries of a directory's (or a Hub model's) tokenizer."""
    if isinstance(where, Path):
        file = where / "tokenizer.json"
        if not file.is_file():
            raise InputError("holds no tokenizer.json", where=where, remedy="save a fast tokenizer into it")
        tokenizer = storage.read_json(file)
        vocab = tokenizer["model"]["vocab"]
        known = {*(vocab if isinstance(vocab, dict) else (entry[0] for entry in vocab))}
        return len(known | {token["content"] for token in tokenizer.get("added_tokens", [])})
    return int(checkpoints.load_config(where)["vocab_size"])
