"""One run: its files, its failures, what it leaves of the model, and the quirks of transformers' loop that it meets."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import training_support as tiny
from bequest.errors import InputError, Interrupted, RunError
from bequest.training import LanguageModelling, Objective, Stage, Step, Term, TrainingData, checkpointing, train
from bequest.training.loading import PreparedCollator, Run
from bequest.training.metrics import MetricsFile
from bequest.training.objective import Composed, compose
from bequest.training.session import training_arguments
from bequest.training.trainer import Trainer


def lines(directory: Path, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["kind"] == kind]


def run(place: Path, objective: Any = None, family: str = "gpt2", **more: Any) -> Any:
    model, anatomy = tiny.tiny(family)
    chosen = tiny.settings(**{"updates": 10, **more})
    return train(model, tiny.data_for(family, place), objective, chosen, place / "run", anatomy=anatomy)


def test_metrics_tokens_and_flops(tmp_path: Path) -> None:
    result = run(tmp_path, evaluate_every=0.5, micro=4)
    directory = tmp_path / "run"
    assert result.tokens == 10 * 8 * tiny.BLOCK
    _, anatomy = tiny.tiny("gpt2")
    targets = 8 * (tiny.BLOCK - 1)
    body, whole = (anatomy.flops(tiny.BLOCK, head_share=share).train for share in (0.0, 1.0))
    assert result.train_flops == round(10 * (8 * tiny.BLOCK * body + targets * (whole - body)))
    assert result.teacher_flops == 0
    logged = lines(directory, "train")
    assert [line["update"] for line in logged] == list(range(1, 11))
    assert [line["tokens"] for line in logged] == [8 * tiny.BLOCK * update for update in range(1, 11)]
    assert logged[-1]["flops"] == result.train_flops
    assert all(line["loss"] == line["lm"] for line in logged)
    assert logged[0]["lr"] == 0
    assert all(line["gradient_norm"] > 0 for line in logged)
    measured = lines(directory, "eval")
    assert [line["update"] for line in measured] == [0, 5, 10]
    assert {line["corpus"] for line in measured} == {"toy"}
    assert {line["unigram"] for line in measured} == {4.0}
    assert result.best["loss"] == min(line["loss"] for line in measured)
    assert [entry["loss"] for entry in result.evaluations] == [line["loss"] for line in measured]


def test_train_lines_are_means_of_what_lies_between(tmp_path: Path) -> None:
    fine = run(tmp_path, log_every=1)
    every = [line["loss"] for line in lines(tmp_path / "run", "train")]
    (tmp_path / "b").mkdir()
    run(tmp_path / "b", log_every=4)
    coarse = lines(tmp_path / "b" / "run", "train")
    assert [line["update"] for line in coarse] == [4, 8, 10]
    assert [line["loss"] for line in coarse] == pytest.approx(
        [sum(every[:4]) / 4, sum(every[4:8]) / 4, sum(every[8:]) / 2]
    )
    assert fine.final_loss == every[-1]


def test_the_model_is_left_plain(tmp_path: Path) -> None:
    model, anatomy = tiny.tiny("gpt2")
    cache, forward = model.config.use_cache, model.forward.__func__
    assert cache is True
    train(model, tiny.data_for("gpt2", tmp_path), None, tiny.settings(2, bf16=True), tmp_path / "run", anatomy=anatomy)
    assert model.config.use_cache is True
    assert model.forward.__func__ is forward
    assert not model.training
    assert model(input_ids=torch.ones(1, 4, dtype=torch.long)).logits.dtype == torch.float32
    encoder, anatomy = tiny.tiny("bert")
    before = vars(encoder.config).get("use_cache", "absent")
    train(encoder, tiny.data_for("bert", tmp_path), None, tiny.settings(2), tmp_path / "b", anatomy=anatomy)
    assert vars(encoder.config).get("use_cache", "absent") == before


class Spoiled(Objective):
    """Becomes infinite in the fourth update."""

    def terms(self, step: Step) -> dict[str, Term]:
        good = (step.logits() ** 2).sum()
        return {"extra": Term(good / 0 if step.progress.update == 3 else good, 0.1)}


def test_a_loss_that_is_no_number_names_update_and_term(tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught:
        run(tmp_path, [Spoiled()], checkpoint_every=1)
    assert "update 4" in str(caught.value)
    assert "'extra'" in str(caught.value)
    assert caught.value.remedy
    assert checkpointing.newest_complete(tmp_path / "run" / "checkpoints").name == "checkpoint-3"


def test_interrupted_then_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Trainer.compute_loss
    calls = []

    def stop(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "compute_loss", stop)
    with pytest.raises(Interrupted, match=r"after update 6 of 10.*same command again"):
        run(tmp_path, checkpoint_every=4)
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))
    result = run(tmp_path, checkpoint_every=4)
    assert result.updates == 10
    assert [line["update"] for line in lines(tmp_path / "run", "train")] == list(range(1, 11))
    assert lines(tmp_path / "run", "note")[0]["text"].startswith("resumed checkpoint-4")


def test_another_run_in_the_same_directory_is_refused(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(RunError, match=r"another run \(lr 0.005 -> 0.001\)"):
        run(tmp_path, lr=1e-3)
    with pytest.raises(RunError, match="updates 10 -> 12"):
        run(tmp_path, updates=12)


def test_changed_surroundings_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, checkpoint_every=4)
    for update in (8, 10):
        checkpointing.discard(tmp_path / "run" / "checkpoints" / f"checkpoint-{update}") if update == 10 else None
    facts = Trainer.facts
    monkeypatch.setattr(Trainer, "facts", lambda self: {**facts(self), "threads": 99})
    run(tmp_path, checkpoint_every=4)
    text = lines(tmp_path / "run", "note")[-1]["text"]
    assert text.startswith("resumed checkpoint-8, not bitwise: threads ")
    assert text.endswith("-> 99")


def test_retention_and_manifest(tmp_path: Path) -> None:
    run(tmp_path, checkpoint_every=2, keep=3)
    kept = checkpointing.numbered(tmp_path / "run" / "checkpoints")
    assert [update for update, _ in kept] == [6, 8, 10]
    manifest = json.loads((kept[-1][1] / "manifest.json").read_text())
    on_disk = {path.name for path in kept[-1][1].iterdir()} - {"manifest.json"}
    assert set(manifest["files"]) == on_disk
    assert {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "trainable.safetensors"} <= on_disk
    assert {"threads", "processes", "device", "bf16", "torch"} <= set(manifest["facts"])


@pytest.mark.parametrize("spoil", ["short", "changed", "missing", "manifest", "torn manifest"])
def test_torn_checkpoints_are_seen(spoil: str, tmp_path: Path) -> None:
    run(tmp_path, checkpoint_every=5)
    checkpoints = tmp_path / "run" / "checkpoints"
    newest = checkpoints / "checkpoint-10"
    weights, manifest = newest / "trainable.safetensors", newest / "manifest.json"
    if spoil == "short":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif spoil == "changed":
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
    elif spoil == "missing":
        (newest / "rng_state.pth").unlink()
    elif spoil == "manifest":
        manifest.unlink()
    else:
        manifest.write_text(manifest.read_text()[:-40])
    said: list[str] = []
    assert checkpointing.newest_complete(checkpoints, said.append).name == "checkpoint-5"
    assert len(said) == 1
    assert said[0].startswith("skipped checkpoint-10: ")


def test_metrics_are_cut_at_the_checkpoint_and_at_a_torn_line(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    for update in range(5):
        file.append(kind="train", update=update, loss=float("nan") if update == 1 else 1.0)
    with file.path.open("a") as raw:
        raw.write('{"kind": "train", "upd')
    file.truncate(3)
    assert [json.loads(line)["update"] for line in file.path.read_text().splitlines()] == [0, 1, 2, 3]
    assert json.loads(file.path.read_text().splitlines()[1])["loss"] is None
    file.truncate(None)
    assert file.path.read_text() == ""


def test_plain_lines_without_a_terminal(tmp_path: Path) -> None:
    model, anatomy = tiny.tiny("gpt2")
    text = io.StringIO()
    train(
        model,
        tiny.data_for("gpt2", tmp_path),
        None,
        tiny.settings(4),
        tmp_path / "run",
        anatomy=anatomy,
        console=Console(file=text, width=200),
        name="small",
    )
    found = text.getvalue().splitlines()
    assert found[0].startswith("small: update 0: toy held-out loss ")
    assert "(unigram 4.000)" in found[0]
    assert any("update 4/4" in line and "tokens/s" in line for line in found)
    assert "\x1b" not in text.getvalue()


def test_low_precision_master_weights_are_refused(tmp_path: Path) -> None:
    model, anatomy = tiny.tiny("gpt2")
    with pytest.raises(InputError, match="fp32"):
        train(
            model.bfloat16(), tiny.data_for("gpt2", tmp_path), None, tiny.settings(2), tmp_path / "r", anatomy=anatomy
        )


def test_what_transformers_refuses_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="transformers refuses"):
        run(tmp_path, training={"fsdp": "full_shard"})
    with pytest.raises(InputError, match="transformers refuses"):
        run(tmp_path, training={"optim": "no_such_optimizer"})


def test_gradients_are_clipped_before_the_step(tmp_path: Path) -> None:
    model, anatomy = tiny.tiny("gpt2")
    with tiny.FirstGradients(model) as gradients:
        train(
            model,
            tiny.data_for("gpt2", tmp_path),
            None,
            tiny.settings(1, max_grad_norm=0.01),
            tmp_path / "r",
            anatomy=anatomy,
        )
    norm = sum(float((g**2).sum()) for g in gradients.found.values()) ** 0.5
    assert norm == pytest.approx(0.01, rel=1e-3)


def test_the_run_visits_every_sample_once_per_epoch(tmp_path: Path) -> None:
    order = Run(tiny.blocks(tmp_path), 100, 3)
    visited = [order[place] for place in range(100)]
    assert [sample["epoch"] for sample in visited] == [0] * 40 + [1] * 40 + [2] * 20
    digests = [sample["digest"] for sample in visited]
    assert len(set(digests[:40])) == 40
    assert set(digests[:40]) == set(digests[40:80])
    assert digests[:40] != digests[40:80]


def test_an_idle_mask_is_dropped_and_a_needed_one_kept() -> None:
    def collate(samples: Any) -> dict[str, torch.Tensor]:
        return {
            "input_ids": torch.ones(2, 3),
            "attention_mask": samples[0],
            "targets": torch.tensor([[1, -100, 2]] * 2),
        }

    full = PreparedCollator(collate)([torch.ones(2, 3)])
    assert "attention_mask" not in full
    assert full["positions"].tolist() == [0, 2, 3, 5]
    assert "attention_mask" in PreparedCollator(collate)([torch.tensor([[1, 1, 0]] * 2)])


class Counting(Objective):
    """Records its moments."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def terms(self, step: Step) -> dict[str, Term]:
        return {}

    def begin(self, stage: Stage) -> None:
        self.seen.append(("begin", stage.inherited, self.seen[-1:] if self.seen else None))

    def end(self, stage: Stage) -> dict[str, Any]:
        return {"importance": 3}

    def state(self) -> dict[str, Any]:
        return {"seen": len(self.seen)}

    def restore(self, state: Any) -> None:
        self.seen.append(("restored", state))


