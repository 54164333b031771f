"""Schedules, the teacher's life, and the objective in somebody else's loop."""

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
from bequest.errors import InputError
from bequest.inheritance import SCHEDULES, Inherit, LiveTeacher
from bequest.inheritance.teacher import check_same_tokens
from bequest.training import LanguageModelling, Progress, Step, train
from bequest.training.head_positions import find_head


def teacher(family: str = "bert") -> LiveTeacher:
    model, anatomy = tiny.tiny(family, hidden=16, seed=9, dropout=0.5)
    return LiveTeacher(model.train(), anatomy, tiny.BLOCK)


def test_schedules_at_their_edges() -> None:
    guided = 10
    at = {name: [schedule(t, guided) for t in (0, 9, 10, 40)] for name, schedule in SCHEDULES.items()}
    assert at["linear"] == [1.0, pytest.approx(0.1), 0.0, 0.0]
    assert at["heaviside"] == [1.0, 1.0, 0.0, 0.0]
    assert at["constant"] == [0.5] * 4
    assert at["none"] == [0.0] * 4


def test_until_is_a_share_or_tokens() -> None:
    live = teacher()
    progress = Progress(3, 20, 300, 2000, 100)
    assert Inherit(live, until=0.5).rate(progress) == pytest.approx(0.7)
    assert Inherit(live, until=500).rate(progress) == pytest.approx(0.4)
    assert Inherit(live, until=10**9).rate(progress) == pytest.approx(1 - 3 / 20)


def test_the_teacher_is_asked_until_it_is_released_and_never_changes(tmp_path: Path) -> None:
    live = teacher()
    assert live.model is not None
    model, before = live.model, tiny.copy_of(live.model)
    student, anatomy = tiny.tiny("bert")
    chosen = tiny.settings(10, micro=4)
    result = train(
        student, tiny.data_for("bert", tmp_path), Inherit(live, until=0.4), chosen, tmp_path / "r", anatomy=anatomy
    )
    assert live.forwards == 4 * 2
    assert live.released
    assert not model.training
    assert all(torch.equal(value, before[name]) and value.grad is None for name, value in model.named_parameters())
    lines = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    logged = [line for line in lines if line["kind"] == "train"]
    assert ["inherit" in line for line in logged] == [True] * 4 + [False] * 6
    assert logged[0]["loss"] == pytest.approx(logged[0]["inherit"])
    assert logged[1]["loss"] == pytest.approx(0.75 * logged[1]["inherit"] + 0.25 * logged[1]["lm"])
    assert logged[5]["loss"] == logged[5]["lm"]
    tokens = 4 * 8 * tiny.BLOCK
    assert result.teacher_flops > live.per_token * tokens
    assert logged[3]["flops"] > logged[3]["tokens"] * result.train_flops / result.tokens
    assert result.teacher_flops < result.train_flops


def test_with_full_weight_on_the_teacher_labels_do_not_matter(tmp_path: Path) -> None:
    student, anatomy = tiny.tiny("bert")
    batch = tiny.data_for("bert", tmp_path).collator([{**tiny.blocks(tmp_path)[i], "epoch": 0} for i in range(4)])
    head = find_head(student, str(anatomy.lm_head))
    gradients = []
    for shift in (0, 1):
        targets = torch.where(batch["targets"] >= 0, (batch["targets"] + shift) % tiny.VOCABULARY, batch["targets"])
        student.zero_grad()
        step = Step(student, {"input_ids": batch["input_ids"]}, targets, 1, head=head, progress=Progress(0, 10))
        terms = Inherit(teacher()).terms(step)
        assert terms["lm"].weight == 0
        assert not terms["lm"].total.requires_grad
        sum(term.weight * term.total for term in terms.values()).backward()
        gradients.append({name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None})
    assert tiny.relative(*gradients) == 0


def test_the_objective_in_a_users_own_trainer(tmp_path: Path) -> None:
    """Twenty lines put inheritance into any Trainer; the result is that of bequest's own loop."""
    student, anatomy = tiny.tiny("bert")
    objective, data = Inherit(teacher(), until=0.6), tiny.data_for("bert", tmp_path)

    class MyTrainer(transformers.Trainer):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> torch.Tensor:
            targets = inputs.pop("targets")
            step = Step(
                model=model,
                batch={"input_ids": inputs["input_ids"]},
                targets=targets,
                global_targets=int((targets != -100).sum()),
                head=find_head(model, str(anatomy.lm_head)),
                progress=Progress(self.state.global_step, self.state.max_steps),
            )
            terms = objective.terms(step)
            return sum(term.weight * term.total for term in terms.values()) / step.global_targets

    from bequest.training.loading import Run

    args = transformers.TrainingArguments(
        output_dir=str(tmp_path / "own"),
        max_steps=10,
        per_device_train_batch_size=8,
        learning_rate=5e-3,
        lr_scheduler_type="linear",
        weight_decay=0.01,
        report_to="none",
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
        train_sampling_strategy="sequential",
        dataloader_pin_memory=False,
    )
    MyTrainer(student, args, data.collator, Run(data.train, 80, 0)).train()
    ours, _ = tiny.tiny("bert")
    chosen = tiny.settings(10, schedule="linear", warmup=0)
    train(ours, data, Inherit(teacher(), until=0.6), chosen, tmp_path / "ours", anatomy=anatomy)
    assert tiny.relative(tiny.copy_of(student), tiny.copy_of(ours)) < 1e-5
    plain, _ = tiny.tiny("bert")
    train(plain, data, LanguageModelling(), chosen, tmp_path / "plain", anatomy=anatomy)
    assert tiny.relative(tiny.copy_of(plain), tiny.copy_of(ours)) > 1e-3


def test_bad_options_and_other_tokens() -> None:
    with pytest.raises(InputError, match="did you mean 'linear'"):
        Inherit(teacher(), schedule="liner")
    with pytest.raises(InputError, match="not above zero"):
        Inherit(teacher(), until=0)
    check_same_tokens({"a": 0, "b": 1}, {"b": 1, "a": 0})
    with pytest.raises(InputError, match=r"differ in 4 entries, first at id 0 \('a'\)"):
        check_same_tokens({"a": 0, "b": 1}, {"a": 1, "b": 0})
