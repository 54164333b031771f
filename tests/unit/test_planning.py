"""The plan: sizes, budgets, FLOPs and bytes counted again by hand, verdicts, refusals, the disk check."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from bequest import storage
from bequest.anatomy import Anatomy, anatomy_of
from bequest.errors import InputError, RunError
from bequest.planning import Plan, check_disk, estimates, make_plan, train_settings
from bequest.recipe import Pretrain, load_recipe

RECIPE = """
name: plan
corpora:
  general: {files: general.txt}
  extra: {files: extra.txt}
tasks:
  t: {train: train.jsonl, test: test.jsonl}
stages:
  - pretrain: {name: small, model: {family: llama, hidden_size: 64, num_hidden_layers: 2, vocab_size: 500},
               corpus: general, tokens: 40k}
  - grow: {name: big, from: small, to: {hidden_size: 128}, method: fpi}
  - pretrain: {name: v1, from: big, corpus: general, tokens: 40k, teachers: [{model: small, until: 0.25}], keep: 1}
  - tune: {name: tuned, from: v1, task: t, adapter: {type: lora, r: 4}, epochs: 2, batch: 2, max_length: 32}
  - adapt: {name: v2, from: v1, domains: [extra, general], tokens: 20k}
  - recycle: {name: recycled, tuned: tuned, onto: v2}
  - measure: {models: [v1, recycled], corpora: all, tasks: all}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "general.txt").write_text("words " * 1000)
    (tmp_path / "extra.txt").write_text("other " * 500)
    rows = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(6)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:5]))
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[5:]))
    file = tmp_path / "plan.yaml"
    file.write_text(RECIPE)
    return file


def plan_of(file: Path, *overrides: str) -> Plan:
    return make_plan(load_recipe(file, overrides))


def llama(width: int, ffn: int) -> int:
    """Parameters of a two-layer llama with tied or untied head, counted by hand."""
    layer = 4 * width * width + 3 * width * ffn + 2 * width
    return 500 * width * 2 + 2 * layer + width


def test_parameters_tokens_and_updates(recipe: Path) -> None:
    plan = plan_of(recipe)
    small, big, v2 = plan.stage("small"), plan.stage("big"), plan.stage("v2")
    assert small.config is not None and big.config is not None
    assert small.params == llama(64, small.config["intermediate_size"])
    assert big.params == llama(128, big.config["intermediate_size"]) == plan.stage("v1").params
    assert big.config["intermediate_size"] == 2 * small.config["intermediate_size"]
    assert (small.updates, small.tokens) == (math.ceil(40_000 / 4096), math.ceil(40_000 / 4096) * 4096)
    assert (v2.updates, v2.tokens) == (2 * math.ceil(20_000 / 4096), 2 * math.ceil(20_000 / 4096) * 4096)
    assert small.objective == "causal" and big.inferred["num_attention_heads"].startswith("8 (")


def test_flops_are_those_of_the_anatomy(recipe: Path) -> None:
    plan = plan_of(recipe)
    assert plan.stage("v1").train_flops == 40_000 * anatomy_of(plan.stage("v1").config or {}).flops(128).train
    assert plan.stage("v1").teacher_flops == 10_000 * anatomy_of(plan.stage("small").config or {}).flops(128).forward
    assert plan.stage("v2").train_flops == 2 * 20_000 * anatomy_of(plan.stage("v2").config or {}).flops(128).train


@pytest.mark.parametrize(
    ("teacher", "share"),
    [("until: 8k", 0.2), ("until: 100%", 1.0), ("schedule: none", 0.0), ("schedule: constant", 1.0)],
)
def test_a_teacher_costs_what_it_runs(recipe: Path, teacher: str, share: float) -> None:
    plan = plan_of(recipe, f"stages.v1.teachers=[{{model: small, {teacher}}}]")
    one = anatomy_of(plan.stage("small").config or {}).flops(128).forward
    assert plan.stage("v1").teacher_flops == pytest.approx(share * 40_000 * one)


def test_tuning_is_counted_from_the_task(recipe: Path) -> None:
    tuned = plan_of(recipe).stage("tuned")
    assert (tuned.updates, tuned.tokens) == (5, 10 * 32)
    assert tuned.trainable == 2 * 4 * (2 * 128 + 2 * 128)  # layers x rank x (query and value, in + out)
    assert tuned.params is None and tuned.disk_bytes == 4 * tuned.trainable
    full = plan_of(recipe, "stages.tuned.adapter=null").stage("tuned")
    assert full.params == full.trainable == plan_of(recipe).stage("v1").params


