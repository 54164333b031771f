"""Growing what is no whole checkpoint: one line that names the file and the tensor, exit code 2 or 3, nothing left."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bequest import cli, storage
from bequest.checkpoints import save_model
from bequest.checkpoints.stored import RowReader
from bequest.errors import RunError
from bequest.growth import grow_checkpoint
from growth_support import build

INDEX = "model.safetensors.index.json"
UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in one file, one in shards, and a tied one of experts."""
    place = tmp_path_factory.mktemp("made")
    save_model(build("llama", "causal-lm", tie_word_embeddings=True), place / "single")
    experts = {"num_local_experts": 3, "num_experts_per_tok": 2, "num_key_value_heads": 2}
    save_model(build("mixtral", "causal-lm", **experts), place / "experts")
    save_model(build("llama", "causal-lm"), place / "base")
    grow_checkpoint(place / "base", place / "sharded", {"intermediate_size": 48}, shard_bytes=20_000)
    (place / "sharded" / "lineage.json").unlink()
    return place


def shard_of(place: Path, name: str) -> Path:
    return place / json.loads((place / INDEX).read_text())["weight_map"][name]


def index(change: Callable[[dict[str, str]], Any]) -> Callable[[Path], None]:
    def spoil(place: Path) -> None:
        value = json.loads((place / INDEX).read_text())
        change(value["weight_map"])
        (place / INDEX).write_text(json.dumps(value))

    return spoil


def weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def spoil(place: Path) -> None:
        held = load_file(place / "model.safetensors")
        change(held)
        save_file(held, place / "model.safetensors", metadata={"format": "pt"})

    return spoil


def header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def spoil(place: Path) -> None:
        file = place / "model.safetensors"
        data = file.read_bytes()
        length = int.from_bytes(data[:8], "little")
        value = json.loads(data[8 : 8 + length])
        change(value)
        text = json.dumps(value).encode()
        file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])

    return spoil


