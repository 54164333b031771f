"""The model card (README.md) of a generation, made from its lineage, with the front matter the Hub reads.

``base_model`` and ``base_model_relation`` build the Hub's model tree.  A parent that lies beside the generation has a
local name only; the card says so, because the Hub would look such a name up among its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bequest.lineage import Lineage, Parent, read_lineage
from bequest.reports import wording
from bequest.reports.curves import finite
from bequest.reports.record import mapping, read_optional, stored_parameters
from bequest.storage import write_text

PIPELINES = (
    ("ForSequenceClassification", "text-classification"),
    ("ForMaskedLM", "fill-mask"),
    ("ForCausalLM", "text-generation"),
    ("LMHeadModel", "text-generation"),
    ("ForPreTraining", "feature-extraction"),
    ("Model", "feature-extraction"),
)
VERBS = {
    "pretrain": "pre-trained",
    "grow": "grown",
    "adapt": "adapted through further domains",
    "tune": "tuned for a task",
    "recycle": "recycled onto a newer base",
    "carry": "carried onto another base",
    "adopt": "adopted",
}


def write_card(directory: Path) -> Path:
    """Write ``README.md`` for the generation in ``directory`` and return its path.

    Raises:
        InputError: the directory has no lineage.
    """
    lineage = read_lineage(directory)
    text = model_card(lineage, config=read_optional(directory / "config.json"), parameters=stored_parameters(directory))
    write_text(directory / "README.md", text)
    return directory / "README.md"


def model_card(lineage: Lineage, *, config: Mapping[str, Any] | None = None, parameters: int | None = None) -> str:
    """The card's text.

    Args:
        lineage: the generation's lineage.
        config: its ``config.json`` (none for an adapter); decides the pipeline tag and the class that loads it.
        parameters: how many numbers its weights hold.
    """
    parts = [front_matter(lineage, config or {}), f"# {lineage.name}", opening(lineage), loading(lineage, config or {})]
    parts += [history(lineage, parameters), measured(lineage.measures), data_table(lineage), footer(lineage)]
    return "\n\n".join(part for part in parts if part) + "\n"


def front_matter(lineage: Lineage, config: Mapping[str, Any]) -> str:
    """The YAML block at the top."""
    adapter = lineage.kind == "adapter"
    lines = ["---", f"library_name: {'peft' if adapter else 'transformers'}"]
    bases = [parent for parent in lineage.parents if parent.role == "base"]
    if bases:
        local = [parent.name for parent in bases if parent.path is not None]
        if local:
            lines.append(f"# local: {', '.join(local)}; write the Hub ids here when you push")
        lines += ["base_model:", *(f"- {quoted(parent.name)}" for parent in bases)]
        lines.append(f"base_model_relation: {'adapter' if adapter else 'finetune'}")
    licence = lineage.operation.parameters.get("license") or lineage.operation.parameters.get("licence")
    if licence:
        lines.append(f"license: {quoted(str(licence))}")
    lines.append(f"pipeline_tag: {pipeline_tag(lineage, config)}")
    tags = ["bequest", lineage.operation.stage, *(lineage.operation.method or "").split("+")]
    lines += ["tags:", *(f"- {quoted(tag)}" for tag in dict.fromkeys(tags) if tag)]
    return "\n".join([*lines, "---"])


def pipeline_tag(lineage: Lineage, config: Mapping[str, Any]) -> str:
    """The Hub's name for what the model does."""
    architecture = class_name(lineage, config)
    return next((tag for ending, tag in PIPELINES if architecture.endswith(ending)), "feature-extraction")


def class_name(lineage: Lineage, config: Mapping[str, Any]) -> str:
    """The transformers class that loads the model, or the base under an adapter."""
    if lineage.kind == "adapter":
        return "AutoModelForSequenceClassification"
    return str((config.get("architectures") or ["AutoModel"])[0])


def opening(lineage: Lineage) -> str:
    """One sentence: what this is and what it came from."""
    what = "A PEFT adapter" if lineage.kind == "adapter" else "A model"
    verb = VERBS.get(lineage.operation.stage, lineage.operation.stage)
    method = f" by `{lineage.operation.method}`" if lineage.operation.method else ""
    return f"{what}, {verb}{method}{parents_text(lineage.parents)}. Made with bequest."


def parents_text(parents: list[Parent]) -> str:
    """``, from `small` (base) and `big` (teacher)``."""
    named = [f"`{parent.name}` ({parent.role})" for parent in parents]
    if not named:
        return ""
    return f", from {', '.join(named[:-1])}{' and ' if len(named) > 1 else ''}{named[-1]}"


