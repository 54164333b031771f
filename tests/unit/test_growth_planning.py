"""Plans say everything and load nothing; growing from disk to disk is growing in memory; the check measures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import bequest
from bequest import lineage
from bequest.anatomy import anatomy_of, complete_config
from bequest.anatomy.maps import Maps
from bequest.checkpoints import header_shapes, load_config, load_model, new_model, save_model
from bequest.errors import AnatomyError, InputError
from bequest.growth import METHODS, Growth, check_preservation, grow, grow_checkpoint, plan_growth

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}


class Nothing(Growth):
    """A method from outside."""

    def maps(self, source: Any, target: Any, *, weights: Any = None, rng: Any = None) -> Maps:
        raise InputError("cannot do anything", key="hidden_size")


def build(family: str = "llama", head: str = "causal-lm", seed: int = 0, **extra: Any) -> Any:
    positions = {"max_position_embeddings": 40}
    config = complete_config(family, SIZES, head=head, vocab_size=48, **positions, **extra)
    model = new_model(config, seed=seed).eval()
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.2 * torch.randn(value.shape, generator=generator))
    return model


def test_a_plan_says_everything() -> None:
    config = complete_config("llama", SIZES, head="causal-lm", vocab_size=48)
    auto = bequest.plan_growth(config, {"hidden_size": 64, "num_hidden_layers": 3})
    assert (auto.methods, auto.exact, auto.predicted_error) == (("isometric", "identity"), True, 0.0)
    plan = bequest.plan_growth(config, {"hidden_size": 64, "num_hidden_layers": 3}, ["fpi", "stack"])
    assert plan.methods == ("fpi", "stack")
    assert not plan.exact
    assert "stacking 2 layers to 3" in plan.reason
    assert plan.nearest_exact == {"hidden_size": 64, "num_hidden_layers": 2}
    assert plan.refusal is None
    assert (
        plan.params
        == anatomy_of(plan.target_config).parameters()
        == sum(torch.Size(t.shape).numel() for t in plan.tensors)
    )
    assert plan.flops == anatomy_of(plan.target_config).flops(128)
    assert plan.inferred.keys() == {"num_attention_heads", "num_key_value_heads", "intermediate_size"}
    third = {tensor.name: tensor for tensor in plan.tensors}["model.layers.2.mlp.up_proj.weight"]
    assert (third.source, third.source_shape, third.shape) == ("model.layers.1.mlp.up_proj.weight", (40, 32), (80, 64))
    record = json.loads(json.dumps(plan.record()))
    assert record["methods"] == ["fpi", "stack"]
    assert record["order"] == [0, 1, 1]
    assert record["rule"]["fpi"]["heads"] == [0, 1, 2, 3, 0, 1, 2, 3]


def test_a_plan_is_the_same_from_config_directory_and_model(tmp_path: Path) -> None:
    model = build()
    save_model(model, tmp_path)
    plans = [plan_growth(source, {"hidden_size": 64}) for source in (model, tmp_path, load_config(tmp_path))]
    assert len({plan.params for plan in plans}) == 1
    assert plans[0].tensors == plans[1].tensors == plans[2].tensors
    assert plans[0].record() == plans[1].record() == plans[2].record()


@pytest.mark.parametrize(
    ("to", "method", "said"),
    [
        ({"hidden_size": 64}, "fpy", "method: no grow method 'fpy'; did you mean 'fpi'"),
        ({"hidden_size": 64}, "stack", r"0 of the methods named \(stack\) grow the width"),
        ({"num_hidden_layers": 4}, "fpi", r"0 of the methods named \(fpi\) grow the depth"),
        ({"hidden_size": 64}, ["fpi", "fpi"], "2 of the methods named"),
        ({"hidden_size": 64}, {"name": "fpi", "noise": 1}, "method: fpi has no option 'noise'"),
        ({"hidden_size": 64}, "no_such_module:Class", "method: no_such_module:Class cannot be imported"),
        ({"hidden_size": 64}, "json:JSONDecoder", "is not a Growth"),
        ({"hidden_size": 32}, "auto", "the target is no larger"),
    ],
)
def test_methods_that_cannot_be_are_refused(to: dict[str, int], method: Any, said: str) -> None:
    config = complete_config("llama", SIZES, head="causal-lm")
    with pytest.raises(InputError, match=said):
        plan_growth(config, to, method)


def test_a_method_from_outside_and_its_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "outside", sys.modules[Nothing.__module__])
    plan = plan_growth(complete_config("llama", SIZES, head="causal-lm"), {"hidden_size": 64}, "outside:Nothing")
    assert plan.refusal == "hidden_size: cannot do anything"
    assert not plan.exact
    assert "Nothing does not preserve the function" in plan.reason


def test_the_registry_holds_growth_methods() -> None:
    assert all(issubclass(found, Growth) and found.__doc__ for found in METHODS.values())


# --- disk to disk


CASES = [
    ("bert", "masked-lm", {}, {"hidden_size": 64}),
    ("llama", "causal-lm", {"tie_word_embeddings": True}, {"hidden_size": 96, "num_hidden_layers": 3}),
    ("gpt2", "sequence-classification", {}, {"hidden_size": 64}),
    ("electra", "masked-lm", {"embedding_size": 16}, {"hidden_size": 64, "embedding_size": 32}),
    ("distilbert", "masked-lm", {"sinusoidal_pos_embds": True}, {"hidden_size": 64}),
]


@pytest.mark.parametrize(("family", "head", "extra", "to"), CASES)
@pytest.mark.parametrize("shard_bytes", [2**30, 20_000])
def test_disk_to_disk_equals_memory(
    tmp_path: Path, family: str, head: str, extra: dict[str, Any], to: dict[str, int], shard_bytes: int
) -> None:
    model = build(family, head, **extra)
    save_model(model, tmp_path / "small")
    (tmp_path / "small" / "tokenizer.json").write_text("{}")
    plan = grow_checkpoint(tmp_path / "small", tmp_path / "big", to, shard_bytes=shard_bytes)
    expected, found = grow(model, to), load_model(tmp_path / "big")
    assert type(found) is type(expected)
    assert found.num_parameters() == plan.params
    for name, value in expected.state_dict().items():
        assert torch.equal(value, found.state_dict()[name]), name
    assert len(list((tmp_path / "big").glob("*.safetensors"))) == (
        1 if shard_bytes > 10**6 else pytest.approx(99, abs=98)
    )
    assert (tmp_path / "big" / "tokenizer.json").read_text() == "{}"
    assert {p.name for p in tmp_path.iterdir()} == {"small", "big"}
    again = load_config(tmp_path / "big")
    theirs = json.loads(expected.config.to_json_string(use_diff=False))
    skipped = {"_name_or_path", "transformers_version"}
    assert {k: v for k, v in again.items() if k not in skipped} == {k: v for k, v in theirs.items() if k not in skipped}


def test_a_grown_directory_knows_its_history(tmp_path: Path) -> None:
    save_model(build(), tmp_path / "small")
    plan = grow_checkpoint(tmp_path / "small", tmp_path / "big", {"hidden_size": 64})
    read = lineage.read_lineage(tmp_path / "big")
    assert (read.name, read.operation.stage, read.operation.method) == ("big", "grow", "isometric")
    assert [(parent.role, parent.name, parent.path) for parent in read.parents] == [("base", "small", "../small")]
    assert read.parents[0].id == lineage.identity_of(tmp_path / "small")
    assert read.operation.maps == json.loads(json.dumps(plan.record()))
    assert read.digests.weights == lineage.weights_digest(tmp_path / "big")


def test_sinusoids_are_grown_not_recomputed(tmp_path: Path) -> None:
    model = build("distilbert", "masked-lm", sinusoidal_pos_embds=True)
    save_model(grow(model, {"hidden_size": 64}), tmp_path)
    again = load_model(tmp_path).distilbert.embeddings.position_embeddings.weight
    old = model.distilbert.embeddings.position_embeddings.weight
    assert torch.equal(again, torch.cat([old, old], dim=1))


def test_bf16_doubling_is_stored_without_rounding(tmp_path: Path) -> None:
    """Every scale of a whole power of two is exact in bf16 (and the file's dtype is kept)."""
    save_model(build(), tmp_path / "small", dtype="bfloat16")
    grow_checkpoint(tmp_path / "small", tmp_path / "big", {"hidden_size": 64})
    assert {dtype for _, dtype in header_shapes(tmp_path / "big").values()} == {"BF16"}
    assert load_config(tmp_path / "big")["dtype"] == "bfloat16"
    proof = check_preservation(load_model(tmp_path / "small"), load_model(tmp_path / "big"))
    assert proof.preserved, proof.verdict


def rewritten(place: Path, change: Any) -> None:
    weights = load_file(place / "model.safetensors")
    change(weights)
    save_file(weights, place / "model.safetensors", metadata={"format": "pt"})


def test_files_that_disagree_with_the_table_write_nothing(tmp_path: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    changes = {
        "lacks": (lambda weights: weights.pop(name), f"{name}: no tensor"),
        "extra": (
            lambda weights: weights.update({"model.layers.9.x": torch.zeros(1)}),
            r"model\.layers\.9\.x: no line",
        ),
        "shape": (lambda weights: weights.update({name: torch.zeros(3, 3)}), rf"{name}: the model has \(3, 3\)"),
        "alias": (lambda weights: weights.update({"lm_head.weight": torch.zeros(48, 32)}), "ties this tensor"),
    }
    for kind, (change, said) in changes.items():
        save_model(build(tie_word_embeddings=True), tmp_path / kind)
        rewritten(tmp_path / kind, change)
        with pytest.raises(AnatomyError, match=said):
            grow_checkpoint(tmp_path / kind, tmp_path / "out", {"hidden_size": 64})
        assert not (tmp_path / "out").exists()


def test_stale_buffers_equal_aliases_and_other_heads_are_passed_over(tmp_path: Path) -> None:
    model = build("bert", "masked-lm", tie_word_embeddings=True)
    save_model(model, tmp_path / "small")
    words = model.bert.embeddings.word_embeddings.weight.detach().clone()

    def old_file(weights: dict[str, torch.Tensor]) -> None:
        weights["bert.embeddings.position_ids"] = torch.arange(40)[None]
        weights["cls.predictions.decoder.weight"] = words
        weights["cls.seq_relationship.weight"] = torch.zeros(2, 32)
        weights["cls.seq_relationship.bias"] = torch.zeros(2)
        weights["bert.pooler.dense.weight"] = torch.zeros(32, 32)
        weights["bert.pooler.dense.bias"] = torch.zeros(32)
        weights["bert.embeddings.LayerNorm.gamma"] = weights.pop("bert.embeddings.LayerNorm.weight")
        weights["bert.embeddings.LayerNorm.beta"] = weights.pop("bert.embeddings.LayerNorm.bias")

    rewritten(tmp_path / "small", old_file)
    grow_checkpoint(tmp_path / "small", tmp_path / "big", {"hidden_size": 64})
    assert check_preservation(model, load_model(tmp_path / "big")).preserved
    assert check_preservation(load_model(tmp_path / "small"), load_model(tmp_path / "big")).preserved


def test_the_published_gpt2_file_of_old_is_read(tmp_path: Path) -> None:
    """No base prefix, causal masks stored as buffers, the tied head left out."""
    model = build("gpt2", tie_word_embeddings=True)
    save_model(model, tmp_path / "small")

    def old_file(weights: dict[str, torch.Tensor]) -> None:
        for name in list(weights):
            weights[name.removeprefix("transformer.")] = weights.pop(name)
        for layer in range(2):
            weights[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 40, 40)
            weights[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)

    rewritten(tmp_path / "small", old_file)
    again = load_model(tmp_path / "small")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    grow_checkpoint(tmp_path / "small", tmp_path / "big", {"hidden_size": 64})
    assert check_preservation(model, load_model(tmp_path / "big")).preserved


def test_an_existing_directory_is_kept_unless_forced(tmp_path: Path) -> None:
    save_model(build(), tmp_path / "small")
    (tmp_path / "big").mkdir()
    (tmp_path / "big" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"already exists.*--force"):
        grow_checkpoint(tmp_path / "small", tmp_path / "big", {"hidden_size": 64})
    assert (tmp_path / "big" / "mine.txt").exists()
    with pytest.raises(InputError, match="is not a model"):
        grow_checkpoint(tmp_path / "small", tmp_path / "big", {"hidden_size": 64}, force=True)
    save_model(build(), tmp_path / "big")
    grow_checkpoint(tmp_path / "small", tmp_path / "big", {"hidden_size": 64}, force=True)
    assert not (tmp_path / "big" / "mine.txt").exists()
    with pytest.raises(InputError, match="no such model directory"):
        grow_checkpoint(tmp_path / "none", tmp_path / "x", {"hidden_size": 64})
    with pytest.raises(InputError, match="hidden_size"):
        grow_checkpoint(tmp_path / "small", tmp_path / "x", {"hidden_size": 48}, "hypercloning")
    assert not (tmp_path / "x").exists()


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    save_model(build(), tmp_path / "small")
    program = (
        "import resource, sys\n"
        "import bequest, transformers\n"
        "from bequest.checkpoints import load_model, save_model\n"
        "from bequest.errors import RunError\n"
        f"model = load_model({str(tmp_path / 'small')!r})\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from bequest.storage import atomic_directory\n"
        "from pathlib import Path\n"
        "try:\n"
        f"    bequest.grow_checkpoint({str(tmp_path / 'small')!r}, {str(tmp_path / 'big')!r}, {{'hidden_size': 64}})\n"
        "except RunError as error:\n"
        "    assert 'the disk is full' in error.line(), error\n"
        "else:\n"
        "    raise SystemExit('written')\n"
        "try:\n"
        f"    with atomic_directory(Path({str(tmp_path / 'copy')!r})) as temporary:\n"
        "        save_model(model, temporary)\n"
        "except RunError as error:\n"
        "    assert 'the disk is full' in error.line(), error\n"
        "else:\n"
        "    raise SystemExit('written')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"small"}


def test_streaming_holds_a_shard_not_a_model(tmp_path: Path) -> None:
    """Peak anonymous memory stays far below the model's own size."""
    config = complete_config(
        "llama", {**SIZES, "hidden_size": 256, "num_hidden_layers": 8}, head="causal-lm", vocab_size=64
    )
    config["intermediate_size"] = 1024
    save_model(new_model(config, seed=0), tmp_path / "small")
    program = (
        "import re, sys, threading, time\n"
        "import bequest\n"
        "from bequest.growth import grow_checkpoint\n"
        "def anonymous():\n"
        "    return int(re.search(r'RssAnon:\\s+(\\d+)', open('/proc/self/status').read()).group(1)) // 1024\n"
        "from bequest.checkpoints import meta_model, load_config, to_memory_names\n"
        f"to_memory_names(['x'], meta_model(load_config({str(tmp_path / 'small')!r})))\n"
        "peak, done = [anonymous()], []\n"
        "start = peak[0]\n"
        "def watch():\n"
        "    while not done:\n"
        "        peak[0] = max(peak[0], anonymous()); time.sleep(0.001)\n"
        "thread = threading.Thread(target=watch); thread.start()\n"
        f"plan = grow_checkpoint({str(tmp_path / 'small')!r}, {str(tmp_path / 'big')!r}, {{'hidden_size': 512}}, "
        "shard_bytes=8 * 2**20)\n"
        "done.append(1); thread.join()\n"
        "print(peak[0] - start, plan.params * 4 // 2**20)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    used, size = map(int, done.stdout.split())
    assert size > 120
    assert used < 80, done.stdout


# --- the check


def test_the_check_measures_what_is_there() -> None:
    model = build()
    bigger = grow(model, {"hidden_size": 64})
    proof = check_preservation(model, bigger)
    assert proof.preserved
    assert proof.first_layer is None
    assert proof.top1 == 1.0
    assert proof.max_relative_error < 1e-5
    assert proof.kl < 1e-9
    assert proof.duplicated_units == {"head": 2 * 4, "neuron": 2 * 40, "hidden": 32}
    assert proof.verdict.startswith("preserved: max relative error")
    assert json.dumps(proof.as_json())
    with torch.no_grad():
        bigger.model.layers[1].mlp.down_proj.weight[3] += 1.0
    broken = check_preservation(model, bigger)
    assert not broken.preserved
    assert broken.first_layer == 1
    assert broken.duplicated_units["hidden"] == 31
    with torch.no_grad():
        bigger.model.embed_tokens.weight[:, 5] += 1.0
    assert check_preservation(model, bigger).first_layer == -1


def test_half_precision_is_never_a_pass() -> None:
    model = build().to(torch.bfloat16)
    proof = check_preservation(model, grow(model, {"hidden_size": 64}))
    assert proof.gate is None
    assert not proof.preserved


def test_the_check_leaves_modes_as_they_were_and_refuses_strangers() -> None:
    model = build().train()
    bigger = grow(model, {"hidden_size": 64})
    assert bigger.training
    check_preservation(model, bigger)
    assert model.training
    assert bigger.training
    with pytest.raises(InputError, match="another kind of model"):
        check_preservation(model, build("gpt2"))
    with pytest.raises(InputError, match="dtypes differ"):
        check_preservation(model, bigger.double())


def test_growing_leaves_the_source_alone_and_keeps_dtype() -> None:
    model = build(tie_word_embeddings=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    bigger = grow(model.double(), {"hidden_size": 64})
    assert bigger.dtype == torch.float64
    assert bigger.lm_head.weight is bigger.model.embed_tokens.weight
    assert all(torch.equal(value.double(), model.state_dict()[name]) for name, value in before.items())
    assert bigger.config.hidden_size == 64
    assert model.config.hidden_size == 32


# --- verdicts


@pytest.mark.parametrize(
    ("family", "extra", "to", "method", "nearest"),
    [
        ("bert", {}, {"hidden_size": 48}, "fpi", {"hidden_size": 64}),
        ("bert", {}, {"hidden_size": 48}, {"name": "fpi", "map": "random"}, None),
        ("llama", {}, {"hidden_size": 48}, "net2net", None),
        ("bert", {}, {"hidden_size": 48, "num_hidden_layers": 4}, ["aki", "identity"], None),
        (
            "electra",
            {"embedding_size": 16},
            {"hidden_size": 48, "embedding_size": 24},
            "fpi",
            {"hidden_size": 64, "embedding_size": 32},
        ),
        ("electra", {"embedding_size": 16}, {"hidden_size": 32, "embedding_size": 20}, "fpi", None),
    ],
)
def test_what_is_called_the_nearest_exact_size_is_exact(
    family: str, extra: dict[str, int], to: dict[str, int], method: Any, nearest: dict[str, int] | None
) -> None:
    head = "causal-lm" if family == "llama" else "masked-lm"
    config = complete_config(family, {**SIZES, **extra}, head=head, vocab_size=48)
    plan = plan_growth(config, to, method)
    assert not plan.exact
    assert plan.nearest_exact == nearest
    if nearest is not None:
        assert plan_growth(config, nearest, method).exact
        assert "nearest exact" in plan.reason
    else:
        assert "nearest exact" not in plan.reason


@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads"])
def test_sizes_that_no_model_has_are_refused_at_once(key: str) -> None:
    config = complete_config("llama", SIZES, head="causal-lm", vocab_size=48)
    for value in (10**20, 10**9):
        with pytest.raises(InputError, match="more than any model has"):
            plan_growth(config, {key: value})
