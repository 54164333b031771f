"""What the rows say about each claim: holds, did not hold, undecided, uninformative, not measured yet.

The verdict comes from the 95 % interval, never from the mean alone:

    holds            the whole interval lies where the claim expects it
    did not hold     the whole interval lies elsewhere
    undecided        the interval covers the threshold, or there is none (fewer than two pairs, all values equal)
    uninformative    the best cell concerned is not 1 nat below the unigram entropy

A claim that one method stays within a share r of another (``ratio: true``) is judged by the paired difference
a − r·b, whose interval stays honest where b is small; where b itself is not clearly positive there is no ratio.  Small:

    judge(claim, compared, "-").verdict
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bequest.errors import InputError
from lab.experiments.comparing import Arm, Comparison, best, informative, other_batches, over_cells, pairing, values
from lab.experiments.outcomes import FAILED, HOLDS, UNDECIDED, Expectation, Outcome, expectation, margin

if TYPE_CHECKING:
    from lab.experiments.rows import Row
    from lab.experiments.schema import Claim

UNINFORMATIVE, UNMEASURED = "uninformative", "not measured yet"
VERDICTS = (FAILED, UNDECIDED, UNINFORMATIVE, HOLDS, UNMEASURED)


@dataclass(frozen=True)
class Judged:
    """A claim and what the rows of one scale and size say about it.

    Attributes:
        experiment: its name.
        claim: as the experiment file has it.
        scale: of the rows, None where there are none.
        size: of the arms.
        verdict: one of ``VERDICTS``.
        ours: the number found, with its interval.
        remark: what a reader must know about it; may be empty.
        rows: those it was computed from.
    """

    experiment: str
    claim: Claim
    scale: str | None
    size: str
    verdict: str
    ours: str = ""
    remark: str = ""
    rows: tuple[Row, ...] = ()


def judge(claim: Claim, compared: Comparison, size: str) -> Judged:
    """A claim's verdict at one scale and size."""
    experiment = compared.experiment
    arms = [Arm(method, size) for method in (claim.of, claim.against) if method is not None]
    missing = [arm.method for arm in arms if not compared.cells.get(arm)]
    here = (experiment.name, claim, compared.scale, size)
    if missing:
        return Judged(*here, UNMEASURED, remark=f"no rows of {' and '.join(missing)}")
    spec = experiment.outcomes[claim.outcome]
    try:
        return _judged(claim, compared, size, spec, arms)
    except InputError as error:
        return Judged(*here, UNMEASURED, remark=f"the rows lack what it needs ({error})")


def _judged(claim: Claim, compared: Comparison, size: str, spec: Outcome, arms: Sequence[Arm]) -> Judged:
    """The verdict where all arms have rows."""
    experiment, expected = compared.experiment, expectation(claim.expect)
    here = (experiment.name, claim, compared.scale, size)
    left: tuple[Row, ...] = compared.cells[arms[0]]
    right: tuple[Row, ...] = ()
    remarks: list[str] = []
    if len(arms) == 2:
        free = other_batches(experiment, *(arm.method for arm in arms))
        matched = pairing(left, compared.cells[arms[1]], other_batches=free)
        left, right = tuple(a for a, _ in matched.pairs), tuple(b for _, b in matched.pairs)
        remarks += [f"unpaired: {', '.join(matched.remarks)}"] if matched.remarks else []
        if not left:
            return Judged(*here, UNDECIDED, remark="; ".join([*remarks, "no cells pair"]))
    own, others = values(spec, left), values(spec, right)
    verdict, ours, remark = _weighed(claim, expected, spec, own, others, left)
    remarks += [remark] if remark else []
    below = best(margin(spec, row.measures, order=row.sequence) for row in (*left, *right))
    if not informative(below):
        verdict = UNINFORMATIVE
        remarks.append(f"the best cell is {below:.2f} nats below the unigram entropy, 1.00 is needed")
    earlier = [arm.label for arm in arms if arm in compared.earlier]
    remarks += [f"rows of an earlier recipe: {', '.join(earlier)}"] if earlier else []
    return Judged(*here, verdict, ours, "; ".join(remarks), (*left, *right))


def _weighed(
    claim: Claim,
    expected: Expectation,
    spec: Outcome,
    own: Sequence[float],
    others: Sequence[float],
    rows: Sequence[Row],
) -> tuple[str, str, str]:
    """Verdict, the number in words, and a remark."""
    unit = "nats" if spec.unit == "nats" else ""
    if not others:
        found = over_cells(own, rows)
        return expected.judge(found), found.text(unit=unit), ""
    if not claim.ratio:
        found = over_cells([a - b for a, b in zip(own, others, strict=True)], rows)
        return expected.judge(found), found.text(unit=unit, signed=True), ""
    below = over_cells(others, rows)
    if below.low is None or below.low <= 0:
        return UNDECIDED, "no ratio", f"{claim.against} itself is {below.text(unit=unit)}: not clearly above 0"
    shares = [bound for bound in (expected.low, expected.high) if math.isfinite(bound)]
    tests = {share: over_cells([a - share * b for a, b in zip(own, others, strict=True)], rows) for share in shares}
    zero = {expected.low: Expectation("", 0.0, math.inf), expected.high: Expectation("", -math.inf, 0.0)}
    verdicts = [zero[share].judge(found) for share, found in tests.items()]
    verdict = FAILED if FAILED in verdicts else UNDECIDED if UNDECIDED in verdicts else HOLDS
    ratio = statistics.fmean(own) / statistics.fmean(others)
    shown = "; ".join(
        f"`{claim.of}` − {share:g} · `{claim.against}` = {found.text(unit=unit, signed=True)}"
        for share, found in tests.items()
    )
    return verdict, f"{ratio:.2f} ({shown})", ""
