"""The page: the same bytes from the same rows in any order, failed claims first, and no edit goes unseen."""

from __future__ import annotations

import random
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import evidence_support as made
from bequest.errors import InputError
from lab.evidence import check, render, write
from lab.experiments import resolving
from lab.experiments.rows import Row
from lab.experiments.schema import Experiment


@pytest.fixture(autouse=True)
def names_stand_for_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolving, "identities", lambda: resolving.UNCHECKED)


@pytest.fixture
def toy(tmp_path: Path) -> Experiment:
    return made.experiment_of(tmp_path)


@pytest.fixture
def rows(toy: Experiment) -> list[Row]:
    return [*made.rows_of(toy), *made.pilots_of(toy)]


def part(page: str, heading: str) -> str:
    """The text below a heading, to the next one of the same depth or less."""
    depth = heading.split(" ")[0]
    found = re.search(rf"^{re.escape(heading)}\n(.*?)(?=^#{{1,{len(depth)}}} |\Z)", page, re.S | re.M)
    assert found, f"no {heading}"
    return found[1]


def test_the_order_of_the_rows_changes_no_byte(tmp_path: Path, rows: list[Row]) -> None:
    made.written(tmp_path, rows)
    page = render(tmp_path)
    for seed in range(3):
        made.written(tmp_path, random.Random(seed).sample(rows, len(rows)))
        assert render(tmp_path) == page


def test_one_changed_number_changes_the_page(tmp_path: Path, rows: list[Row]) -> None:
    path = made.written(tmp_path, rows)
    page, text = render(tmp_path), path.read_text(encoding="utf-8")
    loss = rows[0].measures["perplexity"]["s2"]["general"]["loss"]
    doctored = text.replace(f"{round(loss, 6)}", f"{round(loss - 0.1, 6)}", 1)
    assert doctored != text
    path.write_text(doctored, encoding="utf-8")
    assert render(tmp_path) != page


def test_claims_that_failed_come_first_and_each_says_where_it_is_from(tmp_path: Path, rows: list[Row]) -> None:
    made.written(tmp_path, rows)
    page = render(tmp_path)
    headings = re.findall(r"^## (.*)$", page, re.M)
    assert headings == [
        "Claims that did not hold",
        "Undecided",
        "Uninformative",
        "Claims that hold",
        "Not measured yet",
        "toy",
    ]
    failed = part(page, "## Claims that did not hold")
    assert "Distillation ends lower than plain training" in failed and "Replay" not in failed
    holds = part(page, "## Claims that hold")
    assert "Sequential training loses general ability" in holds and "paper: +0.30" in holds
    assert "(n = 3 seeds, mean of 2 orders)" in failed and "(n = 3 seeds, mean of 2 orders)" in holds
    for word in ("2026-05-01", "0123456789ab", "5c66b0c", "scale cpu", "seeds 1, 2, 3", "Made-up Processor x 2"):
        assert word in failed and word in holds
    assert "None." in part(page, "## Undecided")


def test_an_experiment_without_rows_is_not_measured_yet(tmp_path: Path, toy: Experiment) -> None:
    page = render(tmp_path)
    assert page.count("**Not measured yet.**") == 1 and toy.question in page
    assert all(claim.says.rstrip(".") in part(page, "## Not measured yet") for claim in toy.claims)


def test_tables_of_a_scale(tmp_path: Path, rows: list[Row]) -> None:
    made.written(tmp_path, rows)
    found = part(render(tmp_path), "### toy, scale cpu")
    assert "*unigram entropy* | 7.000 (1097) | 7.200 (1339) | 6.800 (898)" in found
    assert "5e-05: 3.900; 0.0001: 3.800; 0.0002: 3.850" not in found  # the pilot's own numbers, not those asked for
    assert re.search(r"\| `kd` \| lr \| 5e-05: [\d.]+; 0.0001: [\d.]+; 0.0002: [\d.]+ \| 0.0001 \|", found)
    over = r"3 seeds, mean of 2 orders"
    line = re.search(
        rf"^\| `replay-5` \| (\S+) ± (\S+) \| {over} \| (\S+) ± (\S+) \| {over} \| better \|$", found, re.M
    )
    assert line and float(line[1]) > 3 and float(line[3]) < 0
    assert "| model | one | two | general |" in found and "| model | two | one | general |" in found


