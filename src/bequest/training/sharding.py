"""What FSDP2 needs to know about tied weights, and what became of a sharded model afterwards.

torch refuses a parameter that two groups of shards can see.  accelerate makes groups of the blocks, the embeddings and
the output projection; a masked LM's head holds that projection's bias under two names, so its head must stay whole.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn

from bequest.errors import InputError


def wrap_blocks_only(plugin: Any, model: Any) -> None:
    """Shard block by block, never an embedding module on its own (bert names its embeddings among its blocks)."""
    blocks = model._no_split_modules
    if plugin.transformer_cls_names_to_wrap is None and blocks:
        plugin.transformer_cls_names_to_wrap = [name for name in blocks if "Embedding" not in name]


@contextlib.contextmanager
def one_root_group(model: Any) -> Iterator[None]:
    """While open, a model whose output projection shares a parameter with its head shows accelerate no embeddings.

    Embeddings, head and last norm then stay together in the root's group of shards.
    """
    output = model.get_output_embeddings()
    inner = {id(parameter) for parameter in output.parameters()} if output is not None else set()
    apart = (output, model.get_input_embeddings())
    shared = any(
        id(parameter) in inner
        for module in model.modules()
        if module not in apart
        for parameter in module.parameters(recurse=False)
    )
    if not shared:
        yield
        return
    hidden = {"get_input_embeddings": lambda: None, "get_output_embeddings": lambda: None}
    vars(model).update(hidden)
    try:
        yield
    finally:
        for name in hidden:
            vars(model).pop(name, None)


def refuse_unsharded(asked: bool, model: nn.Module) -> None:
    """FSDP that did not shard (as on a CPU, where accelerate leaves it out silently) is refused.

    Raises:
        InputError: FSDP was asked for and no parameter is a DTensor.
    """
    from torch.distributed.tensor import DTensor

    if asked and not any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        raise InputError(
            "FSDP was asked for but nothing is sharded on this device",
            key="training.fsdp",
            remedy="drop it, or use FSDP version 2 on accelerators",
        )


def gathered(model: nn.Module) -> nn.Module:
    """A sharded model as an ordinary one: a fresh copy with the whole weights, on every process."""
    from torch.distributed.tensor import DTensor

    full = {
        name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in model.state_dict().items()
    }
    # fully_shard makes a class of its own that derives from the model's.
    kind: Any = next(base for base in type(model).__mro__ if not base.__name__.startswith("FSDP"))
    fresh: nn.Module = kind(model.config)
    fresh.load_state_dict(full)
    return fresh.eval()
