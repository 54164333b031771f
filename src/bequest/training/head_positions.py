"""The language-model head on target positions only, by a forward-pre-hook on the head module.

A masked LM predicts 15 % of its positions; sending only these through the vocabulary projection saves most of its cost.
The hook selects rows of the hidden states *inside* the root model's forward, so DDP and FSDP2 see one ordinary call of
the module that they wrapped.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from bequest.errors import AnatomyError

WRAPPERS = ("module", "_orig_mod", "base_model", "model", "_fsdp_wrapped_module")


def find_head(root: nn.Module, name: str) -> nn.Module:
    """The module ``name`` of the plain model, found under whatever wraps it (DDP, PEFT, compile).

    Raises:
        AnatomyError: no such module.
    """
    modules: dict[str, nn.Module] = dict(root.named_modules())
    if name in modules:
        return modules[name]
    endings = sorted((path for path in modules if path.endswith(f".{name}")), key=len)
    for path in endings:
        if all(part in WRAPPERS for part in path[: -len(name) - 1].split(".")):
            return modules[path]
    raise AnatomyError("the model has no such head module", key=name, remedy="use a model with a language-model head")


@contextlib.contextmanager
def at_positions(head: nn.Module, positions: Tensor) -> Iterator[None]:
    """While open, ``head`` receives only the rows ``positions`` [N] of its input: [B, T, D] becomes [N, D]."""

    def select(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden: Tensor = inputs[0]
        return hidden.reshape(-1, hidden.shape[-1]).index_select(0, positions), *inputs[1:]

    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


def forward_positions(
    model: nn.Module, head: nn.Module | None, batch: Mapping[str, Tensor], positions: Tensor | None
) -> Tensor:
    """Call the root model and return its logits at ``positions`` ([N, V]); all of its logits when that is ``None``."""
    if positions is None:
        logits: Tensor = model(**batch).logits
        return logits
    if head is None:
        logits = model(**batch).logits
        return logits.reshape(-1, logits.shape[-1]).index_select(0, positions)
    with at_positions(head, positions):
        selected: Tensor = model(**batch).logits
    return selected
