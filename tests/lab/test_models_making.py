"""The model kit: made once, checked every time, refused when the package or the proof is not right."""

from __future__ import annotations

import hashlib
import io
import json
import sys
import threading
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bequest import lineage, storage
from bequest.errors import InputError, RunError
from lab import models, places
from lab.kit.packages import Package
from lab.models import making
from lab.models.making import Maker

BUILDER = '''"""A model of a few bytes."""
import time
from pathlib import Path

from bequest import checkpoints
from lab.models.making import Maker, adopt, prove


def build(job):
    counted = Path(job.settings["counter"])
    counted.write_text(counted.read_text() + "x")
    seed = int((job.source / "toy" / "seed.txt").read_text())
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8, "vocab_size": 16,
              "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    checkpoints.save_model(checkpoints.new_model(config, seed=seed), job.target)
    time.sleep(job.settings.get("seconds", 0))
    if job.settings.get("tokenizer", True):
        (job.target / "tokenizer.json").write_text("{}")
    prove("toy", f"the seed {seed} is below 5", seed < 5)
    adopt(job.target, Maker("toy", __name__, "a toy", "none", True, {}))
    return {"seed": seed}
'''


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=400)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Maker:
    """A maker whose package lies in an empty cache already, and whose module lies outside the checkout."""
    monkeypatch.setenv(places.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "toy_model_builder", raising=False)  # each test has a file of its own
    (tmp_path / "toy_model_builder.py").write_text(BUILDER)
    (tmp_path / "counter").write_text("")
    settings = {"counter": str(tmp_path / "counter")}
    return Maker("toy", "toy_model_builder", "a toy", "none", True, settings, pack(3), ("toy/seed.txt",))


def pack(seed: int) -> Package:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("toy/seed.txt", str(seed))
        archive.writestr("toy/__init__.py", "raise SystemExit('a package is never imported')")
    places.packages().mkdir(parents=True, exist_ok=True)
    (places.packages() / "toy-1-py3-none-any.whl").write_bytes(buffer.getvalue())
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    return Package("pypi", "toy", "1", digest, "toy-1-py3-none-any.whl")


def times_built(toy: Maker) -> int:
    return len(Path(toy.settings["counter"]).read_text())


def said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_model_is_made_once(toy: Maker, console: Console) -> None:
    target = making.make_model(toy, console)
    assert target == places.models("toy")
    assert making.make_model(toy, console) == target
    assert times_built(toy) == 1
    assert "from cache" in said(console)
    record = storage.read_json(target / making.RECORD)
    assert record["identity"] == making.identity_of(toy)
    assert record["figures"] == {"seed": 3}
    assert record["digests"]["weights"] == lineage.weights_digest(target)
    assert set(record["files"]) == {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}
    assert lineage.read_lineage(target).operation.stage == "adopt"
    left = {path.name for path in places.cache().rglob(".*")}
    assert left == {".toy.work"}, "what was unpacked is gone"


def test_asked_again_it_is_made_again(toy: Maker, console: Console) -> None:
    making.make_model(toy, console)
    making.make_model(toy, console, again=True)
    assert times_built(toy) == 2
    assert "made again: as asked" in said(console)


@pytest.mark.parametrize("damage", ["changed", "missing", "no-record"])
def test_a_damaged_model_is_made_again(toy: Maker, console: Console, damage: str) -> None:
    target = making.make_model(toy, console)
    weights = target / "model.safetensors"
    whole = weights.read_bytes()
    if damage == "changed":
        weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    else:
        (weights if damage == "missing" else target / making.RECORD).unlink()
    assert making.flaw(toy)
    making.make_model(toy, console)
    assert weights.read_bytes() == whole
    assert times_built(toy) == 2


MISSHAPEN: dict[str, Callable[[dict[str, Any]], object]] = {
    "no-files": lambda record: record.pop("files"),
    "files-empty": lambda record: record.update(files={}),
    "files-a-list": lambda record: record.update(files=[]),
    "digest-a-number": lambda record: record["files"].update({"model.safetensors": 3}),
    "digest-a-mapping": lambda record: record["files"].update({"model.safetensors": {}}),
    "no-weights": lambda record: record["files"].pop("model.safetensors"),
    "no-config": lambda record: record["files"].pop("config.json"),
    "no-tokenizer": lambda record: record["files"].pop("tokenizer.json"),
    "no-identity": lambda record: record.pop("identity"),
}


@pytest.mark.parametrize("harm", MISSHAPEN)
def test_a_record_that_does_not_vouch_for_the_model_is_none(toy: Maker, console: Console, harm: str) -> None:
    path = making.make_model(toy, console) / making.RECORD
    record = storage.read_json(path)
    MISSHAPEN[harm](record)
    path.write_text(json.dumps(record))
    making.make_model(toy, console)
    assert times_built(toy) == 2
    assert "toy: made again: " in said(console)
    assert making.flaw(toy) is None


