"""Kill a run with SIGKILL at many moments; the same command must always end with the same weights, bit for bit.

    python bench/kill_stress.py [--kills 32] [--timed 8] [--seed 0]

Each trial starts with an empty run directory and an empty cache, is killed once (at a durable step spread evenly over
the run, or at a random time), and is then run to its end.  Exit code 1 if any trial ends with other weights.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DRIVER = Path(__file__).resolve().parents[1] / "tests" / "laws" / "kill_driver.py"


def environment(cache: Path) -> dict[str, str]:
    """One thread, so that sums are in one order."""
    return {**os.environ, "BEQUEST_CACHE": str(cache), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def drive(
    place: Path, cache: Path, *arguments: object, timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    """One process of the driver; ``timeout`` kills it with SIGKILL."""
    command = [sys.executable, str(DRIVER), *map(str, arguments)]
    process = subprocess.Popen(
        command, cwd=place, env=environment(cache), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        output, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        output, errors = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def trial(place: Path, name: str, expected: dict[str, str], *, at: int = 0, after: float | None = None) -> bool:
    """Kill once, run to the end, compare; prints one line."""
    cache = place / f"cache-{name}"
    first = drive(place, cache, "run", at, "recipe.yaml", name, timeout=after)
    moment = (first.stderr.strip().splitlines() or [""])[-1] if at else f"killed after {after:.1f} s"
    if first.returncode == 0:
        moment = "ended before the kill"
    second = drive(place, cache, "run", 0, "recipe.yaml", name)
    found = json.loads(drive(place, cache, "digest", name).stdout) if second.returncode == 0 else {}
    equal = found == expected
    print(f"{name}: {moment}: {'equal' if equal else 'DIFFERENT'}", flush=True)
    if not equal:
        print(second.stderr[-1500:], {key for key in expected if found.get(key) != expected[key]}, flush=True)
    return equal


def main() -> int:
    """Run all trials."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=32, help="trials killed at a durable step")
    parser.add_argument("--timed", type=int, default=8, help="trials killed at a random time")
    parser.add_argument("--seed", type=int, default=0)
    wanted = parser.parse_args()
    draw = random.Random(wanted.seed)
    with tempfile.TemporaryDirectory(prefix="bequest-kill-") as directory:
        place = Path(directory)
        drive(place, place / "cache", "prepare", place)
        started = time.monotonic()
        whole = drive(place, place / "cache-whole", "run", 0, "recipe.yaml", "whole")
        seconds = time.monotonic() - started
        steps = re.search(r"^steps (\d+)$", whole.stdout, re.M)
        if whole.returncode != 0 or steps is None:
            print(whole.stderr, file=sys.stderr)
            return 1
        expected = json.loads(drive(place, place / "cache", "digest", "whole").stdout)
        total = int(steps[1])
        print(f"uninterrupted: {total} durable steps, {seconds:.1f} s", flush=True)
        moments = [1 + round((total - 2) * (number + draw.random()) / wanted.kills) for number in range(wanted.kills)]
        results = [trial(place, f"step-{at}", expected, at=at) for at in moments]
        for number in range(wanted.timed):
            results.append(trial(place, f"time-{number}", expected, after=draw.uniform(3.0, seconds)))
        print(f"{sum(results)} of {len(results)} trials ended with the weights of the uninterrupted run")
        return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