@pytest.mark.parametrize("margin, printed", [(1.2, False), (0.8, True)])
def test_an_uninformative_comparison_is_printed_as_such(
    tmp_path: Path, toy: Experiment, margin: float, printed: bool
) -> None:
    # The best cell's last stage lies about 3.73 nats below the unigram line.
    made.written(tmp_path, [*made.rows_of(toy, lift=3.73 - margin), *made.pilots_of(toy)])
    table = part(render(tmp_path), "### toy, scale cpu").split("**final_loss**")[1].split("**forget**")[0]
    assert ("*Uninformative" in table) is printed
    assert bool(re.search(r"\| (better|worse) \|", table)) is not printed


def test_earlier_recipes_revisions_and_missing_cells_are_said(tmp_path: Path, toy: Experiment) -> None:
    rows = made.rows_of(toy, ["sequential", "kd"])
    made.written(tmp_path, [*rows, *made.pilots_of(toy)])
    page = render(tmp_path)
    assert "rows of an earlier recipe" not in page and "revisions of the code" not in page
    assert "Not measured yet: `replay-5`." in page
    old = [replace(row, recipe="0ld0ld0ld0ld") if row.method == "kd" else row for row in rows]
    old[0] = replace(old[0], code="ffffffffffff", commit="7654321+dirty")
    made.written(tmp_path, [*old[:5], *old[6:]])
    page = render(tmp_path)
    assert "**Rows of an earlier recipe:** `kd`" in page and "Rows of 2 revisions of the code are compared" in page
    assert "ffffffffffff (7654321+dirty)" in page and "`sequential` (5 of 6 cells)" in page
    unmeasured = part(page, "## Not measured yet")
    assert "rows of an earlier recipe: `kd`" in unmeasured and "not measured yet (5 of 6 cells)" in unmeasured
    assert not re.search(r"\| (better|worse) \|", page) and "**Not tuned alike:**" in page


def test_a_half_measured_claim_is_shown_beside_a_measured_one(tmp_path: Path, rows: list[Row], toy: Experiment) -> None:
    made.written(tmp_path, [*rows, made.row_of(toy, "sequential", 1, scale="gpu")])
    page = render(tmp_path)
    claim = "Sequential training loses general ability"
    assert claim in part(page, "## Claims that hold")
    assert "scale gpu\n  * general_drop of `sequential`: not measured yet (1 of 4 cells)" in page
    assert "Replay" in part(page, "## Not measured yet")


def test_unpaired_cells_are_named_on_the_page(tmp_path: Path, toy: Experiment, rows: list[Row]) -> None:
    made.written(tmp_path, [replace(row, batches="other") if row.method == "kd" else row for row in rows])
    page = render(tmp_path)
    assert "`kd`: order A seed 1: other batches" in page
    assert "Distillation ends lower" in part(page, "## Undecided")
    made.written(tmp_path, [replace(row, bases={"base": "b"}) if row.method == "kd" else row for row in rows])
    page = render(tmp_path)
    assert "`kd`: order A seed 1: other base weights" in page
    assert "Several base weights of one name: base aaaaaaaaaaaa, b;" in page


def test_cells_that_came_to_nothing_are_shown_first(tmp_path: Path, rows: list[Row]) -> None:
    made.written(tmp_path, rows)
    assert "came to nothing (" not in render(tmp_path)
    made.written(tmp_path, [made.failed_of(rows[0]), *rows[1:]])
    page = render(tmp_path)
    said = "`sequential`, order A seed 1 came to nothing (s2: the loss is not finite)"
    assert re.findall(r"^## (.*)$", page, re.M)[0] == "Cells that came to nothing"
    assert said in part(page, "## Cells that came to nothing") and f"**{said}.**" in page
    assert part(page, "## Claims that hold").strip() == "None."
    every = [made.failed_of(row) if row.method == "kd" and row.role == "final" else row for row in rows]
    made.written(tmp_path, every)
    assert "Distillation ends lower" in part(render(tmp_path), "## Undecided")


