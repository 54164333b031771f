"""What an experiment file plans, as a list: methods, orders, sizes, tuning and scales.  ``design(experiment)``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lab.evidence.markdown import NOTHING, joined, plain
from lab.experiments.schema import ONLY

if TYPE_CHECKING:
    from lab.experiments.schema import Experiment, Tuning


def design(experiment: Experiment) -> list[str]:
    """Methods, orders, sizes, tuning and scales, as the file has them."""
    lines = [f"Tier: {experiment.tier}. Methods are compared with `{experiment.baseline}`.", ""]
    for name, method in experiment.methods.items():
        remark = " (its batches differ by design)" if method.changes_batches else ""
        own = experiment.tuning_of(name) if method.tuning is not None else None
        remark += f"; its own tuning: {tuned_in_words(own)}" if own is not None else ""
        lines.append(f"* `{name}`: {method.says or settings(method.variables)}{remark}")
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
