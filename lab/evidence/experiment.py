"""One experiment's part of the page: what was asked, how, and the tables.

Try it: ``"\\n".join(section(experiment, comparisons))``.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from bequest.errors import InputError
from bequest.reports.wording import flops
from lab.evidence.budget_tables import budgets_part
from lab.evidence.curve_tables import curves_part
from lab.evidence.design import design
from lab.evidence.figure import figure_name, loss_figure
from lab.evidence.markdown import (
    NOTHING,
    bases,
    dates,
    joined,
    mean,
    number,
    plain,
    revisions,
    spread,
    table,
    taken_over,
    uninformative,
)
from lab.evidence.matrices import matrices_part
from lab.experiments.comparing import Arm, Comparison, Line, OutcomeTable, outcome_table, unequal_tokens
from lab.experiments.measured import Relative
from lab.experiments.outcomes import compute
from lab.experiments.schema import ONLY

if TYPE_CHECKING:
    from lab.experiments.rows import Row
    from lab.experiments.schema import Experiment, Tuning


def section(experiment: Experiment, comparisons: Sequence[Comparison], elsewhere: int = 0) -> list[str]:
    """The lines of an experiment's part: question, design, and the tables of every scale that has rows.

    Args:
        experiment: its definition.
        comparisons: of its scales that have rows.
        elsewhere: how many rows are of scales that the file does not name, or of ``smoke``.
    """
    lines = [f"## {experiment.name}", "", experiment.question.strip(), "", *design(experiment)]
    if experiment.notes:
        lines += ["", "Beside the numbers:", "", *(f"* {' '.join(note.split())}" for note in experiment.notes)]
    if elsewhere:
        lines += ["", f"Rows left out because the experiment has no such scale to report: {elsewhere}."]
    for compared in comparisons:
        lines += scale_part(compared)
    if not comparisons:
        lines += ["", "**Not measured yet.**", ""]
    return lines


def scale_part(compared: Comparison) -> list[str]:
    """The tables of one scale."""
    lines = ["", f"### {compared.experiment.name}, scale {compared.scale}", "", *remarks(compared)]
    if not compared.cells:
        return lines
    lines += [*cells_table(compared), *tuning_table(compared)]
    for name in compared.experiment.outcomes:
        lines += outcome_part(compared, outcome_table(compared, name))
    for size in compared.experiment.sizes:
        lines += [*budgets_part(compared, size), *figure_part(compared, size), *curves_part(compared, size)]
    return [*lines, *matrices_part(compared)]


def figure_part(compared: Comparison, size: str) -> list[str]:
    """The drawing of the loss against FLOPs, which stands beside the page."""
    name = figure_name(compared, size) if loss_figure(compared, size) is not None else None
    return [f"![Loss against FLOPs]({name})", ""] if name is not None else []


def remarks(compared: Comparison) -> list[str]:
    """What a reader must know before the tables: cells that failed, earlier recipes, revisions, rows left out."""
    arms = compared.arms
    found = [f"**{fallen}.**" for fallen in compared.fallen(arms)]
    if compared.earlier:
        names = joined(arm.label for arm in compared.earlier)
        found.append(
            f"**Rows of an earlier recipe:** {names}: the experiment was changed after they were measured; no claim is "
            "judged by them."
        )
    unsettled = [compared.pilots_wanting(arm) for arm in compared.choices if not compared.settled(arm)]
    if unsettled:
        found.append(f"**Not tuned alike:** {joined(unsettled, '; ')}: no comparison with them is judged.")
    codes = len({row.code for row in compared.rows})
    if codes > 1:
        found.append(f"Rows of {codes} revisions of the code are compared: {revisions(compared.rows)}.")
    if several := bases(compared.rows):
        found.append(f"Several base weights of one name: {several}; only rows with the same ones are paired.")
    found += [f"Rows left out because {reason}: {count}." for reason, count in compared.left_out.items()]
    absent = [
        arm.label + (f" ({compared.ran(arm)} of {compared.planned} cells)" if compared.ran(arm) else "")
        for arm in arms
        if compared.ran(arm) < compared.planned and arm not in compared.earlier
    ]
    if absent:
        found.append(f"Not measured yet: {joined(absent)}.")
    return [line for remark in found for line in (remark, "")]


def cells_table(compared: Comparison) -> list[str]:
    """What was run, when, by which code, where, and at what cost per cell."""
    made = []
    for arm, rows in compared.cells.items():
        orders = joined(row.order for row in rows if row.order != ONLY)
        for code, commit, machine in sorted({(row.code, row.commit, row.machine) for row in rows}):
            own = [row for row in rows if (row.code, row.commit, row.machine) == (code, commit, machine)]
            seeds = joined(sorted({row.seed for row in own}))
            made.append([arm.label, orders, seeds, dates(own), f"{code} ({commit})", machine])
    costs = [
        [
            arm.label,
            str(len(rows)),
            spread(row.tokens for row in rows) + ("\\*" if unequal_tokens(compared, arm) else ""),
            spread((row.train_flops for row in rows), flops),
            spread((row.teacher_flops for row in rows), flops),
            spread((row.source_flops for row in rows), flops),
            f"{statistics.fmean(row.wall_seconds for row in rows) / 60:.1f} min",
        ]
        for arm, rows in compared.cells.items()
    ]
    lines = table(["method", "orders", "seeds", "date", "code (commit)", "machine"], made, left=6)
    header = ["per cell", "cells", "tokens", "student", "teacher forward", "source or teacher training", "wall"]
    lines += table(header, costs)[1:]
    if any(unequal_tokens(compared, arm) for arm in compared.cells):
        lines += [r"\* other tokens than the baseline: not a comparison at equal tokens.", ""]
    return lines


def tuning_table(compared: Comparison) -> list[str]:
    """Each candidate's outcome on the pilot seed, and what the reported cells ran with."""
    rows = []
    for arm, choice in compared.choices.items():
        tuning = compared.experiment.tuning_of(arm.method)
        if tuning is None:
            continue
        name, tried = tuning.variable, []
        for value in sorted(tuning.values, key=_by_size):
            pilot = next((row for row in choice.tried if row.tuned[name] == value), None)
            tried.append(candidate(compared, tuning, value, pilot))
        ran = [row.tuned.get(name) for row in _ran(compared, arm)]
        chosen = [plain(value) + at_the_edge(tuning, value) for value in ran]
        rows.append([arm.label, name, joined(tried, "; "), joined(chosen)])
    if not rows:
        return []
    header = ["method", "variable", "candidate: outcome", "reported cells ran with"]
    return ["Tuning on the pilot seed:", *table(header, rows, left=4)]


