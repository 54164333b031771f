"""Numbers as people read them: 20.0M tokens, 1.24 PFLOP, 3 min 12 s."""

from __future__ import annotations

import math

_STEPS = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
NOTHING = "–"


def count(value: float | None, unit: str = "") -> str:
    """A count with a decimal prefix and three significant digits: ``1.23M``; a dash for nothing."""
    if value is None or not math.isfinite(value):
        return NOTHING
    for size, prefix in _STEPS:
        if abs(value) >= size * 0.9995:
            return f"{significant(value / size)}{' ' if unit else ''}{prefix}{unit}"
    return f"{significant(value)}{f' {unit}' if unit else ''}"


def tokens(value: float | None) -> str:
    """Tokens in decimal millions, thousands: ``20M``."""
    return NOTHING if not value else count(value).replace("G", "B")


def flops(value: float | None) -> str:
    """Floating-point operations: ``1.24 PFLOP``."""
    return NOTHING if not value else count(value, "FLOP")


def duration(seconds: float | None) -> str:
    """Wall time in two units at most: ``3 min 12 s``."""
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, name, lower, lower_size in ((86400, "d", "h", 3600), (3600, "h", "min", 60), (60, "min", "s", 1)):
        if whole >= size:
            rest = whole % size // lower_size
            return f"{whole // size} {name}" + (f" {rest} {lower}" if rest else "")
    return f"{whole} s"


def significant(value: float, digits: int = 3) -> str:
    """``digits`` significant digits without an exponent for ordinary sizes."""
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits - 1}e}")  # 0.9996 has the decimals of 1.00
    decimals = digits - 1 - math.floor(math.log10(abs(rounded)))
    return f"{value:.{max(0, decimals)}f}" if decimals < 7 else f"{value:.{digits - 1}e}"
