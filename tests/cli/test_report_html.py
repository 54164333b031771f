"""report.html from a realistic run directory, as text and in a real browser."""

from __future__ import annotations

import html
import json
import math
import re
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bequest.errors import InputError
from bequest.reports.curves import curves
from bequest.reports.domains import domains
from bequest.reports.lineage_graph import draw
from bequest.reports.record import read_run
from bequest.reports.report import write_report
from bequest.reports.task_table import task_tables

CORPORA = {"python": (5.36, 4.05), "numpy": (5.72, 4.62), "sympy": (5.95, 4.88), "pandas": (5.6, 4.5)}
CHAIN = [
    # name, kind, method, base, other parents, parameters, tokens, loss from → to on "python"
    ("small", "pretrain", None, None, {}, 1_310_720, 4_000_000, (8.1, 4.28)),
    ("big", "grow", "fpi", "small", {}, 4_200_000, 0, None),
    ("scratch", "pretrain", None, None, {}, 4_200_000, 2_000_000, (8.2, 4.61)),
    ("v1", "pretrain", "inherit", "big", {"small": "teacher"}, 4_200_000, 2_000_000, (4.28, 4.02)),
    ("modules-v1", "tune", "lora", "v1", {}, 98_304, 600_000, None),
    ("v2", "adapt", "sequential", "v1", {}, 4_200_000, 1_200_000, (4.02, 4.71)),
    ("v2-replay", "adapt", "replay", "v1", {}, 4_200_000, 1_200_000, (4.02, 4.12)),
    ("modules-v2-direct", "recycle", "direct", "v2-replay", {"modules-v1": "tuned"}, 98_304, 0, None),
    ("modules-v2", "recycle", "initialise", "v2-replay", {"modules-v1": "tuned"}, 98_304, 200_000, None),
    ("modules-v2-fresh", "tune", "lora", "v2-replay", {}, 98_304, 600_000, None),
]


