"""The stage × domain matrix of a stream of domains, and the figures taken from it.

A model is trained on the domains 1..T one after another; stage i is the model after domain i, stage 0 the untouched
base.  The matrix holds one measured number per stage i = 0..T and stream domain j = 1..T.

    a^i_j = the accuracy, or minus the loss, of stage i on domain j: higher is better

Signs.  Levels (``adaptability``, ``final``, ``anytime``, ``out_of_domain``, ``temporal``, ``seen``, ``unseen``) are
means of what was measured and keep its sign: a mean loss is lower the better.  Gains (``learning``, ``learning_min``,
``bwt``, ``fwt``) are positive when something was won, losses of ability (``forget``, ``forget_max``, ``unseen_drop``,
``unseen_drop_max``, ``intransigence``, ``drop``, ``drift``) positive when something was lost, whether the matrix holds
losses or accuracies.  Names and signs differ between papers: print :attr:`Figure.formula` beside the number.

A missing cell is an error, never a zero.  Pure Python, no torch.  Small:

    Matrix.of({"base": {"a": 5.0}, "s1": {"a": 3.0}}, ["base", "s1"], ["a"], losses=True).learning()    # 2.0 nats
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from bequest.errors import InputError, did_you_mean


@dataclass(frozen=True)
class Matrix:
    """Measured numbers of every stage on every domain of the stream.

    Attributes:
        stages: T + 1 names, the base first, in the order of training.
        domains: T names; stage i was trained on ``domains[i - 1]``.
        cells: [T + 1, T], what was measured: losses in nats, or accuracies as shares.
        losses: whether lower is better.
    """

    stages: tuple[str, ...]
    domains: tuple[str, ...]
    cells: tuple[tuple[float, ...], ...]
    losses: bool

    @classmethod
    def of(
        cls, measured: Mapping[str, Mapping[str, float]], stages: Sequence[str], domains: Sequence[str], *, losses: bool
    ) -> Matrix:
        """The matrix of ``measured[stage][domain]``; other stages and domains that were measured are left aside.

        Raises:
            InputError: not one more stage than domains, a name twice, a missing cell, or one that is not finite.
        """
        if not domains or len(stages) != len(domains) + 1:
            raise InputError(
                f"{len(stages)} stages do not fit a stream of {len(domains)} domains",
                remedy="name the base first, then one stage per domain",
            )
        for names in (stages, domains):
            if len(set(names)) != len(names):
                raise InputError(f"a name stands twice in {', '.join(names)}")
        cells = tuple(tuple(cell(measured, stage, domain) for domain in domains) for stage in stages)
        return cls(tuple(stages), tuple(domains), cells, losses)

    @property
    def length(self) -> int:
        """T, the number of domains in the stream."""
        return len(self.domains)

    def score(self, i: int, j: int) -> float:
        """a^i_j, i = 0..T, j = 1..T: the accuracy, or minus the loss."""
        value = self.cells[i][j - 1]
        return -value if self.losses else value

    def level(self, pairs: Iterable[tuple[int, int]], what: str) -> float:
        """Mean of the measured numbers at the given (i, j).

        Raises:
            InputError: there is no such pair in a stream this short.
        """
        found = [self.cells[i][j - 1] for i, j in pairs]
        if not found:
            raise InputError(f"{what} has no meaning in a stream of {self.length}", remedy="use a longer stream")
        return statistics.fmean(found)

    def changes(self, pairs: Iterable[tuple[tuple[int, int], tuple[int, int]]], what: str) -> list[float]:
        """``a[first] − a[second]`` for each pair of cells.

        Raises:
            InputError: there is no such pair in a stream this short.
        """
        found = [self.score(*first) - self.score(*second) for first, second in pairs]
        if not found:
            raise InputError(f"{what} has no meaning in a stream of {self.length}", remedy="use a longer stream")
        return found

    # -- levels ------------------------------------------------------------------------------------------------------

    def adaptability(self) -> float:
        """Right after training on a domain: (1/T) Σ_i a^i_i (A_Acc)."""
        return self.level(((i, i) for i in self._stream()), "adaptability")

    def final(self) -> float:
        """At the end of the stream: (1/T) Σ_j a^T_j (F_Acc, final average)."""
        return self.level(((self.length, j) for j in self._stream()), "final")

    def anytime(self) -> float:
        """Over the whole matrix without the base: (1/T²) Σ_{i=1..T} Σ_{j=1..T} a^i_j."""
        return self.level(((i, j) for i in self._stream() for j in self._stream()), "anytime")

    def out_of_domain(self) -> float:
        """On domains not yet trained: 2/(T(T−1)) Σ_{1≤i<j} a^i_j, the upper triangle (O_Acc)."""
        return self.level(self._unseen_pairs(), "out_of_domain")

    def seen(self, i: int) -> float:
        """After stage i, on the domains trained so far: (1/i) Σ_{j≤i} a^i_j."""
        return self.level(((i, j) for j in range(1, i + 1)), f"seen after stage {i}")

    def unseen(self, i: int) -> float:
        """After stage i, on the domains still to come: (1/(T−i)) Σ_{j>i} a^i_j."""
        return self.level(((i, j) for j in range(i + 1, self.length + 1)), f"unseen after stage {i}")

    def temporal(self, k: int) -> float:
        """Domains in time order, trained up to i and measured k later: mean_i a^i_{i+k}, i = 1..T (T_Acc for k = 1)."""
        pairs = [(i, i + k) for i in self._stream() if 1 <= i + k <= self.length]
        return self.level(pairs, f"temporal at distance {k}")

    # -- gains and losses of ability -----------------------------------------------------------------------------------

    def learning(self) -> float:
        """What a domain's own training wins: (1/T) Σ_i (a^i_i − a^{i−1}_i); for losses, nats learnt."""
        return statistics.fmean(self._learnt())

    def learning_min(self) -> float:
        """The same for the domain that won least: min_i (a^i_i − a^{i−1}_i)."""
        return min(self._learnt())

    def forget(self) -> float:
        """Since a domain's own training: (1/(T−1)) Σ_{j<T} (a^j_j − a^T_j); negative is backward transfer."""
        last = self.length
        return statistics.fmean(self.changes((((j, j), (last, j)) for j in range(1, last)), "forget"))

    def forget_max(self) -> float:
        """Since the best earlier stage: (1/(T−1)) Σ_{j<T} (max_{j≤i<T} a^i_j − a^T_j); never below ``forget``."""
        last = self.length
        best = (((max(range(j, last), key=lambda i: self.score(i, j)), j), (last, j)) for j in range(1, last))
        return statistics.fmean(self.changes(best, "forget_max"))

    def bwt(self) -> float:
        """Backward transfer, −``forget``: (1/(T−1)) Σ_{j<T} (a^T_j − a^j_j)."""
        return -self.forget()

    def fwt(self) -> float:
        """What the earlier domains do for the next one: (1/(T−1)) Σ_{j>1} (a^{j−1}_j − a^0_j)."""
        pairs = (((j - 1, j), (0, j)) for j in range(2, self.length + 1))
        return statistics.fmean(self.changes(pairs, "fwt"))

    def unseen_drop(self) -> float:
        """Ability lost on domains not yet trained: the mean over 1≤i<j of (a^0_j − a^i_j)."""
        return statistics.fmean(self._unseen_drops())

    def unseen_drop_max(self) -> float:
        """The same for the worst pair: max over 1≤i<j of (a^0_j − a^i_j)."""
        return max(self._unseen_drops())

    def unseen_share(self, epsilon: float) -> float:
        """Share of the pairs 1≤i<j with a^0_j − a^i_j > ε; 0 where nothing unseen was damaged."""
        return statistics.fmean(float(drop > epsilon) for drop in self._unseen_drops())

    def intransigence(self, reference: Mapping[str, float]) -> float:
        """Learning lost by protection: (1/T) Σ_j (a^ref_j − a^j_j).

        Args:
            reference: what was measured on each domain by a model trained on that domain alone, or on all jointly; in
                the matrix' own kind (losses or accuracies).

        Raises:
            InputError: the reference lacks a domain.
        """
        sign = -1.0 if self.losses else 1.0
        alone = [sign * cell({"reference": reference}, "reference", domain) for domain in self.domains]
        return statistics.fmean(alone[j - 1] - self.score(j, j) for j in self._stream())

    def _stream(self) -> range:
        return range(1, self.length + 1)

    def _unseen_pairs(self) -> list[tuple[int, int]]:
        return [(i, j) for i in self._stream() for j in range(i + 1, self.length + 1)]

    def _unseen_drops(self) -> list[float]:
        return self.changes((((0, j), (i, j)) for i, j in self._unseen_pairs()), "unseen_drop")

    def _learnt(self) -> list[float]:
        return self.changes((((i, i), (i - 1, i)) for i in self._stream()), "learning")


