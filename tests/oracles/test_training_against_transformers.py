"""The oracle: at accumulation 1 our trainer walks the same path as ``transformers.Trainer``."""

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
from bequest.training import LanguageModelling, TrainingData, evaluate_loss, train
from bequest.training.loading import Run


class Ordered:
    """The samples of a run in the run's own order, as a plain trainer's sequential data set."""

    def __init__(self, run: Run, collator: Any) -> None:
        self.run, self.collator = run, collator

    def __len__(self) -> int:
        return len(self.run)

    def __getitem__(self, place: int) -> dict[str, Any]:
        return self.run[place]

    def collate(self, samples: Any) -> dict[str, torch.Tensor]:
        batch = self.collator(samples)
        ids, targets = batch["input_ids"], batch["targets"]
        # A causal model of transformers shifts labels by itself.
        shifted = bool((targets[:, -1] == -100).all() and (targets[:, :-1] == ids[:, 1:]).all())
        return {"input_ids": ids, "labels": ids if shifted else targets}


class Losses(transformers.TrainerCallback):
    def __init__(self) -> None:
        self.found: list[float] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in logs:
            self.found.append(logs["loss"])


@pytest.mark.parametrize("family", [*tiny.MASKED, *tiny.CAUSAL])
def test_same_path_at_accumulation_one(family: str, tmp_path: Path) -> None:
    data = tiny.data_for(family, tmp_path)
    ours, anatomy = tiny.tiny(family)
    chosen = tiny.settings(20, schedule="linear", warmup=3, weight_decay=0.1, lr=2e-3)
    with tiny.FirstGradients(ours) as own:
        train(ours, data, LanguageModelling(), chosen, tmp_path / "ours", anatomy=anatomy)
    plain, _ = tiny.tiny(family)
    if family == "gpt2":
        # transformers does not see from this class's name that its loss shifts labels, and divides by one target too
        # many per sequence; told so, it agrees.
        assert plain.loss_type is None
        plain.loss_type = "ForCausalLM"
    ordered = Ordered(Run(data.train, 20 * 8, 0), data.collator)
    log = Losses()
    args = transformers.TrainingArguments(
        output_dir=str(tmp_path / "plain"),
        max_steps=20,
        per_device_train_batch_size=8,
        learning_rate=2e-3,
        lr_scheduler_type="linear",
        warmup_steps=3,
        weight_decay=0.1,
        report_to="none",
        use_cpu=True,
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        train_sampling_strategy="sequential",
    )
    with tiny.FirstGradients(plain) as theirs:
        transformers.Trainer(plain, args, ordered.collate, ordered, callbacks=[log]).train()
    assert tiny.relative(theirs.found, own.found) < 1e-5
    lines = [json.loads(line) for line in (tmp_path / "ours" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    assert len(losses) == len(log.found) == 20
    assert max(abs(a - b) for a, b in zip(losses, log.found, strict=True)) < 1e-4
    assert tiny.relative(tiny.copy_of(plain), tiny.copy_of(ours)) < 1e-4


@pytest.mark.parametrize("family", ["bert", "electra", "gpt2", "qwen3"])
def test_evaluation_is_transformers_own_loss(family: str, tmp_path: Path) -> None:
    model, anatomy = tiny.tiny(family, dropout=0.5)
    data = tiny.data_for(family, tmp_path)
    held_out = data.eval["toy"]
    model.train()
    found = evaluate_loss(model, held_out, data.collator, anatomy=anatomy, batch=5)
    again = evaluate_loss(model, held_out, data.collator, anatomy=anatomy, batch=12)
    assert model.training
    assert found.targets == again.targets
    assert found.loss == pytest.approx(again.loss, rel=1e-5)
    model.eval()
    batch = data.collator([dict(held_out[index]) for index in range(len(held_out))])
    labels = batch["targets"] if family in tiny.MASKED else batch["input_ids"]
    with torch.no_grad():
        expected = model(input_ids=batch["input_ids"], labels=labels).loss
    assert found.loss == pytest.approx(float(expected), rel=1e-5)


def test_bf16_autocast_stays_near_fp32(tmp_path: Path) -> None:
    ends = []
    for bf16 in (False, True):
        model, anatomy = tiny.tiny("bert")
        result = train(
            model,
            tiny.data_for("bert", tmp_path),
            LanguageModelling(),
            tiny.settings(10, bf16=bf16),
            tmp_path / str(bf16),
            anatomy=anatomy,
        )
        assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
        ends.append(result.final_loss)
    assert ends[0] != ends[1]
    assert ends[0] == pytest.approx(ends[1], rel=0.02)


def test_data_workers_change_nothing(tmp_path: Path) -> None:
    data = tiny.data_for("bert", tmp_path)
    weights = []
    for workers in (0, 2):
        model, anatomy = tiny.tiny("bert")
        chosen = tiny.settings(6, training={"dataloader_num_workers": workers})
        train(model, TrainingData(data.train, data.collator), None, chosen, tmp_path / str(workers), anatomy=anatomy)
        weights.append(tiny.copy_of(model))
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
