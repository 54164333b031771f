"""Bad input of every kind: one line on standard error that names file, key and remedy; exit code 2; nothing written."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from bequest import cli
from bequest.commands import making
from bequest.errors import Interrupted, RunError

RECIPE = """name: bad
corpora: {a: {files: a.txt}}
stages:
  - pretrain: {name: small, model: {family: llama, hidden_size: 64, num_hidden_layers: 2}, corpus: a, tokens: 20k}
  - grow: {name: big, from: small, to: {hidden_size: 128}}
  - tune: {name: tuned, from: big, task: t, adapter: {type: lora}}
tasks: {t: {train: train.jsonl, test: test.jsonl}}
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("some text\n" * 100)
    Path("train.jsonl").write_text('{"text": "x", "label": "a"}\n{"text": "y", "label": "b"}\n')
    Path("test.jsonl").write_text('{"text": "z", "label": "a"}\n')
    Path("recipe.yaml").write_text(RECIPE)
    Path("empty.yaml").write_text("")
    Path("broken.yaml").write_text("name: [1\n")
    Path("list.yaml").write_text("- 1\n")
    Path("binary.yaml").write_bytes(b"\xff\xfe\x00")
    Path("folder").mkdir()
    Path("folder/notes.txt").write_text("keep me")
    return tmp_path


def snapshot(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()
    }


