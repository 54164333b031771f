"""The command line starts fast: help, a plan and bad input leave the heavy libraries alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "datasets", "accelerate", "peft", "pandas")
PROGRAM = """
import json, sys
from bequest.cli import call
code = call(sys.argv[1:])
loaded = [name for name in {heavy!r} if name in sys.modules]
print()
print("LAST " + json.dumps([code, loaded]))
"""


def loaded_after(*arguments: str, program: str = PROGRAM) -> tuple[int, list[str]]:
    """The exit code of a command in a process of its own, and the heavy libraries that it imported."""
    text = program.replace("{heavy!r}", repr(HEAVY))
    done = subprocess.run([sys.executable, "-c", text, *arguments], capture_output=True, text=True, check=True)
    code, loaded = json.loads(done.stdout.rsplit("LAST ", 1)[1])
    return code, loaded


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("some text\n\n" * 200)
    rows = "".join(json.dumps({"text": f"t{i}", "label": "ab"[i % 2]}) + "\n" for i in range(6))
    (tmp_path / "train.jsonl").write_text(rows)
    (tmp_path / "test.jsonl").write_text(json.dumps({"text": "u", "label": "a"}) + "\n")
    file = tmp_path / "recipe.yaml"
    file.write_text(
        "name: light\ncorpora: {a: {files: a.txt}, b: {files: b.txt}}\n"
        "tasks: {t: {train: train.jsonl, test: test.jsonl}}\nstages:\n"
        "  - pretrain: {name: small, model: {family: bert, hidden_size: 64}, corpus: a, tokens: 20k}\n"
        "  - grow: {name: big, from: small, to: {hidden_size: 128}}\n"
        "  - pretrain: {name: v1, from: big, corpus: a, tokens: 20k, teachers: [{model: small}]}\n"
        "  - tune: {name: tuned, from: v1, task: t, adapter: {type: lora}}\n"
        "  - adapt: {name: v2, from: v1, domains: [b], tokens: 20k, method: {name: replay, share: 0.1}}\n"
        "  - recycle: {name: recycled, tuned: tuned, onto: v2, method: initialise}\n"
        "  - measure: {models: [v1, recycled], corpora: all, tasks: all}\n"
    )
    return file


def test_help_and_listing_are_light() -> None:
    assert loaded_after("--help") == (0, [])
    assert loaded_after("list", "methods") == (0, [])


def test_a_plan_is_light(recipe: Path) -> None:
    assert loaded_after("plan", str(recipe)) == (0, [])


@pytest.mark.parametrize(
    "arguments",
    [
        ("plan", "{recipe}", "stages.v1.tokns=5"),
        ("plan", "{recipe}", "stages.v2.method={name: replay, shre: 1}"),
        ("plan", "{recipe}", "stages.tuned.adapter.rank=3"),
        ("run", "{recipe}", "stages.small.model.family=bret"),
        ("run", "{recipe}", "corpora.a.files=none.txt"),
        ("grow", "nowhere", "out", "--to", "hidden_size=9"),
        ("carry", "nowhere", "out", "--onto", "b"),
        ("plna",),
    ],
    ids=lambda arguments: " ".join(arguments)[:40],
)
def test_bad_input_is_light(recipe: Path, arguments: tuple[str, ...]) -> None:
    assert loaded_after(*(word.replace("{recipe}", str(recipe)) for word in arguments)) == (2, [])


def test_the_law_can_fail() -> None:
    assert loaded_after("--help", program="import torch\n" + PROGRAM)[1] == ["torch"]
