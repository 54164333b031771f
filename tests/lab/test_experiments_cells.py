"""The grid, the keys that rows are found by, what changes a recipe's hash, and what changes the code's digest."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from experiments_support import made_row, names, written

import bequest
from bequest.errors import InputError
from lab.experiments import cells as grid
from lab.experiments import resolving, revisions
from lab.experiments.cells import Cell, cells_of
from lab.experiments.made_up import IDENTITIES
from lab.experiments.reading import load_experiment
from lab.experiments.resolving import Sources, recipe_hash

ORDERS = ("  A: [biomedical, reviews]\n", "  A: [biomedical, reviews]\n  B: [reviews, biomedical]\n")
SIZES = ("orders:\n", "sizes: {small: {b: 128}, large: {b: 256}}\norders:\n")
SIZED = ("batch_tokens: 128", 'batch_tokens: "${size.b}"')


def hash_of(directory: Path, *changes: tuple[str, str], sources: Sources = IDENTITIES, role: str = "final") -> str:
    experiment = load_experiment(written(directory, *changes))
    return recipe_hash(experiment, "smoke", "sequential", "-", "A", sources, role)


CHANGES = {
    "a method's option": ("{calls: [sequential]}", "{calls: [{name: sequential, min_lr_ratio: 0.2}]}"),
    "a scale's variable": ("tokens: 1024", "tokens: 2048"),
    "a key of the recipe": ("batch_tokens: 128", "batch_tokens: 256"),
    "the student": ("student: [s1, s2]", "student: [s2]"),
    "a corpus": ("corpus:reviews", "corpus:news"),
}
KEEPS = {
    "a comment": ("# Two domains", "# Three domains"),
    "a seed": ("seeds: [1, 2]", "seeds: [3, 4, 5]"),
    "the pilot": ("pilot: 0", "pilot: 9"),
    "what pilots take": ("{probes: []}", "{probes: [], tokens: 512}"),
    "an order": ("A: [biomedical, reviews]", "A: [reviews, biomedical]"),
    "a tuned value": ("1.0e-2]", "2.0e-2]"),
    "a claim": ("says: replay forgets less", "says: replay forgets more"),
    "an outcome": ("metric: forget,", "metric: final,"),
    "what is declared": (", changes_batches: true", ""),
    "another method": ("share: 0.2", "share: 0.4"),
    "a guide": ("smoke: {", "smoke: {cell_minutes: 3, "),
}


@pytest.mark.parametrize("what", CHANGES)
def test_the_hash_changes_with(what: str, tmp_path: Path) -> None:
    assert hash_of(tmp_path, CHANGES[what]) != hash_of(tmp_path)


@pytest.mark.parametrize("what", KEEPS)
def test_the_hash_does_not_change_with(what: str, tmp_path: Path) -> None:
    assert hash_of(tmp_path, KEEPS[what]) == hash_of(tmp_path)


@pytest.mark.parametrize("kind", ["corpus", "task", "model"])
def test_the_hash_changes_with_what_data_and_models_are(kind: str, tmp_path: Path) -> None:
    other = dataclasses.replace(IDENTITIES, **{kind: lambda name: f"{name}@another"})
    assert hash_of(tmp_path, sources=other) != hash_of(tmp_path)


def test_the_hash_of_pilots_changes_with_what_pilots_take(tmp_path: Path) -> None:
    assert hash_of(tmp_path, KEEPS["what pilots take"], role="pilot") != hash_of(tmp_path, role="pilot")
    assert hash_of(tmp_path, role="pilot") != hash_of(tmp_path)


def test_the_grid(tmp_path: Path) -> None:
    cells = cells_of(load_experiment(written(tmp_path, ORDERS, SIZES, SIZED)), "smoke")
    pilots, finals = cells[:12], cells[12:]
    assert {cell.role for cell in pilots} == {"pilot"} and {cell.role for cell in finals} == {"final"}
    assert {(cell.seed, cell.order) for cell in pilots} == {(0, "A")}, "pilots: first order, pilot seed"
    assert {(cell.method, cell.size): 0 for cell in pilots}.keys() == {(c.method, c.size) for c in finals}
    assert [cell.tuned for cell in pilots[:3]] == [{"lr": 0.001}, {"lr": 0.003}, {"lr": 0.01}]
    assert len(finals) == 2 * 2 * 2 * 2 and all(cell.tuned is None for cell in finals)
    assert [cell.seed for cell in finals] == [1] * 8 + [2] * 8, "whole seeds first"
    assert len({cell.directory_name for cell in cells}) == len(cells)
    assert len({cell.key for cell in cells}) == len(cells)


def test_fewer_seeds_may_be_asked_for(tmp_path: Path) -> None:
    experiment = load_experiment(written(tmp_path))
    assert {cell.seed for cell in cells_of(experiment, "smoke", 1) if cell.role == "final"} == {1}
    with pytest.raises(InputError, match="3 seeds were asked for, and there are 2"):
        cells_of(experiment, "smoke", 3)
    with pytest.raises(InputError, match="did you mean 'smoke'"):
        cells_of(experiment, "smok")
    single = load_experiment(written(tmp_path, ("seeds: [1, 2]", "seeds: [1]")))
    with pytest.raises(InputError, match=r"ask for 1, or list more"):
        cells_of(single, "smoke", 2)


def test_a_real_scale_asks_the_lab_what_things_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolving, "identities", names())
    cpu = "  cpu: {seeds: [1], pilot: 0, tokens: 1024, probes: [polarity]}\nrecipe:\n"
    experiment = load_experiment(written(tmp_path, ("recipe:\n", cpu)))
    before = {cell.recipe for cell in cells_of(experiment, "cpu")}
    other = dataclasses.replace(IDENTITIES, model=lambda name: f"{name}@another")
    monkeypatch.setattr(resolving, "identities", names(other))
    assert before.isdisjoint(cell.recipe for cell in cells_of(experiment, "cpu"))


def cell_of(directory: Path, *changes: tuple[str, str]) -> Cell:
    last = cells_of(load_experiment(written(directory, *changes)), "smoke")[-1]
    return last.with_tuned({"lr": 0.001})


def test_a_row_is_found_by_its_cell(tmp_path: Path) -> None:
    cell = cell_of(tmp_path)
    row = made_row(cell)
    assert row.is_of(cell)
    assert not row.is_of(cell.with_tuned({"lr": 0.003}))
    assert not row.is_of(dataclasses.replace(cell, seed=1))
    later = dataclasses.replace(cell, code="another")
    assert not row.is_of(later)
    assert row.is_of(later, any_code=True)


def test_a_row_of_an_order_that_was_edited_is_not_the_cells(tmp_path: Path) -> None:
    row = made_row(cell_of(tmp_path))
    edited = cell_of(tmp_path, ("A: [biomedical, reviews]", "A: [reviews, biomedical]"))
    assert row.key == edited.key, "the hash groups orders"
    assert not row.is_of(edited)


def test_code_that_only_shows_is_no_part_of_the_digest(tmp_path: Path) -> None:
    roots = {"bequest": tmp_path / "bequest", "lab": tmp_path / "lab"}
    shutil.copytree(Path(bequest.__file__).parent, roots["bequest"])
    shutil.copytree(Path(grid.__file__).parents[1], roots["lab"], ignore=shutil.ignore_patterns("cache", "results"))

    def digest() -> str:
        files = {name: list(revisions.sources(root, revisions.SHOWING[name])) for name, root in roots.items()}
        return revisions.digest_of(files, roots)

    assert digest() == revisions.code_digest()
    shown = ["bequest/cli.py", "bequest/reports/card.py", "lab/experiments/bench.py", "lab/evidence/__init__.py"]
    for place in [*shown, "lab/notes.yaml", "lab/results/x.py", "lab/kit/packages.py"]:
        (tmp_path / place).parent.mkdir(exist_ok=True)
        with (tmp_path / place).open("a") as file:
            file.write("# a remark\n")
        assert digest() == revisions.code_digest(), place
    seen = {digest()}
    for place in ("bequest/training/trainer.py", "lab/experiments/one_cell.py", "bequest/new.py"):
        with (tmp_path / place).open("a") as file:
            file.write("# a remark\n")
        assert digest() not in seen, place
        seen.add(digest())


def test_every_module_that_is_left_out_is_there() -> None:
    for name, root in (("bequest", Path(bequest.__file__).parent), ("lab", Path(grid.__file__).parents[1])):
        modules = [place for place in revisions.SHOWING[name] if place.endswith(".py")]
        assert [place for place in modules if not (root / place).is_file()] == []
