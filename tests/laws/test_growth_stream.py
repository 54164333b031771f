"""Law: growing from disk to disk is growing in memory, bit for bit; it reads the source once and holds a few blocks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from bequest import lineage
from bequest.anatomy import row_blocks
from bequest.anatomy.row_blocks import Filling, fill_tensor
from bequest.anatomy.surgery import make_tensor
from bequest.checkpoints import load_config, load_model, save_model
from bequest.checkpoints.stored import RowReader
from bequest.errors import AnatomyError, InputError
from bequest.growth import grow, grow_checkpoint, plan_growth
from bequest.growth.plan import GrowthPlan
from growth_support import VARIANTS, build, language_head

ISOMETRIC = ({"hidden_size": 48}, "isometric")
RANDOM = ({"hidden_size": 96}, {"name": "fpi", "map": "random"})
WHOLE = ({"hidden_size": 64, "num_hidden_layers": 5}, ["fpi", "stack"])
TRANSPLANT = ({"hidden_size": 64, "num_hidden_layers": 6}, ["aki", "stack"])
FORMULA = ({"hidden_size": 64}, {"name": "aki", "scope": "formula"})
NOISY = ({"hidden_size": 64}, ["fpi", "noise"])
PADDED = ({"hidden_size": 48, "num_hidden_layers": 4}, ["scaled_average", "identity", "noise"])
COPIED = ({"hidden_size": 48, "num_hidden_layers": 5}, "direct_copy")
KINDS = {"rms": [ISOMETRIC, NOISY], "layer": [PADDED, FORMULA], "layer-post": [RANDOM, WHOLE]}


def kinds(family: str) -> list[tuple[dict[str, int], Any]]:
    """Growths that together go through every branch of the filling, for a family."""
    from bequest.anatomy import FAMILIES

    return [*KINDS[FAMILIES[family].norm], TRANSPLANT, COPIED]


def parameters(model: Any, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    return {name: value.detach().to(dtype) for name, value in model.named_parameters(remove_duplicate=False)}


def planned(model: Any, to: dict[str, int], method: Any) -> GrowthPlan | None:
    """The plan, or None where the family's config cannot be grown like that."""
    try:
        plan = plan_growth(model, to, method, seed=3)
    except InputError:
        return None
    return plan if plan.maps is not None else None


def differing(weights: dict[str, torch.Tensor], plan: GrowthPlan, block_elements: int) -> list[str]:
    """The target tensors of which the filled and the reference's bits differ."""
    assert plan.maps is not None
    found = []
    for name, tensor in plan.target.tensors.items():
        expected = make_tensor(weights.__getitem__, tensor, plan.source, plan.maps)
        filled = fill_tensor(weights.__getitem__, tensor, plan.source, plan.maps, block_elements=block_elements)
        if filled.shape != expected.shape or filled.dtype != expected.dtype or not torch.equal(filled, expected):
            found.append(name)
    return found


@pytest.mark.parametrize("family", list(VARIANTS))
def test_blocks_are_the_reference_bit_for_bit_whatever_their_size(family: str) -> None:
    model = build(family, language_head(family), **VARIANTS[family][0])
    done = 0
    for to, method in kinds(family):
        plan = planned(model, to, method)
        if plan is not None:
            assert differing(parameters(model), plan, 200) == []
            if method in ("isometric", "direct_copy"):
                assert differing(parameters(model, torch.bfloat16), plan, 1) == []
            done += 1
    assert done >= 2


def test_every_branch_is_reached_by_some_family() -> None:
    reached: set[str] = set()
    for family in ("opt", "gpt2", "llama", "bert"):
        model = build(family, language_head(family), **VARIANTS[family][0])
        for to, method in kinds(family):
            plan = planned(model, to, method)
            for tensor in plan.target.tensors.values() if plan is not None else ():
                assert plan is not None and plan.maps is not None
                made = row_blocks.assembled(tensor, plan.source, plan.maps)
                filling = Filling(made, plan.source, plan.maps, torch.float32)
                reached |= {f"row {run.pad}" for run in filling.row_runs if run.pad}
                reached |= {f"column {run.pad}" for run in filling.column_runs if run.pad}
                reached |= {"rows of two layers"} if filling.by_rows and made.donor else set()
                reached |= {"columns of two layers"} if made.donor and not filling.by_rows else set()
                reached |= {"noise"} if filling.noise is not None else set()
                reached |= {"silent"} if made.silent else set()
    pads = {f"{side} {pad}" for side in ("row", "column") for pad in ("mean", "zero", "fresh")}
    assert reached == pads | {"rows of two layers", "columns of two layers", "noise", "silent"}


