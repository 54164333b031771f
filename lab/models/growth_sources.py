"""The small models that the growth experiments start from, trained here: ``llama32x2`` has width 32 and 2 layers.

They are ordinary pretrain stages of bequest on the text on which their larger relatives are trained, with one
tokenizer per corpus.  The proof is a held-out loss one nat below the unigram entropy: growth from a model that has
learnt word counts would show nothing.  What they cost stands in their lineage.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bequest.reports.record import stored_parameters
from lab.models.making import Job, Maker, prove
from lab.models.training import held_out_figures, publish, run_recipe

LICENCES = {
    "scripture": "trained on the King James Bible, whose text is in the public domain (in the United Kingdom its "
    "printing is a right of the Crown)",
    "general": "trained on WikiText-2, text of English Wikipedia (CC BY-SA)",
}
# Twice the tokens that the larger models see: a small model that is there already was trained for long.
SMALL: dict[str, Any] = {
    "tokenizer": {"kind": "byte-bpe", "vocab_size": 1024},
    "tokens": 1_966_080,
    "block": 128,
    "batch_tokens": 1024,
    "evaluate_every": 0.05,
    "evaluate_blocks": 256,
    "checkpoint_every": None,
    "bf16": False,
}
LARGE: dict[str, Any] = {
    **SMALL,
    "tokenizer": {"kind": "byte-bpe", "vocab_size": 8000},
    "tokens": 60_000_000,
    "batch_tokens": 16_384,
    "bf16": "auto",
}
HEAD = 16
LARGE_HEAD = 64


def _maker(width: int, layers: int, corpus: str, stage: Mapping[str, Any], head: int, lr: float) -> Maker:
    """The maker of one llama."""
    name = f"llama{width}x{layers}"
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": width // head}
    model = {"family": "llama", **sizes, "tie_word_embeddings": True}
    return Maker(
        name=name,
        module="lab.models.growth_sources",
        summary=f"Llama of {layers} layers and width {width}, trained here on {corpus}: a source for growth",
        licence=LICENCES[corpus],
        redistributable=True,
        settings={
            "name": name,
            "held_out": 0.05,
            "seed": 0,
            "stage": {"model": model, "corpus": corpus, "lr": lr, **stage},
            "below_unigram": 1.0,
        },
        corpora=(corpus,),
        helpers=("lab.models.training",),
    )


MAKERS = (
    _maker(32, 2, "scripture", SMALL, HEAD, 8e-3),
    _maker(32, 4, "scripture", SMALL, HEAD, 8e-3),
    _maker(256, 4, "general", LARGE, LARGE_HEAD, 2e-3),
    _maker(256, 8, "general", LARGE, LARGE_HEAD, 2e-3),
)


def build(job: Job) -> Mapping[str, Any]:
    """Train one of the models and prove it.

    Raises:
        RunError: the proof failed.
    """
    name, corpus = job.settings["name"], job.settings["stage"]["corpus"]
    stage = {"name": name, **job.settings["stage"]}
    made = run_recipe(job, {"name": name, "seed": job.settings["seed"], "stages": [{"pretrain": stage}]})
    publish(made / name, job.target)
    found = held_out_figures(made / name, corpus)
    least = job.settings["below_unigram"]
    claim = f"held-out loss {found['loss']:.3f} is {least} below the unigram entropy {found['unigram']:.3f}"
    prove(name, claim, found["loss"] <= found["unigram"] - least)
    return {"held_out": found, "parameters": stored_parameters(job.target)}
