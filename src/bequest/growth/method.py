"""What a growth method is: it decides the maps, and surgery does the rest.  Imports neither torch nor transformers."""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from bequest.anatomy import Anatomy
from bequest.anatomy.maps import AxisMap, Maps

if TYPE_CHECKING:
    import torch

#: What a method decides: the axes' maps, the order of layers, or how copies are told apart.
Direction = Literal["width", "depth", "symmetry"]

#: What is predicted for growths that leave the function far behind: logits about as wrong as they are large.
FAR = 3.0


@dataclass(frozen=True)
class Verdict:
    """Whether a method preserves the function from one anatomy to another, and why.

    Args:
        exact: up to rounding, for every setting of the weights.
        reason: in words.
        nearest: canonical sizes that would be exact, where these are not.
        predicted: an upper estimate of max|logit difference| / max|logit|; 0 where exact.
    """

    exact: bool
    reason: str
    nearest: Mapping[str, int] | None = None
    predicted: float = 0.0


class Growth(ABC):
    """Which maps lead from a source to a target.

    A method decides the width, the depth, the symmetry, or several of them (``directions``); the maps of several
    methods are put together.  One that ``learns`` starts from its maps and trains them on a corpus.
    """

    directions: ClassVar[frozenset[Direction]] = frozenset({"width"})
    learns: ClassVar[bool] = False

    @abstractmethod
    def maps(
        self,
        source: Anatomy,
        target: Anatomy,
        *,
        weights: Mapping[str, torch.Tensor] | None = None,
        rng: random.Random,
    ) -> Maps:
        """The maps; ``weights`` and ``rng`` for the methods whose maps depend on them.

        Raises:
            InputError: the method cannot grow this source to this target; the key is named.
        """

    def verdict(self, source: Anatomy, target: Anatomy) -> Verdict:
        """Whether the growth is exact; the default says that it is not."""
        return Verdict(False, f"{type(self).__name__} does not preserve the function", predicted=FAR)


def uneven_error(axis_map: AxisMap, anatomy: Anatomy) -> float:
    """An upper estimate of how wrong logits are when norms see copies in uneven numbers.

    Mean square (and mean) over the grown stream weigh unit g by k_g: with c the coefficient of variation of k and n
    units, a norm's scale is off by about c sqrt(3 / n) for a normal stream, and every norm adds its share (growth.md
    §2: 7e-2 circular and 1.9e-1 random at 64 to 96 in three blocks).  Streams have heavier tails than the normal
    distribution, hence the factor 5, and wide ones are carried by few channels, hence no more than 64 units: an upper
    estimate that held on jittered models of 32 to 768 and on a trained one of 576, where it is nine times too large.
    """
    ratio = axis_map.target / axis_map.source
    counts = dict(zip(axis_map.index, axis_map.copies, strict=True))
    variation = math.sqrt(sum((copies / ratio - 1) ** 2 for copies in counts.values()) / axis_map.source)
    norms = 2 * anatomy.layers + 1
    return min(FAR, 5 * variation * math.sqrt(3 / min(axis_map.source, 64)) * math.sqrt(norms))