def test_control_factors_multiplied_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    """t · (row · column) is not (t · row) · column: the order is part of the law."""

    def merged(self: Filling, rows: Any, t: torch.Tensor, columns: Any) -> torch.Tensor:
        factor = torch.ones(1, dtype=torch.float64) if rows is None else rows
        return (t * (factor if columns is None else factor * columns)).to(self.dtype)

    model = build("llama", "causal-lm")
    plan = plan_growth(model, {"hidden_size": 80}, "isometric")
    assert differing(parameters(model), plan, 200) == []
    monkeypatch.setattr(Filling, "_scaled", merged)
    assert differing(parameters(model), plan, 200) != []


def test_means_of_many_rows_do_not_depend_on_the_blocks() -> None:
    model = build("opt", "causal-lm", sizes={"hidden_size": 160, "num_attention_heads": 4})
    plan = plan_growth(model, {"hidden_size": 240}, "scaled_average")
    assert plan.maps is not None
    weights = parameters(model)
    tensor = plan.target.tensors["model.decoder.layers.1.fc2.weight"]
    expected = make_tensor(weights.__getitem__, tensor, plan.source, plan.maps)
    made = [
        fill_tensor(weights.__getitem__, tensor, plan.source, plan.maps, block_elements=size)
        for size in (1, 700, 2**20)
    ]
    assert torch.equal(made[0], made[1]) and torch.equal(made[0], made[2])
    assert torch.allclose(made[0], expected, rtol=1e-14, atol=0)


# --- disk to disk


