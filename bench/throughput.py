"""Training throughput: bequest against plain ``transformers.Trainer`` on the same packed data and precision.

    python bench/throughput.py            # the whole table, a few minutes
    python bench/throughput.py --quick    # vocabulary 8k and block 128 only, fewer rounds
    python bench/throughput.py --busy     # on a machine that others use: one thread, its CPU time instead of the wall's

Four layers of width 256, 32 blocks of 128 tokens (8 of 512), one update per batch (accumulation 1), one process.  The
two sides take turns, a few updates at a time; a side's rate is from the median of its update times, its first update of
every turn left out.  The masked LM's gain is the vocabulary projection on target positions only, so it grows with the
vocabulary; the causal LM has a target everywhere and must merely not be slower.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models
from torch.optim.optimizer import register_optimizer_step_post_hook

from bequest.anatomy import Anatomy, complete_config
from bequest.data.blocks import block_digest
from bequest.data.masking import CausalCollator, MaskingCollator
from bequest.training import LanguageModelling, TrainingData, TrainSettings, train
from bequest.training.devices import computes_bf16

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


class Blocks:
    """Random packed blocks; what is in them does not change how long they take."""

    def __init__(self, count: int, block: int, vocabulary: int) -> None:
        self.ids = np.random.default_rng(0).integers(len(SPECIALS), vocabulary, (count, block))
        self.digests = [block_digest(row) for row in self.ids]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": self.ids[index], "digest": self.digests[index]}


class PlainBlocks(Blocks):
    """The same as transformers' collator expects them."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": self.ids[index]}


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    kind: str
    vocabulary: int
    block: int
    sequences: int
    target: float | None = None


@dataclass(frozen=True)
class Rate:
    """What a case measured, in tokens per second."""

    kind: str
    vocabulary: int
    block: int
    plain: float
    bequest: float
    ratio: float
    low: float
    high: float
    target: float | None


CASES = [
    Case("masked", 8192, 128, 32, 1.5),
    Case("masked", 30522, 128, 32, 2.3),
    Case("masked", 8192, 512, 8),
    Case("masked", 30522, 512, 8),
    Case("causal", 8192, 128, 32, 0.97),
    Case("causal", 30522, 128, 32, 0.97),
]


def tokenizer_of(size: int) -> transformers.PreTrainedTokenizerFast:
    words = SPECIALS + [f"w{index}" for index in range(size - len(SPECIALS))]
    inner = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def config_of(case: Case) -> dict[str, Any]:
    sizes = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024}
    family, head = ("bert", "masked-lm") if case.kind == "masked" else ("gpt2", "causal-lm")
    return complete_config(family, sizes, head=head, vocab_size=case.vocabulary)


def model_of(config: dict[str, Any]) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    kind = getattr(transformers, config["architectures"][0])
    return kind(transformers.AutoConfig.for_model(**config))


class Clock:
    """The times between the optimizer steps of whatever trains while it is open; the same for both sides."""

    read: Callable[[], float] = staticmethod(time.perf_counter)

    def __enter__(self) -> Clock:
        self.marks: list[float] = []
        self.handle = register_optimizer_step_post_hook(lambda *_: self.marks.append(Clock.read()))
        return self

    def __exit__(self, *_: Any) -> None:
        self.handle.remove()

    def times(self) -> list[float]:
        """Seconds of every update but the first."""
        return [late - early for early, late in itertools.pairwise(self.marks)]


def plain_side(case: Case, config: dict[str, Any], updates: int, bf16: bool) -> Callable[[], list[float]]:
    tokenizer = tokenizer_of(case.vocabulary)
    blocks = PlainBlocks(512, case.block, case.vocabulary)
    collator = transformers.DataCollatorForLanguageModeling(tokenizer, mlm=case.kind == "masked")

    def turn() -> list[float]:
        with tempfile.TemporaryDirectory() as place:
            args = transformers.TrainingArguments(
                output_dir=place,
                max_steps=updates,
                per_device_train_batch_size=case.sequences,
                learning_rate=1e-4,
                bf16=bf16,
                use_cpu=not torch.cuda.is_available(),
                report_to="none",
                disable_tqdm=True,
                save_strategy="no",
                logging_strategy="no",
                dataloader_pin_memory=torch.cuda.is_available(),
            )
            trainer = transformers.Trainer(model_of(config), args, collator, blocks)
            trainer.remove_callback(transformers.PrinterCallback)
            with Clock() as clock:
                trainer.train()
        return clock.times()

    return turn


