"""Which of its candidates a method runs with: the best by one outcome, on a seed that is not reported.

A candidate that diverged is the worst.  Try it: ``chosen(experiment, "replay-5", "-", {1e-4: row, 2e-4: row})``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from bequest.errors import InputError, RunError
from lab.experiments.outcomes import compute
from lab.experiments.rows import Row
from lab.experiments.schema import Experiment


def chosen(experiment: Experiment, method: str, pilots: Sequence[Row]) -> dict[str, Any]:
    """The tuned value of a method, from its pilot rows in the order of the candidates; the first wins a tie.

    Raises:
        InputError: the outcome cannot be computed from what the pilots measured.
        RunError: every candidate failed.
    """
    tuning = experiment.tuning_of(method)
    assert tuning is not None
    spec = experiment.outcomes[tuning.choose.outcome]
    sign = 1.0 if tuning.choose.best == "lower" else -1.0
    best: tuple[float, Row] | None = None
    for row in pilots:
        if row.failed is not None:
            continue
        try:
            value = sign * compute(spec, row.measures, order=row.sequence)
        except InputError as error:
            raise InputError(
                f"the pilot cells do not give {tuning.choose.outcome} ({error})",
                where=experiment.source,
                key="tuning.choose.outcome",
                remedy="choose by what pilot cells measure (see pilot_variables)",
            ) from None
        if math.isfinite(value) and (best is None or value < best[0]):
            best = (value, row)
    if best is None:
        values = ", ".join(str(value) for value in tuning.values)
        raise RunError(
            f"no candidate of {method} came through ({tuning.variable}: {values})",
            where=experiment.source,
            key="tuning.values",
            remedy="give smaller ones",
        )
    return dict(best[1].tuned)