def drop(values: Sequence[float], *, losses: bool) -> float:
    """Ability lost on something outside the stream (general text), first stage to last: a^0_0 − a^T_0.

    Args:
        values: what was measured there after each stage, T + 1 numbers, the base first.
        losses: whether lower is better.

    Raises:
        InputError: fewer than two stages.
    """
    return _drops(values, losses)[-1]


def drift(values: Sequence[float], *, losses: bool) -> float:
    """The same averaged over the stream: (1/T) Σ_{i=1..T} (a^0_0 − a^i_0).

    Raises:
        InputError: fewer than two stages.
    """
    return statistics.fmean(_drops(values, losses))


def frontier_gap(learning: float, forget: float, frontier: Sequence[tuple[float, float]]) -> float:
    """Forgetting above that of plain sequential training *at the same learning*; negative is real protection.

    A method that only learns less forgets less too.  The frontier is sequential training at several learning rates.

    Args:
        learning: of the method, nats.
        forget: of the method, nats.
        frontier: (learning, forget) of the sequential runs, at least two; read by linear interpolation in learning.

    Raises:
        InputError: fewer than two points, or learning outside their range: nothing is extrapolated.
    """
    points = sorted(frontier)
    if len(points) < 2 or not points[0][0] <= learning <= points[-1][0]:
        raise InputError(
            f"a learning of {learning:g} lies outside the frontier of {len(points)} points",
            remedy="run sequential training at learning rates below and above",
        )
    right = next(index for index in range(1, len(points)) if learning <= points[index][0])
    (x0, y0), (x1, y1) = points[right - 1], points[right]
    expected = min(y0, y1) if x1 == x0 else y0 + (y1 - y0) * (learning - x0) / (x1 - x0)
    return forget - expected


