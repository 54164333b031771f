"""Outcomes of growth by hand: what a head start saves, where curves cross, what stays equal; and their verdicts."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from pydantic import TypeAdapter

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import evidence_support as made
from bequest.errors import InputError
from lab.evidence.curve_tables import curves_part
from lab.evidence.design import design
from lab.evidence.experiment import outcome_part, section
from lab.evidence.figure import loss_figure, ticks
from lab.evidence.verdicts import UNMEASURED, Judged, judge
from lab.experiments import resolving
from lab.experiments.comparing import Arm, Comparison, outcome_table
from lab.experiments.curves import course, level, reached
from lab.experiments.outcomes import FAILED, HOLDS, UNDECIDED, Outcome, OutcomeSpec, compute, margin
from lab.experiments.reading import load_experiment
from lab.experiments.rows import Row
from lab.experiments.schema import Claim, Experiment

EXPERIMENT = """\
name: toy
question: Does a head start save anything?
notes: [One small model starts all seeds.]
tier: scratch
baseline: scratch
methods:
  scratch: {says: a new model, stages: [{pretrain: &train {name: trained, model: {family: llama, hidden_size: 64},
            corpus: one, tokens: 4096}}, {measure: &measured {name: measured, models: [trained], corpora: [one]}}]}
  fpi: {stages: [{grow: &grow {name: grown, from: "${model:base}", to: {hidden_size: 64}, method: fpi}},
        {pretrain: &on {<<: *train, model: null, tokenizer: null, from: grown}},
        {measure: &both {<<: *measured, models: ["${model:base}", grown, trained]}}]}
  aki: {stages: [{grow: {<<: *grow, method: aki}}, {pretrain: *on}, {measure: *both}]}
scales:
  cpu: {seeds: [1, 2, 3]}
recipe:
  corpora: {one: {files: "${corpus:one}"}}
  stages: "${method.stages}"
student: [grown, trained]
outcomes:
  final: {kind: loss, model: trained, corpus: one}
  saving: {kind: saving, model: trained, corpus: one, published: {fpi: 30.4 %}}
  with_source: {kind: saving, model: trained, corpus: one, counting: source}
  most_lost: {kind: saving, model: trained, corpus: one, counting: source, less: 0.5}
  start: {kind: start, stage: trained, corpus: one}
  gap: {kind: gap, model: grown, than: [base], corpus: one}
  crossing: {kind: crossing, model: trained, corpus: one, against: fpi}
  locked: {kind: units, stage: trained}
  kept: {kind: units, stage: trained, since: grown, units: neuron}
claims:
  - {says: It saves, outcome: saving, of: fpi, expect: above 0}
