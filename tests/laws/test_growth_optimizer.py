"""Laws of a grown optimizer state: gradients follow the maps, so Adam's moments may; lockstep is the sharpest test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from bequest.anatomy.surgery import grow_tensors
from bequest.errors import InputError
from bequest.growth import GrowthPlan, grow_planned, plan_growth
from bequest.growth import optimizer as law
from bequest.growth.optimizer import grow_optimizer, lockstep_rates
from growth_support import VARIANTS, VOCAB, build, language_head, native_norms

GQA = {"num_key_value_heads": 2}
UNEVEN = {"hidden_size": 40, "num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 53}
WIDER = {**UNEVEN, "hidden_size": 48}
DOUBLE = {"hidden_size": 64, "intermediate_size": 93}
#: Where copies contribute alike: family, config, sizes, method.
EQUAL: list[Any] = [
    ("llama", {**GQA, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}, UNEVEN, "isometric"),
    ("llama", {**GQA, "tie_word_embeddings": False}, DOUBLE, "fpi"),
    ("qwen3", {**GQA, "tie_word_embeddings": True}, {**UNEVEN, "hidden_size": 44}, "isometric"),
    ("gemma", GQA, UNEVEN, "isometric"),
    ("gemma2", GQA, UNEVEN, "isometric"),
    ("olmo2", GQA, WIDER, "isometric"),
    ("phi3", GQA, WIDER, "isometric"),
    ("granite", VARIANTS["granite"][0], WIDER, "isometric"),
    ("mixtral", VARIANTS["mixtral"][0], WIDER, "isometric"),
    ("gpt2", {}, DOUBLE, "scaled_average"),
    ("bert", {}, DOUBLE, "fpi"),
    ("llama", GQA, {"num_hidden_layers": 3}, "identity"),
]
#: Where only the sum over the copies is the source's: why, family, config, sizes, method, whose gradients differ.
UNEQUAL: list[Any] = [
    (
        "llama",
        GQA,
        {**UNEVEN, "hidden_size": 45, "num_attention_heads": 9, "num_key_value_heads": 3},
        "isometric",
        "kv",
    ),
    ("gpt2", {}, {"hidden_size": 48, "intermediate_size": 93}, "scaled_average", "writers"),
    ("llama", GQA, DOUBLE, ["fpi", "noise"], "all"),
]


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pair(family: str, config: dict[str, Any], to: dict[str, int], method: Any) -> tuple[Any, Any, GrowthPlan]:
    """A jittered float64 model, the one grown from it, and the plan."""
    model = native_norms(build(family, language_head(family), **config).double())
    sizes = {key: value for key, value in to.items() if key != "num_key_value_heads" or "num_key_value_heads" in config}
    plan = plan_growth(model, sizes, method)
    assert plan.exact and plan.refusal is None
    return model, native_norms(grow_planned(model, plan)), plan


def loss_of(model: Any, seed: int) -> torch.Tensor:
    """Something smooth of all logits."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, VOCAB, (2, 9), generator=generator)
    logits = model(input_ids=ids).logits
    weights = torch.randn(logits.shape, generator=generator, dtype=torch.float64)
    return (logits * weights).mean() + torch.logsumexp(logits, -1).mean()


def gradients(model: Any, seed: int = 3) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss_of(model, seed).backward()
    named = model.named_parameters()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in named}


