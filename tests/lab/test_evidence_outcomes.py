"""Outcomes: the number, its unit and direction, its margin below the unigram line, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from bequest.errors import InputError
from lab.experiments.outcomes import KINDS, Outcome, OutcomeSpec, compute, margin

LOSSES = {
    "base": {"one": 5.0, "two": 6.0, "general": 3.0},
    "s1": {"one": 3.0, "two": 6.5, "general": 3.2},
    "s2": {"one": 4.0, "two": 3.5, "general": 3.1},
}
UNIGRAM = {"one": 7.0, "two": 8.0, "general": 6.5}
MEASURES: dict[str, Any] = {
    "perplexity": {
        model: {corpus: {"loss": loss, "unigram": UNIGRAM[corpus]} for corpus, loss in found.items()}
        for model, found in LOSSES.items()
    },
    "tasks": {
        "base": {"role": {"accuracy": [0.5], "macro_f1": [0.4]}, "polarity": {"accuracy": [0.6]}},
        "s1": {"role": {"accuracy": [0.7, 0.8], "macro_f1": [0.6]}, "polarity": {"accuracy": [0.55]}},
        "s2": {"role": {"accuracy": [0.65], "macro_f1": [0.5]}, "polarity": {"accuracy": [0.8]}},
    },
}
MODELS = ["base", "s1", "s2"]
ORDER = ("one", "two")


def spec(**given: Any) -> Outcome:
    found: Outcome = TypeAdapter(OutcomeSpec).validate_python(given)
    return found


@pytest.mark.parametrize(
    "metric, value, below, better",
    [
        ("final", 3.75, 3.75, "lower"),
        ("adaptability", 3.25, 4.25, "lower"),
        ("learning", 2.5, 4.25, "higher"),
        ("learning_min", 2.0, 4.25, "higher"),
        ("anytime", 4.25, 3.75, "lower"),
        ("out_of_domain", 6.5, 1.5, "lower"),
        ("forget", 1.0, 4.0, "lower"),  # the first domain after its own training
        ("forget_max", 1.0, 4.0, "lower"),
        ("bwt", -1.0, 4.0, "higher"),
        ("unseen_drop", 0.5, 2.0, "lower"),  # the base
        ("unseen_drop_max", 0.5, 2.0, "lower"),
        ("fwt", -0.5, 2.0, "higher"),
    ],
)
def test_a_matrix_of_losses_by_hand(metric: str, value: float, below: float, better: str) -> None:
    found = spec(kind="matrix", metric=metric, models=MODELS)
    assert compute(found, MEASURES, order=ORDER) == pytest.approx(value)
    assert margin(found, MEASURES, order=ORDER) == pytest.approx(below)
    assert (found.unit, found.better) == ("nats", better)


@pytest.mark.parametrize(
    "metric, changed, corpus",
    [
        ("forget", "s2", "one"),
        ("bwt", "s2", "one"),
        ("general_drop", "s2", "general"),
        ("drift", "s1", "general"),
        ("unseen_drop", "s1", "two"),
        ("unseen_drop_max", "s1", "two"),
        ("learning", "base", "one"),
    ],
)
def test_the_more_is_lost_or_won_the_less_it_does_not_inform(metric: str, changed: str, corpus: str) -> None:
    probe = {"probe": "general"} if corpus == "general" else {}
    found = spec(kind="matrix", metric=metric, models=MODELS, **probe)
    before = margin(found, MEASURES, order=ORDER)
    worse = {name: dict(entries) for name, entries in MEASURES["perplexity"].items()}
    worse[changed][corpus] = {**worse[changed][corpus], "loss": worse[changed][corpus]["loss"] + 5.0}
    assert abs(compute(found, {"perplexity": worse}, order=ORDER)) > abs(compute(found, MEASURES, order=ORDER))
    assert margin(found, {"perplexity": worse}, order=ORDER) == before


@pytest.mark.parametrize("metric", ["final", "adaptability", "anytime"])
def test_the_control_a_level_informs_less_the_higher_it_ends(metric: str) -> None:
    found = spec(kind="matrix", metric=metric, models=MODELS)
    worse = {name: dict(entries) for name, entries in MEASURES["perplexity"].items()}
    worse["s2"]["two"] = {**worse["s2"]["two"], "loss": 8.5}
    high, low = (margin(found, measures, order=ORDER) for measures in (MEASURES, {"perplexity": worse}))
    assert high is not None and low is not None and low < high


def test_a_stream_of_one_has_no_forgetting_and_no_margin_of_it() -> None:
    found = spec(kind="matrix", metric="forget", models=["base", "s1"])
    for read in (compute, margin):
        with pytest.raises(InputError, match="no meaning in a stream of 1"):
            read(found, MEASURES, order=("one",))


def test_the_order_decides_what_was_trained_when() -> None:
    found = spec(kind="matrix", metric="forget", models=MODELS)
    assert compute(found, MEASURES, order=("two", "one")) == pytest.approx(-3.0)
    fixed = spec(kind="matrix", metric="forget", models=MODELS, columns=["one", "two"])
    assert compute(fixed, MEASURES, order=("two", "one")) == pytest.approx(1.0)
    with pytest.raises(InputError, match="no domains"):
        compute(found, MEASURES)


def test_a_matrix_of_accuracies_reads_the_domains_tasks() -> None:
    tasks = {"one": "role", "two": "polarity"}
    found = spec(kind="matrix", metric="final", over="accuracies", models=MODELS, tasks=tasks)
    assert compute(found, MEASURES, order=ORDER) == pytest.approx((0.65 + 0.8) / 2)
    assert (found.unit, found.better, margin(found, MEASURES, order=ORDER)) == ("accuracy", "higher", None)
    forget = spec(kind="matrix", metric="forget", over="accuracies", models=MODELS, tasks=tasks)
    assert compute(forget, MEASURES, order=ORDER) == pytest.approx(0.75 - 0.65)  # 0.75: the mean over its own seeds
    assert forget.better == "lower"


def test_scores_of_several_kinds_make_no_matrix() -> None:
    found = spec(kind="matrix", metric="final", over="accuracies", models=["base", "s1"], columns=["role"])
    linear = {
        "base": {"role": {"accuracy": [0.5], "how": "linear"}},
        "s1": {"role": {"accuracy": [0.6], "how": "linear"}},
    }
    assert compute(found, {"tasks": linear}) == 0.6
    mixed = {**linear, "s1": {"role": {"accuracy": [0.9], "how": "tune"}}}
    with pytest.raises(InputError, match="several kinds"):
        compute(found, {"tasks": mixed})


def test_the_probe_outside_the_stream() -> None:
    found = spec(kind="matrix", metric="general_drop", probe="general", models=MODELS)
    assert compute(found, MEASURES) == pytest.approx(0.1) and margin(found, MEASURES) == pytest.approx(3.5)
    assert compute(spec(kind="matrix", metric="drift", probe="general", models=MODELS), MEASURES) == pytest.approx(0.15)
    task = spec(kind="matrix", metric="general_drop", over="accuracies", probe="role", models=MODELS)
    assert compute(task, MEASURES) == pytest.approx(-0.15) and task.better == "lower"


def test_single_numbers() -> None:
    loss = spec(kind="loss", model="s2", corpus="general")
    assert compute(loss, MEASURES) == 3.1 and margin(loss, MEASURES) == pytest.approx(3.4)
    below = spec(kind="margin", model="s2", corpus="general")
    assert compute(below, MEASURES) == pytest.approx(3.4) and below.better == "higher" and loss.better == "lower"
    accuracy = spec(kind="accuracy", model="s1", task="role")
    assert compute(accuracy, MEASURES) == pytest.approx(0.75) and margin(accuracy, MEASURES) is None
    assert compute(spec(kind="accuracy", model="s1", task="role", score="macro_f1"), MEASURES) == 0.6


@pytest.mark.parametrize(
    "given, said",
    [
        ({"kind": "loss", "model": "s3", "corpus": "general"}, "'s3' was not measured"),
        ({"kind": "loss", "model": "s2", "corpus": "generl"}, "did you mean 'general'"),
        ({"kind": "accuracy", "model": "s2", "task": "spam"}, "'s2' was not measured on 'spam'"),
        ({"kind": "accuracy", "model": "base", "task": "polarity", "score": "macro_f1"}, "no macro_f1"),
        ({"kind": "matrix", "metric": "final", "models": ["base", "s1"]}, "do not fit"),
    ],
    ids=["model", "corpus", "task", "score", "stages"],
)
def test_what_was_not_measured_is_an_error_never_a_zero(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        compute(spec(**given), MEASURES, order=ORDER)


@pytest.mark.parametrize("score", [[None], [0.5, None], []], ids=["null", "one-null", "none"])
def test_a_score_that_is_no_number_was_not_measured(score: list[float | None]) -> None:
    found = spec(kind="accuracy", model="s1", task="role")
    with pytest.raises(InputError, match="no accuracy of 's1' on 'role'"):
        compute(found, {"tasks": {"s1": {"role": {"accuracy": score}}}})


@pytest.mark.parametrize(
    "given, said",
    [
        ({"kind": "matrix", "metric": "forgets", "models": MODELS}, "no metric 'forgets'"),
        ({"kind": "matrix", "metric": "general_drop", "models": MODELS}, "needs a probe"),
        ({"kind": "matrix", "metric": "final", "probe": "general", "models": MODELS}, "has no probe"),
        ({"kind": "matrix", "metric": "final", "models": MODELS, "model": "s1"}, "Extra inputs"),
        ({"kind": "loss", "model": "s1"}, "Field required"),
        ({"kind": "lost", "model": "s1"}, "does not match any of the expected tags"),
    ],
    ids=["metric", "no-probe", "a-probe", "unknown-key", "missing-key", "kind"],
)
def test_a_spec_that_cannot_work_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        spec(**given)


def test_every_kind_says_what_it_computes_in_which_unit() -> None:
    given = {
        "matrix": {"metric": "final", "models": MODELS},
        "loss": {"model": "s2", "corpus": "one"},
        "margin": {"model": "s2", "corpus": "one"},
        "gap": {"model": "s2", "than": ["s1"], "corpus": "one"},
        "accuracy": {"model": "s2", "task": "role"},
        "start": {"stage": "s2", "corpus": "one"},
        "saving": {"model": "s2", "corpus": "one"},
        "crossing": {"model": "s2", "corpus": "one"},
        "units": {"stage": "s2"},
    }
    assert set(given) == set(KINDS)
    for kind, more in given.items():
        found = spec(kind=kind, **more)
        assert isinstance(found, KINDS[kind]) and found.formula and found.unit in ("nats", "accuracy", "share", "units")
