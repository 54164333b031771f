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
    pilots = [
        made.pilot_of(toy, method, value, loss)
        for method in made.FINAL
        for value, loss in ((5e-5, 3.9), (1e-4, 3.8), (2e-4, 3.85))
    ]
    return [*made.rows_of(toy), *pilots]


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
    line = re.search(r"^\| `replay-5` \| (\S+) ± (\S+) \| 6 \| (\S+) ± (\S+) \| 6 \| better \|$", found, re.M)
    assert line and float(line[1]) > 3 and float(line[3]) < 0
    assert "| model | one | two | general |" in found and "| model | two | one | general |" in found


@pytest.mark.parametrize("margin, printed", [(1.2, False), (0.8, True)])
def test_an_uninformative_comparison_is_printed_as_such(
    tmp_path: Path, toy: Experiment, margin: float, printed: bool
) -> None:
    # The best cell's last stage lies about 3.73 nats below the unigram line.
    made.written(tmp_path, made.rows_of(toy, lift=3.73 - margin))
    table = part(render(tmp_path), "### toy, scale cpu").split("**final_loss**")[1].split("**forget**")[0]
    assert ("*Uninformative" in table) is printed
    assert bool(re.search(r"\| (better|worse) \|", table)) is not printed


def test_earlier_recipes_revisions_and_missing_cells_are_said(tmp_path: Path, toy: Experiment) -> None:
    rows = made.rows_of(toy, ["sequential", "kd"])
    made.written(tmp_path, rows)
    page = render(tmp_path)
    assert "earlier recipe" not in page and "revisions of the code" not in page
    assert "Not measured yet: `replay-5`." in page
    old = [replace(row, recipe="0ld0ld0ld0ld") if row.method == "kd" else row for row in rows]
    old[0] = replace(old[0], code="ffffffffffff", commit="7654321+dirty")
    made.written(tmp_path, old[:-1])
    page = render(tmp_path)
    assert "**Rows of an earlier recipe:** `kd`" in page and "Rows of 2 revisions" in page
    assert "ffffffffffff (7654321+dirty)" in page and "`kd` (1 of 6 cells)" in page


def test_unpaired_cells_are_named_on_the_page(tmp_path: Path, toy: Experiment) -> None:
    rows = [replace(row, batches="other") if row.method == "kd" else row for row in made.rows_of(toy)]
    made.written(tmp_path, rows)
    page = render(tmp_path)
    assert "`kd`: order A seed 1: other batches" in page
    assert "Distillation ends lower" in part(page, "## Undecided")


def test_check_notices_an_edit_and_a_missing_page(tmp_path: Path, rows: list[Row]) -> None:
    made.written(tmp_path, rows)
    assert check(tmp_path) == ["docs/evidence.md is missing; run `make evidence` and commit the page"]
    path = write(tmp_path)
    assert check(tmp_path) == []
    path.write_bytes(path.read_bytes().replace(b"did not hold", b"did hold", 1))
    found = check(tmp_path)
    assert "not what the rows say" in found[0] and any("did hold" in line for line in found[1:])
    write(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert check(tmp_path) != []


def test_the_page_is_plain_text_with_one_end(tmp_path: Path, rows: list[Row]) -> None:
    made.written(tmp_path, rows)
    data = write(tmp_path).read_bytes()
    assert data.endswith(b"\n") and not data.endswith(b"\n\n") and b"\r" not in data and b"\n\n\n" not in data
    assert not any(line != line.rstrip() for line in data.decode().split("\n"))
    assert str(tmp_path) not in data.decode()


def test_an_expectation_that_cannot_be_read_names_its_claim(tmp_path: Path) -> None:
    made.experiment_of(tmp_path, made.EXPERIMENT.replace("expect: above 0", "expect: more than 0"))
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
