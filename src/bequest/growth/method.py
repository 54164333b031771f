"""What a growth method is: it decides the maps, and surgery does the rest.  Imports neither torch nor transformers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from bequest.anatomy import Anatomy
from bequest.anatomy.maps import Maps

if TYPE_CHECKING:
    import torch

Direction = Literal["width", "depth"]


@dataclass(frozen=True)
class Verdict:
    """Whether a method preserves the function from one anatomy to another, and why.

    Args:
        exact: up to rounding, for every setting of the weights.
        reason: in words.
        nearest: canonical sizes that would be exact, where these are not.
    """

    exact: bool
    reason: str
    nearest: Mapping[str, int] | None = None


class Growth(ABC):
    """Which maps lead from a source to a target.

    A method grows the width, the depth, or both (``directions``); the maps of several are put together.
    """

    directions: ClassVar[frozenset[Direction]] = frozenset({"width"})

    @abstractmethod
    def maps(
        self,
        source: Anatomy,
        target: Anatomy,
        *,
        weights: Mapping[str, torch.Tensor] | None = None,
        rng: Any = None,
    ) -> Maps:
        """The maps; ``weights`` and ``rng`` for the methods whose maps depend on them.

        Raises:
            InputError: the method cannot grow this source to this target; the key is named.
        """

    def verdict(self, source: Anatomy, target: Anatomy) -> Verdict:
        """Whether the growth is exact; the default says that it is not."""
        return Verdict(False, f"{type(self).__name__} does not preserve the function")
