"""A real checkpoint grown from disk to disk, and held against itself: python bench/real_checkpoint.py [MODEL]

Without MODEL it takes the lab's SmolLM2-135M (python -m lab model smollm2).  Hidden 576 -> 768 (fractional), heads and
FFN accordingly, 30 -> 36 layers by identity blocks, stored in float32: the same next tokens on 50 prompts, the largest
relative logit error, and beside it what bfloat16 does.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from bequest.checkpoints import load_model, load_tokenizer
from bequest.growth import Preservation, check_preservation, grow_checkpoint

MODEL = Path(__file__).resolve().parents[1] / "lab" / "cache" / "models" / "smollm2"
TO = {"hidden_size": 768, "num_hidden_layers": 36}
STARTS = (
    "The capital of France is",
    "Water boils at a temperature of",
    "In the beginning there was",
    "A good teacher",
    "The history of science shows",
    "Once upon a time, a small dog",
    "To bake bread you need",
    "The moon goes around",
    "My favourite book is about",
    "When the war ended,",
)
ENDS = ("", " not", " often said to be", " one of the", " because")
PROMPTS = [start + end for start in STARTS for end in ENDS]


def next_tokens(model: Any, tokenizer: Any) -> tuple[list[int], torch.Tensor]:
    """The most likely next token of every prompt, and all logits at the last positions [prompts, vocab]."""
    rows = []
    with torch.no_grad():
        for prompt in PROMPTS:
            ids = torch.tensor([tokenizer(prompt)["input_ids"]])
            rows.append(model(input_ids=ids).logits[0, -1].float())
    logits = torch.stack(rows)
    return logits.argmax(-1).tolist(), logits


def compared(source: Path, grown: Path, dtype: torch.dtype) -> tuple[int, float, Preservation]:
    """Prompts with the same next token, max|difference| / max|logit| on them, and the whole check."""
    tokenizer = load_tokenizer(source)
    small, large = (load_model(place).to(dtype).eval() for place in (source, grown))
    (expected, before), (found, after) = next_tokens(small, tokenizer), next_tokens(large, tokenizer)
    same = sum(a == b for a, b in zip(expected, found, strict=True))
    error = float((after - before).abs().max() / before.abs().max())
    return same, error, check_preservation(small, large, prompts=PROMPTS[:4], tokenizer=tokenizer)


def main() -> None:
    """Grow, compare in float32 and bfloat16, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", nargs="?", default=str(MODEL))
    asked = parser.parse_args()
    source = Path(asked.model)
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for stored in ("float32", "bfloat16"):
            out = Path(folder) / stored
            start = time.monotonic()
            plan = grow_checkpoint(source, out, TO, dtype=stored)
            seconds = time.monotonic() - start
            for dtype in (torch.float32, torch.bfloat16) if stored == "float32" else (torch.float32,):
                same, error, proof = compared(source, out, dtype)
                runs = str(dtype).removeprefix("torch.")
                agreed = f"{same} of {len(PROMPTS)}"
                row = f"| {stored} | {runs} | {agreed} | {error:.1e} | {proof.kl:.1e} | {proof.top1:.1%} |"
                lines.append(row)
                print(f"{row}  ({plan.reason}; grown in {seconds:.1f} s)\n  {proof.verdict}", flush=True)
    print("\n| stored in | run in | same next token | max relative logit error | KL (nats) | top-1 |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
