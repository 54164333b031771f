"""One experiment's part of the page: what was asked, how, and the tables.

Try it: ``"\\n".join(section(experiment, rows, comparisons))``.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bequest.errors import InputError
from bequest.recipe.quantities import short
from bequest.reports.wording import flops, significant
from lab.evidence.budgets import TOTALS, EqualBudget, corpora, equal_budgets
from lab.evidence.markdown import NOTHING, dates, joined, mean, number, plain, spread, table
from lab.experiments.comparing import (
    INFORMATIVE,
    Arm,
    Comparison,
    OutcomeTable,
    informative,
    outcome_table,
    over,
    unequal_tokens,
)
from lab.experiments.outcomes import compute
from lab.experiments.schema import ONLY

if TYPE_CHECKING:
    from lab.experiments.rows import Row
    from lab.experiments.schema import Experiment, Tuning


def section(experiment: Experiment, comparisons: Sequence[Comparison]) -> list[str]:
    """The lines of an experiment's part: question, design, and the tables of every scale that has rows."""
    lines = [f"## {experiment.name}", "", experiment.question.strip(), "", *design(experiment)]
    for compared in comparisons:
        lines += scale_part(compared)
    if not comparisons:
        lines += ["", "**Not measured yet.**", ""]
    return lines


# -- the design --------------------------------------------------------------------------------------------------------


def design(experiment: Experiment) -> list[str]:
    """Methods, orders, sizes, tuning and scales, as the file has them."""
    lines = [f"Tier: {experiment.tier}. Methods are compared with `{experiment.baseline}`.", ""]
    for name, method in experiment.methods.items():
        remark = " (its batches differ by design)" if method.changes_batches else ""
        lines.append(f"* `{name}`: {settings(method.variables)}{remark}")
    for name, order in experiment.orders.items():
        if order:
            lines.append(f"* order{'' if name == ONLY else f' {name}'}: {' → '.join(order)}")
    for name, variables in experiment.sizes.items():
        if name != ONLY:
            lines.append(f"* size {name}: {settings(variables)}")
    if experiment.tuning is not None:
        lines.append(f"* tuned on the pilot seed, which is not reported: {tuned_in_words(experiment.tuning)}")
    for name, scale in experiment.scales.items():
        if name != "smoke":
            seeds = f"seeds {joined(scale.seeds)}" + (f", pilot seed {scale.pilot}" if scale.pilot is not None else "")
            lines.append(f"* scale {name}: {seeds}; {settings(scale.variables)}")
    return lines


def tuned_in_words(tuning: Tuning) -> str:
    """``lr among 5e-05, 0.0001, by the lowest final_loss``."""
    way = "lowest" if tuning.choose.best == "lower" else "highest"
    return f"{tuning.variable} among {', '.join(map(plain, tuning.values))}, by the {way} {tuning.choose.outcome}"


def settings(variables: Mapping[str, Any]) -> str:
    """Variables in one line."""
    return "; ".join(f"{key} {plain(value)}" for key, value in variables.items()) or NOTHING


# -- one scale ---------------------------------------------------------------------------------------------------------


def scale_part(compared: Comparison) -> list[str]:
    """The tables of one scale."""
    lines = ["", f"### {compared.experiment.name}, scale {compared.scale}", ""]
    lines += [*remarks(compared), *cells_table(compared), *tuning_table(compared)]
    for name in compared.experiment.outcomes:
        lines += outcome_part(compared, outcome_table(compared, name))
    for size in compared.experiment.sizes:
        lines += budgets_part(compared, size)
    return [*lines, *matrices_part(compared)]


