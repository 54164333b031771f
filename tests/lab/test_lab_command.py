"""``python -m lab``: what a user types, what he types wrongly, and that the evidence page is what the rows say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lab.evidence
from lab import places
from lab.cli import COMMANDS, PROGRAM
from lab.experiments.cells import cells_of
from lab.experiments.reading import load_experiment

WRONG = {
    "source": (["fetch", "kvj"], "'kvj'", "'kjv'"),
    "model": (["model", "minilm2"], "no model 'minilm2'", "'minilm'"),
    "experiment": (["run", "streem"], "no experiment 'streem'", "'stream'"),
    "scale": (["run", "stream", "--scale", "cpus"], "no scale 'cpus'", "'cpu'"),
    "method": (["run", "stream", "--method", "replay5"], "no method 'replay5'", "'replay-5'"),
    "command": (["fetsh"], "no such command 'fetsh'", "'fetch'"),
    "seeds": (["run", "stream", "--seeds", "0"], "--seeds", "python -m lab run --help"),
}


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(places.CACHE_VARIABLE, str(tmp_path / "cache"))


@pytest.mark.parametrize("name", WRONG)
def test_bad_input_is_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, what, remedy = WRONG[name]
    assert PROGRAM.call(arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith("lab: ") and what in told and remedy in told and told.count("\n") == 1


def test_list_names_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert PROGRAM.call(["list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"wikitext2", "medline", "mail"} <= set(found["sources"]) and len(found["sources"]) == 10
    assert found["sources"]["foldoc"] == {"corpora": ["computing"], "tasks": ["computing-topic"]}
    assert found["models"][:4] == ["minilm", "stories15m", "smollm2", "bench2m"]
    assert {"llama32x2", "minilm3"} < set(found["models"])
    assert {"stream", "screening", "growth", "growth_masked"} <= found["experiments"].keys()
    assert PROGRAM.call(["list"]) == 0
    text = capsys.readouterr().out
    assert (
        "research" in text
        and "computing-topic" in text
        and "bench2m" in text
        and found["experiments"]["stream"] in text
    )


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys\nfrom lab.cli import PROGRAM\nPROGRAM.call(['--help'])\n"
        "heavy = {'torch', 'transformers', 'datasets', 'accelerate', 'peft'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=places.checkout(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert all(command in done.stdout for command in COMMANDS)


def test_the_evidence_page_is_what_the_rows_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert lab.evidence.check(places.checkout()) == []
    assert PROGRAM.call(["evidence", "--check"]) == 0
    assert "docs/evidence.md" in capsys.readouterr().out


def test_the_experiment_in_the_docs_can_be_loaded(tmp_path: Path) -> None:
    text = (places.checkout() / "docs" / "lab.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.S)
    file = tmp_path / "stream.yaml"
    file.write_text(block, encoding="utf-8")
    cells = cells_of(load_experiment(file), "cpu")
    assert len(cells) == 2 * 3 + 2 * 3
