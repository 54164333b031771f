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
            raise not_given(experiment, method, error) from None
        if math.isfinite(value) and (best is None or value < best[0]):
            best = (value, row)
    if best is None:
        values = ", ".join(str(value) for value in tuning.values)
        raise RunError(
            f"no candidate of {method} came through ({tuning.variable}: {values})",
            where=experiment.source,
            key=key_of(experiment, method, "values"),
            remedy="give smaller ones",
        )
    return dict(best[1].tuned)


def key_of(experiment: Experiment, method: str, key: str) -> str:
    """Where the file says a part of a method's tuning: below the method if it has its own, else below ``tuning``."""
    own = experiment.methods[method].tuning
    return f"methods.{method}.tuning.{key}" if own is not None and getattr(own, key) is not None else f"tuning.{key}"


def not_given(experiment: Experiment, method: str, error: InputError) -> InputError:
    """The complaint about an outcome that a method is tuned by, and that its pilot cells do not measure."""
    tuning = experiment.tuning_of(method)
    assert tuning is not None
    return InputError(
        f"the pilot cells do not give {tuning.choose.outcome} ({error})",
        where=experiment.source,
        key=f"{key_of(experiment, method, 'choose')}.outcome",
        remedy="choose by what pilot cells measure (see pilot_variables)",
    )