def test_an_objectives_moments(tmp_path: Path) -> None:
    first = Counting()
    result = run(tmp_path, [first], checkpoint_every=5)
    assert result.state == {"Counting": {"importance": 3}}
    assert [entry[0] for entry in first.seen] == ["begin"]
    second = Counting()
    run(tmp_path, [second], checkpoint_every=5)
    assert second.seen[0][0] == "begin"
    assert second.seen[1] == ("restored", {"seen": 1})


def test_methods_inherit_what_their_own_class_handed_on(tmp_path: Path) -> None:
    method = Counting()
    stage = Stage(torch.nn.Linear(1, 1), tmp_path, 1, 1, {"Counting": {"importance": 3}, "Other": {"x": 1}})
    compose([method]).begin(stage)
    assert method.seen[0][1] == {"importance": 3}


def test_gradient_checkpointing_does_not_stay(tmp_path: Path) -> None:
    model, anatomy = tiny.tiny("llama")
    during: list[bool] = []

    class Watching(LanguageModelling):
        def terms(self, step: Step) -> dict[str, Term]:
            during.append(model.is_gradient_checkpointing)
            return super().terms(step)

    settings = tiny.settings(2, training={"gradient_checkpointing": True})
    train(model, tiny.data_for("llama", tmp_path), Watching(), settings, tmp_path / "r", anatomy=anatomy)
    assert during == [True, True]
    assert not model.is_gradient_checkpointing