def test_memory_is_the_documented_formula(recipe: Path) -> None:
    plan = plan_of(recipe, "stages.v1.micro_batch_tokens=1024")
    anatomy = anatomy_of(plan.stage("v1").config or {})
    params, ffn = anatomy.parameters(), anatomy.sizes["ffn"]
    activations = 4 * 1024 * (2 * (8 * 128 + 2 * 128 + 2 * 128 + 3 * ffn) + 3 * 500)
    teacher = 4 * anatomy_of(plan.stage("small").config or {}).parameters()
    assert plan.stage("v1").memory_bytes == 16 * params + activations + teacher
    small, big = (plan.stage(name).params or 0 for name in ("small", "big"))
    assert plan.stage("big").memory_bytes == 4 * (small + big)


def test_more_of_anything_needs_more_memory(recipe: Path) -> None:
    base = anatomy_of(plan_of(recipe).stage("v1").config or {})

    def needed(anatomy: Anatomy = base, **changes: Any) -> int:
        values: dict[str, Any] = {"trainable": 10, "micro_tokens": 512, "head_share": 0.15}
        return estimates.training_bytes(anatomy, **{**values, **changes})

    assert needed(trainable=20) > needed() < needed(micro_tokens=1024)
    assert needed(head_share=1.0) > needed() < needed(teachers=(5,))


def test_disk_is_generations_and_checkpoints(recipe: Path) -> None:
    plan = plan_of(recipe, "stages.v2.dtype=bfloat16")
    v1, v2 = plan.stage("v1"), plan.stage("v2")
    assert v1.params is not None and (v1.disk_bytes, v2.disk_bytes) == (4 * v1.params, 2 * v1.params)
    assert v1.checkpoint_bytes == (1 + 1) * 12 * v1.params and v2.checkpoint_bytes == ((2 + 1) * 12 + 4) * v1.params
    alone = plan_of(recipe, "stages.v2.domains=[extra]").stage("v2")  # no finished domain is kept beside it
    assert alone.checkpoint_bytes == (2 + 1) * 12 * v1.params
    assert plan.stage("measure").disk_bytes == 0
    assert plan.packed_bytes == round(1.5 * (6000 + 3000))


def test_verdicts(recipe: Path) -> None:
    assert plan_of(recipe).stage("big").exact is True
    deep = plan_of(recipe, "stages.big.to={num_hidden_layers: 4}", "stages.big.method=stack").stage("big")
    assert deep.exact is False and (deep.verdict or "").startswith("approximate: ")


