"""How much a measure stage measures: blocks of a corpus, tokens of an example; and what its plan refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import bequest
from bequest.errors import InputError

LAWS = Path(__file__).resolve().parents[1] / "laws"
RECIPE = """
name: limits
corpora:
  text: {files: text.jsonl, held_out: 0.3}
tasks:
  parity: {train: train.jsonl, test: test.jsonl}
  thirds: {train: thirds.jsonl, test: thirds-test.jsonl}
stages:
  - pretrain:
      name: causal
      model: {family: llama, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, max_position_embeddings: 64}
      corpus: text
      tokenizer: {vocab_size: 320}
      tokens: 1024
      block: 16
      batch_tokens: 256
      evaluate_blocks: 3
  - measure: {name: whole, models: [causal], corpora: all, tasks: [parity], block: 16, max_length: 64}
  - measure: {name: few, models: [causal], corpora: all, tasks: [parity], block: 16, blocks: 3, max_length: 2}
  - measure: {name: thin, models: [causal], tasks: [parity], max_length: 64, examples: 5}
  - measure: {name: tuned, models: [causal], tasks: all, probe: tune, seeds: 2, max_length: 16}
"""


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("measures")
    subprocess.run([sys.executable, str(LAWS / "kill_driver.py"), "prepare", str(place)], check=True)
    (place / "recipe.yaml").write_text(RECIPE)
    for name, count in (("thirds", 12), ("thirds-test", 6)):
        rows = [
            {"text": f"{name} {number} " + "word " * (number % 3), "label": "abc"[number % 3]}
            for number in range(count)
        ]
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return bequest.run(place / "recipe.yaml", out=place / "run").out


def measured(out: Path, stage: str) -> dict[str, Any]:
    return json.loads((out / stage / "measures.json").read_text())


def test_a_few_blocks_are_spread_over_the_whole(out: Path) -> None:
    whole, few = (measured(out, stage)["perplexity"]["causal"]["text"] for stage in ("whole", "few"))
    count = len(whole["blocks"])
    assert count > 6 and len(few["blocks"]) == 3
    assert few["blocks"] == pytest.approx(
        [whole["blocks"][place] for place in (0, count // 3, 2 * count // 3)], abs=1e-5
    )
    assert few["loss"] == pytest.approx(sum(few["blocks"]) / 3, abs=1e-5)


def test_training_evaluates_the_first_blocks(out: Path) -> None:
    whole = measured(out, "whole")["perplexity"]["causal"]["text"]
    lines = [json.loads(line) for line in (out / "causal" / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if line["kind"] == "eval"][-1]
    assert last["loss"] == pytest.approx(sum(whole["blocks"][:3]) / 3, abs=2e-2)  # in bf16 where that pays
    assert abs(last["loss"] - whole["loss"]) > 1e-4


def test_examples_are_cut_to_the_length(out: Path) -> None:
    whole, few = (measured(out, stage)["tasks"]["causal"]["parity"] for stage in ("whole", "few"))
    assert len(whole["correct"][0]) == len(few["correct"][0])
    assert whole["correct"] != few["correct"]


def test_examples_are_thinned(out: Path) -> None:
    whole, thin = (measured(out, stage)["tasks"]["causal"]["parity"] for stage in ("whole", "thin"))
    assert len(whole["correct"][0]) > len(thin["correct"][0]) == 5


def test_tuned_copies_of_one_task_know_nothing_of_another(out: Path) -> None:
    tuned = measured(out, "tuned")["tasks"]["causal"]
    assert {name: (score["how"], len(score["accuracy"])) for name, score in tuned.items()} == {
        "parity": ("tune", 2),
        "thirds": ("tune", 2),
    }


def test_a_length_without_positions_is_refused_by_the_plan(out: Path) -> None:
    place = out.parent
    shutil.copyfile(place / "recipe.yaml", place / "long.yaml")
    with pytest.raises(InputError, match=r"whole\.max_length.*64"):
        bequest.run(place / "long.yaml", out=place / "long", overrides=["stages.whole.max_length=65"])
    assert not (place / "long" / "causal").exists()