"""
# (tokens, FLOPs, loss) of the trained stage; the growth of ``aki`` costs 50 FLOPs, as if its maps were learnt.
CURVES = {
    "scratch": [(0, 0, 7.0), (10, 100, 6.0), (20, 200, 5.0), (40, 400, 4.0)],
    "fpi": [(0, 0, 5.5), (10, 100, 5.0), (20, 200, 4.0), (40, 400, 3.8)],
    "aki": [(0, 0, 6.5), (10, 100, 4.9), (20, 200, 3.9), (40, 400, 3.5)],
}


@pytest.fixture(autouse=True)
def names_stand_for_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolving, "identities", lambda: resolving.UNCHECKED)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    place = tmp_path_factory.mktemp("toy")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(resolving, "identities", lambda: resolving.UNCHECKED)
        (place / "toy.yaml").write_text(EXPERIMENT)
        return load_experiment(place / "toy.yaml")


def measures(method: str, points: Sequence[tuple[float, float, float]] | None = None, *, source: int = 80) -> Any:
    """The measures of a cell whose trained stage has a curve."""
    given = CURVES[method] if points is None else points
    stages = [("base", False, 0, source), ("grown", True, 0, 50 if method == "aki" else 0)]
    costs = [*([] if method == "scratch" else stages), ("trained", True, given[-1][0], given[-1][1])]
    copies = {"neuron": {"units": 8, "duplicated": 4, "locked": 4}, "head": {"units": 4, "duplicated": 2, "locked": 2}}
    losses = {"base": 5.5, "grown": given[0][2], "trained": given[-1][2]}
    found: dict[str, Any] = {
        "curves": {
            "trained": [
                {"tokens": tokens, "train_flops": spent, "teacher_flops": 0, "corpus": "one", "loss": loss}
                for tokens, spent, loss in given
            ]
        },
        "costs": [
            {"of": name, "own": own, "tokens": tokens, "train_flops": spent, "teacher_flops": 0}
            for name, own, tokens, spent in costs
        ],
        "perplexity": {name: {"one": {"loss": loss, "unigram": 8.0}} for name, loss in losses.items()},
        "order": [],
    }
    if method != "scratch":
        found["symmetry"] = {"grown": copies, "trained": copies}
    return found


def spec(**given: Any) -> Outcome:
    found: Outcome = TypeAdapter(OutcomeSpec).validate_python({"model": "trained", "corpus": "one", **given})
    return found


def row(toy: Experiment, method: str, seed: int, *, lift: float = 0.0, **more: Any) -> Row:
    """A cell whose curve lies ``lift`` higher from its second point on."""
    points = [(tokens, spent, loss + (lift if tokens else 0.0)) for tokens, spent, loss in CURVES[method]]
    recipe = made.hash_of(toy, "cpu", method, "-")
    columns = {"recipe": recipe, "seed": seed, "order": "-", "tuned": {}, "bases": {}, "batches": f"{seed}"}
    sample = replace(made.row_of(SAMPLE[0], "kd", seed), experiment="toy", tier="scratch", method=method)
    return replace(sample, **columns, measures=measures(method, points), **more)


SAMPLE: list[Experiment] = []


@pytest.fixture(autouse=True, scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(resolving, "identities", lambda: resolving.UNCHECKED)
        SAMPLE[:] = [made.experiment_of(tmp_path_factory.mktemp("sample"))]


def rows(toy: Experiment, methods: Sequence[str] = ("scratch", "fpi", "aki")) -> list[Row]:
    """Three seeds; a seed lifts every curve, and the methods' a little differently."""
    lifts = {"scratch": 0.01, "fpi": 0.012, "aki": 0.008}
    return [row(toy, method, seed, lift=lifts[method] * seed) for method in methods for seed in (1, 2, 3)]


def judged(compared: Comparison, **claim: Any) -> Judged:
    return judge(Claim(**{"says": "so", "outcome": "saving", "of": "fpi", "expect": "above 0", **claim}), compared, "-")


# -- curves ------------------------------------------------------------------------------------------------------------


def test_stages_are_laid_end_to_end_and_one_without_a_curve_moves_the_rest() -> None:
    assert [at for at, _ in course(measures("aki"), "one", "student")] == [50, 150, 250, 450]
    assert [at for at, _ in course(measures("aki"), "one", "source")] == [130, 230, 330, 530]
    assert [at for at, _ in course(measures("aki"), "one", "tokens")] == [0, 10, 20, 40]
    with pytest.raises(InputError, match="costs of its stages were not recorded"):
        course({"curves": measures("aki")["curves"]}, "one", "student")


def test_reading_curves() -> None:
    points = ((0.0, 6.0), (100.0, 4.0), (200.0, 5.0), (300.0, 3.0))
    assert reached(points, 5.0) == 50.0 and reached(points, 6.5) == 0.0 and reached(points, 2.9) is None
    assert reached(points, 3.5) == 275.0, "the first time that it is down there"
    assert level(points, 150.0) == 4.5 and level(points, -1.0) == 6.0 and level(points, 999.0) == 3.0


# -- outcomes ----------------------------------------------------------------------------------------------------------