def test_the_disk_check_counts_what_is_needed_at_once(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, out = plan_of(recipe), tmp_path / "run"
    standing, peak = 0, 0
    for stage in plan.stages:
        peak = max(peak, standing + stage.disk_bytes + stage.checkpoint_bytes)
        standing += stage.disk_bytes
    free = {"value": peak}
    monkeypatch.setattr(storage, "free_bytes", lambda path: free["value"] if path == out else 10**15)
    check_disk(plan, out)
    free["value"] = peak - 1
    with pytest.raises(RunError, match="of disk are needed") as caught:
        check_disk(plan, out)
    assert caught.value.exit_code == 3 and not out.exists()
    for stage in plan.stages[:-1]:
        (out / stage.name).mkdir(parents=True)  # finished stages need nothing more
    free["value"] = 0
    check_disk(plan, out)
    free["value"] = 10**15
    monkeypatch.setattr(storage, "free_bytes", lambda path: 0 if path == storage.cache_directory() else 10**15)
    with pytest.raises(RunError, match="BEQUEST_CACHE"):
        check_disk(plan, out)


def test_sections_become_settings_of_the_loop(recipe: Path) -> None:
    section = load_recipe(recipe, ["stages.v1.lr=7e-4", "stages.v1.checkpoint_every=50"]).stage("v1")
    assert isinstance(section, Pretrain)
    settings = train_settings(section)
    assert (settings.tokens, settings.lr, settings.keep, settings.checkpoint_every) == (40_000, 7e-4, 1, 50)
    tune = load_recipe(recipe).stage("tuned")
    found = train_settings(tune)  # type: ignore[arg-type]
    assert (found.epochs, found.batch, found.block, found.tokens) == (2.0, 2, 32, None)


@pytest.mark.parametrize(
    ("override", "key", "text"),
    [
        ("stages.small.model.hiden_size=3", "stages.small.model.hiden_size", "hidden_size"),
        (
            "stages.small.tokenizer={vocab_size: 900}",
            "stages.small.model.vocab_size",
            "smaller than the tokenizer's 900",
        ),
        ("stages.big.to={hidden_size: 32}", "stages.big.to.hidden_size", "smaller than the source's 64"),
        ("stages.big.to={hidden_size: 100}", "stages.big.to.hidden_size", "choose"),
        ("stages.v1.objective=masked", "stages.v1.objective", "causal language-model head"),
        ("stages.v1.checkpoint_every=soon", "stages.v1.checkpoint_every", "10min"),
        ("stages.v1.block=4096", "stages.v1.block", "positions"),
        ("stages.tuned.max_length=99999", "stages.tuned.max_length", "positions"),
        ("corpora.general.files=nothing/*.txt", "corpora.general.files", "matches no file"),
        ("tasks.t.train=nowhere.jsonl", "tasks.t.train", "no such file"),
        ("stages.v1.from=org/nothing", "stages.v1.from", "neither a directory nor a Hub model"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_loaded(
    recipe: Path, override: str, key: str, text: str
) -> None:
    extra = ["stages.v1.batch_tokens=4096", "stages.small.model.max_position_embeddings=1024"]
    with pytest.raises(InputError) as caught:
        plan_of(recipe, *extra, override)
    assert caught.value.where == recipe and caught.value.key == key
    assert text in caught.value.line() and "\n" not in caught.value.line()


def test_a_tokenizer_that_differs_is_refused(recipe: Path) -> None:
    scratch = (
        "  - pretrain: {name: scratch, model: {family: llama, hidden_size: 128, num_hidden_layers: 2, vocab_size: 400},"
        " corpus: general, tokens: 40k, teachers: [{model: small}]}\n"
    )
    recipe.write_text(RECIPE + scratch)
    with pytest.raises(InputError, match="tokenizer of small differs") as caught:
        plan_of(recipe)
    assert caught.value.remedy == "use stages.scratch.tokenizer=small"
    fixed = plan_of(recipe, "stages.scratch.tokenizer=small", "stages.scratch.model.vocab_size=500").stage("scratch")
    assert fixed.config is not None and fixed.config["vocab_size"] == 500
    # The same kind and size trained on the same text is the same tokenizer.
    recipe.write_text(RECIPE + scratch.replace("400", "500"))
    assert plan_of(recipe).stage("scratch").teacher_flops > 0


def test_labels_that_train_lacks_are_refused(recipe: Path) -> None:
    (recipe.parent / "test.jsonl").write_text('{"text": "x", "label": "zzz"}\n')
    with pytest.raises(InputError, match="labels that train lacks: zzz") as caught:
        plan_of(recipe)
    assert caught.value.key == "tasks.t.test"


def test_an_empty_corpus_is_refused(recipe: Path) -> None:
    (recipe.parent / "extra.txt").write_text("")
    with pytest.raises(InputError, match=r"extra\.txt") as caught:
        plan_of(recipe)
    assert str(caught.value.key).startswith("corpora.extra")


def test_tuned_weights_follow_growth_only_where_a_growth_leads(recipe: Path) -> None:
    """``carry`` and ``initialise`` reach a base that grew from theirs; ``direct`` and unrelated bases are refused."""
    text = RECIPE.replace("tune: {name: tuned, from: v1", "tune: {name: tuned, from: small")
    for method in ("carry", "initialise"):
        recipe.write_text(text.replace("onto: v2}", f"onto: v2, method: {method}}}"))
        planned = next(stage for stage in plan_of(recipe).stages if stage.name == "recycled")
        assert (planned.tokens > 0) == (method == "initialise")
    recipe.write_text(text.replace("onto: v2}", "onto: v2, method: direct}"))
    with pytest.raises(InputError, match=r"recycled\.onto: tuned was tuned on a base of another shape; use carry"):
        plan_of(recipe)
    other = (
        "  - pretrain: {name: other, model: {family: llama, hidden_size: 96, num_hidden_layers: 2, vocab_size: 500},\n"
    )
    other += "               tokenizer: small, corpus: general, tokens: 40k}\n  - recycle:"
    recipe.write_text(text.replace("  - recycle:", other).replace("onto: v2}", "onto: other, method: carry}"))
    with pytest.raises(InputError, match="another shape"):
        plan_of(recipe)
