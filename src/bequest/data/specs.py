"""What a recipe says about a corpus or a task: validated, frozen, hashable into a stage's identity.  No torch.

Try it: ``CorpusSpec(files="data/*.txt")``, ``CorpusSpec(demo="python")``, ``TaskSpec(demo="sympy-areas")``.
"""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class CorpusSpec(BaseModel):
    """A named corpus: exactly one of ``files``, ``dataset`` and ``demo``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    files: str | list[str] | None = Field(
        default=None,
        description="paths or globs from the recipe's directory: txt md jsonl csv tsv parquet, or .gz .bz2 .xz .zst",
    )
    dataset: str | None = Field(default=None, description="a directory made by datasets' save_to_disk, or a Hub id")
    subset: str | None = Field(default=None, description="the configuration of a Hub dataset, e.g. wikitext-103-raw-v1")
    split: str = Field(default="train", description="the split of a dataset")
    text: str = Field(default="text", description="the column or key that holds the text")
    group: str | None = Field(
        default=None,
        description="the column whose value keeps documents on one side of the held-out split, or 'file'; "
        "by default the file (text files, when there are enough of them) or the document itself",
    )
    demo: str | None = Field(default=None, description="the name of an embedded corpus")
    held_out: float = Field(
        default=0.02,
        gt=0.0,
        lt=1.0,
        description="share of the groups held out of training; 0.05 by default for embedded corpora, which are small",
    )
    licence: str | None = Field(default=None, description="noted in the lineage")

    @model_validator(mode="before")
    @classmethod
    def larger_share_of_small_corpora(cls, given: Any) -> Any:
        """Two percent of an embedded corpus would be a dozen blocks."""
        return {"held_out": 0.05, **given} if isinstance(given, dict) and given.get("demo") is not None else given

    @model_validator(mode="after")
    def one_source(self) -> Self:
        """Exactly one source, and no dataset keys without a dataset."""
        given = [key for key in ("files", "dataset", "demo") if getattr(self, key) is not None]
        if len(given) != 1:
            found = f"found {' and '.join(given)}" if given else "found none"
            raise ValueError(f"a corpus needs exactly one of files, dataset and demo ({found})")
        if self.subset is not None and self.dataset is None:
            raise ValueError("subset goes with dataset")
        return self


class TaskSpec(BaseModel):
    """A labelled task: ``train`` and ``test`` (and perhaps ``dev``) files, or ``demo``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    train: str | None = Field(default=None, description="jsonl, csv, tsv or parquet file of labelled examples")
    test: str | None = Field(default=None, description="the file that the scores are measured on")
    dev: str | None = Field(default=None, description="a file for choosing, never for reporting")
    text: str = Field(default="text", description="the column of the text")
    text_pair: str | None = Field(default=None, description="the column of the second text of a pair")
    label: str = Field(default="label", description="the column of the label")
    demo: str | None = Field(default=None, description="the name of an embedded task")

    @model_validator(mode="after")
    def one_source(self) -> Self:
        """Either an embedded task or files, and then both train and test."""
        if self.demo is not None:
            if self.train or self.test or self.dev:
                raise ValueError("a task is either demo or files (train, test), not both")
        elif not (self.train and self.test):
            raise ValueError("a task needs train and test, or demo")
        return self
