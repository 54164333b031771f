"""Sentences that prove a model: how surprised it is by text of its own kind and by text of another.

All of them were written for this project, so no model can have read them.
Try it: ``loss_of(model, tokenizer, "<s>", STORIES)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

STORIES = (
    "Once upon a time, there was a little girl named Mia. She had a red ball. She liked to play with it in the park.",
    "One day, Tom went to the park with his mom. He saw a big dog. The dog wanted to play with him.",
    'The little bird was sad because it could not fly. Its mom said, "Do not worry. You can try again."',
    "Lily and Ben were best friends. They liked to play in the garden. One day, they found a shiny rock.",
    "Once upon a time, there was a small cat. The cat liked to sleep in the sun all day.",
    "Sam had a toy car. He loved his toy car very much. One day, the car broke and Sam was very sad.",
    'Mom made a big cake. "Can I have some cake, please?" asked Anna. Mom smiled and said, "Yes, you can."',
    "The bunny hopped and hopped until he saw a big tree. He was tired, so he sat down under the tree.",
    'It was a sunny day. Jack wanted to go outside and play with his friends. His mom said, "Be careful, Jack."',
    "The boy said sorry to his sister. They hugged and played together again. They were happy.",
)
"""Ten little stories in simple words."""

NETWORKING = (
    "The router forwards IPv6 packets through an encrypted tunnel, and BGP announces aggregated prefixes to its peers.",
)
"""One sentence that no story for children holds."""

ENGLISH = (
    "The capital of France is Paris, and the capital of Germany is Berlin.",
    "Water freezes at zero degrees Celsius and boils at one hundred degrees Celsius.",
    "She opened the door, looked around the room, and sat down in the chair by the window.",
)
"""Plain sentences that a model of general English finds easy."""


def loss_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, begin: str, texts: Sequence[str]) -> float:
    """The mean negative log-likelihood in nats over all tokens of the texts, each read by itself.

    A text is read behind ``begin``, the token that the model saw before a document; it is not counted itself.
    """
    import torch

    first = tokenizer.convert_tokens_to_ids(begin)
    total, count = 0.0, 0
    for text in texts:
        plain: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = torch.tensor([[first, *plain]], device=model.device)
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, :-1].float()
        total += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
        count += len(plain)
    return total / count


def continuation(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], tokens: int) -> str:
    """What the model writes after ``ids``, always taking the likeliest token; at most ``tokens`` of them."""
    import torch

    given: Any = torch.tensor([list(ids)], device=model.device)
    made: Any = model
    with torch.no_grad():
        out = made.generate(
            input_ids=given,
            attention_mask=torch.ones_like(given),
            max_new_tokens=tokens,
            do_sample=False,
            pad_token_id=tokenizer.eos_token_id,
        )
    text = tokenizer.decode(out[0, given.shape[1] :], skip_special_tokens=True)
    return str(text)
