"""Loss against FLOPs: every method's curve at shares of what the baseline spent, as a table.  ``curves_part(...)``.

Each cell's curve is read by straight lines between its points; where a cell has not begun, or has ended, there is a
dash.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from bequest.errors import InputError
from bequest.reports.wording import flops
from lab.evidence.budgets import curve, is_stream
from lab.evidence.markdown import mean, table
from lab.experiments.comparing import Arm, Comparison, over_seeds, whole_rows
from lab.experiments.curves import Curve, level
from lab.experiments.outcomes import CorpusOutcome
from lab.experiments.schema import ONLY

SHARES = (0.0, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
COUNTED = {"student": "the method's own FLOPs", "source": "FLOPs, those of making the source counted"}


def corpus_of(compared: Comparison) -> str | None:
    """The one corpus that the experiment is about; None where it is about several."""
    main = compared.experiment.outcomes[compared.experiment.main_outcome]
    return main.corpus if isinstance(main, CorpusOutcome) and not is_stream(compared) else None


def arms_with_curves(compared: Comparison, size: str) -> list[Arm]:
    """The arms whose curves are compared; none where there is no baseline, or nothing beside it."""
    arms = [arm for arm in compared.cells if arm.size == size]
    there = corpus_of(compared) is not None and Arm(compared.experiment.baseline, size) in arms and len(arms) > 1
    return arms if there else []


def curves_part(compared: Comparison, size: str) -> list[str]:
    """The curves of a size as tables; nothing where there are none to compare."""
    arms, corpus = arms_with_curves(compared, size), corpus_of(compared)
    if not arms or corpus is None:
        return []
    base = Arm(compared.experiment.baseline, size)
    where = "" if size == ONLY else f", size {size}"
    lines = []
    for total, counted in COUNTED.items():
        try:
            found = {arm: curves_of(compared, arm, corpus, total) for arm in arms}
        except InputError as error:
            return [f"No loss against FLOPs: {error}.", ""]
        whole = statistics.fmean(points[-1][0] for points in found[base].values() if points)
        lines += [
            f"**Loss against {counted}**, nats, at shares of the {flops(whole)} that `{base.method}` takes{where}",
            *curve_table(compared, found, whole),
        ]
    return lines


def curves_of(compared: Comparison, arm: Arm, corpus: str, total: str) -> dict[int, Curve]:
    """The curve of every whole cell of an arm, by its place among the arm's rows; from 0 where it begins there.

    Raises:
        InputError: nobody knows what its stages cost.
    """
    rows, _ = whole_rows(compared, arm)
    return {place: curve(row, corpus, compared.students[arm], total, whole=True) for place, row in enumerate(rows)}


def curve_table(compared: Comparison, found: Mapping[Arm, Mapping[int, Curve]], whole: float) -> list[str]:
    """One line per method."""
    header = ["method", *(f"{share:.1%}".replace(".0%", "%").replace("%", " %") for share in SHARES)]
    return table(header, [[arm.label, *_line(compared, arm, curves, whole)] for arm, curves in found.items()])


def _line(compared: Comparison, arm: Arm, curves: Mapping[int, Curve], whole: float) -> Sequence[str]:
    rows, _ = whole_rows(compared, arm)
    cells = []
    for share in SHARES:
        at = share * whole
        there = all(points and points[0][0] <= at <= points[-1][0] * (1 + 1e-9) for points in curves.values())
        read = [level(points, at) for points in curves.values()] if there and curves else []
        cells.append(mean(over_seeds(read, rows, exact=True)) if read else mean(None))
    return cells
