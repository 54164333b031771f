"""How the inheritance rate falls: alpha as a function of the updates already done.

Qin et al. 2022 (Knowledge Inheritance), eq. 2 and its ablations, with D the number of teacher-guided updates::

    linear     max(1 - t / D, 0)        heaviside  1 if t < D else 0        constant  1/2        none  0

t is 0-based and read before the update, so the first update of ``linear`` and ``heaviside`` has no self-learning
gradient at all.  All micro-batches of an update share alpha.  No torch: a plan reads this module.
"""

from __future__ import annotations

from collections.abc import Callable


def linear(t: int, guided: int) -> float:
    """Falls from 1 to 0 over the guided updates."""
    return max(1.0 - t / guided, 0.0)


def heaviside(t: int, guided: int) -> float:
    """1, then 0 from update ``guided`` on."""
    return 1.0 if t < guided else 0.0


def constant(t: int, guided: int) -> float:
    """One half throughout, whatever ``guided`` is."""
    return 0.5


def none(t: int, guided: int) -> float:
    """No teacher: the control that runs the same code."""
    return 0.0


SCHEDULES: dict[str, Callable[[int, int], float]] = {
    "linear": linear,
    "heaviside": heaviside,
    "constant": constant,
    "none": none,
}
