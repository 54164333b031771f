"""Replay: a share of the tokens comes from the corpora of earlier stages.

Compute-equivalent replay (Ibrahim et al. 2024): the budget is fixed, ``T_new = (1 - r) T`` and ``T_old = r T``, shared
uniformly over the earlier corpora.  5 % suffices for a weak shift, about 25 % for another language.  Shares are of
*tokens*: corpora are packed to one length, so shares of blocks are shares of tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from bequest.adaptation.limits import check_replay
from bequest.errors import InputError
from bequest.training.objective import Objective, Source, Step, Term


@dataclass(frozen=True)
class Replay(Objective):
    """Mix earlier corpora into the new domain."""

    share: float = 0.05
    """r, the share of all tokens that is replayed."""

    def __post_init__(self) -> None:
        check_replay(self.share)

    def terms(self, step: Step) -> dict[str, Term]:
        """None of its own: replay changes what is read, not what is minimised."""
        return {}

    def mixture(self, current: Sequence[Source], earlier: Sequence[Source]) -> Sequence[Source]:
        """The new corpora at ``1 - r``, the earlier ones at ``r``, equally.

        Raises:
            InputError: there is nothing earlier to replay.
        """
        if self.share == 0:
            return current
        if not earlier:
            raise InputError(
                "there is no earlier corpus to replay",
                key="method",
                remedy="start from a model that was trained on another corpus of the recipe, or drop replay",
            )
        kept = [dataclasses.replace(source, share=source.share * (1 - self.share)) for source in current]
        return kept + [dataclasses.replace(source, share=self.share / len(earlier)) for source in earlier]
