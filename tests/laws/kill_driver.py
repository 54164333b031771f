"""Runs `bequest run RECIPE` and kills it with SIGKILL at its N-th durable step, or at the first that matches a text.

    python kill_driver.py prepare DIR           the recipe and the made-up text of the kill laws
    python kill_driver.py run N RECIPE OUT      N = 0: do not kill; prints the number of durable steps at the end
    python kill_driver.py run TEXT RECIPE OUT   TEXT: a regular expression, as in "os.rename .*checkpoint-10"
    python kill_driver.py digest OUT            what a finished run's stages hold, as JSON

A durable step is anything that changes what is on the disk below OUT or the cache: a file opened for writing, a
rename, a removal, a directory made.  They are counted by an audit hook, so the program under test carries no hook, and
"between every two files of a checkpoint", "during packing", "the final save" and "a stage's rename" are all steps.
Writers outside Python (torch, safetensors) and flushes are wrapped from outside, so that a kill falls before and after
each of them too.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Killer:
    """Counts durable steps below the watched directories and kills the process at the chosen one."""

    def __init__(self, at: str, watched: list[str]) -> None:
        self.watched, self.steps = watched, 0
        self.at, self.text = (int(at), None) if at.isdigit() else (0, re.compile(at))

    def below(self, path: Any) -> bool:
        """Whether a path given to the operating system lies below a watched directory."""
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        if not isinstance(path, str | os.PathLike):
            return False
        full = os.path.abspath(os.fspath(path))  # noqa: PTH100  # pathlib itself would raise audit events
        return any(full == root or full.startswith(root + os.sep) for root in self.watched)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """The audit hook: an exception here would abort the operation, so it only counts, or kills."""
        if event == "open":
            path, mode, flags = arguments
            writes = bool(flags & WRITING) if isinstance(flags, int) else any(c in (mode or "") for c in "wax+")
            if not (writes and self.below(path)):
                return
        elif event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir"):
            if not any(self.below(argument) for argument in arguments[:2]):
                return
        else:
            return
        self.step(f"{event} {arguments[0]}")

    def step(self, what: str) -> None:
        """Count one step; at the chosen one, die."""
        self.steps += 1
        if self.steps == self.at or (self.text is not None and self.text.search(what)):
            print(f"killed at step {self.steps}: {what}", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

    def count_writers(self) -> None:
        """Count the writers that are not Python's own and raise no audit event: before and after each file."""
        import safetensors.torch
        import torch

        for module, name in ((torch, "save"), (safetensors.torch, "save_file"), (os, "fsync")):
            setattr(module, name, self.counted(getattr(module, name), name))

    def counted(self, write: Any, name: str) -> Any:
        """``write`` with a step before and after."""

        def wrapped(*arguments: Any, **options: Any) -> Any:
            self.step(f"before {name}")
            result = write(*arguments, **options)
            self.step(f"after {name}")
            return result

        return wrapped


def prepare(directory: Path) -> None:
    """Write the recipe, two small made-up corpora and a task; the same every time."""
    directory.mkdir(parents=True, exist_ok=True)
    draw = random.Random(5)
    words = ["alpha", "beta", "gamma", "delta", "and", "of", "the", "river", "stone", "bird", "seven", "runs", "falls"]
    for name, count in (("text.jsonl", 120), ("more.jsonl", 90)):
        texts = [" ".join(draw.choices(words, k=draw.randint(8, 20))) + f" {number}." for number in range(count)]
        (directory / name).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    for name, count in (("train.jsonl", 40), ("test.jsonl", 16)):
        texts = [" ".join(draw.choices(words, k=9)) + f" {name} {number}" for number in range(count)]
        rows = [{"text": text, "label": "ab"[number % 2]} for number, text in enumerate(texts)]
        (directory / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copyfile(Path(__file__).with_name("kill_recipe.yaml"), directory / "recipe.yaml")


def run(at: str, recipe: str, out: str) -> None:
    """Install the hook, then do what the command line does."""
    roots = [str(Path(out).absolute()), str(Path(os.environ["BEQUEST_CACHE"]).absolute())]
    killer = Killer(at, roots)
    sys.addaudithook(killer)
    killer.count_writers()
    from bequest.cli import main as command_line

    sys.argv = ["bequest", "run", recipe, "--out", out]
    try:
        command_line()
    except SystemExit as stop:
        if stop.code not in (None, 0):
            raise
    print(f"steps {killer.steps}")


def digest(out: Path) -> dict[str, str]:
    """SHA-256 of all weights, tokenizers and lineages' measures of a finished run, and what was left behind."""
    found = {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for pattern in ("*.safetensors", "tokenizer.json")
        for path in sorted(out.glob(f"*/{pattern}"))
    }
    for path in sorted(out.glob("*/lineage.json")):
        measures = json.dumps(json.loads(path.read_text())["measures"], sort_keys=True)
        found[f"{path.parent.name} measures"] = hashlib.sha256(measures.encode()).hexdigest()
    left = [path.name for path in out.iterdir() if path.name.endswith((".work", ".partial", ".old"))]
    return {**found, "left behind": ", ".join(sorted(left))}


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["prepare", directory]:
            prepare(Path(directory))
        case ["run", number, recipe, out]:
            run(number, recipe, out)
        case ["digest", out]:
            print(json.dumps(digest(Path(out)), indent=1))
        case _:
            raise SystemExit(__doc__)
