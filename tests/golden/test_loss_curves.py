"""Short CPU loss curves as text: what training computes does not move unless somebody says why.

After a change that is meant to move them: ``BEQUEST_GOLDEN=write python -m pytest tests/golden``, and say why in the
commit.  fp32, one thread; another processor rounds in another order, which is what the tolerance is for.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
GOLDEN = HERE / "loss_curves.txt"
TOLERANCE = 2e-3
"""Nats; the same processor repeats a curve exactly, and one wrong factor of two moves it by more than 0.05."""

WORDS = ["alpha", "beta", "gamma", "delta", "and", "of", "the", "river", "stone", "bird", "seven", "runs", "falls"]


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str, int, float]]:
    place = tmp_path_factory.mktemp("golden")
    draw = random.Random(11)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(8, 20))) + "." for _ in range(150)]
    (place / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    shutil.copyfile(HERE / "recipe.yaml", place / "recipe.yaml")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "BEQUEST_CACHE": str(place / "cache")}
    program = "import bequest; bequest.run('recipe.yaml', out='run')"
    subprocess.run([sys.executable, "-c", program], cwd=place, env=environment, check=True, capture_output=True)
    found = []
    for stage in ("causal", "taught", "masked"):
        for text in (place / "run" / stage / "metrics.jsonl").read_text().splitlines():
            line = json.loads(text)
            if line["kind"] in ("train", "eval"):
                found.append((stage, line["kind"], line["update"], line["loss"]))
    return found


def test_curves_are_the_golden_ones(curves: list[tuple[str, str, int, float]]) -> None:
    text = "".join(f"{stage} {kind} {update} {loss:.6f}\n" for stage, kind, update, loss in curves)
    if os.environ.get("BEQUEST_GOLDEN") == "write":
        GOLDEN.write_text(text)
    golden = [line.split() for line in GOLDEN.read_text().splitlines()]
    assert [[stage, kind, str(update)] for stage, kind, update, _ in curves] == [line[:3] for line in golden]
    moved = [
        (stage, kind, update, loss, float(line[3]))
        for (stage, kind, update, loss), line in zip(curves, golden, strict=True)
        if abs(loss - float(line[3])) > TOLERANCE
    ]
    assert moved == []


def test_the_curves_learn(curves: list[tuple[str, str, int, float]]) -> None:
    """Control: curves that lie still would be golden for ever."""
    for stage in ("causal", "masked"):
        losses = [loss for name, kind, _, loss in curves if name == stage and kind == "eval"]
        assert losses[-1] < losses[0] - 0.3, stage