def test_what_a_head_start_saves_by_hand() -> None:
    scratch = measures("scratch")
    saving = spec(kind="saving")
    assert compute(saving, measures("fpi"), partner=scratch) == pytest.approx(1 - 200 / 400)
    aki = 150 + 100 * 0.9  # from 4.9 down to 4.0, of which 3.9 is the next point
    assert compute(saving, measures("aki"), partner=scratch) == pytest.approx(1 - aki / 400)
    dear = spec(kind="saving", counting="source")
    assert compute(dear, measures("fpi"), partner=scratch) == pytest.approx(1 - 280 / 400)
    left = spec(kind="saving", counting="source", less=0.5)
    assert compute(left, measures("fpi"), partner=scratch) == pytest.approx(0.3 - 0.25)
    assert margin(saving, measures("fpi")) == pytest.approx(8.0 - 3.8)
    assert compute(saving, scratch, partner=scratch) == 0.0
    swapped = compute(saving, scratch, partner=measures("fpi"))
    assert swapped == 0.0 and saving.remark(scratch, measures("fpi")) == "never comes down to loss\\*"
    assert saving.remark(measures("fpi"), scratch) is None


def test_a_cheap_run_that_never_gets_there_saves_nothing_and_a_dear_one_less() -> None:
    saving, scratch = spec(kind="saving"), measures("scratch")
    cheap = measures("fpi", [(0, 0, 6.0), (40, 100, 4.2)])
    assert compute(saving, cheap, partner=scratch) == 0.0, "a quarter of the compute, and not the loss"
    dear = measures("fpi", [(0, 0, 6.0), (40, 600, 4.2)])
    assert compute(saving, dear, partner=scratch) == pytest.approx(1 - 600 / 400)
    with pytest.raises(InputError, match="nothing is saved"):
        compute(spec(kind="saving", less=0.5), cheap, partner=scratch)


def test_an_outcome_of_two_cells_has_no_value_of_one() -> None:
    for kind in ("saving", "crossing"):
        with pytest.raises(InputError, match="compares two cells"):
            compute(spec(kind=kind), measures("fpi"))


def test_where_one_curve_comes_below_another() -> None:
    crossing = spec(kind="crossing")
    gap_before, gap_after = 6.5 - 5.5, 4.9 - 5.0
    by_hand = 10 * gap_before / (gap_before - gap_after) / 40
    assert compute(crossing, measures("aki"), partner=measures("fpi")) == pytest.approx(by_hand)
    assert compute(crossing, measures("fpi"), partner=measures("aki")) == 1.0
    assert compute(crossing, measures("fpi"), partner=measures("scratch")) == 0.0
    assert crossing.remark(measures("fpi"), measures("scratch")) == "begins below"
    again = measures("aki", [(0, 0, 6.5), (10, 100, 4.9), (20, 200, 4.1), (40, 400, 3.5)])
    later = compute(crossing, again, partner=measures("fpi"))
    assert later == pytest.approx((20 + 20 * 0.1 / 0.4) / 40), "what counts is the last time"


def test_beginnings_and_copies() -> None:
    fpi = measures("fpi")
    assert compute(_start(), fpi) == 5.5
    late = measures("fpi", CURVES["fpi"][1:])
    with pytest.raises(InputError, match="before 'trained'"):
        compute(_start(), late)
    gap = spec(kind="gap", model="grown", than=["small", "base"])
    assert compute(gap, fpi) == 0.0 and compute(gap, measures("aki")) == pytest.approx(1.0)
    units = TypeAdapter(OutcomeSpec).validate_python({"kind": "units", "stage": "trained"})
    assert compute(units, fpi) == 6.0
    fpi["symmetry"] = {**fpi["symmetry"], "trained": {"neuron": {"units": 8, "duplicated": 4, "locked": 1}}}
    since = {"kind": "units", "stage": "trained", "since": "grown", "units": "neuron"}
    assert compute(TypeAdapter(OutcomeSpec).validate_python(since), fpi) == -3.0
    with pytest.raises(InputError, match="no units of kind 'head'"):
        compute(TypeAdapter(OutcomeSpec).validate_python({**since, "units": "head"}), fpi)
    with pytest.raises(InputError, match="no units of 'trained' were counted"):
        compute(units, measures("scratch"))