def loading(lineage: Lineage, config: Mapping[str, Any]) -> str:
    """The lines of Python that load it, without bequest."""
    architecture = class_name(lineage, config)
    if lineage.kind == "adapter":
        base = next((parent.name for parent in lineage.parents if parent.role == "base"), "BASE")
        labels = lineage.operation.parameters.get("labels") or []
        body = [
            "from peft import PeftModel",
            f"from transformers import {architecture}",
            "",
            f"base = {architecture}.from_pretrained({json.dumps(base)}, num_labels={len(labels) or '...'})",
            'model = PeftModel.from_pretrained(base, ".")',
        ]
    else:
        body = [
            f"from transformers import AutoTokenizer, {architecture}",
            "",
            f'model = {architecture}.from_pretrained(".")',
            'tokenizer = AutoTokenizer.from_pretrained(".")',
        ]
    labels = lineage.operation.parameters.get("labels")
    note = f"\n\nLabels, in order: {', '.join(f'`{label}`' for label in labels)}." if labels else ""
    return "\n".join(["```python", *body, "```"]) + note


def history(lineage: Lineage, parameters: int | None) -> str:
    """What was done and what it cost."""
    cost = lineage.cost
    rows = [
        ("parameters stored", wording.count(parameters)),
        ("training tokens", wording.tokens(cost.tokens)),
        ("training FLOPs", wording.flops(cost.train_flops)),
        ("teacher FLOPs", wording.flops(cost.teacher_flops)),
        ("wall time", wording.duration(cost.wall_seconds) if cost.wall_seconds else wording.NOTHING),
        ("device", cost.device or wording.NOTHING),
    ]
    shown = [(key, value) for key, value in rows if value != wording.NOTHING]
    settings = {
        key: value
        for key, value in lineage.operation.parameters.items()
        if value not in (None, {}, []) and key != "labels"
    }
    text = "## How it was made\n\n" + table(("", ""), shown) if shown else "## How it was made"
    if settings:
        text += "\n\n```json\n" + json.dumps(settings, indent=2, ensure_ascii=False) + "\n```"
    return text


def measured(measures: Mapping[str, Any]) -> str:
    """The measured values, one table for perplexity and one for tasks."""
    parts = []
    found = mapping(measures.get("perplexity")) or mapping(measures.get("held_out"))
    rows = [
        (name, *(number(mapping(entry).get(key)) for key in ("loss", "perplexity", "bits_per_byte", "unigram")))
        for name, entry in found.items()
    ]
    if rows:
        head = ("corpus", "loss, nats per token", "perplexity", "bits per byte", "unigram entropy")
        parts.append(table(head, rows))
    tasks = [
        (
            name,
            mean(mapping(entry).get("accuracy")),
            mean(mapping(entry).get("macro_f1")),
            str(mapping(entry).get("how", "")),
        )
        for name, entry in mapping(measures.get("tasks")).items()
    ]
    if tasks:
        parts.append(table(("task", "accuracy", "macro-F1", "measured by"), tasks))
    return "## Measured on held-out data\n\n" + "\n\n".join(parts) if parts else ""


def data_table(lineage: Lineage) -> str:
    """The data that went in."""
    rows = [
        (use.name, wording.tokens(use.tokens), use.licence or "not stated", use.fingerprint[:12])
        for use in lineage.data
    ]
    return "## Data\n\n" + table(("name", "tokens", "licence", "fingerprint"), rows) if rows else ""


def footer(lineage: Lineage) -> str:
    """Where the full record is."""
    versions = lineage.environment.versions
    named = ", ".join(
        f"{name} {versions[name]}" for name in ("bequest", "torch", "transformers", "peft") if name in versions
    )
    return f"`lineage.json` holds the full record (id `{lineage.short_id}`{'; ' + named if named else ''})."


def table(head: tuple[str, ...], rows: list[Any]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join(
        [*lines, *("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows)]
    )


def number(value: Any) -> str:
    """A measured number, or a dash."""
    found = finite(value)
    return wording.NOTHING if found is None else wording.significant(found, 4)


def mean(values: Any) -> str:
    """Mean and interval of per-seed shares."""
    from bequest.measures.intervals import interval

    numbers = [values] if isinstance(values, int | float) else list(values or ())
    return interval(numbers).text(digits=1, scale=100, unit="%") if numbers else wording.NOTHING


def quoted(text: str) -> str:
    """A YAML string: JSON's double-quoted form is YAML too."""
    return json.dumps(text, ensure_ascii=False)
