"""A real run, its second call, its edits: a stage runs again when it, or what it depends on, changed, and only then."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import bequest
from bequest import lineage
from bequest.errors import InputError
from bequest.running import RunReport

LAWS = Path(__file__).resolve().parents[1] / "laws"
GENERATIONS = ["causal", "wide", "taught", "masked", "adapted", "tuned", "recycled"]
STAGES = [*GENERATIONS, "measured"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("running")
    subprocess.run([sys.executable, str(LAWS / "kill_driver.py"), "prepare", str(directory)], check=True)
    return directory


@pytest.fixture(scope="module")
def first(place: Path) -> RunReport:
    return bequest.run(place / "recipe.yaml", out=place / "run")


def again(place: Path, *overrides: str, out: str = "run") -> RunReport:
    return bequest.run(place / "recipe.yaml", out=place / out, overrides=overrides)


def test_a_run_makes_every_stage_once(place: Path, first: RunReport) -> None:
    assert first.ran == STAGES
    assert first.report.is_file()
    second = again(place)
    assert second.ran == []
    assert second.skipped == STAGES


def test_an_edit_runs_the_stage_and_what_depends_on_it(place: Path, first: RunReport) -> None:
    shutil.copytree(first.out, place / "edited")
    alone = again(place, "stages.masked.lr=2e-3", out="edited")
    assert alone.ran == ["masked"]
    chain = again(place, "stages.masked.lr=2e-3", "stages.taught.tokens=1792", out="edited")
    assert chain.ran == ["taught", "adapted", "tuned", "recycled", "measured"]
    back = again(place, out="edited")
    assert back.ran == ["taught", "masked", "adapted", "tuned", "recycled", "measured"]
    for stage in GENERATIONS:
        assert lineage.weights_digest(back.directory(stage)) == lineage.weights_digest(first.directory(stage)), stage


def test_an_edited_corpus_runs_what_reads_it(place: Path, first: RunReport, tmp_path: Path) -> None:
    shutil.copytree(place, tmp_path / "copy", ignore=shutil.ignore_patterns("edited"))
    with (tmp_path / "copy" / "more.jsonl").open("a") as file:
        file.write(json.dumps({"text": "one more line of made up words about a river and a stone"}) + "\n")
    done = again(tmp_path / "copy")
    assert done.ran == ["masked", "adapted", "recycled", "measured"]


def test_another_held_out_share_is_another_training_side(place: Path, first: RunReport, tmp_path: Path) -> None:
    shutil.copytree(first.out, tmp_path / "run")
    done = again(place, "corpora.more.held_out=0.3", out=str(tmp_path / "run"))
    assert done.ran == ["masked", "adapted", "recycled", "measured"]


def test_a_lost_stage_is_made_again_the_same(place: Path, first: RunReport) -> None:
    shutil.copytree(first.out, place / "lost")
    shutil.rmtree(place / "lost" / "wide")
    done = again(place, out="lost")
    assert done.ran == ["wide"]


def test_the_lineage_of_a_run(first: RunReport) -> None:
    taught = lineage.read_lineage(first.directory("taught"))
    assert [(parent.name, parent.role) for parent in taught.parents] == [("wide", "base"), ("causal", "teacher")]
    assert taught.cost.tokens == 1536
    assert taught.cost.train_flops > 0
    assert taught.cost.teacher_flops > 0
    adapted = lineage.read_lineage(first.directory("adapted"))
    assert {use.name: use.tokens for use in adapted.data} == {"more": 768, "text": 256}
    wide = lineage.read_lineage(first.directory("wide"))
    assert wide.operation.maps is not None
    assert wide.measures["growth"]["preserved"]
    for stage in GENERATIONS:
        for name in ("lineage.json", "README.md"):
            assert str(first.out) not in (first.directory(stage) / name).read_text()


def test_generations_load_where_bequest_is_not(first: RunReport) -> None:
    program = (
        "import sys; sys.modules['bequest'] = None\n"
        "from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer\n"
        "from transformers import AutoModelForSequenceClassification\n"
        "from peft import PeftModel\n"
        "run = sys.argv[1]\n"
        "for name, auto in (('taught', AutoModelForCausalLM), ('masked', AutoModelForMaskedLM)):\n"
        "    model, info = auto.from_pretrained(f'{run}/{name}', output_loading_info=True)\n"
        "    assert not info['missing_keys'] and not info['unexpected_keys'], info\n"
        "    batch = AutoTokenizer.from_pretrained(f'{run}/{name}')('the river falls', return_tensors='pt')\n"
        "    batch.pop('token_type_ids', None)\n"
        "    assert model(**batch).logits.isfinite().all()\n"
        "base = AutoModelForSequenceClassification.from_pretrained(f'{run}/adapted', num_labels=2)\n"
        "PeftModel.from_pretrained(base, f'{run}/recycled')\n"
        "print('loaded')\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(first.out)], capture_output=True, text=True)
    assert done.stdout.strip() == "loaded", done.stderr[-2000:]


def test_a_directory_that_is_something_else_is_refused(place: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not touch")
    with pytest.raises(InputError, match="not empty and is not a run"):
        again(place, out=str(tmp_path / "mine"))
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_another_recipe_in_the_same_directory_is_refused(place: Path, first: RunReport) -> None:
    with pytest.raises(InputError, match=r"holds the run 'kill', not 'other'"):
        bequest.run(place / "recipe.yaml", out=first.out, overrides=["name=other"])


def test_a_generation_is_stored_as_its_base_is(place: Path, first: RunReport) -> None:
    from bequest import checkpoints

    half = place / "half"
    checkpoints.save_model(checkpoints.load_model(first.directory("causal")), half, dtype="bfloat16")
    checkpoints.save_tokenizer(checkpoints.load_tokenizer(first.directory("causal")), half)
    (place / "half.yaml").write_text(
        "name: half\n"
        "corpora: {text: {files: text.jsonl, held_out: 0.2}}\n"
        "stages:\n"
        "  - grow: {name: wide, from: half, to: {hidden_size: 64}}\n"
        "  - adapt: {name: kept, from: wide, domains: [text], tokens: 512, block: 16, batch_tokens: 256}\n"
        "  - adapt: {name: full, from: wide, domains: [text], tokens: 512, block: 16, batch_tokens: 256, dtype: "
        "float32}\n"
    )
    done = bequest.run(place / "half.yaml", out=place / "half-run")
    stored = {stage: checkpoints.stored_dtype(done.directory(stage)) for stage in ("wide", "kept", "full")}
    assert stored == {"wide": "bfloat16", "kept": "bfloat16", "full": "float32"}


def test_an_outside_base_is_more_than_its_weights(place: Path, first: RunReport, tmp_path: Path) -> None:
    """An edited config or held-out share is another input, whatever the weights are."""
    shutil.copytree(first.directory("causal"), tmp_path / "outside")
    shutil.copyfile(place / "text.jsonl", tmp_path / "text.jsonl")
    (tmp_path / "recipe.yaml").write_text(
        "name: outside\n"
        "corpora: {text: {files: text.jsonl, held_out: 0.2}}\n"
        "stages:\n"
        "  - adapt: {name: kept, from: outside, domains: [text], tokens: 512, block: 16, batch_tokens: 256}\n"
    )
    assert bequest.run(tmp_path / "recipe.yaml", out=tmp_path / "run").ran == ["kept"]
    assert bequest.run(tmp_path / "recipe.yaml", out=tmp_path / "run").ran == []
    config = json.loads((tmp_path / "outside" / "config.json").read_text())
    (tmp_path / "outside" / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-4}))
    assert bequest.run(tmp_path / "recipe.yaml", out=tmp_path / "run").ran == ["kept"]
    other = bequest.run(tmp_path / "recipe.yaml", out=tmp_path / "run", overrides=["corpora.text.held_out=0.3"])
    assert other.ran == ["kept"]


def test_a_summary_does_not_outlive_what_it_was_about(place: Path, first: RunReport) -> None:
    from bequest.recipe import load_recipe
    from bequest.running import summarise_run

    shutil.copytree(first.out, place / "told")
    summarise_run(load_recipe(place / "recipe.yaml", []), place / "told", ["the masked model is fine"])
    again(place, out="told")
    assert "is fine" in (place / "told" / "run.json").read_text()
    again(place, "stages.masked.lr=1e-9", out="told")
    assert "is fine" not in (place / "told" / "run.json").read_text()
    assert "is fine" not in (place / "told" / "report.html").read_text()


def test_a_diverged_run_publishes_nothing(place: Path, first: RunReport) -> None:
    """Also where only the last update diverges, whose loss nobody computes any more."""
    from bequest.errors import RunError

    shutil.copytree(first.out, place / "diverged")
    hot = (
        "stages.masked.lr=1e30",
        "stages.masked.tokens=256",
        "stages.masked.warmup=0",
        "stages.masked.schedule=constant",
    )
    with pytest.raises(RunError, match=r"not (a )?finite|is not finite"):
        again(place, *hot, out="diverged")
    assert lineage.weights_digest(place / "diverged" / "masked") == lineage.weights_digest(first.directory("masked"))
    assert again(place, out="diverged").ran == []


def test_a_damaged_stage_is_made_again(place: Path, first: RunReport) -> None:
    shutil.copytree(first.out, place / "damaged")
    (place / "damaged" / "wide" / "stage.json").write_text("[]")
    weights = place / "damaged" / "masked" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    assert again(place, out="damaged").ran == ["wide", "masked"]
    (place / "damaged" / "run.json").write_text("[]")
    with pytest.raises(InputError, match="damaged"):
        again(place, out="damaged")
    (place / "damaged" / "run.json").unlink()
    assert again(place, out="damaged").ran == []


@pytest.mark.parametrize("out", ["src", "src/inside", "."])
def test_force_never_destroys_a_source(
    first: RunReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    shutil.copytree(first.directory("causal"), tmp_path / "src")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="its own source"):
        bequest.grow_checkpoint("src", out, {"hidden_size": 64}, force=True)
    assert lineage.weights_digest(tmp_path / "src") == lineage.weights_digest(first.directory("causal"))


def test_force_replaces_models_only(first: RunReport, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not touch")
    with pytest.raises(InputError, match="not a model or adapter"):
        bequest.grow_checkpoint(first.directory("causal"), tmp_path / "mine", {"hidden_size": 64}, force=True)
    bequest.grow_checkpoint(first.directory("causal"), tmp_path / "big", {"hidden_size": 64})
    bequest.grow_checkpoint(first.directory("causal"), tmp_path / "big", {"hidden_size": 96}, force=True)
    assert json.loads((tmp_path / "big" / "config.json").read_text())["hidden_size"] == 96


def test_tuning_on_a_base_without_a_padding_token_can_be_recycled(
    place: Path, first: RunReport, tmp_path: Path
) -> None:
    from bequest import checkpoints

    shutil.copytree(first.directory("causal"), tmp_path / "bare")
    tokenizer = checkpoints.load_tokenizer(tmp_path / "bare")
    tokenizer.pad_token = None
    checkpoints.save_tokenizer(tokenizer, tmp_path / "bare")
    for name in ("train.jsonl", "test.jsonl"):
        shutil.copyfile(place / name, tmp_path / name)
    (tmp_path / "recipe.yaml").write_text(
        "name: pad\n"
        "tasks: {parity: {train: train.jsonl, test: test.jsonl}}\n"
        "stages:\n"
        "  - tune: {name: tuned, from: bare, task: parity, adapter: {type: lora, r: 2}, epochs: 1, max_length: 16}\n"
        "  - recycle: {name: again, tuned: tuned, onto: bare, method: initialise, max_length: 16}\n"
        "  - measure: {name: scores, models: [tuned, again], tasks: [parity]}\n"
    )
    assert bequest.run(tmp_path / "recipe.yaml", out=tmp_path / "run").ran == ["tuned", "again", "scores"]
