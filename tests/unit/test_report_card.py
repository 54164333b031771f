from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from bequest.errors import InputError
from bequest.lineage import Lineage
from bequest.reports import wording
from bequest.reports.card import model_card, write_card


def lineage(**changes: Any) -> Lineage:
    value: dict[str, Any] = {
        "id": "f" * 64,
        "name": "triage-v2",
        "kind": "adapter",
        "digests": {"weights": "a", "config": "b", "tokenizer": "c"},
        "parents": [
            {"id": "1", "role": "tuned", "name": "triage-v1", "path": "../triage-v1"},
            {"id": "2", "role": "base", "name": "v2", "path": "../v2"},
        ],
        "operation": {
            "stage": "recycle",
            "method": "initialise",
            "parameters": {"task": "triage", "labels": ["high: now", "low"], "lr": 0.001, "max_length": None},
        },
        "data": [{"name": "triage|x", "fingerprint": "e" * 64, "tokens": 12000, "licence": "CC0-1.0"}],
        "cost": {"train_flops": 1.5e12, "tokens": 12000, "wall_seconds": 75.0, "device": "cpu"},
        "measures": {"tasks": {"triage": {"accuracy": [0.7, 0.72], "macro_f1": [0.7], "how": "own"}}},
        "environment": {"versions": {"bequest": "0.1.0", "peft": "0.21.2"}},
    }
    return Lineage.model_validate({**value, **changes})


def test_front_matter_is_what_the_hub_reads() -> None:
    data = ModelCard(model_card(lineage())).data
    assert data.base_model == ["v2"] and data.library_name == "peft" and data.pipeline_tag == "text-classification"
    assert data.tags == ["bequest", "recycle", "initialise"] and data.base_model_relation == "adapter"
    assert data.license is None


@pytest.mark.parametrize(
    "architecture, tag",
    [
        ("LlamaForCausalLM", "text-generation"),
        ("GPT2LMHeadModel", "text-generation"),
        ("BertForMaskedLM", "fill-mask"),
        ("RobertaForSequenceClassification", "text-classification"),
        ("DistilBertModel", "feature-extraction"),
    ],
)
def test_pipeline_follows_the_head(architecture: str, tag: str) -> None:
    record = lineage(
        kind="model",
        operation={"stage": "pretrain", "parameters": {"license": "apache-2.0"}},
        parents=[{"id": "2", "role": "base", "name": "org/base"}],
    )
    text = model_card(record, config={"architectures": [architecture]}, parameters=1_234_567)
    data = ModelCard(text).data
    assert data.pipeline_tag == tag and data.base_model == ["org/base"] and data.license == "apache-2.0"
    assert "# local" not in text and f"import AutoTokenizer, {architecture}" in text and "1.23M" in text


def test_card_tells_history_labels_and_measures() -> None:
    text = model_card(lineage())
    assert "from `triage-v1` (tuned) and `v2` (base)" in text and "# local: v2" in text
    assert "Labels, in order: `high: now`, `low`." in text and "num_labels=2" in text
    assert "| triage | 71.0 ± 12.7 % (n = 2 seeds) | 70.0 % (n = 1, no interval) | own |" in text
    assert "| triage\\|x | 12.0k | CC0-1.0 |" in text and "1.50 TFLOP" in text and "1 min 15 s" in text
    assert "max_length" not in text and '"lr": 0.001' in text


def test_losses_measured_while_training_stand_in_for_measured_ones() -> None:
    losses = {"held_out": {"general": {"loss": 4.25, "unigram": 5.5}}}
    text = model_card(lineage(measures=losses))
    assert "| general | 4.250 | – | – | 5.500 |" in text


def test_a_root_has_no_base_and_no_empty_sections() -> None:
    bare = lineage(parents=[], data=[], measures={}, cost={}, kind="model", operation={"stage": "pretrain"})
    text = model_card(bare)
    assert "base_model" not in text and "## Data" not in text and "## Measured" not in text


def test_card_is_written_beside_the_lineage(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        write_card(tmp_path)
    (tmp_path / "config.json").write_text('{"architectures": ["BertForMaskedLM"]}')
    (tmp_path / "lineage.json").write_text(json.dumps(lineage(kind="model").model_dump(mode="json")))
    assert "fill-mask" in write_card(tmp_path).read_text()


@pytest.mark.parametrize(
    "value, text",
    [(0, "0"), (999, "999"), (999.6, "1.00k"), (1234, "1.23k"), (1.5e6, "1.50M"), (None, "–"), (float("nan"), "–")],
)
def test_counts(value: float | None, text: str) -> None:
    assert wording.count(value) == text


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0.84, "0.8 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (192, "3 min 12 s"),
        (3700, "1 h 1 min"),
        (90000, "1 d 1 h"),
        (None, "–"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert wording.duration(seconds) == text


def test_tokens_and_flops() -> None:
    assert wording.tokens(20_000_000) == "20.0M" and wording.tokens(3e9) == "3.00B" and wording.tokens(0) == "–"
    assert wording.flops(1.234e15) == "1.23 PFLOP"
