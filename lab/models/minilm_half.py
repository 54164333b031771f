"""``minilm3``: the lower half of MiniLM, trained on until it is a masked language model: a source for growth.

No BERT that is trained from nothing learns more than word frequencies at the budgets of this lab, so this source comes
from the published encoder that ``minilm`` is made of: three of its six layers, with the same new head, all trained on
general text.  The proof is a held-out loss one nat below the unigram entropy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bequest import storage
from bequest.reports.record import stored_parameters
from lab.models.making import Job, Maker, prove
from lab.models.minilm import FOLDER, encoder_state, log_frequencies, put_head_on
from lab.models.minilm import MAKER as WHOLE
from lab.models.training import held_out_figures, publish, run_recipe

NAME = "minilm3"
HALF, HEADED = "half-MiniLM", "half-MiniLM-with-head"
LAYER = re.compile(r"encoder\.layer\.(\d+)\.(.+)")
# The first three layers follow on each other as they did.  After 131,000 tokens at 1e-3 they stood at 5.69 nats, and
# every second layer, as in DistilBERT, at 5.95; the first three with 2e-3 at 5.96 (one seed).
KEPT = [0, 1, 2]
# A minute and a half on one quiet core that computes in bf16.  After 491,520 tokens it stood at 5.32 nats, and what was
# trained on from there for 98,000 ended above it, at 3e-4 and at 1e-3: nothing could have been seen of growth.
STAGE: dict[str, Any] = {
    "corpus": "general",
    "tokens": 131_072,
    "block": 128,
    "batch_tokens": 2048,
    "lr": 1e-3,
    "evaluate_every": 0.25,
    "bf16": True,
}

MAKER = Maker(
    name=NAME,
    module="lab.models.minilm_half",
    summary="the lower half of all-MiniLM-L6-v2 as a masked LM, trained here on general text: a source for growth",
    package=WHOLE.package,
    members=WHOLE.members,
    licence="Apache-2.0 (sentence-transformers/all-MiniLM-L6-v2, as its card says); the package around it is MIT; "
    "trained on WikiText-2 (CC BY-SA)",
    redistributable=True,
    settings={"held_out": 0.05, "seed": 0, "kept": KEPT, "stage": STAGE, "below_unigram": 1.0},
    corpora=("general",),
    helpers=("lab.models.minilm", "lab.models.training"),
)


def build(job: Job) -> Mapping[str, Any]:
    """Cut the depth, put a head on, train all of it, and prove it.

    Raises:
        RunError: the proof failed.
    """
    place, seed, stage = job.source / FOLDER, job.settings["seed"], job.settings["stage"]
    with storage.atomic_directory(job.work / HALF, force=True) as directory:
        keep_layers(place, directory, job.settings["kept"])
    with storage.atomic_directory(job.work / HEADED, force=True) as directory:
        put_head_on(job.work / HALF, directory, log_frequencies(job, place), trained=True, seed=seed)
    stages = [{"pretrain": {"name": NAME, "from": f"./{HEADED}", **stage}}]
    made = run_recipe(job, {"name": NAME, "seed": seed, "stages": stages})
    publish(made / NAME, job.target)
    found = held_out_figures(made / NAME, stage["corpus"])
    least = job.settings["below_unigram"]
    claim = f"held-out loss {found['loss']:.3f} is {least} below the unigram entropy {found['unigram']:.3f}"
    prove(NAME, claim, found["loss"] <= found["unigram"] - least)
    return {"held_out": found, "parameters": stored_parameters(job.target)}


def keep_layers(place: Path, target: Path, kept: Sequence[int]) -> None:
    """Save the package's encoder with some of its layers only, and its tokenizer.

    Args:
        place: the package's model directory.
        target: where to.
        kept: which layers stay, counted from the embeddings; they are numbered anew in this order.
    """
    from safetensors.torch import save_file

    from bequest import checkpoints

    state = {}
    for name, value in encoder_state(place).items():
        layer = LAYER.fullmatch(name)
        if layer is None:
            state[name] = value
        elif int(layer[1]) in kept:
            state[f"encoder.layer.{kept.index(int(layer[1]))}.{layer[2]}"] = value
    save_file(state, target / "model.safetensors", metadata={"format": "pt"})
    config = {**storage.read_json(place / "config.json"), "num_hidden_layers": len(kept)}
    storage.write_json(target / "config.json", config)
    checkpoints.copy_tokenizer(place, target)