def stored(place: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a directory by its name on disk."""
    found: dict[str, torch.Tensor] = {}
    for file in sorted(place.glob("*.safetensors")):
        found |= load_file(file)
    return found


def assert_same(found: Path, expected: Path) -> None:
    ours, theirs = stored(found), stored(expected)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name].dtype == value.dtype and torch.equal(ours[name], value), name
    configs = [AutoConfig.from_pretrained(place).to_dict() for place in (found, expected)]
    for config in configs:
        config.pop("_name_or_path", None)
    assert configs[0] == configs[1]


def without_prefix(place: Path, model: Any) -> None:
    """The files as the bare model would have saved them."""
    weights = {name.removeprefix(f"{model.base_model_prefix}."): value for name, value in stored(place).items()}
    save_file(weights, place / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("family", list(VARIANTS))
def test_disk_to_disk_is_memory_saved(family: str, tmp_path: Path) -> None:
    model = build(family, language_head(family), **VARIANTS[family][0])
    save_model(model, tmp_path / "small")
    plans = [(to, method) for to, method in kinds(family) if planned(model, to, method) is not None]
    for number, (to, method) in enumerate(plans[1:3]):
        if number:
            without_prefix(tmp_path / "small", model)
        out = tmp_path / f"big{number}"
        plan = grow_checkpoint(tmp_path / "small", out, to, method, seed=3, shard_bytes=(2**30, 30_000)[number])
        save_model(grow(load_model(tmp_path / "small"), to, method, seed=3), tmp_path / f"expected{number}")
        assert_same(out, tmp_path / f"expected{number}")
        assert lineage.read_lineage(out).operation.maps == json.loads(json.dumps(plan.record()))


@pytest.mark.parametrize("head", ["bare", "sequence-classification"])
def test_other_heads(head: str, tmp_path: Path) -> None:
    model = build("qwen2", head, tie_word_embeddings=True)
    save_model(model, tmp_path / "small")
    grow_checkpoint(tmp_path / "small", tmp_path / "big", *WHOLE)
    save_model(grow(load_model(tmp_path / "small"), *WHOLE), tmp_path / "expected")
    assert_same(tmp_path / "big", tmp_path / "expected")


@pytest.mark.parametrize("dtype", ["bfloat16", "float64", None])
def test_the_stored_dtype_is_a_choice(dtype: str | None, tmp_path: Path) -> None:
    model = build("llama", "causal-lm", num_key_value_heads=2).to(torch.float16)
    save_model(model, tmp_path / "small")
    grow_checkpoint(tmp_path / "small", tmp_path / "big", *ISOMETRIC, dtype=dtype)
    wanted = getattr(torch, dtype or "float16")
    plan = plan_growth(tmp_path / "small", *ISOMETRIC)
    assert plan.maps is not None
    # One cast: float64 straight to what is stored.
    wide = parameters(model)
    for name, value in stored(tmp_path / "big").items():
        expected = make_tensor(wide.__getitem__, plan.target.tensors[name], plan.source, plan.maps)
        assert value.dtype == wanted and torch.equal(value, expected.to(wanted)), name
    assert load_config(tmp_path / "big")["dtype"] == str(wanted).removeprefix("torch.")
    with pytest.raises(InputError, match=r"dtype: no dtype 'bfloat61'.*did you mean 'bfloat16'"):
        grow_checkpoint(tmp_path / "small", tmp_path / "x", *ISOMETRIC, dtype="bfloat61")


def test_tensors_of_several_dtypes_keep_theirs(tmp_path: Path) -> None:
    save_model(build("llama", "causal-lm").to(torch.bfloat16), tmp_path / "small")
    weights = {name: value.float() if "norm" in name else value for name, value in stored(tmp_path / "small").items()}
    save_file(weights, tmp_path / "small" / "model.safetensors", metadata={"format": "pt"})
    grow_checkpoint(tmp_path / "small", tmp_path / "big", {"hidden_size": 64})
    kept = {name: value.dtype for name, value in stored(tmp_path / "big").items()}
    assert kept == {name: value.dtype for name, value in weights.items()}


def test_what_is_only_copied_keeps_its_bytes(tmp_path: Path) -> None:
    """NaN payloads survive copying and no arithmetic."""
    save_model(build("llama", "causal-lm"), tmp_path / "small")
    weights = stored(tmp_path / "small")
    name = "model.layers.1.mlp.up_proj.weight"
    odd = torch.tensor([0x7FC12345, 0x7F812345 - 2**31 + 2**31], dtype=torch.int64).to(torch.int32).view(torch.float32)
    weights[name][3, :2] = 0
    weights[name].view(torch.int32)[3, :2] = odd.view(torch.int32)
    save_file(weights, tmp_path / "small" / "model.safetensors", metadata={"format": "pt"})
    grow_checkpoint(tmp_path / "small", tmp_path / "big", {"num_hidden_layers": 3}, "stack")
    grown = stored(tmp_path / "big")
    for layer in (1, 2):
        bits = grown[f"model.layers.{layer}.mlp.up_proj.weight"].view(torch.int32)
        assert torch.equal(bits, weights[name].view(torch.int32))


@pytest.mark.parametrize("place", ["first", "last"])
def test_a_stored_alias_is_compared_with_its_owner(place: str, tmp_path: Path) -> None:
    model = build("llama", "causal-lm", tie_word_embeddings=True)
    save_model(model, tmp_path / "small")
    weights = stored(tmp_path / "small")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    file = tmp_path / "small" / "model.safetensors"
    save_file(weights, file, metadata={"format": "pt"})
    grow_checkpoint(tmp_path / "small", tmp_path / "big", *ISOMETRIC)
    assert "lm_head.weight" not in stored(tmp_path / "big")
    weights["lm_head.weight"][0 if place == "first" else -1, -1] += 1e-6
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(AnatomyError, match=r"lm_head\.weight: the config ties this tensor to model\.embed_tokens"):
        grow_checkpoint(tmp_path / "small", tmp_path / "other", *ISOMETRIC)
    assert {path.name for path in tmp_path.iterdir()} == {"small", "big"}


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    save_model(build("gpt2", "causal-lm"), tmp_path / "small")
    seen: list[tuple[int, int]] = []
    grow_checkpoint(
        tmp_path / "small", tmp_path / "big", *TRANSPLANT, progress=lambda done, total: seen.append((done, total))
    )
    total = sum(value.nbytes for value in stored(tmp_path / "big").values())
    assert seen[-1] == (total, total)
    assert seen == sorted(seen)


# --- what it costs


def read_so_far() -> int:
    """Bytes that this process has asked the system to read."""
    found = re.search(r"rchar: (\d+)", Path("/proc/self/io").read_text())
    assert found
    return int(found.group(1))


@pytest.mark.parametrize(
    ("to", "method"),
    [
        ({"hidden_size": 384, "num_hidden_layers": 6}, ["isometric", "stack"]),
        ({"hidden_size": 512, "num_hidden_layers": 6}, ["aki", "interpolate"]),
        ({"hidden_size": 512}, [{"name": "aki", "scope": "formula"}, "noise"]),
        ({"hidden_size": 512}, {"name": "fpi", "map": "random"}),
    ],
    ids=["stack", "transplant", "formula", "random"],
)
@pytest.mark.parametrize("adopted", [False, True])
def test_the_source_is_read_once(to: dict[str, int], method: Any, adopted: bool, tmp_path: Path) -> None:
    """By the process' own count of bytes read; files that were mapped instead would escape it, so none may be."""
    sizes = {"hidden_size": 256, "num_hidden_layers": 3, "intermediate_size": 512}
    model = build("llama", "causal-lm", sizes=sizes, tie_word_embeddings=True)
    save_model(model, tmp_path / "small")
    weights = stored(tmp_path / "small")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, tmp_path / "small" / "model.safetensors", metadata={"format": "pt"})
    del weights
    size = (tmp_path / "small" / "model.safetensors").stat().st_size
    if adopted:  # a lineage is believed only where the weights are those that it names
        lineage.write_lineage(tmp_path / "small", lineage.make_lineage(tmp_path / "small", name="small", stage="adopt"))
    maps: list[str] = []

    def watch(done: int, total: int) -> None:
        if done > len(maps) * total / 4:
            maps.append(Path("/proc/self/maps").read_text())

    grow_checkpoint(tmp_path / "small", tmp_path / "warm", to, method, progress=watch)
    assert len(maps) == 4
    assert not any(str(tmp_path / "small") in held for held in maps)
    (tmp_path / "small" / "model.safetensors").touch()  # what this process knows of the file, it knows no more
    before = read_so_far()
    grow_checkpoint(tmp_path / "small", tmp_path / "big", to, method)
    read = read_so_far() - before
    assert size <= read <= 1.1 * size


