"""The ranges of the methods' hyper-parameters: what a plan may check of a method without importing it.  No torch.

``LIMITS`` maps a method's name to a check of its options, which the method's own constructor calls too.
"""

from __future__ import annotations

from collections.abc import Callable

from bequest.errors import InputError


def check_replay(share: float = 0.05) -> None:
    """A share of the tokens, which must leave some to the new corpora.

    Raises:
        InputError: it is not in [0, 1).
    """
    if not _is_number(share) or not 0 <= share < 1:
        raise InputError(f"{share!r} is not in [0, 1)", key="method.share", remedy="use 0.05")


def check_sequential(min_lr_ratio: float = 0.1) -> None:
    """A share of the peak learning rate.

    Raises:
        InputError: it is not in [0, 1].
    """
    if not _is_number(min_lr_ratio) or not 0 <= min_lr_ratio <= 1:
        raise InputError(f"{min_lr_ratio!r} is not in [0, 1]", key="method.min_lr_ratio", remedy="use 0.1")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


LIMITS: dict[str, Callable[..., None]] = {"replay": check_replay, "sequential": check_sequential}
