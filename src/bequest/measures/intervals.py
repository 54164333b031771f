"""Means with 95 % intervals, and the sentence that says what was seen.

The interval is Student's: mean ± t(0.975, n − 1) · sd / √n.  A difference between two arms that share seeds (or test
examples) is taken pair by pair first, so that what both arms have in common cancels.  Two cases have no interval and
say so instead of inventing one: a single value, and several values that are all equal (a deterministic quantity
measured again knows nothing about its own spread).  No torch.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bequest.errors import InputError

NO_EFFECT = "no effect seen"


@dataclass(frozen=True)
class Interval:
    """A mean and its interval.

    Attributes:
        mean: the mean of the values.
        low: lower end, None where there is no interval.
        high: upper end, None where there is no interval.
        n: how many values.
        over: what the values are: ``seeds``, ``examples``, ``blocks``.
        level: coverage, 0.95 unless told.
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    over: str = "seeds"
    level: float = 0.95

    @property
    def half_width(self) -> float | None:
        """Half the interval's width, None where there is no interval."""
        return None if self.low is None else self.mean - self.low

    @property
    def covers_zero(self) -> bool | None:
        """Whether zero lies inside (ends included), None where there is no interval."""
        if self.low is None or self.high is None:
            return None
        return self.low <= 0.0 <= self.high

    @property
    def missing(self) -> str | None:
        """Why there is no interval, None where there is one."""
        if self.low is not None:
            return None
        if self.n == 1:
            return "n = 1, no interval"
        return f"all {self.n} {self.over} equal, no interval"

    def text(self, *, digits: int = 3, scale: float = 1.0, unit: str = "", signed: bool = False) -> str:
        """``0.712 ± 0.013 (n = 3 seeds)``, or the mean and why there is no interval.

        Args:
            digits: decimals shown.
            scale: factor before printing (100 for per cent).
            unit: written after the numbers.
            signed: print a sign before the mean, for differences.
        """
        suffix = f" {unit}" if unit else ""
        mean = f"{self.mean * scale:{'+' if signed else ''}.{digits}f}"
        if self.half_width is None:
            return f"{mean}{suffix} ({self.missing})"
        return f"{mean} ± {self.half_width * abs(scale):.{digits}f}{suffix} (n = {self.n} {self.over})"


def interval(values: Sequence[float], *, over: str = "seeds", level: float = 0.95) -> Interval:
    """Mean and Student interval of independent values.

    Raises:
        InputError: no value, or one that is not finite.
    """
    numbers = [float(value) for value in values]
    if not numbers:
        raise InputError("no value to take a mean of")
    if not all(math.isfinite(number) for number in numbers):
        raise InputError("a value is not finite", remedy="look for the diverged run before comparing")
    mean = statistics.fmean(numbers)
    if len(numbers) == 1 or max(numbers) == min(numbers):
        # Equal differences of exactly zero are a finding (the two arms are the same thing), not a missing interval.
        zero = len(numbers) > 1 and numbers[0] == 0.0
        end = 0.0 if zero else None
        return Interval(mean, end, end, len(numbers), over, level)
    half = t_quantile(0.5 + level / 2, len(numbers) - 1) * statistics.stdev(numbers) / math.sqrt(len(numbers))
    return Interval(mean, mean - half, mean + half, len(numbers), over, level)


def paired(left: Sequence[float], right: Sequence[float], *, over: str = "seeds", level: float = 0.95) -> Interval:
    """Interval of ``left − right``, pair by pair.

    Raises:
        InputError: the two have different lengths.
    """
    if len(left) != len(right):
        raise InputError(
            f"{len(left)} values cannot be paired with {len(right)}", remedy="measure both on the same seeds"
        )
    return interval([float(a) - float(b) for a, b in zip(left, right, strict=True)], over=over, level=level)


def effect_line(
    name: str,
    difference: Interval,
    *,
    control: str,
    digits: int = 3,
    scale: float = 1.0,
    unit: str = "",
    better: str = "higher",
) -> str:
    """One sentence that names an effect, its size and its control, or says that none was seen.

    Args:
        name: what was done, e.g. ``recycled adapter``.
        difference: treatment minus control, e.g. of :func:`paired`.
        control: what it is compared with.
        digits: decimals shown.
        scale: factor before printing (100 for percentage points).
        unit: unit of the printed numbers.
        better: ``higher`` or ``lower``: the direction in which the treatment wins.

    Returns:
        ``NAME: SIZE against CONTROL: better | worse | no effect seen``; without an interval the size is printed and the
        line says that nothing can be concluded from it.
    """
    if better not in ("higher", "lower"):
        raise InputError(f"better={better!r}", remedy="say 'higher' or 'lower'")
    size = difference.text(digits=digits, scale=scale, unit=unit, signed=True)
    if difference.missing is not None:
        verdict = "nothing can be concluded"
    elif difference.covers_zero:
        verdict = NO_EFFECT
    else:
        verdict = "better" if (difference.mean > 0) == (better == "higher") else "worse"
    return f"{name}: {size} against {control}: {verdict}"


def t_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t distribution."""
    from scipy.stats import t  # slow to import; only a report or a summary needs it

    return float(t.ppf(probability, degrees))
