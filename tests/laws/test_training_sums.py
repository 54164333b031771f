"""Laws of the loss: one sum over targets, divided once, however the update is cut."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import training_support as tiny
from bequest.inheritance import Inherit, LiveTeacher
from bequest.training import Classification, LanguageModelling, Objective, Step, Term, TrainingData, train
from bequest.training.divergence import cross_entropy_sum


def losses(directory: Path) -> list[float]:
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "train"]


def run(family: str, place: Path, *, micro: int | None, objective: Any = None, updates: int = 20, **more: Any) -> tuple:
    model, anatomy = tiny.tiny(family)
    directory = place / f"run-{micro}-{len(list(place.iterdir()))}"
    chosen = tiny.settings(updates, micro=micro, max_grad_norm=0, **more)
    with tiny.FirstGradients(model) as gradients:
        result = train(model, tiny.data_for(family, place), objective, chosen, directory, anatomy=anatomy)
    return gradients.found, losses(directory), model, result


@pytest.mark.parametrize("family", [*tiny.MASKED, "gpt2", "llama"])
def test_one_by_eight_equals_eight_by_one(family: str, tmp_path: Path) -> None:
    whole = run(family, tmp_path, micro=8)
    parts = run(family, tmp_path, micro=1)
    assert tiny.relative(whole[0], parts[0]) < 1e-5
    assert max(abs(a - b) for a, b in zip(whole[1], parts[1], strict=True)) < 1e-4
    assert len(whole[1]) == 20
    if family in tiny.CAUSAL:
        assert whole[1][-1] < whole[1][0] - 0.1


class MeanOfMicroBatches(Objective):
    """The mistake that the law must see: each micro-batch divides by its own number of targets."""

    def terms(self, step: Step) -> dict[str, Term]:
        mean = cross_entropy_sum(step.logits(), step.target_ids()) / len(step.target_ids())
        return {"lm": Term(mean * step.global_targets / 8)}


def test_the_law_sees_a_mean_of_means(tmp_path: Path) -> None:
    right = run("bert", tmp_path, micro=1, updates=1)
    wrong = run("bert", tmp_path, micro=1, updates=1, objective=MeanOfMicroBatches())
    assert tiny.relative(right[0], wrong[0]) > 1e-3


def test_the_teacher_objective_is_cut_alike(tmp_path: Path) -> None:
    found = []
    for micro in (8, 1):
        teacher, anatomy = tiny.tiny("bert", hidden=16, seed=9)
        objective = Inherit(LiveTeacher(teacher, anatomy, tiny.BLOCK), until=0.5)
        found.append(run("bert", tmp_path, micro=micro, objective=objective))
    assert tiny.relative(found[0][0], found[1][0]) < 1e-5
    assert max(abs(a - b) for a, b in zip(found[0][1], found[1][1], strict=True)) < 1e-4


class Tasks:
    """A labelled task of unequal lengths."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.rows = [torch.randint(5, tiny.VOCABULARY, (4 + index % 9,), generator=generator) for index in range(24)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": self.rows[index], "label": int(self.rows[index][0]) % 3}


def pad(samples: Any) -> dict[str, torch.Tensor]:
    ids = torch.nn.utils.rnn.pad_sequence([sample["input_ids"] for sample in samples], batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(s["input_ids"]) for s in samples], batch_first=True)
    return {"input_ids": ids, "attention_mask": mask, "targets": torch.tensor([s["label"] for s in samples])}


def test_classification_is_cut_alike(tmp_path: Path) -> None:
    found = []
    for micro in (8, 1):
        model, anatomy = tiny.tiny("bert", head="sequence-classification", num_labels=3)
        chosen = tiny.TrainSettings(
            epochs=4,
            batch=8,
            micro_batch=micro,
            lr=5e-3,
            bf16=False,
            max_grad_norm=0,
            log_every=1,
            evaluate_every=None,
            checkpoint_every=None,
        )
        with tiny.FirstGradients(model) as gradients:
            train(model, TrainingData(Tasks(), pad), Classification(), chosen, tmp_path / str(micro), anatomy=anatomy)
        found.append((gradients.found, losses(tmp_path / str(micro))))
    assert tiny.relative(found[0][0], found[1][0]) < 1e-5
    assert max(abs(a - b) for a, b in zip(found[0][1], found[1][1], strict=True)) < 1e-4
    assert len(found[0][1]) == 12