@pytest.mark.parametrize("text", ["[]", "3", "null", "", "{", "1" * 5000], ids=lambda text: text[:4] or "empty")
def test_what_is_no_record_at_all_is_a_flaw(toy: Maker, text: str) -> None:
    places.models("toy").mkdir(parents=True)
    (places.models("toy") / making.RECORD).write_text(text)
    assert making.flaw(toy) == "it has no lab.json that can be read"


@pytest.mark.parametrize("place", ["model", "record"])
def test_a_file_for_a_directory_and_a_directory_for_a_file(toy: Maker, console: Console, place: str) -> None:
    target = places.models("toy")
    if place == "model":
        target.parent.mkdir(parents=True)
        target.write_text("a file")
    else:
        (target / making.RECORD).mkdir(parents=True)
    making.make_model(toy, console)
    assert "toy: made again: it has no lab.json that can be read" in said(console)
    assert making.flaw(toy) is None


def test_a_build_without_a_tokenizer_is_refused(toy: Maker, console: Console) -> None:
    bare = replace(toy, settings={**toy.settings, "tokenizer": False})
    with pytest.raises(RunError, match="toy: the proof failed: it has a config, weights and a tokenizer"):
        making.make_model(bare, console)
    assert not places.models("toy").exists()


@pytest.mark.parametrize("again", [False, True])
def test_two_makers_at_once_take_turns(toy: Maker, again: bool) -> None:
    slow = replace(toy, settings={**toy.settings, "seconds": 0.3})
    consoles = [Console(file=io.StringIO(), width=400) for _ in range(2)]
    results: list[object] = []

    def make(console: Console) -> None:
        try:
            results.append(making.make_model(slow, console, again=again))
        except Exception as error:
            results.append(error)

    threads = [threading.Thread(target=make, args=(console,)) for console in consoles]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == [places.models("toy")] * 2
    assert times_built(toy) == 1 + again
    assert sum("waiting for another process" in said(console) for console in consoles) == 1
    assert making.flaw(slow) is None
    assert {path.name for path in places.cache().rglob(".*")} == {".toy.work"}


def test_a_whole_model_needs_its_package_no_more(toy: Maker, console: Console) -> None:
    making.make_model(toy, console)
    assert toy.package is not None
    (places.packages() / toy.package.file).unlink()
    making.make_model(toy, console)
    assert times_built(toy) == 1


def test_rubbish_of_a_killed_making_is_removed(toy: Maker, console: Console) -> None:
    for _ in range(2):  # once where the model is to be made, once where it is whole
        rubbish = places.models("toy").with_name(".toy.scratch-killed")
        rubbish.mkdir(parents=True)
        (rubbish / "half").write_text("x")
        making.make_model(toy, console)
        assert not rubbish.exists()
    assert times_built(toy) == 1


def test_a_new_card_is_no_damage(toy: Maker, console: Console) -> None:
    target = making.make_model(toy, console)
    (target / "README.md").write_text("another card")
    assert making.flaw(toy) is None


def test_a_tampered_package_is_refused_even_when_the_model_is_whole(toy: Maker, console: Console) -> None:
    making.make_model(toy, console)
    other = pack(4)
    assert toy.package is not None
    with pytest.raises(RunError, match=f"expected SHA-256 {toy.package.sha256}, found {other.sha256}"):
        making.make_model(toy, console)


def test_a_failed_proof_leaves_nothing(toy: Maker, console: Console) -> None:
    wrong = replace(toy, package=pack(9))
    with pytest.raises(RunError, match="the proof failed: the seed 9 is below 5"):
        making.make_model(wrong, console)
    assert not places.models("toy").exists()


def test_what_decides_the_outcome_decides_the_identity(toy: Maker, tmp_path: Path) -> None:
    before = making.identity_of(toy)
    assert before == making.identity_of(replace(toy, summary="said otherwise"))
    changed = [replace(toy, settings={"lr": 1}), replace(toy, package=pack(4)), replace(toy, members=("*",))]
    builder = tmp_path / "toy_model_builder.py"
    identities = {making.identity_of(maker) for maker in changed}
    builder.write_text(BUILDER + "# edited\n")
    identities.add(making.identity_of(toy))
    assert before not in identities
    assert len(identities) == 4


@pytest.mark.parametrize("name", sorted(models.MODELS))
def test_the_kit_knows_what_its_models_are_made_of(name: str) -> None:
    identity = models.model_identity(name)
    assert identity == models.model_identity(name)
    assert identity.startswith(f"{name}@")
    assert len(identity) == len(name) + 1 + making.DIGITS
    assert models.MODELS[name].licence


def test_an_unknown_model_is_named_with_its_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'minilm'"):
        models.model_identity("minilmm")
