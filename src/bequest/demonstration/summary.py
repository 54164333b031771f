"""What the demo showed: one line per effect, each with its size, its control and its interval.

Every difference is paired: over the same held-out blocks, or over the same test examples.  So an interval speaks of
the text; there is one training seed, and the heading says so.  A difference whose interval covers zero is "no effect
seen".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bequest import lineage, storage
from bequest.data.tasks import Task
from bequest.measures.intervals import Interval, effect_line, interval, paired
from bequest.recipe.quantities import short

HEADING = "What this run showed (95 % intervals over held-out blocks or test examples; one training seed):"
CHAIN = ("small", "big", "v1")
"""The stages whose cost the grown and taught model carries."""
SAME_LOSS = 1e-3
"""Two losses this near (nats) are one model's: rounding moves a loss by 1e-6, anything learnt by more than 1e-2."""


@dataclass(frozen=True)
class Evidence:
    """The numbers of the demo's measure stages, by model."""

    out: Path
    perplexity: Mapping[str, Any]
    tasks: Mapping[str, Any]

    @classmethod
    def read(cls, out: Path) -> Evidence:
        """From a finished run directory."""
        measured, scored = (storage.read_json(out / stage / "measures.json") for stage in ("measured", "scored"))
        return cls(out, measured["perplexity"], scored["tasks"])

    def blocks(self, model: str, corpus: str = "general") -> Sequence[float]:
        """Loss of every held-out block, nats per token."""
        found: Sequence[float] = self.perplexity[model][corpus]["blocks"]
        return found

    def unigram(self, corpus: str = "general") -> float:
        """Loss of a model that knows word counts only."""
        return float(self.perplexity["small"][corpus]["unigram"])

    def right(self, model: str) -> list[float]:
        """1 for every test example that tuned weights get right, else 0."""
        return [float(mark) for mark in self.tasks[model]["areas"]["correct"][0]]

    def growth(self, stage: str) -> Mapping[str, Any]:
        """The recorded proof of a grow stage."""
        found: Mapping[str, Any] = lineage.read_lineage(self.out / stage).measures["growth"]
        return found


def summarise(out: Path, task: Task, *, seen_text: bool) -> list[str]:
    """The five lines of a finished demo; ``seen_text``: the task is made of text that the models were trained on."""
    evidence = Evidence.read(out)
    return [
        learning(evidence),
        growing(evidence),
        inheriting(evidence),
        recycling(evidence, task, seen_text=seen_text),
        replaying(evidence),
    ]


def learning(evidence: Evidence) -> str:
    """The small model against word counts."""
    gain = interval([loss - evidence.unigram() for loss in evidence.blocks("small")], over="blocks")
    return effect_line(
        "pretrain: loss of the small model", gain, control="the unigram entropy", unit="nats", better="lower"
    )


def growing(evidence: Evidence) -> str:
    """Growth preserves the function: the grown model against the small one, and against a fresh one of its size."""
    apart = paired(evidence.blocks("big"), evidence.blocks("small"), over="blocks")
    worst = max(abs(a - b) for a, b in zip(evidence.blocks("big"), evidence.blocks("small"), strict=True))
    start = interval([loss - fresh_loss(evidence.out) for loss in evidence.blocks("big")], over="blocks")
    encoder = evidence.growth("encoder-wide")
    verdict = "preserved" if worst < SAME_LOSS and encoder["preserved"] else "NOT preserved"
    return (
        f"grow: the grown model starts {apart.mean:+.6f} nats from where the small one ended (largest block difference "
        f"{worst:.1e}; tiny BERT: relative error {encoder['max_relative_error']:.0e}): {verdict}; "
        + effect_line("start", start, control="a fresh model of its size", unit="nats", better="lower")
    )


def fresh_loss(out: Path) -> float:
    """The held-out loss of the control before its first update."""
    first: dict[str, Any] = next(line for line in metrics(out / "scratch") if line["kind"] == "eval")
    return float(first["loss"])


def metrics(stage: Path) -> list[dict[str, Any]]:
    """The lines of a stage's ``metrics.jsonl``."""
    import json

    return [json.loads(line) for line in (stage / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def inheriting(evidence: Evidence) -> str:
    """Grown and taught against scratch at equal tokens, with what each took in all: the small model was not free."""
    alone, chain = cost(evidence.out, "scratch"), cost(evidence.out, *CHAIN)
    gain = paired(evidence.blocks("v1"), evidence.blocks("scratch"), over="blocks")
    control = (
        f"scratch at equal tokens ({alone.tokens:,} and {short(alone.train_flops, 'FLOP')} in all; v1 with the small "
        f"model that it came from took {chain.tokens:,} and {short(chain.train_flops + chain.teacher_flops, 'FLOP')}, "
        f"{short(chain.teacher_flops, 'FLOP')} of it the teacher's)"
    )
    return effect_line("grow + inherit: loss of v1", gain, control=control, unit="nats", better="lower")


def cost(out: Path, *stages: str) -> lineage.Cost:
    """What stages took together."""
    costs = [lineage.read_lineage(out / stage).cost for stage in stages]
    return lineage.Cost(
        tokens=sum(each.tokens for each in costs),
        train_flops=sum(each.train_flops for each in costs),
        teacher_flops=sum(each.teacher_flops for each in costs),
    )


def recycling(evidence: Evidence, task: Task, *, seen_text: bool) -> str:
    """The recycled adapter against none and against a retrained one."""
    known = " (the task's paragraphs also stand, unlabelled, in the pre-training text)" if seen_text else ""
    recycled, retrained = evidence.right("areas-v3"), evidence.right("areas-v3-retrained")
    none = majority(task)
    over_none, over_new = paired(recycled, none, over="examples"), paired(recycled, retrained, over="examples")
    return (
        effect_line(
            f"recycle: accuracy of the old adapter on v3{known}",
            over_none,
            control=f"none (majority class {sum(none) / len(none):.1%})",
            digits=1,
            scale=100,
            unit="points",
        )
        + "; "
        + effect_line(
            "and",
            over_new,
            control=f"one retrained on v3 ({sum(retrained) / len(retrained):.1%})",
            digits=1,
            scale=100,
            unit="points",
        )
    )


def majority(task: Task) -> list[float]:
    """1 for every test example of the training side's most frequent class, else 0."""
    most = Counter(example.label for example in task.train).most_common(1)[0][0]
    return [float(example.label == most) for example in task.test]


def replaying(evidence: Evidence) -> str:
    """Forgetting of general text with and without replay."""
    before, without, with_ = (evidence.blocks(model) for model in ("v1", "v3-no-replay", "v3"))
    forgot: tuple[Interval, Interval] = paired(with_, before, over="blocks"), paired(without, before, over="blocks")
    gain = paired(with_, without, over="blocks")
    return effect_line(
        f"adapt: loss on general text after two domains ({forgot[0].mean:+.3f} nats with replay)",
        gain,
        control=f"no replay ({forgot[1].mean:+.3f} nats)",
        unit="nats",
        better="lower",
    )