def config(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def spoil(place: Path) -> None:
        value = json.loads((place / "config.json").read_text())
        change(value)
        (place / "config.json").write_text(json.dumps(value))

    return spoil


def moved(name: str, key: str, *values: Any) -> Callable[[Path], None]:
    return header(lambda value: value[name].update({key: list(values)}))


def extra_tensor(place: Path) -> None:
    file = shard_of(place, UP)
    save_file({**load_file(file), "stray": torch.ones(2)}, file, metadata={"format": "pt"})


def without_shard(place: Path) -> None:
    shard_of(place, UP).unlink()


def cut(count: int) -> Callable[[Path], None]:
    def spoil(place: Path) -> None:
        file = place / "model.safetensors"
        file.write_bytes(file.read_bytes()[:count])

    return spoil


TORN = "model.safetensors: torn or not a safetensors file"
BAD: dict[str, tuple[str, Callable[[Path], None], list[str]]] = {
    "index names a tensor that no shard holds": (
        "sharded",
        index(lambda named: named.update({"model.layers.9.x": named[UP]})),
        [INDEX, "model.layers.9.x: model-0", "does not hold this tensor"],
    ),
    "index names another shard": (
        "sharded",
        index(lambda named: named.update({UP: named["model.embed_tokens.weight"]})),
        [INDEX, UP, "lies in model-0", "the index says model-00001"],
    ),
    "index forgets a tensor": (
        "sharded",
        index(lambda named: named.pop(UP)),
        [INDEX, UP, "the index names no shard for it"],
    ),
    "index names a file that is not there": (
        "sharded",
        index(lambda named: named.update({UP: "model-00099-of-00099.safetensors"})),
        [INDEX, "shard model-00099-of-00099.safetensors is missing"],
    ),
    "index leads out of the directory": (
        "sharded",
        index(lambda named: named.update({UP: "../base/model.safetensors"})),
        [INDEX, UP, "is no file beside the index"],
    ),
    "index names no file": ("sharded", index(lambda named: named.update({UP: 7})), [INDEX, UP, "7 is no file"]),
    "index without a map": ("sharded", lambda place: (place / INDEX).write_text("{}"), [INDEX, "has no weight_map"]),
    "index that is no JSON": ("sharded", lambda place: (place / INDEX).write_text("{"), [INDEX, "not valid JSON"]),
    "missing shard": ("sharded", without_shard, [INDEX, "is missing", "copy or download it again"]),
    "shard with a tensor of its own": ("sharded", extra_tensor, [INDEX, "stray", "names no shard for it"]),
    "truncated data": ("single", cut(-1), [TORN, "download it again"]),
    "truncated header": ("single", cut(100), [TORN]),
    "a few bytes": ("single", cut(5), [TORN]),
    "empty file": ("single", cut(0), [TORN]),
    "header that is no JSON": (
        "single",
        lambda place: (place / "model.safetensors").write_bytes(b"\x10" + b"\0" * 7 + b"x" * 40),
        [TORN],
    ),
    "header nested too deeply": (
        "single",
        lambda place: (place / "model.safetensors").write_bytes((90_000).to_bytes(8, "little") + b"[" * 90_000),
        [TORN, "nested too deeply"],
    ),
    "config nested too deeply": (
        "single",
        lambda place: (place / "config.json").write_text("[" * 100_000),
        ["config.json", "nested too deeply"],
    ),
    "quantised": (
        "single",
        config(lambda value: value.update({"quantization_config": {"quant_method": "gptq", "bits": 4}})),
        ["config.json: quantization_config: a quantised model cannot be grown; dequantise it first"],
    ),
    "overlapping offsets": ("single", moved(UP, "data_offsets", 0, 40 * 32 * 4), [TORN, "begins at 0"]),
    "offsets out of range": ("single", moved(UP, "data_offsets", 10**9, 10**9 + 40 * 32 * 4), [TORN, "begins at"]),
    "negative offsets": ("single", moved(UP, "data_offsets", -8, 8), [TORN, "no whole numbers"]),
    "shape and bytes": ("single", moved(UP, "shape", 41, 32), [TORN, UP, "bytes for F32 [41, 32]"]),
    "unknown tensor": (
        "single",
        weights(lambda held: held.update({"model.layers.9.mlp.up_proj.weight": torch.ones(40, 32)})),
        ["model.layers.9.mlp.up_proj.weight: no line of the table of llama"],
    ),
    "missing tensor": ("single", weights(lambda held: held.pop(UP)), [f"{UP}: no tensor of the model matches"]),
    "other shape": (
        "single",
        weights(lambda held: held.update({UP: torch.ones(40, 31)})),
        [f"{UP}: the model has (40, 31)"],
    ),
    "whole numbers": (
        "single",
        weights(lambda held: held.update({UP: torch.ones(40, 32, dtype=torch.int8)})),
        [UP, "is stored as I8, which cannot be grown", "bfloat16"],
    ),
    "alias that differs": (
        "single",
        weights(lambda held: held.update({"lm_head.weight": held["model.embed_tokens.weight"] + 1})),
        ["lm_head.weight: the config ties this tensor to model.embed_tokens.weight, but they differ"],
    ),
    "experts that are not all there": (
        "experts",
        weights(lambda held: held.pop("model.layers.1.block_sparse_moe.experts.2.w3.weight")),
        ["model.layers.1.mlp.experts.gate_up_proj: its parts on the disk do not make it up"],
    ),
    "an expert of another shape": (
        "experts",
        weights(lambda held: held.update({"model.layers.1.block_sparse_moe.experts.2.w3.weight": torch.ones(3, 3)})),
        ["experts.2.w3.weight: the file has (3, 3) where the config gives (40, 32)"],
    ),
    "no weights": ("single", lambda place: (place / "model.safetensors").unlink(), ["no safetensors weights"]),
}


def failing(place: Path, capsys: pytest.CaptureFixture[str], code: int = 2) -> str:
    """Grow what lies in ``place``/src; nothing may be left, and the error is one line, which is returned."""
    before = sorted(path.name for path in place.iterdir())
    to = ["--to", "hidden_size=64", "--method", "isometric"]
    assert cli.call(["grow", str(place / "src"), str(place / "out"), *to]) == code
    captured = capsys.readouterr()
    assert sorted(path.name for path in place.iterdir()) == before
    assert captured.err.startswith("bequest: ") and captured.err.count("\n") == 1, captured.err
    return captured.err


@pytest.mark.parametrize("kind", list(BAD))
def test_bad_checkpoints(kind: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    which, spoil, said = BAD[kind]
    shutil.copytree(made / which, tmp_path / "src")
    spoil(tmp_path / "src")
    line = failing(tmp_path, capsys)
    for part in said:
        assert part in line


@pytest.mark.parametrize("which", ["single", "sharded", "experts"])
def test_control_what_is_not_spoilt_grows(which: str, made: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    assert cli.call(["grow", str(made / which), str(target), "--to", "hidden_size=64", "--method", "isometric"]) == 0
    assert (target / "lineage.json").is_file()


def test_a_config_names_no_code_that_is_not_there(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "single", tmp_path / "src")
    own = {"auto_map": {"AutoModel": "own.Model"}, "quantization_config": None}
    config(lambda value: value.update(own))(tmp_path / "src")
    grow_checkpoint(tmp_path / "src", tmp_path / "out", {"hidden_size": 64}, "isometric")
    assert not own.keys() & json.loads((tmp_path / "out" / "config.json").read_text()).keys()


NORM = "model.norm.weight"


def large(name: str, dtype: torch.dtype, value: float) -> Callable[[Path], None]:
    """All weights in a dtype, one value of a tensor large."""

    def change(held: dict[str, torch.Tensor]) -> None:
        held.update({key: t.to(dtype) for key, t in held.items()})
        held[name].view(-1)[3] = value

    return weights(change)


TO_FLOAT16 = {
    "converted": (UP, torch.float32, 1e5, {"num_hidden_layers": 3}, "direct_copy"),
    "scaled": (NORM, torch.float16, 65000.0, {"hidden_size": 48}, "isometric"),
    "made noisy": (UP, torch.bfloat16, 1e6, {"hidden_size": 64}, ["isometric", "noise"]),
    "upcycled": (UP, torch.float32, 1e5, {"num_local_experts": 2, "num_experts_per_tok": 1}, "upcycle"),
}


@pytest.mark.parametrize("how", list(TO_FLOAT16))
def test_a_value_too_large_for_float16_is_refused(how: str, made: Path, tmp_path: Path) -> None:
    name, dtype, value, to, method = TO_FLOAT16[how]
    shutil.copytree(made / "base", tmp_path / "src")
    large(name, dtype, value)(tmp_path / "src")
    with pytest.raises(RunError, match="a value is too large for float16; store it in another dtype") as caught:
        grow_checkpoint(tmp_path / "src", tmp_path / "out", to, method, dtype="float16")
    assert caught.value.key is not None and (caught.value.key == name or "mlp" in caught.value.key)
    assert [path.name for path in tmp_path.iterdir()] == ["src"]
    grow_checkpoint(tmp_path / "src", tmp_path / "out", to, method, dtype="bfloat16")


@pytest.mark.parametrize("value", [65000.0, float("inf")])
def test_control_what_float16_holds_stays(value: float, made: Path, tmp_path: Path) -> None:
    """Large values that are copied, and an infinity that is the source's own."""
    shutil.copytree(made / "base", tmp_path / "src")
    large(UP, torch.float32, value)(tmp_path / "src")
    grow_checkpoint(tmp_path / "src", tmp_path / "out", {"num_hidden_layers": 3}, "direct_copy", dtype="float16")
    grown = load_file(tmp_path / "out" / "model.safetensors")
    assert max(t.max().item() for t in grown.values()) == torch.tensor(value).half().item()


def test_no_space_is_said_before_anything_is_written(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(made / "single", tmp_path / "src")
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    monkeypatch.setattr(os, "pwrite", lambda *_: pytest.fail("written"))
    line = failing(tmp_path, capsys, code=3)
    assert "out: the disk is full: 0.00 GB are needed and 0.00 GB are free; free some space" in line


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_leaves_nothing(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    shutil.copytree(made / "single", tmp_path / "src")
    plain, written = os.pwrite, [0]

    def full(descriptor: int, data: Any, offset: int) -> int:
        written[0] += len(data)
        if written[0] > 100_000:
            raise OSError(code, os.strerror(code))
        return plain(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    line = failing(tmp_path, capsys, code=3)
    assert "out: the disk is full or a file-size limit was met" in line
    assert "free some space and run the same command again" in line


def test_a_disk_that_cannot_be_read_leaves_nothing(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(made / "single", tmp_path / "src")
    plain, reads = os.preadv, [0]

    def broken(*given: Any) -> int:
        reads[0] += 1
        if reads[0] > 5:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return plain(*given)

    monkeypatch.setattr(os, "preadv", broken)
    line = failing(tmp_path, capsys, code=3)
    assert "src/model.safetensors" in line and "cannot be read (Input/output error)" in line


def test_a_source_that_is_cut_short_meanwhile_leaves_nothing(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(made / "single", tmp_path / "src")
    plain = RowReader.rows

    def cut_first(self: RowReader, name: str, first: int, count: int) -> torch.Tensor:
        if name == UP:
            os.truncate(tmp_path / "src" / "model.safetensors", 3000)
        return plain(self, name, first, count)

    monkeypatch.setattr(RowReader, "rows", cut_first)
    line = failing(tmp_path, capsys)
    assert f"{UP}: was cut short while it was read" in line