def pulled_back(model: Any, plan: GrowthPlan, grown: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """``Mᵀ g'``, by autograd through the differentiable surgery."""
    theta = {name: parameter.detach().clone().requires_grad_() for name, parameter in model.named_parameters()}
    made = grow_tensors(theta, plan.source, plan.target, plan.final_maps())
    sum((made[name] * grown[name]).sum() for name in made).backward()  # type: ignore[union-attr]
    return {name: torch.zeros_like(value) if value.grad is None else value.grad for name, value in theta.items()}


def apart(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """max|difference| / max|wanted|, tensor by tensor; absolute where nothing is wanted (key biases without rope)."""
    sizes = {name: float(value.abs().max()) for name, value in wanted.items()}
    return {
        name: float((found[name] - wanted[name]).abs().max()) / (size if size > 1e-12 else 1.0)
        for name, size in sizes.items()
        if name in found
    }


def as_state(gradient: Mapping[str, torch.Tensor], steps: float = 7.0) -> dict[str, torch.Tensor]:
    """The state of an Adam that has seen one gradient for ever."""
    first = {f"{name}.exp_avg": value for name, value in gradient.items()}
    second = {f"{name}.exp_avg_sq": value**2 for name, value in gradient.items()}
    return {**first, **second, **{f"{name}.step": torch.tensor(steps) for name in gradient}}


def moments(state: Mapping[str, torch.Tensor], part: str) -> dict[str, torch.Tensor]:
    return {name.removesuffix(f".{part}"): value for name, value in state.items() if name.endswith(f".{part}")}


@pytest.mark.parametrize(("family", "config", "to", "method"), EQUAL)
def test_moments_grow_as_gradients_do(family: str, config: Any, to: Any, method: Any) -> None:
    model, bigger, plan = pair(family, config, to, method)
    small, large = gradients(model), gradients(bigger)
    assert max(apart(pulled_back(model, plan, large), small).values()) < 1e-12
    grown = grow_optimizer(as_state(small), plan, "grow")
    errors = apart(moments(grown, "exp_avg"), large)
    assert max(errors.values()) < 1e-12
    assert max(apart(moments(grown, "exp_avg_sq"), {name: value**2 for name, value in large.items()}).values()) < 1e-12
    silent = {name for name, tensor in plan.target.tensors.items() if tensor.layer in plan.final_maps().silent}
    assert set(errors) == set(plan.target.tensors) - silent
    assert {float(value) for value in moments(grown, "step").values()} == {7.0}
    if silent:
        return
    # Negative control: moments that grow as weights do are off.
    plain = grow_tensors(small, plan.source, plan.target, plan.final_maps())
    assert max(apart(plain, large).values()) > 0.1


@pytest.mark.parametrize(("family", "config", "to", "method", "whose"), UNEQUAL)
def test_where_copies_contribute_unequally_the_sum_holds(
    family: str, config: Any, to: Any, method: Any, whose: str
) -> None:
    model, bigger, plan = pair(family, config, to, method)
    small, large = gradients(model), gradients(bigger)
    assert max(apart(pulled_back(model, plan, large), small).values()) < 1e-12
    errors = apart(moments(grow_optimizer(as_state(small), plan, "grow"), "exp_avg"), large)
    off = {name for name, value in errors.items() if value > 1e-3}
    assert off
    if whose == "kv":
        assert all("k_proj" in name or "v_proj" in name for name in off)
        assert max(value for name, value in errors.items() if name not in off) < 1e-12
    if whose == "writers":  # and the last norm's, whose output a tied head reads
        assert all(plan.target.tensors[name].line.dims[-1].axes == ("hidden",) for name in off)


def test_policies() -> None:
    model, _, plan = pair("llama", GQA, {**UNEVEN, "num_hidden_layers": 4}, ["isometric", "identity"])
    state = as_state(gradients(model))
    del state["model.layers.1.mlp.up_proj.weight.step"]
    with pytest.raises(InputError, match="lacks a part"):
        grow_optimizer(state, plan, "grow")
    for part in ("exp_avg", "exp_avg_sq"):
        del state[f"model.layers.1.mlp.up_proj.weight.{part}"]
    assert grow_optimizer(state, plan, "reset") == {}
    new = set(plan.new_layers)
    whole, partly = (grow_optimizer(state, plan, policy) for policy in ("grow", "zero_new"))
    for grown in (whole, partly):
        layers = {plan.target.tensors[name.rpartition(".")[0]].layer for name in grown}
        assert layers == {None, *range(4)} - new  # what has no state starts as Adam starts
        assert sum("mlp.up_proj" in name for name in grown) == 3  # one of the two old layers never was trained
    up, down = "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight"
    assert torch.equal(partly[f"{up}.exp_avg"][:40, :32], whole[f"{up}.exp_avg"][:40, :32])
    assert not partly[f"{up}.exp_avg"][40:].any() and not partly[f"{up}.exp_avg"][:, 32:].any()
    assert not partly[f"{down}.exp_avg_sq"][32:].any() and not partly[f"{down}.exp_avg_sq"][:, 40:].any()
    assert whole[f"{up}.exp_avg"].all()
    wrong = {**state, "model.norm.weight.exp_avg": torch.zeros(5)}
    with pytest.raises(InputError, match=r"has \(5,\) where the model has \(32,\)"):
        grow_optimizer(wrong, plan, "grow")
    learned = plan_growth(model, UNEVEN, "ligo")
    with pytest.raises(InputError, match="learns its maps") as caught:
        grow_optimizer(state, learned, "grow")
    assert caught.value.key == "optimizer"


# --- lockstep


Rates = Mapping[str, tuple[torch.Tensor, torch.Tensor]]


class Adam:
    """Adam as its paper has it, with a learning rate and an eps for every coordinate."""

    def __init__(
        self, model: Any, state: Mapping[str, torch.Tensor], rates: Rates | None, lr: float, eps: float
    ) -> None:
        self.model, self.lr, self.eps = model, lr, eps
        self.first, self.second = moments(state, "exp_avg"), moments(state, "exp_avg_sq")
        self.steps = {name: float(value) for name, value in moments(state, "step").items()}
        one = torch.ones((), dtype=torch.float64)
        self.rates = rates or dict.fromkeys(self.first, (one, one))

    @torch.no_grad()
    def step(self, gradient: Mapping[str, torch.Tensor]) -> None:
        for name, parameter in self.model.named_parameters():
            self.steps[name] += 1
            m = self.first[name] = 0.9 * self.first[name] + 0.1 * gradient[name]
            v = self.second[name] = 0.99 * self.second[name] + 0.01 * gradient[name] ** 2
            lr, eps = self.rates[name]
            root = (v / (1 - 0.99 ** self.steps[name])).sqrt() + self.eps * eps
            parameter -= self.lr * lr * (m / (1 - 0.9 ** self.steps[name])) / root


def part_after(
    model: Any, bigger: Any, plan: GrowthPlan, rates: Rates | None, policy: law.Policy = "grow", steps: int = 30
) -> float:
    """max|difference of logits| / max|logit| after so many steps from the same, grown state."""
    state: dict[str, torch.Tensor] = as_state({n: torch.zeros_like(p) for n, p in model.named_parameters()}, 0.0)
    teach = Adam(model, state, None, 1e-2, 1e-6)
    for seed in range(5):  # a state with a history
        teach.step(gradients(model, seed))
    parts = {"exp_avg": teach.first, "exp_avg_sq": teach.second}
    state = {f"{name}.{part}": value for part, values in parts.items() for name, value in values.items()}
    state |= {f"{name}.step": torch.tensor(value) for name, value in teach.steps.items()}
    weights = grow_tensors(dict(model.named_parameters()), plan.source, plan.target, plan.final_maps())
    bigger.load_state_dict({name: value.detach() for name, value in weights.items()}, strict=False)
    follow = Adam(bigger, grow_optimizer(state, plan, policy), rates, 1e-2, 1e-6)
    for seed in range(5, 5 + steps):
        teach.step(gradients(model, seed))
        follow.step(gradients(bigger, seed))
    ids = torch.arange(2, 20)[None]
    with torch.no_grad():
        logits, others = model(input_ids=ids).logits, bigger(input_ids=ids).logits
    return float((logits - others).abs().max() / logits.abs().max())


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("to", [DOUBLE, UNEVEN], ids=["double", "uneven"])
def test_lockstep(to: dict[str, int], tie: bool) -> None:
    config = {**GQA, "attention_bias": True, "tie_word_embeddings": tie}
    model, bigger, plan = pair("llama", config, to, "isometric")
    assert part_after(model, bigger, plan, lockstep_rates(plan)) < 1e-13


def without(rates: Rates, number: int) -> Rates:
    ones = {name: torch.ones_like(factor) for name, (factor, _) in rates.items()}
    return {name: (ones[name], eps) if number == 0 else (lr, ones[name]) for name, (lr, eps) in rates.items()}


@pytest.mark.parametrize("control", ["one rate", "one eps", "no rates", "reset state"])
def test_out_of_step(control: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part of the law is needed: with a plain rate, a plain eps or another state they part at once."""
    model, bigger, plan = pair("llama", {**GQA, "tie_word_embeddings": True}, DOUBLE, "isometric")
    rates = lockstep_rates(plan)
    given: dict[str, Callable[[], Rates | None]] = {
        "one rate": lambda: without(rates, 0),
        "one eps": lambda: without(rates, 1),
        "no rates": lambda: None,
        "reset state": lambda: rates,
    }
    if control == "reset state":
        zeros = as_state({name: torch.zeros_like(p) for name, p in bigger.named_parameters()}, 0.0)
        monkeypatch.setattr(f"{__name__}.grow_optimizer", lambda *_: zeros)
    parted = part_after(model, bigger, plan, given[control](), steps=3)
    assert parted > (1e-6 if control == "one eps" else 1e-2)
