"""Cross-entropy and KL sums against the specification's vector, slow references and finite chunks."""

from __future__ import annotations

import pytest
import torch

from bequest.training import divergence
from bequest.training.divergence import cross_entropy_sum, divergence_sum

Z_T = torch.tensor([[2.0, 1.0, 0.0, -1.0]], dtype=torch.float64)
Z_S = torch.tensor([[1.0, 1.0, 0.0, 0.0]], dtype=torch.float64)


def test_the_specifications_vector() -> None:
    student = Z_S.clone().requires_grad_()
    own = cross_entropy_sum(student, torch.tensor([0]))
    guided = divergence_sum(Z_T, student, temperature=2.0)
    loss = 0.75 * own + 0.25 * guided
    loss.backward()
    assert own.item() == pytest.approx(1.006409, abs=5e-7)
    assert guided.item() == pytest.approx(0.226578, abs=5e-7)
    assert loss.item() == pytest.approx(0.811451, abs=5e-7)
    expected = torch.tensor([[-0.547765, 0.291760, 0.111536, 0.144470]], dtype=torch.float64)
    torch.testing.assert_close(student.grad, expected, atol=5e-7, rtol=0)
    alone = Z_S.clone().requires_grad_()
    divergence_sum(Z_T, alone, temperature=2.0).backward()
    expected = torch.tensor([[-0.287649, 0.070451, 0.042730, 0.174468]], dtype=torch.float64)
    torch.testing.assert_close(alone.grad, expected, atol=5e-7, rtol=0)


def reference(teacher: torch.Tensor, student: torch.Tensor, temperature: float) -> torch.Tensor:
    p_t, p_s = (torch.softmax(z / temperature, dim=-1) for z in (teacher, student))
    return temperature**2 * (p_t * (p_t.log() - p_s.log())).sum()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 7.0])
@pytest.mark.parametrize("chunk", [1, 30, 1 << 22])
def test_sums_and_gradients_against_autograd(temperature: float, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(divergence, "CHUNK_ELEMENTS", chunk)
    generator = torch.Generator().manual_seed(3)
    teacher, student = (torch.randn(7, 11, generator=generator, dtype=torch.float64) * 3 for _ in range(2))
    ids = torch.randint(0, 11, (7,), generator=generator)
    ours, slow = student.clone().requires_grad_(), student.clone().requires_grad_()
    found = 0.3 * divergence_sum(teacher, ours, temperature=temperature) + 2 * cross_entropy_sum(ours, ids)
    known = 0.3 * reference(teacher, slow, temperature) + 2 * torch.nn.functional.cross_entropy(
        slow, ids, reduction="sum"
    )
    found.backward()
    known.backward()
    torch.testing.assert_close(found, known, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.grad, slow.grad, rtol=1e-12, atol=1e-12)


def test_equal_models_have_no_divergence() -> None:
    student = Z_S.clone().requires_grad_()
    for temperature in (1.0, 2.0, 5.0):
        value = divergence_sum(Z_S, student, temperature=temperature)
        value.backward()
        assert abs(value.item()) < 1e-12
        assert student.grad.abs().max() < 1e-12


def test_padded_rows_of_the_teacher_change_nothing() -> None:
    padded = torch.cat([Z_T, torch.full((1, 3), 9.0, dtype=torch.float64)], dim=1)
    plain = divergence_sum(Z_T, Z_S, temperature=2.0)
    assert divergence_sum(padded, Z_S, temperature=2.0, vocabulary=4) == plain
    with pytest.raises(ValueError, match="differ"):
        divergence_sum(padded, Z_S, temperature=2.0)


def test_no_position_is_a_finite_zero_with_a_gradient() -> None:
    empty = torch.zeros(0, 5, requires_grad=True)
    value = cross_entropy_sum(empty, torch.zeros(0, dtype=torch.long)) + divergence_sum(torch.zeros(0, 5), empty)
    value.backward()
    assert value.item() == 0
    assert empty.grad.shape == (0, 5)


def test_half_precision_logits_are_summed_in_fp32() -> None:
    logits = torch.randn(400, 50).bfloat16()
    ids = torch.randint(0, 50, (400,))
    known = torch.nn.functional.cross_entropy(logits.double(), ids, reduction="sum")
    found = cross_entropy_sum(logits, ids)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(known.item(), rel=1e-5)
    rounded = torch.nn.functional.cross_entropy(logits, ids, reduction="none").sum()
    assert abs(rounded.item() - known.item()) > abs(found.item() - known.item())
