"""Laws of null-space noise: nothing that is computed changes, and training can tell copies apart; controls cannot."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from bequest.anatomy import Anatomy
from bequest.anatomy.draws import noise_rows, reader_noise
from bequest.anatomy.fills import assembled
from bequest.growth import grow, grow_planned, plan_growth
from bequest.growth.plan import GrowthPlan
from growth_support import GQA, VOCAB, build, error, language_head, native_norms, outputs


def trained(model: Any, steps: int) -> Any:
    """AdamW on a fixed text, dropout 0."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(2, VOCAB, (4, 12), generator=generator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        logits = model(input_ids=ids).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def apart(model: Any, plan: GrowthPlan) -> dict[str, float]:
    """kind -> the largest difference between copies of one unit, relative to the largest weight of the tensor."""
    assert plan.maps is not None
    parameters = dict(model.named_parameters())
    target = plan.target
    found: dict[str, float] = {}
    for axis in ("hidden", "ffn", "q"):
        worst = 0.0
        for use in target.writers(axis):
            t = parameters[use.tensor].detach().narrow(use.dim, use.offset, target.sizes[axis])
            index = plan.maps.axes[axis].index
            first = [index.index(unit) for unit in index]
            scale = plan.maps.axes[axis].scale("write") or (1.0,) * len(index)
            shape = [1] * t.ndim
            shape[use.dim] = -1
            plain = t / torch.tensor(scale, dtype=t.dtype).reshape(shape)
            difference = (plain - plain.index_select(use.dim, torch.tensor(first))).abs().max()
            worst = max(worst, float(difference / plain.abs().max()))
        found[axis] = worst
    return found


