"""What the rows say about each claim: holds, did not hold, undecided, uninformative, not measured yet.

The verdict comes from the 95 % interval over seeds, never from the mean alone:

    holds             the whole interval lies where the claim expects it, and every planned cell is there, came through
                      and (where two methods are compared) pairs
    did not hold      the whole interval lies elsewhere
    undecided         the interval covers the threshold, or there is none (fewer than two seeds, all values equal), or a
                      cell came to nothing or found no partner
    uninformative     the best cell concerned is not 1 nat below the unigram entropy
    not measured yet  planned cells lack their rows, or the rows are of an earlier recipe, or (where two methods are
                      compared) one was not tuned like the other

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
from lab.evidence.markdown import bases, number, revisions
from lab.experiments.comparing import (
    Arm,
    Comparison,
    best,
    informative,
    over_seeds,
    paired,
    partners_of,
    remarks_on,
    values,
    whole_rows,
)
from lab.experiments.measured import Outcome, Relative
from lab.experiments.outcomes import FAILED, HOLDS, UNDECIDED, Expectation, expectation, margin

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


def arms_of(claim: Claim, size: str) -> tuple[Arm, ...]:
    """The arms that a claim is about."""
    return tuple(Arm(method, size) for method in (claim.of, claim.against) if method is not None)


def judge(claim: Claim, compared: Comparison, size: str) -> Judged:
    """A claim's verdict at one scale and size."""
    arms = arms_of(claim, size)
    here = (compared.experiment.name, claim, compared.scale, size)
    spec = compared.experiment.outcomes[claim.outcome]
    others = (reference for arm in arms if (reference := compared.reference(spec, arm)) is not None)
    needed = tuple(dict.fromkeys((*arms, *others)))
    wanting = compared.wanting(needed)
    if wanting:
        ran, planned = sum(map(compared.ran, needed)), compared.planned * len(needed)
        ours = UNMEASURED + (f" ({ran} of {planned} cells)" if ran < planned else "")
        return Judged(*here, UNMEASURED, ours, "; ".join((*wanting, *compared.fallen(needed))))
    try:
        return _judged(claim, compared, size, spec, arms)
    except InputError as error:
        return Judged(*here, UNMEASURED, UNMEASURED, remark=f"the rows lack what it needs ({error})")


def _judged(claim: Claim, compared: Comparison, size: str, spec: Outcome, arms: Sequence[Arm]) -> Judged:
    """The verdict where all arms have their rows."""
    here = (compared.experiment.name, claim, compared.scale, size)
    remarks = list(compared.fallen(arms))
    left, right, unpaired = _concerned(compared, arms)
    remarks += unpaired
    if not left:
        nothing = "no seed pairs in every order" if len(arms) == 2 else "no seed has every order"
        return Judged(*here, UNDECIDED, remark="; ".join([*remarks, nothing]))
    own, others = values(compared, spec, left), values(compared, spec, right)
    verdict, ours, remark = _weighed(claim, expectation(claim.expect), spec, own, others, left)
    remarks += [remark] if remark else []
    if isinstance(spec, Relative):
        for side in (left, right):
            remarks += [f"`{side[0].method}`, {told}" for told in remarks_on(compared, spec, side)]
    partners = (*partners_of(compared, spec, left), *partners_of(compared, spec, right))
    below = best(margin(spec, row.measures, order=row.sequence) for row in (*left, *right, *partners))
    if not informative(below):
        verdict = UNINFORMATIVE
        remarks.append(f"the best cell is {number(below, 2)} nats below the unigram entropy, 1.00 is needed")
    if verdict == HOLDS and len(left) < compared.planned:
        verdict = UNDECIDED
        remarks.append(f"only {len(left)} of {compared.planned} planned {'pairs' if right else 'cells'} count")
    rows = (*left, *right)
    codes = len({row.code for row in rows})
    remarks += [f"rows of {codes} revisions: {revisions(rows)}"] if codes > 1 else []
    remarks += [f"several base weights of one name: {found}"] if (found := bases(rows)) else []
    remarks += [compared.pilots_wanting(arm) for arm in arms if not compared.settled(arm)]
    return Judged(*here, verdict, ours, "; ".join(remarks), rows)


def _concerned(compared: Comparison, arms: Sequence[Arm]) -> tuple[tuple[Row, ...], tuple[Row, ...], tuple[str, ...]]:
    """The rows of the one arm, or the paired rows of both, of whole seeds; and remarks on those left out."""
    if any(arm not in compared.cells for arm in arms):
        return (), (), ()
    if len(arms) == 1:
        rows, remarks = whole_rows(compared, arms[0])
        return rows, (), remarks
    matched = paired(compared, *arms)
    unpaired = (f"unpaired: {', '.join(matched.remarks)}",) if matched.remarks else ()
    return tuple(a for a, _ in matched.pairs), tuple(b for _, b in matched.pairs), unpaired


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
        found = over_seeds(own, rows, exact=spec.exact)
        return expected.judge(found), found.text(unit=unit), ""
    if not claim.ratio:
        found = over_seeds([a - b for a, b in zip(own, others, strict=True)], rows, exact=spec.exact)
        return expected.judge(found), found.text(unit=unit, signed=True), ""
    below = over_seeds(others, rows)
    if below.low is None or below.low <= 0:
        return UNDECIDED, "no ratio", f"{claim.against} itself is {below.text(unit=unit)}: not clearly above 0"
    shares = [bound for bound in (expected.low, expected.high) if math.isfinite(bound)]
    tests = {share: over_seeds([a - share * b for a, b in zip(own, others, strict=True)], rows) for share in shares}
    zero = {expected.low: Expectation("", 0.0, math.inf), expected.high: Expectation("", -math.inf, 0.0)}
    verdicts = [zero[share].judge(found) for share, found in tests.items()]
    verdict = FAILED if FAILED in verdicts else UNDECIDED if UNDECIDED in verdicts else HOLDS
    ratio = statistics.fmean(own) / statistics.fmean(others)
    shown = "; ".join(
        f"`{claim.of}` − {share:g} · `{claim.against}` = {found.text(unit=unit, signed=True)}"
        for share, found in tests.items()
    )
    return verdict, f"{ratio:.2f} ({shown})", ""
