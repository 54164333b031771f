"""Two runs saw the same text under the same masks exactly when their digests of the first batches agree."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import training_support as tiny
from bequest.data.masking import MaskingCollator
from bequest.errors import Interrupted
from bequest.training import train
from bequest.training.metrics import FIRST_BATCHES
from bequest.training.trainer import Trainer


def digests(
    place: Path, name: str, *, hidden: int = 32, mask_seed: int = 7, text: int = 40, updates: int = 6, **more: Any
) -> list[str]:
    """The digests that a run of a tiny BERT leaves in its metrics.jsonl, which must be there exactly once."""
    model, anatomy = tiny.tiny("bert", hidden=hidden)
    collator: Any = MaskingCollator(tiny.tokenizer(), mask_seed, probability=0.3)
    data = dataclasses.replace(tiny.data_for("bert", place, count=text), collator=collator)
    train(model, data, None, tiny.settings(updates, **more), place / name, anatomy=anatomy)
    lines = [json.loads(line) for line in (place / name / "metrics.jsonl").read_text().splitlines()]
    (found,) = [line for line in lines if line["kind"] == "batches"]
    assert found["update"] == len(found["digests"]) == min(FIRST_BATCHES, updates)
    return list(found["digests"])


def test_what_is_trained_and_how_does_not_matter(tmp_path: Path) -> None:
    plain = digests(tmp_path, "plain")
    assert len(set(plain)) == FIRST_BATCHES
    assert digests(tmp_path, "again") == plain
    assert digests(tmp_path, "wider", hidden=64) == plain
    assert digests(tmp_path, "rate", lr=1e-4) == plain
    assert digests(tmp_path, "cut", micro=2) == plain
    assert digests(tmp_path, "short", updates=2) == plain[:2]


def test_text_order_and_masks_do(tmp_path: Path) -> None:
    plain = digests(tmp_path, "plain")
    for name, other in {"order": {"seed": 1}, "masks": {"mask_seed": 8}, "text": {"text": 41}}.items():
        assert not set(digests(tmp_path, name, **other)) & set(plain), name


def test_a_resumed_run_leaves_the_digests_of_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = digests(tmp_path, "plain")
    original = Trainer.compute_loss

    def stop(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "compute_loss", stop)
        with pytest.raises(Interrupted):
            digests(tmp_path, "stopped", checkpoint_every=2)
    assert digests(tmp_path, "stopped", checkpoint_every=2) == plain
