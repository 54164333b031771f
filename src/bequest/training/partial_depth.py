"""Running a prefix of a model's layers through its wrapped root: the first stage of two-stage pre-training.

Only layer modules are touched, and only while a micro-batch goes forward: layers above the prefix hand their input on,
layers below the trained ones run without a graph, and the lowest trained one gets its input detached.  The root is
called as ever, so DDP and FSDP2 see one ordinary call.  Every layer of every family here takes the states as its first
argument and returns them alone (transformers 5.23).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from bequest.anatomy import Anatomy
from bequest.errors import AnatomyError
from bequest.training.objective import Progress
from bequest.training.prefixes import TwoStage, prefix_flops


class PartialDepth:
    """The prefixes of one model in one run."""

    def __init__(self, two_stage: TwoStage, model: nn.Module, anatomy: Anatomy, *, block: int, seed: int) -> None:
        """Find the layers of ``model`` (plain; wrapping it later changes no module), at sequences of ``block`` tokens.

        Raises:
            InputError: the model has fewer layers than one block.
            AnatomyError: the model has no such layers.
        """
        self.two_stage, self.anatomy, self.block, self.seed = two_stage, anatomy, block, seed
        two_stage.depths(anatomy.layers)
        self.layers = layer_modules(model, anatomy)

    def depth(self, progress: Progress) -> int | None:
        """The layers that the update which ``progress`` stands before runs; ``None`` once the whole model is trained.

        The numbers of the updates are the run's own, so a resumed run draws what the uninterrupted one would.
        """
        if progress.update >= progress.updates_for(self.two_stage.until):
            return None
        return self.two_stage.drawn(progress.update, len(self.layers), self.seed)

    def flops(self, progress: Progress) -> tuple[int, int] | None:
        """Training FLOPs per token of the body and per target of the head of that update, or ``None`` for all of it."""
        depth = self.depth(progress)
        if depth is None:
            return None
        token, target = prefix_flops(self.anatomy, self.block, depth, self.two_stage.block)
        return round(token), round(target)

    @contextlib.contextmanager
    def running(self, progress: Progress) -> Iterator[None]:
        """While open, the model's forward is that of the update's prefix; the whole model again afterwards."""
        depth = self.depth(progress)
        if depth is None:
            yield
            return
        lowest = depth - self.two_stage.block
        with contextlib.ExitStack() as open_changes:
            for layer in self.layers[:lowest]:
                open_changes.enter_context(forward_as(layer, without_graph(layer.forward)))
            for layer in self.layers[depth:]:
                open_changes.enter_context(forward_as(layer, hand_on))
            open_changes.callback(self.layers[lowest].register_forward_pre_hook(cut_graph).remove)
            yield


@contextlib.contextmanager
def forward_as(layer: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """While open, ``layer`` computes ``forward``; its hooks (those of FSDP2, say) run as ever."""
    before = {key: value for key, value in vars(layer).items() if key == "forward"}
    vars(layer)["forward"] = forward
    try:
        yield
    finally:
        del vars(layer)["forward"]
        vars(layer).update(before)


def hand_on(states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The forward of a layer that is left out."""
    return states


def without_graph(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A forward that keeps nothing for a backward pass."""

    @functools.wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            return forward(*args, **kwargs)

    return run


def cut_graph(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """A pre-hook: nothing below this layer gets a gradient through it."""
    return inputs[0].detach(), *inputs[1:]


def layer_modules(model: nn.Module, anatomy: Anatomy) -> list[nn.Module]:
    """The layers of a plain model, lowest first.

    Raises:
        AnatomyError: a layer of the table has no module.
    """
    found = []
    for number in range(anatomy.layers):
        name = next(tensor.name for tensor in anatomy.tensors.values() if tensor.layer == number)
        parts = name.split(".")
        path = ".".join(parts[: parts.index(str(number)) + 1])
        try:
            found.append(model.get_submodule(path))
        except AttributeError:
            raise AnatomyError("the model has no such layer", key=path, remedy="pass the plain model") from None
    return found