def test_one_process_uses_one_accelerator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nn.DataParallel's replicas would not have the hook on the head."""
    monkeypatch.setattr(transformers.TrainingArguments, "n_gpu", property(lambda args: args._n_gpu))
    prepared = transformers.TrainingArguments.__post_init__

    def with_four(args: Any) -> None:
        prepared(args)
        args.device  # noqa: B018  # settled here, as the property does it
        args._n_gpu = 4

    monkeypatch.setattr(transformers.TrainingArguments, "__post_init__", with_four)
    args, _ = training_arguments(tiny.settings(2), tmp_path, samples=8)
    assert args.n_gpu == 1


def test_composition() -> None:
    assert isinstance(compose(LanguageModelling()), LanguageModelling)
    assert isinstance(compose([Counting()]), Composed)

    class Changing(Counting):
        def prepare(self, model: torch.nn.Module) -> torch.nn.Module:
            return model

    with pytest.raises(InputError, match="both change the model"):
        compose([Changing(), Changing()])


def test_nothing_to_train_on(tmp_path: Path) -> None:
    model, anatomy = tiny.tiny("gpt2")
    data = tiny.data_for("gpt2", tmp_path)
    with pytest.raises(InputError, match="nothing to train on"):
        train(model, TrainingData([], data.collator), None, tiny.settings(2), tmp_path / "r", anatomy=anatomy)
