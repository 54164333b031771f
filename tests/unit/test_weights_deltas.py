from __future__ import annotations

import pytest
import torch

from bequest.errors import InputError
from bequest.weights.deltas import Delta, apply_delta, delta, rounding_share


def random_state(seed: int, names: str = "abc") -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(5, 7, generator=generator) for name in names}


def test_vector_of_the_specification() -> None:
    change = delta({"w": torch.tensor([1.5, 1.0])}, {"w": torch.tensor([1.0, 2.0])})
    new = {"w": torch.tensor([1.2, 2.5])}
    torch.testing.assert_close(apply_delta(new, change)["w"], torch.tensor([1.7, 1.5]))
    torch.testing.assert_close(apply_delta(new, change, scale=0.5)["w"], torch.tensor([1.45, 2.0]))


def test_same_base_gives_the_tuned_model_back_and_scale_zero_the_new_base() -> None:
    base, tuned, new = random_state(0), random_state(1), random_state(2)
    change = delta(tuned, base)
    for name, value in apply_delta(base, change).items():
        torch.testing.assert_close(value, tuned[name])
    for name, value in apply_delta(new, change, scale=0.0).items():
        assert torch.equal(value, new[name])
    assert not torch.allclose(apply_delta(new, change)["a"], tuned["a"])  # the control: another base is another model


def test_order_of_the_tensors_does_not_matter() -> None:
    base, tuned, new = random_state(0), random_state(1), random_state(2)
    expected = apply_delta(new, delta(tuned, base))
    turned = apply_delta(dict(reversed(new.items())), delta(dict(reversed(tuned.items())), base))
    assert all(torch.equal(expected[name], turned[name]) for name in expected)


def test_head_is_copied_and_never_added() -> None:
    tuned = {**random_state(1), "head": torch.full((2,), 3.0)}
    new = {**random_state(2), "head": torch.full((2,), 5.0), "lm_head": torch.ones(2)}
    result = apply_delta(new, delta(tuned, {**random_state(0), "lm_head": torch.zeros(2)}))
    assert torch.equal(result["head"], tuned["head"])
    assert torch.equal(result["lm_head"], new["lm_head"])


def test_sums_are_fp32_and_cast_once() -> None:
    base, tuned = {"w": torch.tensor([1.0])}, {"w": torch.tensor([1.0 + 1e-3])}
    change = delta(tuned, base)
    new = {"w": torch.tensor([256.0], dtype=torch.bfloat16)}
    assert change.difference["w"].dtype == torch.float32
    assert apply_delta(new, change)["w"].dtype == torch.bfloat16
    # Casting the difference of bf16 files instead loses it altogether: why the rounding share is worth a line.
    assert float(delta({"w": tuned["w"].bfloat16()}, {"w": base["w"].bfloat16()}).difference["w"]) == 0.0


def test_integer_buffers_stay_out_of_the_difference() -> None:
    change = delta({"w": torch.ones(2), "ids": torch.arange(3)}, {"w": torch.zeros(2), "ids": torch.arange(3)})
    assert set(change.difference) == {"w"} and not change.absolute


@pytest.mark.parametrize("dtype, low, high", [(torch.float16, 0.1, 0.6), (torch.bfloat16, 0.8, 4.0)])
def test_rounding_share_predicts_what_16_bit_files_lose(dtype: torch.dtype, low: float, high: float) -> None:
    generator = torch.Generator().manual_seed(0)
    base = {"w": torch.randn(300, 300, generator=generator)}
    tuned = {"w": base["w"] + 1e-3 * torch.randn(300, 300, generator=generator)}
    exact = delta(tuned, base).difference["w"]
    stored = delta({"w": tuned["w"].to(dtype)}, {"w": base["w"].to(dtype)}).difference["w"]
    measured = float((stored - exact).norm() / exact.norm())
    assert low < measured < high
    assert rounding_share(tuned, base, dtype) == pytest.approx(measured, rel=0.5)
    assert rounding_share(tuned, base, torch.float32) < 1e-3


def test_bad_input_names_the_tensor() -> None:
    with pytest.raises(InputError, match=r"a: shapes differ: \(5, 7\) and \(2,\)"):
        delta(random_state(0), {"a": torch.ones(2)})
    with pytest.raises(InputError, match="share no tensor"):
        delta({"x": torch.ones(2)}, {"y": torch.ones(2)})
    with pytest.raises(InputError, match="b: the new base has no such tensor"):
        apply_delta({"a": torch.ones(2)}, Delta({"b": torch.ones(2)}, {}))