def remarks(compared: Comparison) -> list[str]:
    """What a reader must know before the tables: earlier recipes, several revisions, rows left out."""
    found = []
    if compared.earlier:
        names = joined(arm.label for arm in compared.earlier)
        found.append(f"**Rows of an earlier recipe:** {names}: the experiment was changed after they were measured.")
    codes = {row.code for row in compared.rows}
    if len(codes) > 1:
        found.append(f"Rows of {len(codes)} revisions of the code are compared; the table of cells says which.")
    if compared.superseded:
        found.append(f"Rows left out because newer ones stand for their cells or recipe: {compared.superseded}.")
    if compared.unknown:
        found.append(
            f"Rows left out because the experiment no longer has their method, size or order: {compared.unknown}."
        )
    absent = [
        Arm(method, size).label
        for size in compared.experiment.sizes
        for method in compared.experiment.methods
        if Arm(method, size) not in compared.cells
    ]
    wanted = len(compared.experiment.scales[compared.scale].seeds) * len(compared.experiment.orders)
    absent += [
        f"{arm.label} ({wanted - len(rows)} of {wanted} cells)"
        for arm, rows in compared.cells.items()
        if len(rows) < wanted
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
        lines += [r"\* other tokens than the baseline: see the comparison at equal tokens.", ""]
    return lines


def tuning_table(compared: Comparison) -> list[str]:
    """Each candidate's outcome on the pilot seed, and what the reported cells ran with."""
    rows = []
    for arm, pilots in compared.pilots.items():
        tuning = compared.experiment.tuning_of(arm.method)
        if tuning is None:
            continue
        tried = [candidate(compared, tuning, row) for row in sorted(pilots, key=lambda row: _by_size(row, tuning))]
        chosen = joined(plain(row.tuned.get(tuning.variable)) for row in compared.cells[arm])
        rows.append([arm.label, tuning.variable, joined(tried, "; "), chosen])
    if not rows:
        return []
    return ["Tuning on the pilot seed:", *table(["method", "variable", "candidate: outcome", "chosen"], rows, left=4)]


def candidate(compared: Comparison, tuning: Tuning, row: Row) -> str:
    """``0.0001: 3.412``, or that it failed."""
    value = plain(row.tuned.get(tuning.variable))
    if row.failed is not None:
        return f"{value}: failed"
    try:
        found = compute(compared.experiment.outcomes[tuning.choose.outcome], row.measures, order=row.sequence)
    except InputError:
        return f"{value}: {NOTHING}"
    return f"{value}: {number(found)}"


def _by_size(row: Row, tuning: Tuning) -> tuple[int, float, str]:
    """Numbers by size, then everything else by its text."""
    value = row.tuned.get(tuning.variable)
    is_number = isinstance(value, int | float)
    return (0 if is_number else 1, float(value) if isinstance(value, int | float) else 0.0, str(value))


# -- outcomes ----------------------------------------------------------------------------------------------------------


def outcome_part(compared: Comparison, found: OutcomeTable) -> list[str]:
    """One outcome: mean per method, paired difference, pairs; or that it informs about nothing."""
    spec = found.spec
    title = f"**{spec.title or found.name}** ({spec.unit}, {spec.better} is better): {spec.formula}"
    rows, notes = [], []
    for line in found.lines:
        base = compared.baseline(line.arm)
        judged = found.informative(line.arm.size)
        cells = str(line.mean.n) if line.mean is not None else "0"
        compared_with = "baseline" if line.arm == base else f"{mean(line.difference, signed=True)}"
        seen = NOTHING if line.difference is None else effect(line.difference.low, line.difference.high, spec.better)
        rows.append(
            [
                line.arm.label,
                mean(line.mean),
                cells,
                compared_with,
                str(line.pairs or NOTHING),
                seen if judged else NOTHING,
            ]
        )
        notes += [f"{line.arm.label}: {remark}" for remark in line.remarks]
    header = ["method", "mean ± 95 %", "cells", f"minus `{compared.experiment.baseline}`", "pairs", "effect"]
    several = any(line.arm != compared.baseline(line.arm) for line in found.lines)
    lines = [title, *table(header if several else header[:3], rows if several else [row[:3] for row in rows])]
    for size in compared.experiment.sizes:
        below = found.margin(size)
        if not found.informative(size) and below is not None:
            where = "" if size == ONLY else f" at size {size}"
            lines += [uninformative(below, where), ""]
    if notes:
        lines += [f"Remarks: {'; '.join(notes)}.", ""]
    return lines


def effect(low: float | None, high: float | None, better: str) -> str:
    """What an interval of a difference shows."""
    if low is None or high is None:
        return "no interval"
    if low <= 0 <= high:
        return "no effect"
    return "better" if (low > 0) == (better == "higher") else "worse"


def uninformative(below: float, where: str = "") -> str:
    """The sentence that stands instead of a result."""
    return (
        f"*Uninformative{where}: the best cell is {number(below, 2)} nats below the unigram entropy and "
        f"{INFORMATIVE:.2f} is needed; nothing is concluded from these numbers.*"
    )


# -- equal budgets -----------------------------------------------------------------------------------------------------


def budgets_part(compared: Comparison, size: str) -> list[str]:
    """Methods read at equal tokens and at equal FLOPs; nothing where there is one method only."""
    arms = [arm for arm in compared.cells if arm.size == size]
    if len(arms) < 2:
        return []
    names = corpora(compared, size)
    if not names:
        return []
    try:
        found = equal_budgets(compared, size, names)
    except InputError as error:
        return [f"No comparison at equal budgets: {error}.", ""]
    what = names[0] if len(names) == 1 else f"the mean over {', '.join(names)}"
    where = "" if size == ONLY else f", size {size}"
    lines = [f"**At equal budgets**: held-out loss while training, nats, {what}{where}", *budget_tables(arms, found)]
    below = found[0].best
    return lines if informative(below) or below is None else [*lines, uninformative(below), ""]


def budget_tables(arms: Sequence[Arm], found: Sequence[EqualBudget]) -> list[str]:
    """One line per method: the loss at each budget and, in the second table, the paired differences."""
    header = ["method", *(f"{TITLES[one.total]}: {short(one.budget)}" for one in found)]
    losses, differences, early = [], [], False
    for arm in arms:
        readings = [one.readings[arm] for one in found]
        marks = ["" if reading.finished or reading.loss is None else " †" for reading in readings]
        early = early or any(marks)
        losses.append([arm.label, *(mean(r.loss) + mark for r, mark in zip(readings, marks, strict=True))])
        if any(reading.difference is not None for reading in readings):
            differences.append([arm.label, *(mean(reading.difference, signed=True) for reading in readings)])
    lines = table(header, losses)
    if differences:
        lines += ["Paired differences against the baseline there:", *table(header, differences)]
    lines += [f"Budgets: {'; '.join(f'{TITLES[total]} = {words}' for total, words in TOTALS.items())}.", ""]
    if early:
        lines += ["† read before the end of its schedule: not a finished run, which might be lower at this budget.", ""]
    return lines


TITLES = {"tokens": "tokens", "student": "FLOPs", "teacher": "+ forward", "source": "+ source"}


# -- matrices ----------------------------------------------------------------------------------------------------------


def matrices_part(compared: Comparison) -> list[str]:
    """The baseline's matrices, and those of the other arms folded away."""
    base = [arm for arm in compared.cells if arm == compared.baseline(arm)]
    others = [line for arm in compared.cells if arm not in base for line in matrices(compared, arm)]
    lines = [line for arm in base for line in matrices(compared, arm)]
    if others:
        summary = "<details><summary>The other methods' matrices</summary>"
        lines += [summary, "", *others, "", "</details>", ""]
    return lines


def matrices(compared: Comparison, arm: Arm) -> list[str]:
    """Mean losses and mean accuracies of every model on everything measured, per order."""
    lines: list[str] = []
    rows = compared.cells[arm]
    for order in dict.fromkeys(row.order for row in rows):
        own = [row for row in rows if row.order == order]
        where = arm.label + ("" if order == ONLY else f", order {order}")
        cells = f"mean over {len(own)} {over(own)}"
        losses = matrix(own, compared.models[arm], "perplexity")
        if losses:
            lines += [f"**Held-out loss**, nats (perplexity), {where}, {cells}", *losses]
        scores = matrix(own, compared.models[arm], "tasks")
        if scores:
            how = joined(
                sorted(
                    {entry["how"] for row in own for tasks in _of(row, "tasks").values() for entry in tasks.values()}
                )
            )
            lines += [f"**Accuracy** ({how}), {where}, {cells}", *scores]
    return lines


def matrix(rows: Sequence[Row], order: Sequence[str], what: str) -> list[str]:
    """One matrix as a table; a dash where some row lacks the cell."""
    seen = {name for row in rows for name in _of(row, what)}
    models = [*dict.fromkeys(name for name in order if name in seen), *sorted(seen - set(order))]
    names = {name for row in rows for found in _of(row, what).values() for name in found}
    stream = [name for name in rows[0].sequence if name in names]
    columns = [*stream, *sorted(names - set(stream))]
    if not models or not columns:
        return []
    lines = []
    shown = with_perplexity if what == "perplexity" else number
    if what == "perplexity":
        unigrams = [average(found["unigram"] for found in _entries(rows, models, column)) for column in columns]
        lines.append(["*unigram entropy*", *map(shown, unigrams)])
    for model in models:
        found = [[_of(row, what).get(model, {}).get(column) for row in rows] for column in columns]
        lines.append([model, *(shown(average(map(_value, entries)) if all(entries) else None) for entries in found)])
    return table(["model", *columns], lines)


def with_perplexity(loss: float | None) -> str:
    """``3.796 (44.5)``."""
    return NOTHING if loss is None else f"{number(loss)} ({significant(math.exp(loss))})"


def average(values: Any) -> float | None:
    """Mean of numbers, None for none or where one is missing."""
    found = list(values)
    return sum(found) / len(found) if found and None not in found else None


def _entries(rows: Sequence[Row], models: Sequence[str], column: str) -> list[Mapping[str, Any]]:
    return [
        _of(row, "perplexity")[m][column] for row in rows for m in models if column in _of(row, "perplexity").get(m, {})
    ]


def _of(row: Row, what: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = row.measures.get(what, {})
    return found


def _value(entry: Mapping[str, Any]) -> float | None:
    """The loss, or the accuracy as the mean over the measurement's own seeds."""
    return entry["loss"] if "loss" in entry else average(entry["accuracy"])
