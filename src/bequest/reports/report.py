"""report.html: one self-contained page about a run, made only from the files in the run's directory.

The page works offline: plotly.js is inlined once, nothing is fetched.  Tables, the lineage graph and the summary are
plain HTML and SVG, so they are there without JavaScript too; the curves and the heat map are plotly's.

    bequest report runs/x        # or: write_report(Path("runs/x"))
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bequest.measures.intervals import NO_EFFECT, Interval
from bequest.reports import wording
from bequest.reports.curves import curves, finite
from bequest.reports.domains import domains
from bequest.reports.lineage_graph import draw
from bequest.reports.record import RunRecord, StageRecord, mapping, read_run
from bequest.reports.task_table import TaskTable, cost_of, task_tables
from bequest.storage import write_text

COLOURS = {
    "pretrain": "#2f6db5",
    "grow": "#2a8a57",
    "adapt": "#b9770e",
    "tune": "#7a4fb5",
    "recycle": "#c13a75",
    "outside": "#8a8f98",
}


def write_report(run_dir: Path) -> Path:
    """Write ``report.html`` into a run's directory and return its path.

    Raises:
        InputError: ``run_dir`` holds no ``run.json``, or a broken JSON file.
    """
    target = run_dir / "report.html"
    write_text(target, render(read_run(run_dir)))
    return target


def render(run: RunRecord) -> str:
    """The page as text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=PackageLoader("bequest.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    tables = task_tables(run)
    measured = measured_text(run, tables)
    return environment.get_template("report.html.j2").render(
        run=run,
        w=wording,
        colours=COLOURS,
        graph=draw(run.generations),
        facts=facts(run),
        summary=[summary_line(line) for line in run.summary],
        changes={stage.name: change_text(stage) for stage in run.generations},
        measured=measured,
        curves=curves(run),
        domains=domains(run),
        tables=tables,
        cost_of=cost_of,
        percent=percent,
        strips=[strips(table) for table in tables],
        loading=loading,
        environment=run_environment(run),
        plotly=get_plotlyjs(),
    )


def facts(run: RunRecord) -> list[tuple[str, str]]:
    """The strip of totals under the title: (value, what it is)."""

    def total(key: str) -> float:
        return sum(finite(stage.cost.get(key)) or 0.0 for stage in run.generations)

    devices = sorted({str(stage.cost["device"]) for stage in run.generations if stage.cost.get("device")})
    entries = [
        (str(len(run.generations)), "generations"),
        (wording.tokens(total("tokens")), "tokens trained on"),
        (wording.flops(total("train_flops")), "training"),
        (wording.flops(total("teacher_flops")), "teachers"),
        (wording.duration(total("wall_seconds")), f"on {', '.join(devices)}" if devices else "wall time"),
    ]
    return [entry for entry in entries if entry[0] != wording.NOTHING]


def summary_line(line: str) -> dict[str, str]:
    """A summary line as head, rest and the mark beside it: seen, none (no effect), unsure (no interval) or plain."""
    head, colon, rest = line.partition(":")
    last = line.rpartition(":")[2].strip().lower()
    if NO_EFFECT in line.lower():
        mark = "none"
    elif "no interval" in line or "nothing can be concluded" in line:
        mark = "unsure"
    else:
        mark = {"better": "seen", "worse": "worse"}.get(last, "plain")
    return {"head": head if colon else "", "rest": rest.strip() if colon else line, "mark": mark}


def change_text(stage: StageRecord) -> str:
    """What the operation changed or used, in a few words."""
    settings, data = stage.settings, stage.lineage.get("data") or []
    names = ", ".join(str(entry["name"]) for entry in data if isinstance(entry, dict) and entry.get("name"))
    if stage.kind == "grow":
        target = mapping(settings.get("to"))
        return ", ".join(f"{key} → {value}" for key, value in target.items())
    if stage.kind == "tune":
        adapter = mapping(settings.get("adapter"))
        kind = (
            f"{adapter.get('type', 'adapter')}" + (f" r = {adapter['r']}" if "r" in adapter else "")
            if adapter
            else "full"
        )
        return f"{kind} on {settings.get('task') or names or '?'}"
    if stage.kind == "recycle":
        tuned, base = stage.parent("tuned"), stage.parent("base")
        return " ".join([tuned.name if tuned else "?", "onto", base.name if base else "?"])
    teachers = ", ".join(parent.name for parent in stage.parents if parent.role == "teacher")
    return f"on {names or '?'}" + (f", taught by {teachers}" if teachers else "")


def measured_text(run: RunRecord, tables: list[TaskTable]) -> dict[str, list[str]]:
    """Stage → what was measured of it, in at most two short lines."""
    scores = {
        entry.model: f"{percent(entry.accuracy, brief=True)} on {table.task}"
        for table in tables
        for entry in table.scores
        if entry.accuracy is not None and entry.stage is not None and entry.stage.is_tuned
    }
    result = {}
    for stage in run.generations:
        if stage.is_tuned:
            result[stage.name] = [scores[stage.name]] if stage.name in scores else []
            continue
        losses = {name: finite(found.get("loss")) for name, found in run.perplexity().get(stage.name, {}).items()}
        if not losses:
            losses = {str(r.get("corpus")): finite(r.get("loss")) for r in stage.metrics if r.get("kind") == "eval"}
        known = [(name, loss) for name, loss in losses.items() if loss is not None]
        lines = [f"{loss:.3f} nats · {name}" for name, loss in known[:2]]
        if len(known) > 2:
            lines[-1] += f" (+{len(known) - 2})"
        result[stage.name] = lines
    return result


def percent(found: Interval | None, *, signed: bool = False, brief: bool = False) -> str:
    """A share in per cent, or a difference of shares in points, with its interval; a dash for nothing."""
    if found is None:
        return wording.NOTHING
    if brief:
        half = f" ± {found.half_width * 100:.1f}" if found.half_width is not None else ""
        return f"{found.mean * 100:{'+' if signed else ''}.1f}{half} {'points' if signed else '%'}"
    return found.text(digits=1, scale=100, unit="" if not signed else "points", signed=signed)


def strips(table: TaskTable) -> list[dict[str, float] | None]:
    """Each comparison's interval as positions from 0 to 100 on one axis that they share; ``zero`` is no difference."""
    ends = [0.0]
    for entry in table.comparisons:
        if entry.difference is not None:
            half = entry.difference.half_width or 0.0
            ends += [entry.difference.mean - half, entry.difference.mean + half]
    room = (max(ends) - min(ends)) * 0.06 or 0.01
    low, high = min(ends) - room, max(ends) + room

    def place(value: float) -> float:
        return round(100 * (value - low) / (high - low), 2)

    result: list[dict[str, float] | None] = []
    for entry in table.comparisons:
        found = entry.difference
        if found is None:
            result.append(None)
            continue
        half = found.half_width or 0.0
        ends_of = {"low": place(found.mean - half), "high": place(found.mean + half)}
        result.append({"zero": place(0.0), "mean": place(found.mean), **ends_of})
    return result


def loading(stage: StageRecord) -> str:
    """The lines of Python that load a generation."""
    architecture = str((stage.config.get("architectures") or ["AutoModel"])[0])
    if not stage.config:
        parent = stage.parent("base")
        base = parent.name if parent else "BASE"
        return (
            "from peft import PeftModel\nfrom transformers import AutoModelForSequenceClassification\n\n"
            f'base = AutoModelForSequenceClassification.from_pretrained("{base}", num_labels=...)\n'
            f'model = PeftModel.from_pretrained(base, "{stage.name}")'
        )
    return (
        f"from transformers import AutoTokenizer, {architecture}\n\n"
        f'model = {architecture}.from_pretrained("{stage.name}")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{stage.name}")'
    )


def run_environment(run: RunRecord) -> dict[str, Any]:
    """Versions, seed and command of the last generation's lineage."""
    for stage in reversed(run.generations):
        if stage.lineage.get("environment"):
            return dict(stage.lineage["environment"])
    return {}
