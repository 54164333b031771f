"""Budgets, batches, schedules and the arguments that pass through."""

from __future__ import annotations

import dataclasses
import math

import pytest
import transformers

from bequest.errors import InputError
from bequest.training.objective import Progress
from bequest.training.settings import OWNED, PASSED, REMOVED, TrainSettings


def test_budget_is_rounded_up_to_whole_updates() -> None:
    plan = TrainSettings(tokens=10_000, block=128, batch_tokens=4096, warmup=0.4).batches()
    assert (plan.updates, plan.sequences, plan.micro_batch, plan.accumulation) == (3, 32, 32, 1)
    assert plan.warmup_updates == math.ceil(0.4 * 3)
    assert TrainSettings(tokens=4096, block=128, batch_tokens=4096).batches().updates == 1


def test_micro_batches_divide_the_update_over_processes() -> None:
    settings = TrainSettings(tokens=10**6, block=128, batch_tokens=4096, micro_batch_tokens=128 * 5)
    for world in (1, 2, 4):
        plan = settings.batches(world=world)
        assert plan.micro_batch * plan.accumulation * world == 32
        assert plan.micro_batch <= 5
    with pytest.raises(InputError, match="cannot be shared by 3"):
        settings.batches(world=3)


def test_epochs_of_a_task() -> None:
    plan = TrainSettings(epochs=3, batch=16, micro_batch=4).batches(samples=100)
    assert (plan.updates, plan.micro_batch, plan.accumulation) == (19, 4, 4)


def test_shares_and_tokens_become_updates() -> None:
    progress = Progress(updates=100, tokens_per_update=4096)
    assert progress.updates_for(0.3) == 30
    assert progress.updates_for(4097) == 2
    assert progress.updates_for(1) == 100


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({}, "tokens"),
        ({"tokens": 1, "epochs": 1}, "tokens"),
        ({"tokens": 0}, "tokens"),
        ({"tokens": 10, "lr": 0}, "lr"),
        ({"tokens": 10, "schedule": "cosin"}, "schedule"),
        ({"tokens": 10, "bf16": "yes"}, "bf16"),
        ({"tokens": 10, "checkpoint_every": "often"}, "checkpoint_every"),
        ({"tokens": 10, "training": {"learning_rate": 1}}, "training.learning_rate"),
        ({"tokens": 10, "training": {"warmup_ratio": 0.1}}, "training.warmup_ratio"),
        ({"tokens": 10, "training": {"optimm": "sgd"}}, "training.optimm"),
    ],
)
def test_bad_settings_name_the_key_and_a_remedy(fields: dict, key: str) -> None:
    with pytest.raises(InputError) as caught:
        TrainSettings(**fields)
    assert caught.value.key == key
    assert caught.value.remedy


def test_a_batch_must_be_whole_blocks() -> None:
    with pytest.raises(InputError, match="use 3968 or 4096"):
        TrainSettings(tokens=10, block=128, batch_tokens=4000).batches()


def test_every_argument_of_transformers_is_either_owned_or_passed() -> None:
    known = {entry.name for entry in dataclasses.fields(transformers.TrainingArguments) if entry.init}
    assert set(OWNED) <= known
    assert set(PASSED) <= known
    assert not set(OWNED) & PASSED
    assert known == set(OWNED) | PASSED
    assert not set(REMOVED) & known


def test_checkpoint_intervals() -> None:
    assert TrainSettings(tokens=1, checkpoint_every=500).checkpoint_interval() == (500, None)
    assert TrainSettings(tokens=1, checkpoint_every="500").checkpoint_interval() == (500, None)
    assert TrainSettings(tokens=1, checkpoint_every="10min").checkpoint_interval() == (None, 600)
    assert TrainSettings(tokens=1, checkpoint_every=None).checkpoint_interval() == (None, None)


def test_evaluation_falls_on_the_start_every_share_and_the_end() -> None:
    settings = TrainSettings(tokens=1, evaluate_every=0.3)
    assert settings.evaluation_updates(40) == {0, 12, 24, 36, 40}
    assert TrainSettings(tokens=1, evaluate_every=None).evaluation_updates(7) == {0, 7}


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant", "wsd", "inverse_sqrt", "polynomial"])
def test_schedules_are_transformers_own(schedule: str) -> None:
    import torch

    settings = TrainSettings(tokens=100 * 4096, schedule=schedule, warmup=10, lr=1.0)
    plan = settings.batches()
    name, arguments = settings.schedule_arguments(plan)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = transformers.get_scheduler(name, optimizer, plan.warmup_updates, plan.updates, arguments)
    rates = []
    for _ in range(plan.updates):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates[0] == 0
    assert rates[5] == pytest.approx(0.5)
    assert max(rates) == pytest.approx(1.0)
    if schedule == "wsd":
        assert rates[10:80] == [1.0] * 70
        assert rates[99] < 0.1


def test_cosine_ends_at_its_floor() -> None:
    settings = TrainSettings(tokens=4096 * 10, min_lr_ratio=0.1)
    assert settings.schedule_arguments(settings.batches()) == ("cosine_with_min_lr", {"min_lr_rate": 0.1})
