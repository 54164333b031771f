"""Loss against FLOPs as a drawing: one SVG per experiment, scale and size, of the means over seeds.

Drawn by hand, so that the same rows give the same bytes.  Small: ``loss_figure(compared, "-")``.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from bequest.errors import InputError
from bequest.reports.wording import flops
from lab.evidence.curve_tables import arms_with_curves, corpus_of, curves_of
from lab.experiments.comparing import Arm, Comparison
from lab.experiments.curves import Curve, level
from lab.experiments.schema import ONLY

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 900, 500, 60, 190, 20, 50
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#17becf", "#e377c2")
DASHES = ("", "6 3", "2 2")
BEGINNING = 0.25
"""The share of the baseline's FLOPs from which on its own curve is inside the frame; the others lie lower."""
TICKS = 6


def figure_name(compared: Comparison, size: str) -> str:
    """``evidence-growth-cpu.svg``."""
    parts = ["evidence", compared.experiment.name, compared.scale, *([size] if size != ONLY else [])]
    return f"{'-'.join(parts)}.svg"


def loss_figure(compared: Comparison, size: str) -> str | None:
    """The drawing, or None where there are no curves to compare."""
    arms, corpus = arms_with_curves(compared, size), corpus_of(compared)
    if not arms or corpus is None:
        return None
    try:
        means = {arm: mean_curve(curves_of(compared, arm, corpus, "student")) for arm in arms}
    except InputError:  # nobody knows what the stages cost; the tables say so
        return None
    means = {arm: points for arm, points in means.items() if points}
    base = means.get(Arm(compared.experiment.baseline, size))
    if base is None:
        return None
    frame = Frame(means, base)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<clipPath id="frame"><rect x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" '
        f'height="{HEIGHT - TOP - BOTTOM}"/></clipPath>',
        *frame.axes(f"FLOPs of the method's own stages, mean over seeds (loss on {corpus}, nats)"),
    ]
    for place, (arm, points) in enumerate(means.items()):
        lines += frame.line(place, arm.method, points)
    return "\n".join([*lines, "</svg>", ""])


def mean_curve(curves: Mapping[int, Curve]) -> Curve:
    """The mean over cells, at the budgets of the first of them."""
    cells = [points for points in curves.values() if points]
    if not cells:
        return ()
    return tuple((at, statistics.fmean(level(points, at) for points in cells)) for at, _ in cells[0])


class Frame:
    """What part of the plane is drawn, and where its points come to stand."""

    def __init__(self, curves: Mapping[Arm, Curve], base: Curve) -> None:
        self.right = max(points[-1][0] for points in curves.values())
        self.low = min(loss for points in curves.values() for _, loss in points)
        self.high = level(base, BEGINNING * base[-1][0])
        self.goal = base[-1][1]

    def x(self, spent: float) -> float:
        """Pixels from the left."""
        return LEFT + (WIDTH - LEFT - RIGHT) * spent / self.right

    def y(self, loss: float) -> float:
        """Pixels from the top."""
        span = (self.high - self.low) or 1.0
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - 0.96 * (loss - self.low) / span - 0.02)

    def axes(self, title: str) -> list[str]:
        """The frame, its ticks, and the loss at which the baseline ends."""
        bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
        lines = [f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="black"/>']
        for spent in ticks(0.0, self.right):
            at = f"{self.x(spent):.1f}"
            lines += [
                f'<path d="M{at} {bottom}v5" stroke="black"/>',
                f'<text x="{at}" y="{bottom + 18}" text-anchor="middle">{flops(spent) if spent else 0}</text>',
            ]
        for loss in ticks(self.low, self.high):
            at = f"{self.y(loss):.1f}"
            lines += [
                f'<path d="M{LEFT} {at}h-5" stroke="black"/>',
                f'<text x="{LEFT - 8}" y="{at}" dy="4" text-anchor="end">{loss:.2f}</text>',
            ]
        lines.append(f'<text x="{(LEFT + right) / 2:.1f}" y="{bottom + 38}" text-anchor="middle">{title}</text>')
        goal = f"{self.y(self.goal):.1f}"
        lines.append(f'<path d="M{LEFT} {goal}H{right}" stroke="#999" stroke-dasharray="1 3"/>')
        return lines

    def line(self, place: int, name: str, points: Curve) -> list[str]:
        """One curve and its entry in the legend."""
        colour = COLOURS[place % len(COLOURS)]
        dashes = DASHES[place // len(COLOURS) % len(DASHES)]
        style = f'fill="none" stroke="{colour}" stroke-width="1.6"'
        style += f' stroke-dasharray="{dashes}"' if dashes else ""
        drawn = " ".join(f"{self.x(at):.1f},{self.y(loss):.1f}" for at, loss in points)
        y = TOP + 12 + 20 * place
        return [
            f'<polyline points="{drawn}" {style} clip-path="url(#frame)"/>',
            f'<path d="M{WIDTH - RIGHT + 14} {y}h26" {style}/>',
            f'<text x="{WIDTH - RIGHT + 46}" y="{y}" dy="4">{name}</text>',
        ]


def ticks(low: float, high: float) -> Sequence[float]:
    """At most so many round numbers between two."""
    span = (high - low) or 1.0
    power = 10.0 ** math.floor(math.log10(span / TICKS))
    step = next(factor * power for factor in (1, 2, 5, 10, 20) if span / (factor * power) <= TICKS)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 10) for number in range(first, math.floor(high / step + 1e-9) + 1)]
