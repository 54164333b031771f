"""Loss curves: one line per training stage and held-out corpus, over tokens and over FLOPs, and the unigram lines.

Tuning stages are left out: their loss is over classes, not over tokens, and has no unigram line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from bequest.reports.record import RunRecord, StageRecord

LANGUAGE_STAGES = ("pretrain", "adapt")
POINTS = 300


def curves(run: RunRecord) -> dict[str, Any]:
    """The charts' data.

    Returns:
        ``lines``: stage, kind, corpus (None for the training loss), x per axis of the stage alone, ``before`` what its
        ancestors spent, y in nats per token; ``unigram``: corpus → nats; ``corpora``: in order of first appearance, the
        one seen by most stages first.
    """
    lines: list[dict[str, Any]] = []
    unigram: dict[str, float] = {}
    for stage in run.generations:
        if stage.kind not in LANGUAGE_STAGES:
            continue
        before = spent_before(run, stage)
        metrics = continued(stage.metrics)
        evaluations = [record for record in metrics if record.get("kind") == "eval"]
        for corpus in dict.fromkeys(str(record.get("corpus")) for record in evaluations):
            records = [record for record in evaluations if str(record.get("corpus")) == corpus]
            entropy = next((value for record in records if (value := finite(record.get("unigram"))) is not None), None)
            label = corpus
            if entropy is not None and not math.isclose(unigram.setdefault(label, entropy), entropy):
                # The same text in other tokens (another tokenizer, or a masked model's): not the same axis.
                label = f"{corpus} (as {stage.name} reads it)"
                unigram[label] = entropy
            lines.append(line(stage, label, records, before))
        training = [record for record in metrics if record.get("kind") == "train"]
        if training:
            lines.append(line(stage, None, thinned(training), before))
    seen = [entry["corpus"] for entry in lines if entry["corpus"]]
    corpora = sorted(dict.fromkeys(seen), key=lambda name: -seen.count(name))
    return {"lines": lines, "unigram": unigram, "corpora": corpora}


def line(stage: StageRecord, corpus: str | None, records: Sequence[Any], before: dict[str, float]) -> dict[str, Any]:
    """One line of the chart."""
    return {
        "stage": stage.name,
        "kind": stage.kind,
        "corpus": corpus,
        "tokens": [finite(record.get("tokens")) for record in records],
        "flops": [finite(record.get("flops")) for record in records],
        "before": before,
        "loss": [finite(record.get("loss")) for record in records],
    }


def spent_before(run: RunRecord, stage: StageRecord) -> dict[str, float]:
    """Tokens and training FLOPs that the stage's bases inside the run spent, back to the first."""
    total = {"tokens": 0.0, "flops": 0.0}
    seen = {stage.name}
    parent = stage.parent("base")
    while parent is not None and parent.stage is not None and parent.stage not in seen:
        seen.add(parent.stage)
        ancestor = run.stage(parent.stage)
        if ancestor is None:
            break
        total["tokens"] += finite(ancestor.cost.get("tokens")) or 0.0
        total["flops"] += (finite(ancestor.cost.get("train_flops")) or 0.0) + (
            finite(ancestor.cost.get("teacher_flops")) or 0.0
        )
        parent = ancestor.parent("base")
    return total


def continued(metrics: Sequence[Any]) -> list[dict[str, Any]]:
    """The records of a stage that trained several times (once per domain), with tokens and FLOPs counted on."""
    result: list[dict[str, Any]] = []
    offset, last = {"tokens": 0.0, "flops": 0.0}, {"tokens": 0.0, "flops": 0.0}
    for record in metrics:
        now = {key: finite(record.get(key)) for key in offset}
        if now["tokens"] is not None and now["tokens"] < last["tokens"]:
            offset = {key: offset[key] + last[key] for key in offset}
        last = {key: last[key] if value is None else value for key, value in now.items()}
        result.append({**record, **{key: value + offset[key] for key, value in now.items() if value is not None}})
    return result


def thinned(records: Sequence[Any]) -> list[dict[str, Any]]:
    """At most :data:`POINTS` records: means of equal runs of neighbours."""
    size = math.ceil(len(records) / POINTS)
    result = []
    for start in range(0, len(records), size):
        group = records[start : start + size]
        losses = [value for value in (finite(record.get("loss")) for record in group) if value is not None]
        result.append({**group[-1], "loss": sum(losses) / len(losses) if losses else None})
    return result


def finite(value: Any) -> float | None:
    """A finite number, else None (which JSON can say and a chart leaves out)."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
