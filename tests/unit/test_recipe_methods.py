"""Methods are judged before the run, from their source: what the run would refuse, the recipe's reader refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bequest import lineage
from bequest.errors import InputError
from bequest.recipe import load_recipe

RECIPE = """
name: methods
corpora:
  general: {files: a.txt}
  extra: {files: b.txt}
tasks:
  t: {train: train.jsonl, test: test.jsonl}
stages:
  - pretrain: {name: small, model: {family: llama, hidden_size: 64, num_hidden_layers: 2}, corpus: general, tokens: 40k}
  - pretrain: {name: v1, from: small, corpus: general, tokens: 40k, teachers: [{model: small}]}
  - tune: {name: tuned, from: v1, task: t, adapter: {type: lora}}
  - adapt: {name: v2, from: v1, domains: [extra, general], tokens: 20k, method: [replay, sequential]}
  - recycle: {name: recycled, tuned: tuned, onto: v2}
"""
OUTSIDE = """
import torch_is_not_wanted_here

from elsewhere import Borrowed


class One:
    def prepare(self, model):
        return model


class Two:
    def prepare(self, model):
        return model


class Three:
    pass


def function():
    pass
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    package = tmp_path / "modules" / "my_methods"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (package / "inner.py").write_text(OUTSIDE)
    (package / "torn.py").write_text("class One(:\n")
    (package / "open.py").write_text("from elsewhere import *\n")
    (tmp_path / "modules" / "my_single_method.py").write_text("class Alone: ...\n")
    monkeypatch.syspath_prepend(tmp_path / "modules")
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE)
    return file


@pytest.mark.parametrize(
    ("override", "key", "text"),
    [
        ("stages.v1.teachers=[{model: small}, {model: small}]", "stages.v1.teachers", "one teacher, not 2; keep one"),
        ("stages.recycled.method=[direct, initialise]", "stages.recycled.method", "one method, not direct and initial"),
        ("stages.v2.method={name: replay, share: 1}", "stages.v2.method.share", "1 is not in [0, 1); use 0.05"),
        ("stages.v2.method={name: replay, share: -0.1}", "stages.v2.method.share", "-0.1 is not in [0, 1)"),
        ("stages.v2.method={name: replay, share: much}", "stages.v2.method.share", "'much' is not in [0, 1)"),
        ("stages.v2.method={name: replay, share: true}", "stages.v2.method.share", "True is not in [0, 1)"),
        ("stages.v2.method={name: sequential, min_lr_ratio: 3}", "stages.v2.method.min_lr_ratio", "3 is not in [0, 1]"),
        ("stages.v2.domains=[general, extra]", "stages.v2.method", "nothing came before 'general' that replay"),
        ("stages.v2.method=nowhere.at.all:One", "stages.v2.method", "no module 'nowhere.at.all'"),
        ("stages.v2.method=my_methods.nothing:One", "stages.v2.method", "no module 'my_methods.nothing'"),
        ("stages.v2.method=my_methods.inner:Thre", "stages.v2.method", "no class 'Thre'; did you mean 'Three'?"),
        ("stages.v2.method=my_methods.inner:function", "stages.v2.method", "is a function; name a class"),
        ("stages.v2.method=my_methods.torn:One", "stages.v2.method", "cannot be read (line 1"),
        ("stages.recycled.method=nowhere:One", "stages.recycled.method", "no module 'nowhere'"),
        (
            "stages.v2.method=[my_methods.inner:One, sequential, my_methods.inner:Two]",
            "stages.v2.method",
            "my_methods.inner:One and my_methods.inner:Two both change the model (prepare); use one of them",
        ),
    ],
)
def test_what_the_run_would_refuse_is_refused(recipe: Path, override: str, key: str, text: str) -> None:
    load_recipe(recipe)  # the control: without the change it is fine
    with pytest.raises(InputError) as caught:
        load_recipe(recipe, [override])
    assert (caught.value.where, caught.value.key) == (recipe, key)
    assert text in caught.value.line() and caught.value.remedy


@pytest.mark.parametrize(
    "method",
    [
        "my_methods.inner:Three",
        "my_methods.inner:Borrowed",
        "my_methods.open:Anything",
        "my_single_method:Alone",
        "[my_methods.inner:One, my_methods.inner:Three]",
        "{name: replay, share: 0}",
        "{name: replay, share: 0.99}",
    ],
)
def test_what_may_work_is_left_to_the_run(recipe: Path, method: str) -> None:
    """The modules are not even imported: importing this package would fail."""
    assert load_recipe(recipe, [f"stages.v2.method={method}"]).stage("v2") is not None
    assert "my_methods" not in sys.modules


def test_replay_needs_no_past_at_a_share_of_zero(recipe: Path) -> None:
    zero = "stages.v2.method={name: replay, share: 0}"
    assert load_recipe(recipe, [zero, "stages.v2.domains=[general]"]).stage("v2") is not None


def outside_base(place: Path, corpus: str, parents: list[lineage.Parent]) -> None:
    place.mkdir()
    (place / "config.json").write_text("{}")
    record = lineage.Lineage(
        id=place.name,
        name=place.name,
        digests=lineage.Digests(weights="w", config="c"),
        parents=parents,
        operation=lineage.Operation(stage="pretrain"),
        data=[lineage.DataUse(name=corpus, fingerprint="f", tokens=5), lineage.DataUse(name="extra", fingerprint="t")],
    )
    lineage.write_lineage(place, record)


def test_an_outside_base_brings_the_corpora_that_its_lineage_names(recipe: Path) -> None:
    from bequest.recipe import earlier_corpora

    root = recipe.parent
    alone = (
        RECIPE[: RECIPE.index("stages:")]
        + "stages:\n  - adapt: {name: v2, from: base, domains: [extra], tokens: 20k, method: replay}\n"
    )
    recipe.write_text(alone)
    outside_base(root / "base", "unknown", [])
    with pytest.raises(InputError, match="nothing came before 'extra'") as caught:
        load_recipe(recipe)
    assert "lineage.json names a corpus of this recipe" in str(caught.value.remedy)
    # Its own base was trained on a corpus of that name; a task of a corpus' name is none.
    outside_base(root / "first", "general", [])
    parent = lineage.Parent(id="first", role="base", name="first", path="../first")
    record = lineage.read_lineage(root / "base").model_copy(update={"parents": [parent]})
    lineage.write_lineage(root / "base", record)
    loaded = load_recipe(recipe)
    section = loaded.stage("v2")
    assert section is not None and earlier_corpora(loaded, section) == ["general"]


def test_methods_are_judged_without_torch(recipe: Path) -> None:
    program = (
        "import json, sys\n"
        "from bequest.recipe import load_recipe\n"
        "from bequest.errors import InputError\n"
        "try: load_recipe(sys.argv[1], ['stages.v2.method={name: replay, share: 2}'])\n"
        "except InputError as error: print(json.dumps([error.key, 'torch' in sys.modules]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(recipe)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["stages.v2.method.share", False]
