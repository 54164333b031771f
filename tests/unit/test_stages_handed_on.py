"""What an objective hands on: kept beside the generation, found by the next domain and by the next stage."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from bequest.errors import InputError, Interrupted
from bequest.running import run
from bequest.stages.handed_on import keep_state, kept_state

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "laws"))
from kill_driver import prepare

METHOD = '''
"""Counts the domains it has seen, and keeps the mean of every one's first weights."""

from dataclasses import dataclass

from bequest.training.objective import Objective

SEEN, STOP = [], -1


@dataclass(frozen=True)
class Counting(Objective):
    def terms(self, step):
        return {}

    def begin(self, stage):
        if len(SEEN) == STOP:
            raise KeyboardInterrupt
        SEEN.append(dict(stage.inherited))

    def end(self, stage):
        count = SEEN[-1].get("count", 0) + 1
        mean = next(stage.model.parameters()).detach().mean()
        means = [*SEEN[-1].get("means", []), mean]
        return {"count": count, "means": means, "half": 0.1 * count}
'''

RECIPE = """
name: handing
seed: 1
corpora:
  text: {files: text.jsonl, held_out: 0.2}
  more: {files: more.jsonl, held_out: 0.2}
stages:
  - pretrain: {name: first, model: {family: llama, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2,
      max_position_embeddings: 64}, corpus: text, tokenizer: {vocab_size: 300}, tokens: 512, block: 16,
      batch_tokens: 256, lr: 1e-3}
  - adapt: {name: second, from: first, domains: [more, text], tokens: 512, block: 16, batch_tokens: 256, lr: 1e-3,
      method: "counting_for_test:Counting"}
  - adapt: {name: third, from: second, domains: [more], tokens: 512, block: 16, batch_tokens: 256, lr: 1e-3,
      method: "counting_for_test:Counting"}
"""


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    shared = torch.arange(6.0)
    state = {
        "Method": {"importance": {"a.weight": shared[:3], "b": shared.view(2, 3).T}, "count": 3, "rate": 0.1},
        "Other": [None, True, "text", torch.tensor(2, dtype=torch.int64), torch.zeros(2, dtype=torch.bfloat16)],
    }
    keep_state(tmp_path, state)
    found = kept_state(tmp_path)
    assert torch.equal(found["Method"]["importance"]["a.weight"], shared[:3])
    assert torch.equal(found["Method"]["importance"]["b"], shared.view(2, 3).T)
    assert (found["Method"]["count"], found["Method"]["rate"]) == (3, 0.1)
    assert found["Other"][:3] == [None, True, "text"]
    assert found["Other"][3].dtype == torch.int64
    assert found["Other"][3].item() == 2
    assert found["Other"][4].dtype == torch.bfloat16


def test_nothing_to_hand_on_leaves_nothing(tmp_path: Path) -> None:
    keep_state(tmp_path, {})
    assert list(tmp_path.iterdir()) == []
    assert kept_state(tmp_path) == {}


@pytest.mark.parametrize("value", [object(), {1: 2}, {"tensor": "x"}, float("nan"), {3, 4}])
def test_what_cannot_be_kept_is_refused_by_its_place(tmp_path: Path, value: Any) -> None:
    with pytest.raises(InputError) as caught:
        keep_state(tmp_path, {"Method": {"part": [0, value]}})
    assert caught.value.key == "Method.part.1"
    assert list(tmp_path.iterdir()) == []


def test_domains_and_stages_inherit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(tmp_path)
    (tmp_path / "counting_for_test.py").write_text(METHOD)
    (tmp_path / "handing.yaml").write_text(RECIPE)
    monkeypatch.syspath_prepend(tmp_path)
    out = tmp_path / "out"
    import counting_for_test  # type: ignore[import-not-found]  # written above

    # Stopped as the second domain begins: what the first one handed on is taken from the disk.
    counting_for_test.STOP = 1
    with pytest.raises(Interrupted):
        run(tmp_path / "handing.yaml", out, console=Console(quiet=True))
    counting_for_test.STOP = -1
    run(tmp_path / "handing.yaml", out, console=Console(quiet=True))
    seen = counting_for_test.SEEN
    assert [state.get("count") for state in seen] == [None, 1, 2]
    assert [state.get("half") for state in seen] == [None, 0.1, 0.2]
    assert [len(state.get("means", [])) for state in seen] == [0, 1, 2]
    assert all(isinstance(mean, torch.Tensor) for mean in seen[2]["means"])
    # The first of the two is what the first domain left, bit for bit; the domains are not one and the same.
    assert torch.equal(seen[1]["means"][0], seen[2]["means"][0])
    assert not torch.equal(seen[2]["means"][0], seen[2]["means"][1])
    assert not (out / "first" / "objective").exists()
    assert json.loads((out / "third" / "objective" / "state.json").read_text())["Counting"]["count"] == 3
    # Making the last stage again finds the same.
    (out / "third" / "stage.json").write_text("{}")
    run(tmp_path / "handing.yaml", out, console=Console(quiet=True))
    assert counting_for_test.SEEN[3]["count"] == 2