def bequest_side(case: Case, config: dict[str, Any], updates: int, bf16: bool) -> Callable[[], list[float]]:
    collator: Any = CausalCollator()
    if case.kind == "masked":
        collator = MaskingCollator(tokenizer_of(case.vocabulary), 0)
    data = TrainingData(Blocks(512, case.block, case.vocabulary), collator)
    per_update = case.block * case.sequences
    settings = TrainSettings(
        tokens=updates * per_update,
        block=case.block,
        batch_tokens=per_update,
        lr=1e-4,
        schedule="linear",
        warmup=0,
        weight_decay=0.0,
        bf16=bf16,
        evaluate_every=None,
        checkpoint_every=None,
    )
    anatomy = Anatomy(config, "masked-lm" if case.kind == "masked" else "causal-lm")

    def turn() -> list[float]:
        with tempfile.TemporaryDirectory() as place:
            model = model_of(config)
            with Clock() as clock:
                train(model, data, LanguageModelling(), settings, place, anatomy=anatomy)
        return clock.times()

    return turn


def measure(case: Case, rounds: int, updates: int, bf16: bool) -> Rate:
    """The sides take turns; the interval is of the ratio of the two medians over rounds."""
    config = config_of(case)
    sides = [side(case, config, updates, bf16) for side in (plain_side, bequest_side)]
    times: list[list[float]] = [[], []]
    ratios = []
    for number in range(rounds):
        turns = [(index, sides[index]()) for index in ((0, 1) if number % 2 == 0 else (1, 0))]
        for index, found in turns:
            times[index] += found
        by_side = dict(turns)
        ratios.append(statistics.median(by_side[0]) / statistics.median(by_side[1]))
    per_update = case.block * case.sequences
    plain, ours = (per_update / statistics.median(found) for found in times)
    low, high = min(ratios), max(ratios)
    return Rate(case.kind, case.vocabulary, case.block, plain, ours, ours / plain, low, high, case.target)


def machine(bf16: bool) -> str:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    if not torch.cuda.is_available() and Path("/proc/cpuinfo").exists():
        names = [
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ]
        device = f"{names[0]} x {len(names)}" if names else device
    clock = ", by CPU time" if Clock.read is time.process_time else ""
    return (
        f"{device}, {torch.get_num_threads()} thread(s), {'bf16 autocast' if bf16 else 'fp32'}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}{clock}"
    )


def markdown(rates: list[Rate], where: str) -> str:
    lines = [
        f"Machine: {where}",
        "",
        "| model | vocabulary | block | transformers.Trainer | bequest | ratio (range over turns) | at least |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for rate in rates:
        at_least = "" if rate.target is None else f"{rate.target}"
        lines.append(
            f"| {rate.kind} LM | {rate.vocabulary:,} | {rate.block} | {rate.plain:,.0f} tokens/s | "
            f"{rate.bequest:,.0f} tokens/s | {rate.ratio:.2f} ({rate.low:.2f}–{rate.high:.2f}) | {at_least} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="vocabulary 8k and block 128 only, fewer rounds")
    parser.add_argument("--rounds", type=int, help="turns of each side")
    parser.add_argument("--updates", type=int, default=8, help="updates per turn")
    parser.add_argument("--fp32", action="store_true", help="no bf16 autocast")
    parser.add_argument("--out", type=Path, help="write PATH.json and PATH.md")
    parser.add_argument("--busy", action="store_true", help="one thread, CPU time: steady while others use the machine")
    choices = parser.parse_args()
    if choices.busy:
        torch.set_num_threads(1)
        Clock.read = staticmethod(time.process_time)
    transformers.logging.set_verbosity_error()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bf16 = not choices.fp32 and computes_bf16(device)
    cases = [case for case in CASES if not choices.quick or (case.vocabulary, case.block) == (8192, 128)]
    rounds = choices.rounds or (2 if choices.quick else 4)
    rates = []
    for case in cases:
        rates.append(measure(case, rounds, choices.updates, bf16))
        print(markdown(rates[-1:], machine(bf16)).splitlines()[-1], flush=True)
    text = markdown(rates, machine(bf16))
    print(f"\n{text}")
    if choices.out:
        choices.out.with_suffix(".md").write_text(text, encoding="utf-8")
        choices.out.with_suffix(".json").write_text(json.dumps([asdict(rate) for rate in rates], indent=2) + "\n")


if __name__ == "__main__":
    main()