def _start() -> Outcome:
    found: Outcome = TypeAdapter(OutcomeSpec).validate_python({"kind": "start", "stage": "trained", "corpus": "one"})
    return found


@pytest.mark.parametrize(
    "old, new, said",
    [
        ("against: fpi}", "against: fpii}", "outcomes.crossing.against: no method 'fpii'; did you mean 'fpi'"),
        (
            "scales:\n  cpu: {",
            "tuning: {variable: lr, values: [1], choose: {outcome: saving, best: higher}}\nscales:\n  cpu: {pilot: 0, ",
            "tuning.choose.outcome: the pilot cells do not give saving .*compares two cells",
        ),
        ("{fpi: 30.4", "{fip: 30.4", "outcomes.saving.published: no method 'fip'; did you mean 'fpi'"),
        ("model: grown, than", "model: grow, than", "outcomes.gap: no measure stage gives it"),
        ("since: grown, units", "since: scratch, units", "outcomes.kept: no measure stage gives it"),
    ],
    ids=["against", "tuned by two cells", "published", "model", "stage"],
)
def test_what_cannot_work_is_refused_when_it_is_read(tmp_path: Path, old: str, new: str, said: str) -> None:
    text = EXPERIMENT.replace(old, new)
    assert text != EXPERIMENT
    if "tuning" in new:
        text = text.replace("corpus: one, tokens: 4096}", 'corpus: one, tokens: 4096, lr: "${tuned.lr}"}')
    (tmp_path / "toy.yaml").write_text(text)
    with pytest.raises(InputError) as refused:
        load_experiment(tmp_path / "toy.yaml")
    assert re.search(said, refused.value.line()), refused.value.line()


# -- tables and verdicts -----------------------------------------------------------------------------------------------


def test_a_saving_is_taken_pair_by_pair(toy: Experiment) -> None:
    compared = made.compared(toy, rows(toy))
    lines = {line.arm.method: line for line in outcome_table(compared, "saving").lines}
    by_hand = [
        compute(toy.outcomes["saving"], row(toy, "fpi", s, lift=0.012 * s).measures, partner=scratch.measures)
        for s in (1, 2, 3)
        for scratch in [row(toy, "scratch", s, lift=0.01 * s)]
    ]
    assert lines["fpi"].mean.mean == pytest.approx(sum(by_hand) / 3, abs=1e-5) and lines["fpi"].mean.n == 3
    assert lines["scratch"].mean is None and lines["fpi"].concludes
    text = "\n".join(outcome_part(compared, outcome_table(compared, "saving")))
    assert "against `scratch`" in text and "| `fpi` | 0.49" in text and "3 seeds | better | 30.4 % |" in text
    assert "| `aki` | 0.40" in text and "3 seeds | better | – |" in text and "published" in text
    assert "published" not in "\n".join(outcome_part(compared, outcome_table(compared, "with_source")))


def test_a_cell_without_its_partner_gives_no_saving(toy: Experiment) -> None:
    other = [replace(one, batches="x") if (one.method, one.seed) == ("scratch", 2) else one for one in rows(toy)]
    compared = made.compared(toy, other)
    [fpi] = [line for line in outcome_table(compared, "saving").lines if line.arm.method == "fpi"]
    assert fpi.mean is None and "seed 2 has no partner in `scratch`" in fpi.remarks[0]
    assert judged(compared).verdict == UNMEASURED
    assert judged(made.compared(toy, rows(toy))).verdict == HOLDS, "with it, it does"
    alone = made.compared(toy, rows(toy, ("fpi", "aki")))
    assert judged(alone).verdict == UNMEASURED and "`scratch`: 0 of 3 cells" in judged(alone).remark


def test_savings_of_two_methods_are_compared(toy: Experiment) -> None:
    compared = made.compared(toy, rows(toy))
    assert judged(compared, of="aki", against="fpi", expect="below 0").verdict == HOLDS
    assert judged(compared, of="aki", against="fpi").verdict == FAILED
    share = judged(compared, of="aki", against="fpi", ratio=True, expect="between 0.7 and 0.9")
    assert share.verdict == HOLDS and share.ours.startswith("0.8")