def candidate(compared: Comparison, tuning: Tuning, value: Any, row: Row | None) -> str:
    """``0.0001: 3.412``, or that it failed, or has no row."""
    if row is None:
        return f"{plain(value)}: no row"
    if row.failed is not None:
        return f"{plain(value)}: failed"
    try:
        found = compute(compared.experiment.outcomes[tuning.choose.outcome], row.measures, order=row.sequence)
    except InputError:
        return f"{plain(value)}: {NOTHING}"
    return f"{plain(value)}: {number(found)}"


def at_the_edge(tuning: Tuning, value: Any) -> str:
    """A remark where a value is the smallest or largest candidate, so that a better one may lie beyond."""
    numbers = [one for one in tuning.values if isinstance(one, int | float) and not isinstance(one, bool)]
    edge = len(numbers) == len(tuning.values) > 1 and value in (min(numbers), max(numbers))
    return " (at the edge of its grid: a better one may lie beyond)" if edge else ""


def _ran(compared: Comparison, arm: Arm) -> tuple[Row, ...]:
    """An arm's reported rows, those that came to nothing included."""
    return (*compared.cells.get(arm, ()), *compared.failed.get(arm, ()))


def _by_size(value: Any) -> tuple[int, float, str]:
    """Numbers by size, then everything else by its text."""
    is_number = isinstance(value, int | float)
    return (0 if is_number else 1, float(value) if isinstance(value, int | float) else 0.0, str(value))


# -- outcomes ----------------------------------------------------------------------------------------------------------


def outcome_part(compared: Comparison, found: OutcomeTable) -> list[str]:
    """One outcome: mean per method, paired difference, seeds; or that it informs about nothing."""
    spec, base = found.spec, compared.experiment.baseline
    title = f"**{spec.title or found.name}** ({spec.unit}, {spec.better} is better): {spec.formula}"
    rows = [
        [
            line.arm.label,
            mean(line.mean),
            taken_over(line.mean),
            "baseline" if line.arm.method == base else mean(line.difference, signed=True),
            taken_over(line.difference),
            effect(line, spec.better) if found.informative(line.arm.size) else NOTHING,
        ]
        for line in found.lines
    ]
    notes = grouped((line.arm.label, remark) for line in found.lines for remark in line.remarks)
    header = ["method", "mean ± 95 %", "n", f"minus `{base}`", "pairs", "effect"]
    several = any(line.arm.method != base for line in found.lines)
    if isinstance(spec, Relative):  # a difference already: what it is taken against stands in the title
        title += f"; against `{spec.against or base}`"
        header, rows = [*header[:2], "pairs", "effect"], [[*row[:3], row[5]] for row in rows]
    elif not several:
        header, rows = header[:3], [row[:3] for row in rows]
    if spec.published:
        header = [*header, "published"]
        rows = [
            [*row, spec.published.get(line.arm.method, NOTHING)] for row, line in zip(rows, found.lines, strict=True)
        ]
    lines = [title, *table(header, rows)]
    for size in compared.experiment.sizes:
        below = found.margin(size)
        if not found.informative(size) and below is not None:
            where = "" if size == ONLY else f" at size {size}"
            lines += [uninformative(below, where), ""]
    if notes:
        lines += [f"Remarks: {'; '.join(notes)}.", ""]
    return lines


def grouped(remarks: Iterable[tuple[str, str]]) -> list[str]:
    """Remarks with those whom each of them concerns: what is said of several is said once."""
    found: dict[str, list[str]] = {}
    for label, remark in remarks:
        found.setdefault(remark, []).append(label)
    return [f"{', '.join(labels)}: {remark}" for remark, labels in found.items()]


def effect(line: Line, better: str) -> str:
    """What the interval of a difference shows; nothing where planned cells or pairs are missing."""
    if line.difference is None or not line.concludes:
        return NOTHING
    low, high = line.difference.low, line.difference.high
    if low is None or high is None:
        return "no interval"
    if low <= 0 <= high:
        return "no effect"
    return "better" if (low > 0) == (better == "higher") else "worse"
