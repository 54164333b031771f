"""Masks on the update: the ratio holds under Adam, a gradient mask's does not; masks that cannot work are refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import training_support as tiny
from bequest.errors import RunError
from bequest.training import LanguageModelling, train
from bequest.training.masked_update import MaskedUpdate

IMPORTANCE = torch.tensor([[0.0], [0.5], [0.9], [0.99], [1.0]])


def displacement(how: str, optimizer_class: Any, **more: Any) -> torch.Tensor:
    """Movement of five rows under a constant gradient, relative to the unprotected first row."""
    model = torch.nn.Linear(3, 5, bias=False)
    with torch.no_grad():
        model.weight.zero_()
    optimizer = optimizer_class(model.parameters(), lr=1e-3, **more)
    if how == "update":
        MaskedUpdate(model, optimizer, {"weight": IMPORTANCE})
    for _ in range(50):
        model.weight.grad = torch.full((5, 3), 1e-3)
        if how == "gradient":
            model.weight.grad *= 1 - IMPORTANCE
        optimizer.step()
    moved = model.weight.detach().abs().mean(dim=1)
    return moved / moved[0]


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        (torch.optim.AdamW, {"weight_decay": 0.0}),
        (torch.optim.SGD, {}),
        (torch.optim.SGD, {"momentum": 0.9}),
        (torch.optim.RMSprop, {}),
    ],
)
def test_the_update_mask_scales_motion_for_any_optimizer(kind: Any, more: dict[str, Any]) -> None:
    torch.testing.assert_close(displacement("update", kind, **more), (1 - IMPORTANCE).squeeze(), rtol=0.02, atol=1e-6)


def test_adam_cancels_a_mask_on_gradients() -> None:
    """The negative control, and why the mask acts on the update."""
    ratio = displacement("gradient", torch.optim.AdamW, weight_decay=0.0)
    assert (ratio[:4] > 0.95).all()
    assert ratio[4] == 0


class Protected(LanguageModelling):
    def __init__(self, masks: dict[str, torch.Tensor]) -> None:
        object.__setattr__(self, "masks", masks)

    def update_masks(self) -> dict[str, torch.Tensor]:
        return self.masks


def trained(place: Path, masks: dict[str, torch.Tensor], name: str = "run") -> tuple[Any, dict[str, torch.Tensor]]:
    model, anatomy = tiny.tiny("bert")
    before = tiny.copy_of(model)
    chosen = tiny.settings(6, micro=2, weight_decay=0.5, checkpoint_every=3)
    train(model, tiny.data_for("bert", place), Protected(masks), chosen, place / name, anatomy=anatomy)
    return model, before


def test_full_protection_survives_decay_clipping_and_accumulation(tmp_path: Path) -> None:
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    rows = torch.zeros(48, 1)
    rows[5:9] = 1
    model, before = trained(tmp_path, {name: rows})
    moved = (dict(model.named_parameters())[name] != before[name]).any(dim=1)
    assert not moved[5:9].any()
    assert moved[:5].all()
    assert moved[9:].all()


def test_zero_importance_is_plain_bit_for_bit(tmp_path: Path) -> None:
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    free, _ = trained(tmp_path, {name: torch.zeros(48, 1)})
    plain, _ = trained(tmp_path, {}, "plain")
    for (key, one), two in zip(free.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, two), key


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"no.such": torch.zeros(1)}, "names no parameter"),
        ({"bert.embeddings.word_embeddings.weight": torch.full((1, 1), 1.5)}, r"outside \[0, 1\]"),
        ({"bert.embeddings.word_embeddings.weight": torch.zeros(7, 7)}, "does not fit"),
    ],
)
def test_masks_that_cannot_work_are_refused(masks: dict[str, torch.Tensor], message: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=message):
        trained(tmp_path, masks)


def test_a_parameter_that_is_not_stepped_is_refused() -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD([model.bias], lr=1.0)
    with pytest.raises(RunError, match="does not step"):
        MaskedUpdate(model, optimizer, {"weight": torch.zeros(1)})


def test_hooks_that_do_not_act_are_found_out() -> None:
    """As when a parameter is replaced after the hooks were put on: the first step tells."""
    model = torch.nn.Linear(2, 2, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    masks = MaskedUpdate(model, optimizer, {"weight": torch.ones(1)})
    masks.detach()
    model.weight.grad = torch.ones(2, 2)
    optimizer.step()
    with pytest.raises(RunError, match="moved in the first update"):
        masks.check_first_step()
