"""What an experiment file may not say, and that each complaint names file, key and remedy in one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from experiments_support import EXPERIMENT, names, written

from bequest.errors import InputError
from lab.experiments import resolving
from lab.experiments.reading import load_experiment

WITH_CPU = "  cpu: {seeds: [1, 2, 3], pilot: 0, tokens: 2k, probes: [polarity]}\nrecipe:\n"
BAD = {
    "unknown key": (("question:", "qestion:"), "qestion", "did you mean 'question'?"),
    "unknown key in tuning": (("  variable: lr\n", "  variabel: lr\n"), "tuning.variabel", "did you mean 'variable'?"),
    "missing": (("question: Does the runner run?\n", ""), "question", "add question"),
    "not a method": (("baseline: sequential", "baseline: sequentail"), "baseline", "did you mean 'sequential'?"),
    "unused variable": (("changes_batches", "changes_batch"), "methods.replay-20.changes_batch", "'changes_batches'?"),
    "unused scale variable": ((" tokens: 1024", " tokens: 1024, tokns: 1"), "scales.smoke.tokns", "'tokens'?"),
    "pilot replaces nothing": (("{probes: []}", "{probs: []}"), "scales.smoke.pilot_variables.probs", "'probes'?"),
    "other budget": (
        ("changes_batches: true", "changes_batches: true, tuning: {values: [1.0, 2.0]}"),
        "methods.replay-20.tuning.values",
        "give 3",
    ),
    "value twice": (("[1.0e-3, 3.0e-3", "[1.0e-3, 1.0e-3"), "tuning.values", "twice"),
    "reported pilot": (("pilot: 0", "pilot: 2"), "scales.smoke.pilot", "not reported"),
    "no pilot": ((" pilot: 0,", ""), "scales.smoke.pilot", "give a seed"),
    "seed twice": (("seeds: [1, 2]", "seeds: [1, 1]"), "scales.smoke.seeds", "twice"),
    "unknown outcome": (("outcome: final_loss", "outcome: final_los"), "tuning.choose.outcome", "'final_loss'?"),
    "wrong direction": (("best: lower", "best: higher"), "tuning.choose.best", "write lower"),
    "claim of nothing": (("of: replay-20", "of: replay-2"), "claims.0.of", "'replay-20'?"),
    "claim on nothing": (("outcome: forget,", "outcome: forgot,"), "claims.0.outcome", "'forget'?"),
    "no expectation": (("expect: below 0", "expect: smaller"), "claims.0.expect", "write above 0"),
    "ratio to nothing": (("against: sequential, expect", "ratio: true, expect"), "claims.0.ratio", "against: NAME"),
    "unknown metric": (("metric: forget,", "metric: forgets,"), "outcomes.forget.metric", "'forget'?"),
    "unknown kind": (("kind: accuracy", "kind: accurcy"), "outcomes.polarity.kind", "'accuracy'?"),
    "unresolved variable": (("${scale.tokens}", "${scale.token}"), "recipe.stages", "'tokens'?"),
    "unresolved place": (("${order[1]}", "${order[2]}"), "recipe.stages", "order[2]"),
    "unresolved section": (("${method.calls}", "${methods.calls}"), "recipe.stages", "known: seed, order, method"),
    "open corpus": (("${corpus:reviews}", "${corpus:${order[1]}}"), "recipe", "by their names"),
    "filled in": (("recipe:\n", "recipe:\n  seed: 3\n"), "recipe.seed", "leave it out"),
    "stage kind": (("- measure:", "- mesure:"), "recipe.stages.2", "'measure'?"),
    "student": (("student: [s1, s2]", "student: [s1, s3]"), "student", "did you mean 's2'?"),
    "measured student": (("student: [s1, s2]", "student: [measured]"), "student", "known: s1, s2"),
    "name": (("name: two", "name: ../two"), "name", "letters"),
    "kind of value": (("seeds: [1, 2]", "seeds: [one]"), "scales.smoke.seeds.0", "'one'"),
    "not YAML": (("methods:\n", "methods: [\n"), "", "not valid YAML"),
}


def test_the_experiment_is_fine(tmp_path: Path) -> None:
    experiment = load_experiment(written(tmp_path))
    assert list(experiment.methods) == ["sequential", "replay-20"]
    assert experiment.free_of_pairing() == {"replay-20"}
    assert experiment.main_outcome == "final_loss"


@pytest.mark.parametrize("what", BAD)
def test_a_complaint_names_file_key_and_remedy(what: str, tmp_path: Path) -> None:
    change, key, remedy = BAD[what]
    file = written(tmp_path, change)
    with pytest.raises(InputError) as caught:
        load_experiment(file)
    line = caught.value.line()
    assert line.startswith(f"{file}: {key}"), line
    assert remedy in line
    assert "\n" not in line


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    written(tmp_path)
    with pytest.raises(InputError, match=r"did you mean 'two\.yaml'"):
        load_experiment(tmp_path / "tow.yaml")


@pytest.mark.parametrize("seeds, orders, fine", [(3, 2, True), (2, 2, False), (3, 1, False)])
def test_screening_is_wide(
    seeds: int, orders: int, fine: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolving, "identities", names())
    cpu = WITH_CPU.replace("[1, 2, 3]", str(list(range(1, seeds + 1))))
    changes = [("tier: finals", "tier: screening"), ("recipe:\n", cpu)]
    second = "  A: [biomedical, reviews]\n  B: [reviews, biomedical]\n"
    changes += [("  A: [biomedical, reviews]\n", second)] * (orders - 1)
    file = written(tmp_path, *changes)
    if fine:
        assert load_experiment(file).tier == "screening"
        return
    with pytest.raises(InputError, match="at least 3 seeds and 2 orders"):
        load_experiment(file)


def test_names_are_the_labs_where_a_scale_is_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> str:
        raise InputError(f"no corpus {name!r}", remedy="did you mean 'biomedical'?")

    monkeypatch.setattr(resolving, "identities", lambda: resolving.Sources(refuse, refuse, refuse))
    assert load_experiment(written(tmp_path)).scales.keys() == {"smoke"}, "made-up text has any name"
    file = written(tmp_path, ("recipe:\n", WITH_CPU))
    with pytest.raises(InputError) as caught:
        load_experiment(file)
    assert caught.value.line() == f"{file}: ${{corpus:biomedical}}: no corpus 'biomedical'; did you mean 'biomedical'?"


def test_variables_reach_variables_and_students_may_be_the_methods(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        ("{calls: [sequential]}", '{calls: [sequential], own: [s1], rate: "${tuned.lr}"}'),
        ("changes_batches: true", 'changes_batches: true, own: [s1, s2], rate: "${tuned.lr}"'),
        ('"${tuned.lr}"\n', '"${method.rate}"\n'),
        ("student: [s1, s2]", 'student: "${method.own}"'),
    )
    experiment = load_experiment(file)
    for method, student in (("sequential", ("s1",)), ("replay-20", ("s1", "s2"))):
        found = resolving.resolve(
            experiment,
            scale="smoke",
            role="final",
            method=method,
            size="-",
            order=("biomedical", "reviews"),
            seed=1,
            tuned={"lr": 0.5},
            sources=resolving.UNCHECKED,
        )
        assert found.recipe["stages"][0]["adapt"]["lr"] == 0.5
        assert found.student == student


def test_the_text_is_what_the_tests_change() -> None:
    assert all(old in EXPERIMENT for (old, _), _, _ in BAD.values())