def test_control_a_second_reading_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests that nobody took on the way are taken from the files afterwards, and the count shows it."""
    sizes = {"hidden_size": 256, "num_hidden_layers": 2, "intermediate_size": 512}
    save_model(build("llama", "causal-lm", sizes=sizes), tmp_path / "small")
    size = (tmp_path / "small" / "model.safetensors").stat().st_size
    monkeypatch.setattr(RowReader, "digests", lambda self: [])
    before = read_so_far()
    grow_checkpoint(tmp_path / "small", tmp_path / "big", {"hidden_size": 512})
    assert read_so_far() - before > 1.9 * size


def test_digests_taken_on_the_way_are_those_of_the_files(tmp_path: Path) -> None:
    save_model(build("mixtral", "causal-lm", **VARIANTS["mixtral"][0]), tmp_path / "small")
    grow_checkpoint(tmp_path / "small", tmp_path / "big", {"hidden_size": 64, "num_hidden_layers": 3}, ["fpi", "stack"])
    read = lineage.read_lineage(tmp_path / "big")
    program = f"from bequest.lineage import *; print(weights_digest({str(tmp_path / 'big')!r}))"
    program += f"; print(identity_of({str(tmp_path / 'small')!r}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [read.digests.weights, read.parents[0].id]


DRIVER = Path(__file__).with_name("growth_stream_driver.py")


@pytest.fixture(scope="module")
def driven(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """What a process of its own found when it was killed, refused space and measured."""
    place = tmp_path_factory.mktemp("driven")
    for layers in (2, 8):
        sizes = {"hidden_size": 256, "num_hidden_layers": layers, "intermediate_size": 1024}
        save_model(build("llama", "causal-lm", sizes=sizes), place / f"small{layers}")
    done = subprocess.run([sys.executable, str(DRIVER), str(place)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return place, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM"])
def test_a_killed_run_leaves_no_half_model_and_can_be_repeated(how: str, driven: tuple[Path, Any]) -> None:
    place, found = driven
    assert found[how]["ended"] == -found[how]["signal"]
    assert not found[how]["out exists"]
    assert found[how]["left"] == [f".{how}.partial"]
    assert found[how]["after the rerun"] == [how]
    assert_same(place / how, place / "whole")


def test_a_file_size_limit_is_one_line_and_leaves_nothing(driven: tuple[Path, Any]) -> None:
    found = driven[1]["limit"]
    assert found["error"].startswith("RunError")
    assert "the disk is full or a file-size limit was met" in found["error"]
    assert "\n" not in found["error"]
    assert found["left"] == []


def test_memory_is_some_blocks_and_not_a_model(driven: tuple[Path, Any]) -> None:
    """Peak anonymous memory over that of the imports: the rows that wait for the disk (32 MB) and a few blocks."""
    _, found = driven
    small, large = found["memory"]["2"], found["memory"]["8"]
    assert large["result"] > 3.5 * small["result"] > 30e6
    assert max(small["peak"], large["peak"]) < 80e6 < 0.6 * large["result"]


def test_a_plan_that_refuses_writes_nothing(tmp_path: Path) -> None:
    save_model(build("bert", "masked-lm"), tmp_path / "small")
    call: Callable[[], Any] = lambda: grow_checkpoint(tmp_path / "small", tmp_path / "x", {"hidden_size": 48}, "lemon")  # noqa: E731
    with pytest.raises(InputError, match="hidden_size"):
        call()
    assert {path.name for path in tmp_path.iterdir()} == {"small"}