def write_hollow(path: Path, numbers: int) -> None:
    """A file of weights that says how many there are; the numbers themselves are a hole that takes no disk."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [numbers], "data_offsets": [0, 4 * numbers]}}).encode()
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(header)) + header)
        stream.truncate(8 + len(header) + 4 * numbers)


def write_metrics(path: Path, tokens: int, per_token: float, ends: tuple[float, float], adapt: bool) -> None:
    lines, updates = [], 160
    first, last = ends
    for update in range(updates + 1):
        share = update / updates
        loss = last + (first - last) * math.exp(-4.5 * share) if not adapt else first + (last - first) * share**0.5
        seen = {"update": update, "tokens": int(tokens * share), "flops": tokens * share * per_token}
        if update:
            noise = 0.06 * math.sin(update * 1.7)
            lines.append(
                {"kind": "train", **seen, "loss": loss - 0.05 + noise, "lr": 1e-3, "tokens_per_second": 21000.0}
            )
        if update % 16 == 0:
            for corpus, (unigram, _) in list(CORPORA.items())[: 3 if adapt else 1]:
                shift = 0.0 if corpus == "python" else 0.9 * (1 - share)
                lines.append({"kind": "eval", **seen, "corpus": corpus, "loss": loss + shift, "unigram": unigram})
    text = "\n".join(json.dumps(line) for line in lines)
    path.write_text(text + '\n{"kind": "train", "upd', encoding="utf-8")  # torn by a kill


def lineage_of(entry: tuple[Any, ...], seed: int = 0) -> dict[str, Any]:
    name, kind, method, base, others, parameters, tokens, _ = entry
    parents = [{"id": f"id-{base}", "role": "base", "name": base, "path": f"../{base}"}] if base else []
    parents += [
        {"id": f"id-{other}", "role": role, "name": other, "path": f"../{other}"} for other, role in others.items()
    ]
    settings: dict[str, Any] = {"seed": seed, "lr": 0.003}
    if kind == "grow":
        settings = {"to": {"hidden_size": 256, "num_attention_heads": 8}}
    if kind in ("tune", "recycle"):
        settings |= {"adapter": {"type": "lora", "r": 8}, "task": "modules", "labels": ["core", "linalg"]}
    corpora = {"adapt": ["numpy", "sympy"], "pretrain": ["python"]}.get(kind, [])
    flops = 6.0 * (4_200_000 if kind in ("tune", "recycle") else parameters) * tokens
    return {
        "schema_version": 1,
        "id": f"id-{name}",
        "name": name,
        "kind": "adapter" if kind in ("tune", "recycle") else "model",
        "digests": {"weights": "a1" * 32, "config": "b2" * 32, "tokenizer": "c3" * 32},
        "parents": parents,
        "operation": {"stage": kind, "method": method, "parameters": settings, "maps": None},
        "data": [
            {"name": corpus, "fingerprint": "d4" * 32, "tokens": tokens // len(corpora), "licence": "PSF-2.0"}
            for corpus in corpora
        ],
        "cost": {
            "train_flops": flops,
            "teacher_flops": 2.0 * 1_310_720 * 600_000 if "small" in others else 0.0,
            "tokens": tokens,
            "wall_seconds": tokens / 21000 + 0.8,
            "device": "cpu",
        },
        "measures": {},
        "environment": {"versions": {"bequest": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"}, "seed": seed},
    }


def measures() -> dict[str, Any]:
    shifts = {
        "small": (0, 0, 0, 0),
        "v1": (-0.26, -0.1, -0.08, -0.1),
        "v2": (0.43, -0.55, -0.9, 0.2),
        "v2-replay": (-0.16, -0.5, -0.86, 0.05),
    }
    perplexity = {
        model: {
            corpus: {
                "loss": (loss := 4.28 + shift + (end - 4.05)),
                "perplexity": math.exp(loss),
                "bits_per_byte": loss * 0.42,
                "unigram": unigram,
            }
            for shift, (corpus, (unigram, end)) in zip(row, CORPORA.items(), strict=True)
        }
        for model, row in shifts.items()
    }
    tasks = {
        "modules-v1": {"accuracy": [0.712, 0.724, 0.705], "macro_f1": [0.70, 0.71, 0.69], "how": "own"},
        "v2-replay": {"accuracy": [0.602, 0.611, 0.598], "macro_f1": [0.58, 0.59, 0.57], "how": "linear"},
        "modules-v2-direct": {"accuracy": [0.688], "macro_f1": [0.67], "how": "own"},
        "modules-v2": {"accuracy": [0.734, 0.729, 0.741], "macro_f1": [0.72, 0.71, 0.73], "how": "own"},
        "modules-v2-fresh": {"accuracy": [0.719, 0.722, 0.714], "macro_f1": [0.70, 0.70, 0.70], "how": "own"},
    }
    return {"perplexity": perplexity, "tasks": {model: {"modules": entry} for model, entry in tasks.items()}}


@pytest.fixture
def run_directory(tmp_path: Path) -> Path:
    run = tmp_path / "run"
    for entry in CHAIN:
        name, kind, _, _, _, parameters, tokens, ends = entry
        home = run / name
        home.mkdir(parents=True)
        adapter = kind in ("tune", "recycle")
        (home / "lineage.json").write_text(json.dumps(lineage_of(entry)), encoding="utf-8")
        write_hollow(home / ("adapter_model.safetensors" if adapter else "model.safetensors"), parameters)
        if not adapter:
            (home / "config.json").write_text(
                '{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}', encoding="utf-8"
            )
        if ends:
            write_metrics(home / "metrics.jsonl", tokens, 6.0 * parameters, ends, kind == "adapt")
    (run / "measured").mkdir()
    (run / "measured" / "measures.json").write_text(json.dumps(measures()), encoding="utf-8")
    stages = [{"name": entry[0], "kind": entry[1], "parents": [entry[3]] if entry[3] else []} for entry in CHAIN]
    summary = [
        "Grown against scratch: -0.590 ± 0.004 nats (n = 412 blocks) against from nothing at equal tokens: better",
        "Growth: loss 4.280 before and 4.280 after, largest relative logit error 3e-07",
        "Recycled adapter: +1.6 ± 3.9 points (n = 3 seeds) against retrained: no effect seen",
        "Recycled adapter: +13.1 ± 2.2 points (n = 3 seeds) against a linear probe of the new base: better",
        "Forgetting: +0.590 nats (n = 1, no interval) without replay against with replay: nothing can be concluded",
    ]
    document = {
        "name": "demo <lifecycle>",
        "stages": [*stages, {"name": "measured", "kind": "measure", "parents": ["v1"]}],
        "summary": summary,
    }
    (run / "run.json").write_text(json.dumps(document), encoding="utf-8")
    return run


def test_report_is_one_self_contained_file(run_directory: Path) -> None:
    path = write_report(run_directory)
    assert path == run_directory / "report.html"
    page = path.read_text(encoding="utf-8")
    assert page.count("plotly.js v") == 1
    assert not re.search(r"<(script|link|img|iframe)[^>]*\s(src|href)=[\"'](?!data:)", page)
    own = re.sub(r"<script>.*?</script>", "", page, count=1, flags=re.S)
    assert "http://" not in own and "https://" not in own and "/tmp" not in own
    assert "demo &lt;lifecycle&gt;" in page and "demo <lifecycle>" not in page
    assert "<h2>What it showed</h2>" in page and html.escape("Grown against scratch") in page
    assert list(run_directory.glob(".report*")) == []


def test_graph_follows_the_parents(run_directory: Path) -> None:
    graph = draw(read_run(run_directory).generations)
    lanes = {node.name: node.lane for node in graph.nodes}
    assert lanes["small"] == lanes["big"] == lanes["v1"] == lanes["v2"] == 0
    assert lanes["modules-v1"] == lanes["modules-v2-direct"] > 0 and lanes["scratch"] != 0
    assert sorted(edge.role for edge in graph.edges) == ["base"] * 8 + ["teacher"] + ["tuned"] * 2
    assert len({(node.row, node.lane) for node in graph.nodes}) == len(CHAIN)


def test_curves_put_a_stage_after_its_ancestors(run_directory: Path) -> None:
    found = curves(read_run(run_directory))
    before = {line["stage"]: line["before"]["tokens"] for line in found["lines"]}
    assert before == {"small": 0, "scratch": 0, "v1": 4_000_000, "v2": 6_000_000, "v2-replay": 6_000_000}
    assert found["corpora"][0] == "python" and found["unigram"]["python"] == 5.36
    assert "modules-v1" not in before  # a classifier's loss is no language-model loss


def test_heat_map_marks_the_best_model_of_each_domain(run_directory: Path) -> None:
    found = domains(read_run(run_directory))
    assert found is not None and found["models"] == ["small", "v1", "v2", "v2-replay"]
    best = {
        row["corpus"]: [model for model, cell in zip(found["models"], row["cells"], strict=True) if cell["best"]]
        for row in found["rows"]
    }
    assert best == {"python": ["v1"], "numpy": ["v2"], "sympy": ["v2"], "pandas": ["v1"]}


def test_tasks_compare_recycled_weights_with_their_controls(run_directory: Path) -> None:
    (table,) = task_tables(read_run(run_directory))
    roles = {score.model: score.role for score in table.scores}
    assert roles == {
        "modules-v1": "tuned",
        "v2-replay": "probe",
        "modules-v2-direct": "recycled",
        "modules-v2": "recycled",
        "modules-v2-fresh": "retrained",
    }
    found = {(entry.recycled, entry.control): entry for entry in table.comparisons}
    assert found["modules-v2", "v2-replay"].verdict == "better"
    assert found["modules-v2", "modules-v2-fresh"].verdict == "no effect seen"
    direct = found["modules-v2-direct", "modules-v2-fresh"]
    assert direct.verdict == "no interval" and direct.missing == "1 and 3 seeds cannot be paired"


def test_single_seeds_are_paired_by_example(run_directory: Path) -> None:
    path = run_directory / "measured" / "measures.json"
    document = json.loads(path.read_text())
    hits = {"modules-v2-direct": "1" * 80 + "0" * 20, "modules-v2-fresh": "1" * 60 + "0" * 40}
    for model, string in hits.items():
        document["tasks"][model]["modules"] |= {"accuracy": [string.count("1") / 100], "correct": [string]}
    path.write_text(json.dumps(document))
    (table,) = task_tables(read_run(run_directory))
    entry = next(entry for entry in table.comparisons if (entry.recycled, entry.control) == tuple(hits))
    assert entry.verdict == "better" and entry.difference is not None and entry.difference.over == "examples"
    alone = next(score for score in table.scores if score.model == "modules-v2-direct").accuracy
    assert alone is not None and alone.mean == 0.8 and alone.over == "examples" and alone.half_width is not None


def test_report_of_a_run_that_is_hardly_begun(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(
        '{"name": "x", "stages": [{"name": "gone", "kind": "grow", "parents": []}], "summary": []}'
    )
    page = write_report(tmp_path).read_text()
    assert "wrote no summary lines" in page and 'loss-tokens" class' not in page


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no run\.json here"):
        write_report(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        write_report(tmp_path)


def browser() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


def dumped(page: Path, profile: Path) -> str:
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    offline = ["--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=8000", f"--user-data-dir={profile}"]
    command = [str(browser()), *flags, *offline, "--window-size=1280,2400", "--dump-dom", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.skipif(browser() is None, reason="no Chromium on this machine")
def test_report_draws_itself_in_a_real_browser_without_a_network(run_directory: Path, tmp_path: Path) -> None:
    page = write_report(run_directory)
    shown = dumped(page, tmp_path / "profile")
    body = re.search(r"<body[^>]*>", shown)
    assert body is not None and 'data-charts="3"' in body[0] and "data-error" not in body[0]
    drawn = re.sub(r"<script.*?</script>", "", shown, flags=re.S)
    assert drawn.count('class="main-svg"') >= 6  # plotly draws each chart in two layers at least
    assert "unigram entropy 5.36" in drawn and "★" in drawn
    # The control: a page whose script fails says so in the same place.
    broken = page.read_text(encoding="utf-8").replace(
        'JSON.parse(document.getElementById("data")', 'JSON.parse(document.getElementById("nothing")'
    )
    (tmp_path / "broken.html").write_text(broken, encoding="utf-8")
    assert "data-charts" not in re.sub(
        r"<script.*?</script>", "", dumped(tmp_path / "broken.html", tmp_path / "profile2"), flags=re.S
    )


def test_a_stage_of_several_domains_counts_on(run_directory: Path) -> None:
    path = run_directory / "v2" / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()[:-1]]
    path.write_text("\n".join(json.dumps(line) for line in [*lines, *lines]))
    line = next(
        line
        for line in curves(read_run(run_directory))["lines"]
        if line["stage"] == "v2" and line["corpus"] == "python"
    )
    assert line["tokens"] == sorted(line["tokens"]) and max(line["tokens"]) == 2 * 1_200_000
    assert max(line["flops"]) == pytest.approx(2 * 1_200_000 * 6.0 * 4_200_000)


def test_a_model_from_outside_the_run_is_a_node_too(run_directory: Path) -> None:
    path = run_directory / "small" / "lineage.json"
    document = json.loads(path.read_text())
    document["parents"] = [{"id": "elsewhere", "role": "base", "name": "org/base"}]
    path.write_text(json.dumps(document))
    graph = draw(read_run(run_directory).generations)
    assert graph.nodes[0].name == "org/base" and graph.nodes[0].stage is None
    assert "not made by this run" in write_report(run_directory).read_text(encoding="utf-8")
