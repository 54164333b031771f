"""What an experiment file may not say, and that each complaint names file, key and remedy in one line."""

from __future__ import annotations

import subprocess
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
    # What bequest would refuse in every cell is refused here, by the experiment's own keys.
    "recipe key": (("block: 32\n", "block: 32\n        lrr: 1\n"), "recipe.stages.s1.lrr", "'lr'?"),
    "method of a stage": (("calls: [sequential]", "calls: [replya]"), "recipe.stages.s1.method", "'replay'?"),
    "option of a method": (("share: 0.2", "shair: 0.2"), "recipe.stages.s1.method.shair", "'share'?"),
    "value of an option": (("share: 0.2", "share: 1.5"), "recipe.stages.s1.method.share", "replay-20"),
    "base": (('from: "${model:minilm}"', "from: bsae"), "recipe.stages.s1.from", "write ${model:NAME}"),
    "model measured": (
        ('models: ["${model:minilm}", s1', "models: [base, s1"),
        "recipe.stages.measured.models.0",
        "${model",
    ),
    "two kinds": (("- measure: {", "- grow: {from: s1}\n      measure: {"), "recipe.stages.2", "one kind"),
    "a word for a number": (("tokens: 1024", "tokens: many"), "recipe.stages.s1.tokens", "such as 20M"),
    "a negative number": (("tokens: 1024", "tokens: -5"), "recipe.stages.s1.tokens", "-5"),
    "a number of pilots": (("{probes: []}", "{probes: [], tokens: -5}"), "recipe.stages.s1.tokens", "pilot"),
    "a candidate": (("1.0e-2]", "-1.0e-2]"), "recipe.stages.s1.lr", "above 0"),
    "domain": (("A: [biomedical, reviews]", "A: [biomedical, revues]"), "recipe.stages.s2.domains", "'reviews'?"),
    "domain of another order": (
        ("  A: [biomedical, reviews]\n", "  A: [biomedical, reviews]\n  B: [biomedical, revues]\n"),
        "recipe.stages.s2.domains",
        "order B",
    ),
    "outcome of no model": (
        ("metric: forget, models: [minilm, s1, s2]", "metric: forget, models: [minilm, s1, s9]"),
        "outcomes.forget",
        "'s9' was not measured",
    ),
    "outcome of no corpus": (
        ("outcomes:\n", "outcomes:\n  news: {kind: loss, model: s2, corpus: generale}\n"),
        "outcomes.news",
        "'general'?",
    ),
    "outcome of no task": (("task: polarity}", "task: polarty}"), "outcomes.polarity", "'polarity'?"),
    "outcome that pilots do not measure": (
        ("{outcome: final_loss, best: lower}", "{outcome: polarity, best: higher}"),
        "tuning.choose.outcome",
        "(see pilot_variables)",
    ),
    "candidates of nothing": (('lr: "${tuned.lr}"', "lr: 1.0e-3"), "tuning.variable", "write ${tuned.lr}"),
    "equal candidates": (("[1.0e-3, 3.0e-3", "[1, 1.0"), "tuning.values", "twice"),
    "no candidate": (("[1.0e-3, 3.0e-3", "[.nan, 3.0e-3"), "tuning.values", "finite"),
    "the machine's variable": (
        ('"${scale.tokens}"', '"${oc.env:HOME}"'),
        "recipe.stages.0.adapt.tokens",
        "${corpus:NAME}, ${task:NAME} and ${model:NAME}",
    ),
    "a call in a variable": (("tokens: 1024", 'tokens: "${oc.decode:1024}"'), "scales.smoke.tokens", "write the value"),
    "unknown call": (('"${corpus:reviews}"', '"${corpse:reviews}"'), "recipe.corpora.reviews.files", "${corpus:NAME}"),
    "another name than the file's": (("name: two", "name: three"), "name", "write name: two"),
    "not closed": (('"${scale.tokens}"', '"${scale.tokens"'), "recipe.stages[0].adapt.tokens", "close it"),
    "no scales": (("scales:\n  smoke: {", "scales: null\nelsewhere: {"), "elsewhere", "known: "),
    "seeds below 0": (("seeds: [1, 2]", "seeds: [-1]"), "scales.smoke.seeds.0", "at least 0"),
    "no seeds": (("seeds: [1, 2]", "seeds: []"), "scales.smoke.seeds", "is empty; write a list: [...]"),
    "a number of seeds": (("seeds: [1, 2]", "seeds: 2"), "scales.smoke.seeds", "2 is not a list; write a list: [...]"),
    "an order of one": (("A: [biomedical, reviews]", "A: one"), "orders.A", "'one' is not a list; write a list: [...]"),
    "an empty method": (("{calls: [sequential]}", "null"), "methods.sequential", "is empty; write a mapping: {...}"),
    "half a seed": (("seeds: [1, 2]", "seeds: [1.5]"), "scales.smoke.seeds.0", "1.5 is not a whole number"),
    "a list as a question": (("Does the runner run?", "[Does it?]"), "question", "['Does it?'] is not a text"),
    "student of numbers": (("student: [s1, s2]", "student: [1]"), "student", "write a list of stages: [...]"),
    "neither true nor false": (
        ("changes_batches: true", "changes_batches: maybe"),
        "methods.replay-20.",
        "neither true",
    ),
    "no time": (("smoke: {", "smoke: {cell_minutes: -1, "), "scales.smoke.cell_minutes", "above 0.0, not -1"),
    "endless": (("smoke: {", "smoke: {expected_hours: .inf, "), "scales.smoke.expected_hours", "inf"),
}
PYDANTIC = ("Input should", "input should", "valid tuple", "validation", "instance of")


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
    assert "\n" not in line and not any(word in line for word in PYDANTIC), line


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