@pytest.mark.parametrize("to", [{"hidden_size": 64}, {"hidden_size": 48}], ids=["whole", "fractional"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_duplicates_part_only_with_noise(family: str, to: dict[str, int]) -> None:
    """After 50 AdamW steps in float64, dropout 0: below 1e-12 without noise, above 1e-3 with it."""
    extra = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0} if family == "gpt2" else {}
    if family == "gpt2" and to["hidden_size"] == 48:
        pytest.skip("a scaled average map at 1.5 makes one tile and pads: the stream has no duplicates")
    model = native_norms(build(family, "causal-lm", **extra).double())
    plain = plan_growth(model, to)
    noisy = plan_growth(model, to, training_follows=True)
    assert noisy.methods == (*plain.methods, "noise")
    assert error(model, native_norms(grow_planned(model, noisy))) < 1e-12
    locked = apart(trained(native_norms(grow_planned(model, plain)), 50), plain)
    parted = apart(trained(native_norms(grow_planned(model, noisy)), 50), noisy)
    assert max(locked.values()) < 1e-12, locked
    assert min(parted.values()) > 1e-3, parted


def test_transplanted_units_part_but_the_stream_does_not_without_noise() -> None:
    """AKI transplant tells inner copies apart, residual copies never; with noise both."""
    model = native_norms(build("llama", "causal-lm").double())
    to = {"hidden_size": 64}
    plan = plan_growth(model, to, "aki")
    locked = apart(trained(native_norms(grow_planned(model, plan)), 50), plan)
    assert locked["hidden"] < 1e-12
    assert locked["ffn"] > 1e-3
    with_noise = plan_growth(model, to, ["aki", "noise"])
    assert apart(trained(native_norms(grow_planned(model, with_noise)), 50), with_noise)["hidden"] > 1e-3


@pytest.mark.parametrize("family", ["llama", "gpt2", "olmo2", "gemma2", "bert", "mixtral"])
def test_noise_is_real_and_reaches_every_kind_of_reader(family: str) -> None:
    model = build(family, language_head(family), **(GQA if family != "gpt2" and family != "bert" else {}))
    to = {"hidden_size": 64}
    quiet, noisy = grow(model, to, "auto"), grow(model, to, ["auto", {"name": "noise", "std": 0.3}])
    plan = plan_growth(model, to, ["auto", "noise"])
    assert plan.maps is not None
    changed = set()
    for name, tensor in plan.target.tensors.items():
        before, after = quiet.get_parameter(name), noisy.get_parameter(name)
        roles = assembled(tensor, plan.source, plan.maps).roles
        reads = tensor.line.kind == "linear" and ("read" in roles or "raw_read" in roles)
        assert torch.equal(before, after) == (not reads), name
        if reads:
            changed |= set(tensor.line.read())
            assert float((after - before).std() / before.std()) == pytest.approx(0.3, rel=0.6)
    assert {"hidden", "attn", "ffn"} <= changed


def test_control_noise_that_is_not_centred_shows() -> None:
    """The mean over the copies is what makes noise harmless: leave it in, and the function is gone."""
    model = native_norms(build("llama", "causal-lm").double())
    plan = plan_growth(model, {"hidden_size": 64}, ["isometric", "noise"])
    assert plan.maps is not None
    bigger = native_norms(grow_planned(model, plan))
    assert error(model, bigger) < 1e-12
    with torch.no_grad():
        weight = bigger.model.layers[0].mlp.down_proj.weight
        weight[:, : weight.shape[1] // 2] += 0.1 * weight.std()
    assert error(model, bigger) > 1e-3


@pytest.mark.parametrize("scope", ["transplant", "formula"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "mixtral"])
def test_noise_changes_nothing_in_aki_either(family: str, scope: str) -> None:
    """Copies that AKI takes from another layer are no copies: noise on what reads them would not cancel."""
    model = native_norms(build(family, language_head(family)).double())
    aki: dict[str, str] = {"name": "aki", "scope": scope}
    to = {"hidden_size": 64, "num_hidden_layers": 4}
    plain = native_norms(grow(model, to, [aki, "stack"]))
    noisy = native_norms(grow(model, to, [aki, "stack", {"name": "noise", "std": 1.0}]))
    changed = sum(not torch.equal(a, b) for a, b in zip(plain.parameters(), noisy.parameters(), strict=True))
    assert changed > 3
    gate = 1e-6 if family == "mixtral" else 1e-12
    for expected, found in zip(outputs(plain), outputs(noisy), strict=True):
        assert float((expected - found).abs().max() / expected.abs().max()) < gate


def test_noise_does_not_depend_on_how_many_rows_are_made_at_once() -> None:
    model = build("gpt2", "causal-lm").double()
    plan = plan_growth(model, {"hidden_size": 48}, ["scaled_average", "noise"], seed=4)
    assert plan.maps is not None
    for name in ("transformer.h.0.attn.c_attn.weight", "transformer.h.1.mlp.c_proj.weight"):
        tensor = plan.target.tensors[name]
        noise = reader_noise(assembled(tensor, plan.source, plan.maps), plan.source, plan.maps)
        assert noise is not None
        grown = grow(model, {"hidden_size": 48}, "scaled_average").get_parameter(name).detach().numpy()
        whole = noise_rows(noise, range(len(grown)), grown)
        parts = [noise_rows(noise, range(at, at + 1), grown[at : at + 1]) for at in range(len(grown))]
        assert (whole == [part[0] for part in parts]).all()
        assert abs(whole).max() > 0


def test_a_seed_of_its_own() -> None:
    model = build("llama", "causal-lm")
    grown = [grow(model, {"hidden_size": 64}, ["isometric", "noise"], seed=seed) for seed in (1, 1, 2)]
    weights = [made.model.layers[0].mlp.down_proj.weight for made in grown]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    plan = plan_growth(model, {"hidden_size": 64}, ["isometric", "noise"], seed=1)
    assert plan.maps is not None and plan.maps.noise is not None
    assert Anatomy(plan.target_config, "causal-lm").parameters() == plan.params
    assert plan.maps.digest() != dataclasses.replace(plan.maps, noise=None).digest()
