"""Laws of resuming: killed at any moment and run again, the weights, the log and the books are bitwise the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DRIVER = Path(__file__).with_name("training_resume_driver.py")


def drive(case: str, place: Path) -> dict[str, Any]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, str(DRIVER), case, str(place)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("case", ["masked", "causal", "taught", "bf16", "prefixes"])
def test_killed_and_resumed_equals_uninterrupted(case: str, tmp_path: Path) -> None:
    report = drive(case, tmp_path / case)
    assert report["whole"] == [12 * 8 * 16, 12]
    assert report["kills"]
    for what, found in report["kills"].items():
        assert found["signals"] == [9, 0], (what, found)
        assert found["same"] == {"weights": True, "metrics": True, "books": True}, (what, found)
        assert found["left"] == ["checkpoint-12", "checkpoint-9"], what
    if case != "masked":
        return
    assert report["kills"]["before the random state is written"]["notes"] == ["resumed checkpoint-6, exactly"]
    torn = report["torn"]
    assert torn["same"]
    assert torn["signals"] == [9, 0]
    assert torn["notes"][0].startswith("skipped checkpoint-9: optimizer.pt has ")
    assert torn["notes"][1] == "resumed checkpoint-6, exactly"
    # Negative controls: the comparison sees a lost optimizer and another seed.
    assert not report["forged"]["same"]
    assert report["seed changes it"]
    # Running a finished run again trains nothing and gives the same books.
    assert report["finished"] == [0, True]