def test_a_missing_section_says_what_to_write(tmp_path: Path) -> None:
    start = EXPERIMENT.index("scales:\n")
    scales = EXPERIMENT[start : EXPERIMENT.index("recipe:\n")]
    with pytest.raises(InputError, match=r"scales: is empty; write a mapping"):
        load_experiment(written(tmp_path, (scales, "scales: null\n")))


def test_what_only_one_scale_makes_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolving, "identities", names())
    small = "recipe:\n", "  small: {seeds: [1], pilot: 0, tokens: 64, probes: [polarity]}\nrecipe:\n"
    with pytest.raises(InputError) as caught:
        load_experiment(written(tmp_path, small))
    assert "recipe.stages.s1.tokens: 64 tokens are less than one batch of 128" in caught.value.line()
    assert "scale small" in caught.value.line()


def test_an_outcome_may_be_measured_at_one_scale_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolving, "identities", names())
    dear = WITH_CPU.replace("probes: [polarity]", "probes: []")
    assert load_experiment(written(tmp_path, ("recipe:\n", dear))).scales.keys() == {"smoke", "cpu"}


def test_a_claim_on_a_method_that_does_not_measure_its_outcome(tmp_path: Path) -> None:
    changes = [
        ("{calls: [sequential]}", "{calls: [sequential], seen: [s1, s2]}"),
        ("changes_batches: true", "changes_batches: true, seen: [s1]"),
        ('models: ["${model:minilm}", s1, s2], corpora', 'models: "${method.seen}", corpora'),
        ("metric: final, models: [minilm, s1, s2]", "metric: general_drop, probe: general, models: [s1, s1]"),
        ("metric: forget, models: [minilm, s1, s2]", "metric: general_drop, probe: general, models: [s1, s2]"),
    ]
    with pytest.raises(InputError) as caught:
        load_experiment(written(tmp_path, *changes))
    assert ": claims.0.of: replay-20 does not measure forget (model 's2' was not measured)" in caught.value.line()
    load_experiment(written(tmp_path, *changes, ("of: replay-20, against: sequential", "of: sequential")))


def test_reading_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom lab.experiments.reading import load_experiment\n"
        f"load_experiment({str(written(tmp_path))!r})\n"
        "sys.exit(1 if {'torch', 'transformers', 'datasets'} & sys.modules.keys() else 0)"
    )
    top = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=top, check=False).returncode == 0


def test_the_text_is_what_the_tests_change() -> None:
    assert all(old in EXPERIMENT for (old, _), _, _ in BAD.values())
