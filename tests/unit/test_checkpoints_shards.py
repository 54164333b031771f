"""Shards are written as safetensors reads them, whatever comes first; rows are read as they lie; errors surface."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from bequest.anatomy import complete_config
from bequest.checkpoints import header_shapes, meta_model, new_model, save_model
from bequest.checkpoints.shards import ShardWriter, ToStore
from bequest.checkpoints.stored import (
    FLOATS,
    ReadAhead,
    RowReader,
    Segment,
    found_segments,
    saved_segments,
)
from bequest.errors import AnatomyError, InputError
from bequest.tensor_files import read_header, stored_tensors

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
MIXTRAL = {"num_local_experts": 3, "num_experts_per_tok": 2, "num_key_value_heads": 1}


def whole(name: str, shape: tuple[int, ...], dtype: str = "F32") -> ToStore:
    rows = 1
    for size in shape[:-1]:
        rows *= size
    return ToStore((Segment(name, 0, rows, shape),), dtype)


TENSORS = {
    "a": whole("a", (5, 3), "BF16"),
    "b": ToStore((Segment("b.0", 0, 2, (2, 4)), Segment("b.1", 2, 2, (2, 4))), "F32"),
    "c": whole("c", (7,), "F64"),
    "d": whole("d", (0, 4)),
}
VALUES = {
    "a": torch.randn(5, 3).to(torch.bfloat16),
    "b": torch.randn(4, 4),
    "c": torch.randn(1, 7, dtype=torch.float64),
    "d": torch.zeros(0, 4),
}
ON_DISK = {"a": VALUES["a"], "b.0": VALUES["b"][:2], "b.1": VALUES["b"][2:], "c": VALUES["c"][0], "d": VALUES["d"]}


def write(place: Path, shard_bytes: int) -> list[Any]:
    """Rows in an order of their own; some straddle two segments."""
    place.mkdir()
    with ShardWriter(place, TENSORS, shard_bytes=shard_bytes) as writer:
        writer.write("b", 1, VALUES["b"][1:4])
        writer.write("c", 0, VALUES["c"])
        writer.write("a", 3, VALUES["a"][3:])
        writer.write("b", 0, VALUES["b"][:1])
        writer.write("a", 0, VALUES["a"][:3])
        for name in TENSORS:
            writer.complete([name])
        return writer.finish()


@pytest.mark.parametrize(("shard_bytes", "files"), [(2**20, 1), (64, 3), (1, 5)])
def test_what_is_written_is_what_safetensors_reads(tmp_path: Path, shard_bytes: int, files: int) -> None:
    digests = write(tmp_path / "out", shard_bytes)
    found = {}
    shards = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(shards) == files
    for file in shards:
        found |= load_file(file)
        with safe_open(file, framework="pt") as stream:
            assert stream.metadata() == {"format": "pt"}
        length = int.from_bytes(file.read_bytes()[:8], "little")
        assert length % 8 == 0
        widths = [{"F64": 8, "F32": 4, "BF16": 2}[entry["dtype"]] for entry in read_header(file)[0].values()]
        starts = [entry["data_offsets"][0] for entry in read_header(file)[0].values()]
        assert all(start % width == 0 for start, width in zip(starts, widths, strict=True))
    assert found.keys() == ON_DISK.keys()
    for name, value in ON_DISK.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value), name
    index = tmp_path / "out" / "model.safetensors.index.json"
    assert index.exists() == (files > 1)
    if files > 1:
        about = json.loads(index.read_text())
        total = sum(value.nbytes for value in ON_DISK.values())
        assert about["metadata"] == {"total_size": total, "total_parameters": 15 + 16 + 7}
        assert about["weight_map"].keys() == ON_DISK.keys()
        assert shards[0].name == f"model-00001-of-{files:05d}.safetensors"
    stored = stored_tensors(tmp_path / "out")
    assert {(place.file, place.start): sha for place, sha in digests} == {
        (stored[name].file, stored[name].start): hashlib.sha256(value.view(torch.uint8).numpy().tobytes()).hexdigest()
        for name, value in ON_DISK.items()
    }


def test_equal_tensors_are_digested_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bequest.checkpoints import shards

    calls: list[Any] = []
    taken = shards._digest_of
    monkeypatch.setattr(shards, "_digest_of", lambda place: calls.append(place) or taken(place))
    rows = torch.ones(2, 3)
    with ShardWriter(tmp_path, {name: whole(name, (2, 3)) for name in "xyz"}) as writer:
        for name in "xyz":
            writer.write(name, 0, rows)
        writer.complete(["x", "z"])
        writer.complete(["y"])
        digests = writer.finish()
    assert len(calls) == 2
    assert {sha for _, sha in digests} == {hashlib.sha256(rows.numpy().tobytes()).hexdigest()}
    assert len(digests) == 3


@pytest.mark.parametrize("after", [0, 3])
def test_a_write_that_fails_is_raised_and_no_thread_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    done: list[int] = []
    plain = os.pwrite

    def full(descriptor: int, data: Any, offset: int) -> int:
        done.append(len(data))
        if len(done) > 1 + after:
            raise OSError(errno.ENOSPC, "No space left on device")
        return plain(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    before = threading.active_count()

    def fill() -> None:
        with ShardWriter(tmp_path, {"x": whole("x", (100, 3))}) as writer:
            for row in range(100):
                writer.write("x", row, torch.ones(1, 3))
            writer.complete(["x"])
            writer.finish()

    with pytest.raises(OSError, match="No space left"):
        fill()
    assert threading.active_count() == before


def test_an_error_of_the_caller_drops_what_waits(tmp_path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt), ShardWriter(tmp_path, {"x": whole("x", (100, 3))}) as writer:
        for row in range(50):
            writer.write("x", row, torch.ones(1, 3))
        raise KeyboardInterrupt
    assert threading.active_count() == before


# --- reading


def test_rows_are_read_as_they_lie_and_counted(tmp_path: Path) -> None:
    write(tmp_path / "out", 50)
    stored = stored_tensors(tmp_path / "out")
    segments = {name: tensor.segments for name, tensor in TENSORS.items()}
    with RowReader(stored, segments, digest=True) as reader:
        assert torch.equal(reader.rows("b", 1, 2), VALUES["b"][1:3])  # over two tensors of two files
        assert torch.equal(reader.rows("c", 0, 1), VALUES["c"])
        assert reader.rows("d", 0, 0).shape == (0, 4)
        assert reader.bytes_read == 2 * 16 + 7 * 8
        with ReadAhead(reader, [("a", row, 1) for row in range(5)]) as ahead:
            rows = [ahead.take() for _ in range(5)]
        assert torch.equal(torch.cat(rows), VALUES["a"])
        digests = {place.file.name: sha for place, sha in reader.digests() if place.shape == (5, 3)}
        # b was not read from its first row on: nobody knows its digest.
        assert {place.shape for place, _ in reader.digests()} == {(5, 3), (7,), (0, 4)}
    whole_digest = hashlib.sha256(VALUES["a"].view(torch.uint8).numpy().tobytes()).hexdigest()
    assert list(digests.values()) == [whole_digest]


def test_a_file_that_is_cut_short_while_it_is_read(tmp_path: Path) -> None:
    write(tmp_path / "out", 2**20)
    file = tmp_path / "out" / "model.safetensors"
    stored = stored_tensors(tmp_path / "out")
    os.truncate(file, file.stat().st_size - 3)
    with (
        RowReader(stored, {name: tensor.segments for name, tensor in TENSORS.items()}) as reader,
        ReadAhead(reader, [("a", 0, 5)]) as ahead,
        pytest.raises(InputError, match=r"model\.safetensors: a: was cut short while it was read"),
    ):
        ahead.take()


# --- names


def test_experts_are_found_under_every_prefix(tmp_path: Path) -> None:
    config = complete_config("mixtral", {**SIZES, **MIXTRAL}, head="causal-lm", vocab_size=30)
    model = new_model(config, seed=0)
    save_model(model, tmp_path)
    shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
    on_disk = header_shapes(tmp_path)
    saved = saved_segments(shapes, meta_model(config))
    held = {segment.name: segment.shape for segments in saved.values() for segment in segments}
    assert held == {name: shape for name, (shape, _) in on_disk.items()}
    assert found_segments(on_disk, shapes, meta_model(config)) == saved
    bare = [name.removeprefix("model.") for name in on_disk]
    stripped = found_segments(bare, shapes, meta_model(config))
    assert [[(segment.first, segment.rows, segment.shape) for segment in stripped[name]] for name in saved] == [
        [(segment.first, segment.rows, segment.shape) for segment in segments] for segments in saved.values()
    ]
    # What stands in a segment is what the model holds there.
    weights = load_file(tmp_path / "model.safetensors")
    for name, segments in saved.items():
        value = model.state_dict()[name]
        flat = value.reshape(-1, value.shape[-1])
        for segment in segments:
            stretch = flat[segment.first : segment.first + segment.rows].reshape(segment.shape)
            assert torch.equal(weights[segment.name], stretch), segment.name


def test_experts_that_are_not_whole_are_refused() -> None:
    config = complete_config("mixtral", {**SIZES, **MIXTRAL}, head="causal-lm", vocab_size=30)
    model = meta_model(config)
    shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
    names = [segment.name for segments in saved_segments(shapes, model).values() for segment in segments]
    lost = "model.layers.1.block_sparse_moe.experts.2.w3.weight"
    with pytest.raises(AnatomyError, match=r"layers\.1\.mlp\.experts\.gate_up_proj: its parts on the disk"):
        found_segments([name for name in names if name != lost], shapes, model)


def test_every_dtype_that_is_read_is_torchs() -> None:
    assert all(getattr(torch, name).is_floating_point for name in FLOATS.values())


def test_headers_are_held_to_what_the_library_accepts(tmp_path: Path) -> None:
    """Whatever safetensors refuses, we refuse, and a name that stands twice, which the format forbids."""
    save_file({"x": torch.ones(2, 3), "y": torch.ones(4)}, tmp_path / "good.safetensors")
    data = (tmp_path / "good.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]

    def file(text: str) -> Path:
        made = tmp_path / "bad.safetensors"
        made.write_bytes(len(text).to_bytes(8, "little") + text.encode() + body)
        return made

    def changed(name: str, key: str, value: Any) -> str:
        return json.dumps({**header, name: {**header[name], key: value}})

    assert read_header(file(json.dumps(header)))[0].keys() == {"x", "y"}
    begin, end = header["x"]["data_offsets"]
    bad = {
        "overlap": changed("y", "data_offsets", [begin, end]),
        "out of range": changed("x", "data_offsets", [begin, end + 400]),
        "gap": changed("x", "data_offsets", [begin + 4, end]),
        "backwards": changed("x", "data_offsets", [end, begin]),
        "no numbers": changed("x", "data_offsets", ["0", "1"]),
        "three offsets": changed("x", "data_offsets", [begin, end, end]),
        "negative size": changed("x", "shape", [-2, -3]),
        "other size": changed("x", "shape", [2, 4]),
        "other dtype": changed("x", "dtype", "F64"),
        "no shape": json.dumps({**header, "x": {"dtype": "F32", "data_offsets": [begin, end]}}),
        "no tensor": json.dumps({**header, "x": 7}),
        "list": json.dumps([header]),
        "no JSON": "x" * length,
        "twice": json.dumps(header)[:-1] + ', "x": ' + json.dumps(header["x"]) + "}",
    }
    for kind, text in bad.items():
        with pytest.raises(InputError, match=r"bad\.safetensors: torn or not a safetensors file"):
            read_header(file(text))
        if kind != "twice":
            with pytest.raises(SafetensorError):
                load_file(file(text))