@dataclass(frozen=True)
class Figure:
    """One number of the matrix.

    Attributes:
        formula: to be printed beside the number.
        compute: from the matrix.
        sense: ``level`` (in the unit and sign of what was measured), ``gain`` (higher is better) or ``lost`` (lower is
            better).
    """

    formula: str
    compute: Callable[[Matrix], float]
    sense: str

    def better(self, *, losses: bool) -> str:
        """``higher`` or ``lower``: the direction in which the number is good."""
        if self.sense == "level":
            return "lower" if losses else "higher"
        return "higher" if self.sense == "gain" else "lower"


FIGURES: dict[str, Figure] = {
    "adaptability": Figure("(1/T) Σᵢ aⁱᵢ", Matrix.adaptability, "level"),
    "final": Figure("(1/T) Σⱼ aᵀⱼ", Matrix.final, "level"),
    "anytime": Figure("(1/T²) Σᵢ Σⱼ aⁱⱼ", Matrix.anytime, "level"),
    "out_of_domain": Figure("mean over 1 ≤ i < j of aⁱⱼ", Matrix.out_of_domain, "level"),
    "learning": Figure("(1/T) Σᵢ (aⁱᵢ − aⁱ⁻¹ᵢ)", Matrix.learning, "gain"),
    "learning_min": Figure("minᵢ (aⁱᵢ − aⁱ⁻¹ᵢ)", Matrix.learning_min, "gain"),
    "forget": Figure("(1/(T−1)) Σ over j < T of (aʲⱼ − aᵀⱼ)", Matrix.forget, "lost"),
    "forget_max": Figure("(1/(T−1)) Σ over j < T of (max over j ≤ i < T of aⁱⱼ − aᵀⱼ)", Matrix.forget_max, "lost"),
    "bwt": Figure("(1/(T−1)) Σ over j < T of (aᵀⱼ − aʲⱼ)", Matrix.bwt, "gain"),
    "fwt": Figure("(1/(T−1)) Σ over j > 1 of (aʲ⁻¹ⱼ − a⁰ⱼ)", Matrix.fwt, "gain"),
    "unseen_drop": Figure("mean over 1 ≤ i < j of (a⁰ⱼ − aⁱⱼ)", Matrix.unseen_drop, "lost"),
    "unseen_drop_max": Figure("max over 1 ≤ i < j of (a⁰ⱼ − aⁱⱼ)", Matrix.unseen_drop_max, "lost"),
}


def figure(name: str) -> Figure:
    """The figure of that name.

    Raises:
        InputError: there is none.
    """
    if name not in FIGURES:
        raise InputError(f"no figure {name!r}", key="metric", remedy=did_you_mean(name, FIGURES))
    return FIGURES[name]


def cell(measured: Mapping[str, Mapping[str, float]], stage: str, domain: str) -> float:
    """One measured number.

    Raises:
        InputError: it is missing or not finite.
    """
    value = measured.get(stage, {}).get(domain)
    if value is None:
        raise InputError(
            f"stage {stage!r} was not measured on {domain!r}", remedy="measure every stage on every domain"
        )
    if not math.isfinite(value):
        raise InputError(f"stage {stage!r} on {domain!r} is not finite", remedy="look for the diverged run")
    return float(value)


def _drops(values: Sequence[float], losses: bool) -> list[float]:
    """a^0 − a^i for i = 1..T."""
    if len(values) < 2:
        raise InputError(f"{len(values)} stages have no drop between them", remedy="measure the base and a stage")
    sign = -1.0 if losses else 1.0
    return [sign * (values[0] - value) for value in values[1:]]
