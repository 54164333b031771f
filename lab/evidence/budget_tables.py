"""Methods at equal budgets as tables, or, for a stream of domains, what each of them spent.  ``budgets_part(...)``."""

from __future__ import annotations

from collections.abc import Sequence

from bequest.errors import InputError
from bequest.recipe.quantities import short
from bequest.reports.wording import flops
from lab.evidence.budgets import EqualBudget, corpora, equal_budgets, is_stream, spending
from lab.evidence.markdown import mean, table, uninformative
from lab.experiments.comparing import Arm, Comparison, informative
from lab.experiments.curves import TOTALS
from lab.experiments.schema import ONLY

TITLES = {"tokens": "tokens", "student": "FLOPs", "teacher": "+ forward", "source": "+ source"}
SPENT = {"student": "student", "teacher": "+ teacher forward", "source": "+ making the source or teacher"}


def budgets_part(compared: Comparison, size: str) -> list[str]:
    """Methods read at equal tokens and at equal FLOPs; nothing where there is one method only."""
    arms = [arm for arm in compared.cells if arm.size == size]
    if len(arms) < 2:
        return []
    if is_stream(compared):
        return spending_table(compared, size)
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


def spending_table(compared: Comparison, size: str) -> list[str]:
    """What the methods of a size spent on a stream, and why no loss is read at equal FLOPs."""
    rows = [
        [arm.label, *(_with_ratio(spent.totals[name], spent.ratios[name]) for name in SPENT)]
        for arm, spent in spending(compared, size).items()
    ]
    where = "" if size == ONLY else f", size {size}"
    return [
        f"**FLOPs per cell** (× those of `{compared.experiment.baseline}`){where}",
        *table(["method", *SPENT.values()], rows),
        "No loss is read at equal FLOPs: in the middle of a stream of several stages a loss says how far the stream "
        "had come, not how good the method is. The outcomes above are compared at the end of the stream, at the tokens "
        "that the cells list.",
        "",
    ]


def _with_ratio(total: float, ratio: float | None) -> str:
    return flops(total) + ("" if ratio is None else f" (× {ratio:.2f})")