def failing(arguments: list[str], place: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must fail with exit code 2, one line, and nothing written; returns the line."""
    before = snapshot(place)
    assert cli.call(arguments) == 2
    captured = capsys.readouterr()
    assert snapshot(place) == before
    assert captured.err.startswith("bequest: ") and captured.err.count("\n") == 1, captured.err
    assert "Traceback" not in captured.err + captured.out
    return captured.err


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["plan", "nothing.yaml"], ["nothing.yaml: no such file"]),
        (["plan", "recpe.yaml"], ["recpe.yaml: no such file", "did you mean 'recipe.yaml'?"]),
        (["plan", "empty.yaml"], ["empty.yaml: is empty", "bequest new"]),
        (["plan", "broken.yaml"], ["broken.yaml: line 2", "not valid YAML"]),
        (["plan", "list.yaml"], ["list.yaml: is not a mapping"]),
        (["plan", "binary.yaml"], ["binary.yaml: is not a text file"]),
        (["plan", "folder"], ["folder: is a directory"]),
        (["run", "nothing.yaml"], ["nothing.yaml: no such file"]),
        (["inspect", "nowhere"], ["nowhere: no such directory"]),
        (["inspect", "folder"], ["folder: holds neither a model", "save_pretrained"]),
        (["tree", "nowhere"], ["nowhere: no such directory"]),
        (["tree", "folder"], ["folder: holds neither"]),
        (["report", "nowhere"], ["nowhere: no such directory"]),
        (["report", "folder"], ["run.json"]),
        (["adopt", "folder"], ["folder: holds neither"]),
        (["grow", "folder", "out", "--to", "hidden_size=8"], ["folder: holds neither"]),
        (["grow", "folder", "out"], ["missing option '--to'"]),
        (["carry", "folder", "out", "--onto", "folder"], ["folder: holds neither"]),
        (["carry", "folder", "out"], ["missing option '--onto'"]),
        (["new", "recipe.yaml"], ["recipe.yaml: already exists", "--force"]),
        (["new", "folder", "--force"], ["folder: is a directory"]),
        (["new", "--template", "lifecylce"], ["did you mean 'lifecycle'?"]),
        (["list", "methods", "replya"], ["did you mean 'replay'?"]),
        (["list", "families", "lama"], ["did you mean 'llama'?"]),
        (["list", "things"], ["families", "methods"]),
        (["plna", "recipe.yaml"], ["no such command 'plna'", "did you mean 'plan'?"]),
        (["plan", "--jsn", "recipe.yaml"], ["--json"]),
        (["plan"], ["missing argument 'RECIPE'", "bequest plan --help"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_commands(arguments: list[str], parts: list[str], place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = failing(arguments, place, capsys)
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    ("override", "key", "remedy"),
    [
        ("stages.small.tokns=5M", "stages.small.tokns: unknown key", "did you mean 'tokens'?"),
        ("stages.smal.tokens=5M", "stages.smal: no such stage", "did you mean 'small'?"),
        ("stages.small=5", "stages.small: names a whole stage", "stages.small.tokens=5M"),
        ("stages.small.tokens=many", "stages.small.tokens: 'many' is not a number", "20M"),
        ("stages.small.tokens=5", "stages.small.tokens: 5 tokens are less than one batch", "raise tokens"),
        ("stages.small.tokens=null", "stages.small.tokens", "20M"),
        ("stages.small.lr=-1", "stages.small.lr: must be above", "not -1"),
        ("stages.small.lr=fast", "stages.small.lr: 'fast' is not a number", ""),
        ("stages.small.batch_tokens=100", "stages.small.batch_tokens", "use 128"),
        ("stages.small.schedule=cosin", "stages.small.schedule", "did you mean 'cosine'?"),
        (
            "stages.small.training.num_train_epochs=3",
            "stages.small.training.num_train_epochs: is decided",
            "use tokens",
        ),
        ("stages.small.training.evaluation_strategy=no", "was removed in transformers 5", "use evaluate_every"),
        ("stages.small.training.report_t=x", "stages.small.training.report_t", "did you mean 'report_to'?"),
        ("stages.small.model.family=lama", "stages.small.model.family: no anatomy table", "did you mean 'llama'?"),
        ("stages.small.model.hiden_size=3", "stages.small.model.hiden_size", "did you mean 'hidden_size'?"),
        ("stages.small.model=null", "stages.small: has neither model nor from", "model: {family"),
        ("stages.small.corpus=b", "stages.small.corpus: no corpus 'b'", "known: a"),
        ("stages.small.tokenizer.kind=bpe", "stages.small.tokenizer.kind: 'bpe' is not known", "byte-bpe"),
        ("stages.small.tokenizer.vocab=4", "stages.small.tokenizer.vocab: unknown key", "vocab_size"),
        ("stages.small.name=../up", "cannot name a stage's directory", "letters"),
        ("stages.big.name=small", "two stages share a name", "name of its own"),
        ("stages.big.from=smal", "stages.big.from: 'smal' is neither", "did you mean 'small'?"),
        ("stages.big.from=./gone", "stages.big.from: './gone' is neither", "small"),
        ("stages.big.from=folder", "stages.big.from: the directory folder holds neither", ""),
        ("stages.big.from=org/gone", "stages.big.from", "Hub id"),
        ("stages.big.from=tuned", "stages need each other in a circle", "big -> tuned -> big"),
        ("stages.small.teachers=[{model: big}]", "stages need each other in a circle", "start one of them"),
        ("stages.big.to={hidden_size: 32}", "stages.big.to.hidden_size: 32 is smaller", ""),
        ("stages.big.to={hidden_sise: 128}", "stages.big.to.hidden_sise", "did you mean 'hidden_size'?"),
        ("stages.big.to={}", "stages.big.to: is empty", ""),
        ("stages.big.method=fpy", "stages.big.method: unknown method 'fpy'", "did you mean 'fpi'?"),
        ("stages.big.method={share: 3}", "stages.big.method: a method given as a mapping needs a name", "name"),
        ("stages.tuned.task=u", "stages.tuned.task: no task 'u'", "known: t"),
        ("stages.tuned.adapter.type=lorra", "stages.tuned.adapter.type", "did you mean 'lora'?"),
        ("stages.tuned.adapter.rnk=3", "stages.tuned.adapter.rnk", "no such field"),
        ("corpora.a.fils=x", "corpora.a.fils: unknown key", "did you mean 'files'?"),
        ("corpora.a.files=gone.txt", "corpora.a", "gone.txt"),
        ("corpora.a=null", "corpora.a: None is not a mapping", ""),
        ("tasks.t.test=gone.jsonl", "tasks.t.test", "no such file"),
        ("corpra.a=1", "corpra: unknown key", "did you mean 'corpora'?"),
        ("grow.to=1", "grow: unknown key", "put it under stages"),
        ("stages=[]", "stages: is not a list of stages", "pretrain"),
        ("stages=[{grwo: {}}]", "stages.0.grwo: unknown stage kind", "did you mean 'grow'?"),
        ("stages=[{grow: 5}]", "stages.0.grow: is not a mapping", "- grow: {...}"),
        ("nonsense", "nonsense: is not an override", "key=value"),
        ("stages.small.tokens=[1", "not valid YAML", ""),
        ("stages.small.tokens.x.y=1", "stages.small.tokens: {'x': {'y': 1}} is not a number", "20M"),
        ("stages.99.tokens=1", "stages.99: no such stage", "known: big, small, tuned"),
    ],
)
def test_recipes(override: str, key: str, remedy: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("plan", "run"):
        line = failing([command, "recipe.yaml", override], place, capsys)
        assert key in line and remedy in line, line
        assert "recipe.yaml" in line or override in line


def test_the_good_recipe_is_good(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.call(["plan", "recipe.yaml"]) == 0
    assert capsys.readouterr().err == ""


def test_a_later_stage_is_named(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = RECIPE.splitlines(keepends=True)
    Path("recipe.yaml").write_text("".join([*lines[:3], lines[4], lines[3], *lines[5:]]))
    assert "stages.big.from: stage 'small' comes later; move small above big" in failing(
        ["plan", "recipe.yaml"], place, capsys
    )


def raising(error: BaseException) -> Any:
    def command(*_: Any, **__: Any) -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (
            RunError("the loss is not a number", key="v1", remedy="lower lr"),
            3,
            "v1: the loss is not a number; lower lr",
        ),
        (Interrupted("stopped", remedy="run it again"), 130, "stopped; run it again"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 3, "memory ran out"),
        (OSError(errno.ENOSPC, "No space left on device", "x.bin"), 3, "x.bin: the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "/root/x"), 2, "/root/x: permission denied"),
        (ZeroDivisionError("division by zero"), 3, "ZeroDivisionError: division by zero; this is a bug"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_exit_codes(
    error: BaseException, code: int, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(making, "templates", raising(error))
    assert cli.call(["new"]) == code
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and text in captured.err and captured.out == ""


def test_a_debugger_gets_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(making, "templates", raising(ZeroDivisionError()))
    monkeypatch.setenv("BEQUEST_DEBUG", "1")
    assert cli.call(["new"]) == 3
    assert "Traceback" in capsys.readouterr().err
