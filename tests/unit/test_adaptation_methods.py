"""Sequential and replay: what they read, what they change, and that replay is exact in tokens."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import training_support as tiny
from bequest.adaptation import METHODS, Replay, Sequential
from bequest.data.mixtures import Mixture
from bequest.errors import InputError
from bequest.training import LanguageModelling, Source, TrainingData, train
from bequest.training.loading import Run
from bequest.training.objective import compose


def test_replay_takes_its_share_from_the_new_corpora(tmp_path: Path) -> None:
    new, old, older = (Source(name, tiny.blocks(tmp_path, 40, seed), 1.0) for seed, name in enumerate("abc"))
    mixed = Replay(share=0.2).mixture([new], [old, older])
    assert [(source.name, pytest.approx(source.share)) for source in mixed] == [("a", 0.8), ("b", 0.1), ("c", 0.1)]
    run = Run(Mixture([(source.blocks, source.share) for source in mixed], seed=0), 200, 0)
    drawn = Counter(run[place]["domain"] for place in range(200))
    assert drawn == {0: 160, 1: 20, 2: 20}
    assert Replay(share=0).mixture([new], []) == [new]


def test_replay_needs_something_earlier_and_a_share(tmp_path: Path) -> None:
    new = Source("a", tiny.blocks(tmp_path), 1.0)
    with pytest.raises(InputError, match="no earlier corpus"):
        Replay().mixture([new], [])
    with pytest.raises(InputError, match="not in"):
        Replay(share=1.0)


def test_sequential_and_replay_train_as_the_bare_language_model(tmp_path: Path) -> None:
    weights = []
    for number, objective in enumerate(([Sequential()], [Sequential(), Replay()], LanguageModelling())):
        model, anatomy = tiny.tiny("llama")
        train(
            model,
            tiny.data_for("llama", tmp_path),
            objective,
            tiny.settings(4),
            tmp_path / str(number),
            anatomy=anatomy,
        )
        weights.append(tiny.copy_of(model))
    for other in weights[1:]:
        assert all(torch.equal(value, other[name]) for name, value in weights[0].items())


def test_a_mixture_trains_and_resumes_in_place(tmp_path: Path) -> None:
    parts = [(tiny.blocks(tmp_path, 40, 0), 0.75), (tiny.blocks(tmp_path, 24, 5), 0.25)]
    data = tiny.data_for("gpt2", tmp_path)
    model, anatomy = tiny.tiny("gpt2")
    mixture = Mixture(parts, seed=0, domains=[4, 9])
    result = train(
        model,
        TrainingData(mixture, data.collator),
        compose([Replay()]),
        tiny.settings(12),
        tmp_path / "mixed",
        anatomy=anatomy,
    )
    assert result.tokens == 12 * 8 * tiny.BLOCK


def test_sequential_rewarms_to_a_floor() -> None:
    base = tiny.settings(10)
    assert Sequential().schedule(base).min_lr_ratio == 0.1
    assert Sequential(min_lr_ratio=0.3).schedule(base).min_lr_ratio == 0.3
    constant = tiny.settings(10, schedule="constant")
    assert Sequential().schedule(constant) is constant


def test_the_registry_names_what_there_is() -> None:
    import importlib

    for name, path in METHODS.items():
        module, _, kind = path.partition(":")
        assert issubclass(getattr(importlib.import_module(module), kind), object), name
