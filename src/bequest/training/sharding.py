"""What FSDP2 needs to know about tied weights, and what became of a sharded model afterwards.

torch refuses a parameter that two groups of shards can see.  accelerate makes groups of the blocks, the embeddings and
the output projection; a masked LM's head holds that projection's bias under two names, so its head must stay whole.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from bequest.errors import InputError
from bequest.training.masked_update import plain_name


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


@torch.no_grad()
def gather(sharded: nn.Module, whole: nn.Module) -> None:
    """Copy the whole weights and buffers of a sharded model into an ordinary model of its making, on every process.

    One tensor is whole at a time.  Every process must call this: gathering a tensor takes all of them.
    """
    from torch.distributed.tensor import DTensor

    places = whole.state_dict()
    for name, value in sharded.state_dict().items():
        places[plain_name(name)].copy_(value.full_tensor() if isinstance(value, DTensor) else value)