def test_rows_that_do_not_count_are_counted(tmp_path: Path, rows: list[Row], toy: Experiment) -> None:
    more = [
        replace(rows[0], scale="tpu"),
        replace(rows[0], scale="smoke"),
        replace(rows[0], method="gone"),
        made.row_of(toy, "kd", 0),
        replace(rows[0], tuned={"lr": 2e-4}),
    ]
    made.written(tmp_path, [*rows, *more])
    page = render(tmp_path)
    for reason, count in (
        ("the experiment has no such scale to report", 2),
        ("the experiment no longer has their method, size or order", 1),
        ("the scale does not list their seed", 1),
        ("their tuned value is not the one that the pilots choose", 1),
    ):
        assert f"Rows left out because {reason}: {count}." in page
    made.written(tmp_path, more[:1])
    assert "no such scale to report: 1." in render(tmp_path)
    made.written(tmp_path, more[2:4])
    assert "Rows left out because the scale does not list their seed: 1." in render(tmp_path)


def test_tuning_of_its_own_and_values_at_the_edge_are_said(tmp_path: Path) -> None:
    own = "tuning: {values: [1.0e-4, 1.0e-3, 1.0e-2]}}"
    toy = made.experiment_of(tmp_path, made.EXPERIMENT.replace("share: 0.5}]}", f"share: 0.5}}], {own}"))
    kd = [made.pilot_of(toy, "kd", value, loss) for value, loss in ((1e-4, 3.8), (1e-3, 3.9))]
    made.written(tmp_path, [*made.rows_of(toy), *made.pilots_of(toy, ["sequential"]), *kd])
    page = render(tmp_path)
    assert "share: 0.5}]; its own tuning: lr among 0.0001, 0.001, 0.01, by the lowest final_loss" in page
    assert "0.01: no row | 0.0001 (at the edge of its grid: a better one may lie beyond) |" in page
    assert re.search(r"^\| `sequential` \| lr \| .* \| 0.0001 \|$", page, re.M)


def test_a_stream_lists_what_each_method_spent(tmp_path: Path, rows: list[Row]) -> None:
    made.written(tmp_path, rows)
    page = render(tmp_path)
    assert "No loss is read at equal FLOPs" in page and "**At equal budgets**" not in page


def test_check_notices_an_edit_and_a_missing_page(tmp_path: Path, rows: list[Row]) -> None:
    made.written(tmp_path, rows)
    assert check(tmp_path) == ["docs/evidence.md is missing; run `make evidence` and commit the page"]
    [path] = write(tmp_path)
    assert check(tmp_path) == []
    path.write_bytes(path.read_bytes().replace(b"did not hold", b"did hold", 1))
    found = check(tmp_path)
    assert "not what the rows say" in found[0] and any("did hold" in line for line in found[1:])
    write(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert check(tmp_path) != []


def test_a_drawing_that_no_rows_make_is_noticed_and_goes(tmp_path: Path, rows: list[Row]) -> None:
    made.written(tmp_path, rows)
    write(tmp_path)
    left = tmp_path / "docs" / "evidence-gone-cpu.svg"
    left.write_text("<svg/>")
    assert check(tmp_path) == ["docs/evidence-gone-cpu.svg is of no rows; run `make evidence` and commit the page"]
    write(tmp_path)
    assert not left.exists() and check(tmp_path) == []


def test_the_page_is_plain_text_with_one_end(tmp_path: Path, rows: list[Row]) -> None:
    made.written(tmp_path, rows)
    data = write(tmp_path)[0].read_bytes()
    assert data.endswith(b"\n") and not data.endswith(b"\n\n") and b"\r" not in data and b"\n\n\n" not in data
    assert not any(line != line.rstrip() for line in data.decode().split("\n"))
    assert str(tmp_path) not in data.decode()


def test_an_expectation_that_cannot_be_read_names_its_claim(tmp_path: Path) -> None:
    file = tmp_path / "lab" / "toy.yaml"
    file.parent.mkdir()
    file.write_text(made.EXPERIMENT.replace("expect: above 0", "expect: more than 0"), encoding="utf-8")
    with pytest.raises(InputError, match="is no expectation") as refused:
        render(tmp_path)
    assert "toy.yaml: claims.0.expect" in refused.value.line()


def test_rows_of_no_experiment_and_torn_rows_are_refused(tmp_path: Path, rows: list[Row]) -> None:
    path = made.written(tmp_path, [replace(row, experiment="gone") for row in rows])
    with pytest.raises(InputError, match="'gone'"):
        render(tmp_path)
    made.written(tmp_path, rows)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="torn"):
        render(tmp_path)