def test_plain_transformers_is_wrong_under_accumulation(tmp_path: Path) -> None:
    """The fact behind "never pass labels": transformers sums the losses of bert's micro-batches."""
    first = {}
    for accumulation in (1, 8):
        model, _ = tiny.tiny("bert")
        data = tiny.data_for("bert", tmp_path)

        def collate(samples: Any, collator: Any = data.collator) -> dict[str, torch.Tensor]:
            batch = collator([{**sample, "epoch": 0, "domain": 0} for sample in samples])
            return {"input_ids": batch["input_ids"], "labels": batch["targets"]}

        args = transformers.TrainingArguments(
            output_dir=str(tmp_path / "plain"),
            max_steps=1,
            per_device_train_batch_size=8 // accumulation,
            gradient_accumulation_steps=accumulation,
            max_grad_norm=0,
            report_to="none",
            use_cpu=True,
            save_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        )
        with tiny.FirstGradients(model) as gradients:
            transformers.Trainer(model, args, collate, data.train).train()
        first[accumulation] = gradients.found
    norms = {key: sum(float((g**2).sum()) for g in found.values()) ** 0.5 for key, found in first.items()}
    assert norms[8] > 4 * norms[1]


class Idle(Objective):
    """An objective whose weight is zero: whatever it computes, training does not change by a bit."""

    def terms(self, step: Step) -> dict[str, Term]:
        return {"idle": Term((step.logits() ** 2).sum(), 0.0)}


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_zero_weight_is_plain_bit_for_bit(family: str, tmp_path: Path) -> None:
    plain = run(family, tmp_path, micro=4)
    idle = run(family, tmp_path, micro=4, objective=[Idle()])
    teacher, anatomy = tiny.tiny(family, hidden=16, seed=9)
    live = LiveTeacher(teacher, anatomy, tiny.BLOCK)
    silent = run(family, tmp_path, micro=4, objective=Inherit(live, schedule="none"))
    for other in (idle, silent):
        for name, value in plain[2].named_parameters():
            assert torch.equal(value, dict(other[2].named_parameters())[name]), name
    assert live.forwards == 0
    assert live.released
    taught = run(
        family,
        tmp_path,
        micro=4,
        objective=Inherit(LiveTeacher(tiny.tiny(family, hidden=16, seed=9)[0], anatomy, tiny.BLOCK)),
    )
    assert any(
        not torch.equal(value, dict(taught[2].named_parameters())[name]) for name, value in plain[2].named_parameters()
    )


def test_models_never_receive_labels(tmp_path: Path) -> None:
    model, anatomy = tiny.tiny("bert")
    seen: list[set[str]] = []
    model.register_forward_pre_hook(lambda module, args, kwargs: seen.append(set(kwargs)), with_kwargs=True)
    train(
        model, tiny.data_for("bert", tmp_path), LanguageModelling(), tiny.settings(2), tmp_path / "x", anatomy=anatomy
    )
    assert seen
    assert set().union(*seen) == {"input_ids"}


@pytest.mark.parametrize("family", [*tiny.MASKED, *tiny.CAUSAL])
def test_the_head_sees_target_positions_only(family: str, tmp_path: Path) -> None:
    """And its logits are those of the whole forward at these positions."""
    model, anatomy = tiny.tiny(family)
    model.eval()
    batch = tiny.data_for(family, tmp_path).collator([{**tiny.blocks(tmp_path)[i], "epoch": 0} for i in range(4)])
    from bequest.training.head_positions import find_head

    head = find_head(model, anatomy.lm_head)
    widths: list[int] = []
    head.register_forward_hook(lambda module, args, output: widths.append(args[0].shape[0]))
    step = Step(model, {"input_ids": batch["input_ids"]}, batch["targets"], 1, head=head)
    some = step.logits()
    assert step.logits() is some
    number = int((batch["targets"] != -100).sum())
    assert widths == [number]
    whole = model(input_ids=batch["input_ids"]).logits.reshape(-1, tiny.VOCABULARY)
    expected = whole[(batch["targets"].reshape(-1) != -100)]
    torch.testing.assert_close(some, expected, rtol=1e-5, atol=1e-5)