def test_a_number_without_chance_is_judged_by_itself(toy: Experiment) -> None:
    compared = made.compared(toy, rows(toy))
    assert judged(compared, outcome="gap", of="fpi", expect="between -0.001 and 0.001").verdict == HOLDS
    assert judged(compared, outcome="gap", of="aki", against="fpi", expect="above 0.1").verdict == HOLDS
    assert judged(compared, outcome="kept", of="fpi", expect="between -0.5 and 0.5").verdict == HOLDS
    equal = made.compared(toy, [row(toy, method, seed) for method in ("scratch", "fpi") for seed in (1, 2, 3)])
    assert judged(equal, outcome="final", of="fpi", expect="above 0").verdict == UNDECIDED, "a loss has chance in it"


def test_a_cell_that_never_gets_there_is_told_of(toy: Experiment) -> None:
    high = [row(toy, "fpi", seed, lift=1.0 + seed / 100) for seed in (1, 2, 3)]
    compared = made.compared(toy, [*rows(toy, ("scratch", "aki")), *high])
    found = judged(compared)
    assert found.verdict == FAILED or found.verdict == UNDECIDED
    assert "`fpi`, seed 1 never comes down to loss" in found.remark


def test_a_method_is_told_of_in_its_own_words(toy: Experiment) -> None:
    assert "* One small model starts all seeds." in section(toy, [])
    [scratch, fpi, _] = [line for line in design(toy) if line.startswith("* `")][:3]
    assert scratch == "* `scratch`: a new model" and fpi.startswith("* `fpi`: stages [{grow: ")


def test_the_drawing_is_the_same_bytes_for_the_same_rows(toy: Experiment) -> None:
    drawn = loss_figure(made.compared(toy, rows(toy)), "-")
    assert drawn is not None and drawn == loss_figure(made.compared(toy, rows(toy)[::-1]), "-")
    root = ElementTree.fromstring(drawn)
    lines = [line for line in root.iter() if line.tag.endswith("polyline")]
    assert len(lines) == 3 and "never" not in drawn
    scratch, fpi, aki = ([tuple(map(float, at.split(","))) for at in line.get("points").split()] for line in lines)
    assert scratch[-1][0] == fpi[-1][0] < aki[-1][0] and aki[0][0] > fpi[0][0], "its maps cost something first"
    assert scratch[-1][1] < fpi[-1][1] < aki[-1][1], "a lower loss stands lower, which is more pixels from the top"
    assert loss_figure(made.compared(toy, rows(toy, ("scratch",))), "-") is None
    higher = [row(toy, "fpi", 1, lift=0.5), *rows(toy, ("scratch", "aki"))]
    assert loss_figure(made.compared(toy, higher), "-") != drawn


def test_round_numbers() -> None:
    assert list(ticks(0.0, 10.0)) == [0, 2, 4, 6, 8, 10]
    assert list(ticks(3.31, 3.62)) == [3.4, 3.5, 3.6] and list(ticks(3.4, 3.6)) == [3.4, 3.45, 3.5, 3.55, 3.6]


def test_losses_against_flops(toy: Experiment) -> None:
    compared = made.compared(toy, rows(toy))
    text = "\n".join(curves_part(compared, "-"))
    assert text.count("**Loss against") == 2
    own, counted = text.split("**Loss against")[1:]
    line = next(line for line in own.splitlines() if line.startswith("| `fpi`"))
    assert "| 5.500 ± 0.000 |" in line, "it begins at one loss"
    assert "| 3.824 ± 0.030 |" in line, "and all the FLOPs are spent"
    late = next(line for line in counted.splitlines() if line.startswith("| `fpi`"))
    assert late.startswith("| `fpi` | – | – | – | – |"), "not before its source is paid for"
    assert curves_part(made.compared(toy, rows(toy, ("scratch",))), "-") == []
    assert Arm("fpi") in compared.cells
