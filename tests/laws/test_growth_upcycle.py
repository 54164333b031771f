"""Law: a dense model upcycled to experts computes the same function exactly where the chosen gates sum to one."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import bequest
from bequest.anatomy import check_model, complete_config
from bequest.checkpoints import live_config, new_model, save_model
from bequest.errors import AnatomyError, InputError
from bequest.growth import check_preservation, expert_rows, grow, grow_checkpoint, plan_from_record, plan_growth
from bequest.lineage import read_lineage
from bequest.planning import make_plan
from bequest.recipe import load_recipe
from growth_support import GQA, build, error, native_norms

FOUR = {"num_experts": 4}
MIXTRAL = ("llama", "mistral")
ALL = [
    pytest.param("llama", "causal-lm", {**GQA, "head_dim": 16}, {}, id="llama"),
    pytest.param("llama", "causal-lm", {"tie_word_embeddings": True}, {"num_experts_per_tok": 1}, id="llama-tied"),
    pytest.param("llama", "sequence-classification", GQA, {"num_experts_per_tok": 3}, id="llama-classifier"),
    pytest.param("mistral", "causal-lm", {**GQA, "sliding_window": 4}, {}, id="mistral"),
    pytest.param("mistral", "bare", GQA, {}, id="mistral-bare"),
    pytest.param("qwen2", "causal-lm", GQA, {}, id="qwen2"),
    pytest.param(
        "qwen2",
        "causal-lm",
        {**GQA, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1, "tie_word_embeddings": True},
        {"shared_expert_intermediate_size": 100, "num_experts_per_tok": 1},
        id="qwen2-windows",
    ),
    pytest.param("qwen2", "causal-lm", GQA, {"num_experts": 2, "norm_topk_prob": False}, id="qwen2-all-chosen"),
]


def upcycled(model: Any, to: dict[str, Any], method: Any = "upcycle", seed: int = 0) -> Any:
    bigger = grow(model, {**FOUR, **to}, method, seed)
    bigger.set_experts_implementation("eager")
    return bigger


def native_routers(model: Any) -> Any:
    """Routers whose softmax stays in the model's dtype: as shipped it is float32."""
    for module in model.modules():
        if type(module).__name__.endswith("TopKRouter"):

            def forward(x: torch.Tensor, module: Any = module) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
                logits = x.reshape(-1, x.shape[-1]) @ module.weight.T
                chosen, index = logits.softmax(-1).topk(module.top_k, dim=-1)
                if type(module).__name__.startswith("Mixtral") or module.norm_topk_prob:
                    chosen = chosen / chosen.sum(-1, keepdim=True)
                return logits, chosen, index

            module.forward = forward
    return model


def sharp(bigger: Any) -> Any:
    """Other routers, far from uniform: what they say must not matter."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, parameter in bigger.named_parameters():
            if name.endswith(("mlp.gate.weight", "shared_expert_gate.weight")):
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return bigger


@pytest.mark.parametrize(("family", "head", "variant", "to"), ALL)
def test_it_computes_the_same_function(family: str, head: str, variant: Any, to: Any) -> None:
    model = build(family, head, rms_norm_eps=1e-3, rope_parameters={"rope_theta": 50.0}, **variant)
    plan = plan_growth(model, {**FOUR, **to}, "upcycle")
    assert plan.exact and plan.predicted_error == 0 and plan.nearest_exact is None
    assert plan.target.family.name == ("mixtral" if family in MIXTRAL else "qwen2_moe")
    bigger = upcycled(model, to)
    assert plan.params == bigger.num_parameters() == check_model(bigger).parameters()
    assert error(model, sharp(bigger)) < 1e-5
    proof = check_preservation(model, bigger, plan=plan)
    assert proof.preserved, proof.verdict
    double = build(family, head, rms_norm_eps=1e-3, rope_parameters={"rope_theta": 50.0}, **variant).double()
    exact = native_norms(sharp(upcycled(native_norms(double), to)))
    assert error(double, exact) < 5e-7  # a router's softmax is float32
    assert error(double, native_routers(exact)) < 1e-12


@pytest.mark.parametrize(
    ("family", "to", "method"),
    [
        ("qwen2", {"norm_topk_prob": False}, "upcycle"),
        ("qwen2", {"norm_topk_prob": False, "num_experts_per_tok": 3}, "upcycle"),
        ("mistral", {}, {"name": "upcycle", "drop": 0.5}),
        ("qwen2", {}, {"name": "upcycle", "perturb": 0.01}),
    ],
)
def test_what_is_approximate_is_said_to_be(family: str, to: dict[str, Any], method: Any) -> None:
    model = build(family, "causal-lm", **GQA)
    plan = plan_growth(model, {**FOUR, **to}, method)
    assert not plan.exact
    bigger = upcycled(model, to, method)
    found = error(model, bigger)
    assert 1e-3 < found < plan.predicted_error
    assert not check_preservation(model, bigger, plan=plan).preserved
    if to:
        assert "do not sum to one" in plan.reason and plan.nearest_exact == {"norm_topk_prob": True}
        assert found > 0.1
        assert error(model, upcycled(model, {**to, **plan.nearest_exact})) < 1e-5


@pytest.mark.parametrize("mistake", ["down_proj of the shared expert", "half of one expert", "rope", "eps", "window"])
def test_controls(mistake: str) -> None:
    family = "qwen2" if mistake.startswith("down") else "mistral"
    small = {**GQA, "rms_norm_eps": 1e-3, "rope_parameters": {"rope_theta": 50.0}}
    model = build(family, "causal-lm", **small, **({"sliding_window": 4} if family == "mistral" else {}))
    bigger = upcycled(model, {})
    with torch.no_grad():
        if mistake.startswith("down"):
            down = bigger.get_parameter("model.layers.0.mlp.shared_expert.down_proj.weight")
            down.copy_(model.get_parameter("model.layers.0.mlp.down_proj.weight"))
        elif mistake.startswith("half"):
            bigger.get_parameter("model.layers.1.mlp.experts.gate_up_proj")[2, :40] *= 1.5
        else:
            defaults = complete_config("mixtral", {"hidden_size": 32}, head="causal-lm")
            key = {"rope": "rope_parameters", "eps": "rms_norm_eps", "window": "sliding_window"}[mistake]
            wrong = new_model({**bigger.config.to_dict(), key: defaults[key]}, seed=0).eval()
            wrong.load_state_dict(bigger.state_dict())
            wrong.set_experts_implementation("eager")
            bigger = wrong
    assert error(model, bigger) > 1e-3


@pytest.mark.parametrize(
    "given",
    [
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, **{"low_freq_factor": 1.0}}},
        {"rope_theta": 2e5},
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        {"rope_parameters": None},
        {},
    ],
)
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_positions_are_the_sources_however_its_config_says_them(family: str, given: dict[str, Any]) -> None:
    config = complete_config(family, {"hidden_size": 32}, head="causal-lm")
    config = {key: value for key, value in config.items() if key != "rope_parameters"} | given
    if given.get("rope_parameters"):
        config["rope_parameters"] |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    plan = plan_growth(config, FOUR, "upcycle")
    mine, theirs = (live_config(one).rope_parameters for one in (config, plan.target_config))
    assert mine == theirs


def test_the_config_says_what_was_not_named() -> None:
    model = build("qwen2", "causal-lm", **GQA)
    plan = plan_growth(model, {"num_experts": 8}, "upcycle")
    assert plan.inferred["norm_topk_prob"] == "True (so that the gates sum to one)"
    made = plan.target_config
    assert (made["num_experts_per_tok"], made["router_aux_loss_coef"], made["moe_intermediate_size"]) == (2, 1e-3, 40)
    assert made["architectures"] == ["Qwen2MoeForCausalLM"]
    bigger = grow(model, {"num_experts": 8}, "upcycle")
    assert type(bigger).__name__ == "Qwen2MoeForCausalLM"
    gates = (
        bigger.get_parameter("model.layers.0.mlp.gate.weight"),
        bigger.get_parameter("model.layers.1.mlp.gate.weight"),
    )
    assert all(abs(float(gate.detach().std()) - 0.02) < 0.005 for gate in gates)
    assert not torch.equal(*gates)
    other = grow(model, {"num_experts": 8}, "upcycle", 1)
    assert not torch.equal(gates[0], other.get_parameter("model.layers.0.mlp.gate.weight"))
    batch = {"input_ids": torch.arange(2, 14)[None]}
    bigger(**batch).logits.square().mean().backward()
    shared = bigger.get_parameter("model.layers.0.mlp.shared_expert.down_proj.weight")
    assert not shared.detach().any() and float(shared.grad.abs().max()) > 0


def test_dropped_neurons_are_other_ones_in_each_expert_and_keep_the_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("mistral", "causal-lm", sizes={"intermediate_size": 200})
    bigger = upcycled(model, {}, {"name": "upcycle", "drop": 0.5})
    dense = {
        name: model.get_parameter(f"model.layers.0.mlp.{name}_proj.weight").detach() for name in ("gate", "up", "down")
    }
    fused = bigger.get_parameter("model.layers.0.mlp.experts.gate_up_proj").detach()
    down = bigger.get_parameter("model.layers.0.mlp.experts.down_proj").detach()
    gone = []
    for expert in range(4):
        found = {"gate": fused[expert, :200], "up": fused[expert, 200:], "down": down[expert]}
        changed = {name: (found[name] != dense[name]).any(1 if name != "down" else 0) for name in dense}
        assert torch.equal(changed["gate"], changed["up"]) and torch.equal(changed["gate"], changed["down"])
        assert int(changed["gate"].sum()) == 100
        gone.append(changed["gate"])
        for name, matrix in dense.items():
            new, old = (t[changed[name]] if name != "down" else t[:, changed[name]] for t in (found[name], matrix))
            assert abs(float(new.std() / old.std()) - 1) < 0.05
            assert abs(float(new.mean() - old.mean())) < 0.02
        drawn = torch.stack([found[name][changed[name]].flatten() for name in ("gate", "up")])
        assert abs(float(torch.corrcoef(drawn)[0, 1])) < 0.1
    assert not torch.equal(gone[0], gone[1])
    monkeypatch.setattr(expert_rows, "_BLOCK", 32 * 7)
    again = upcycled(model, {}, {"name": "upcycle", "drop": 0.5})
    for name, parameter in bigger.named_parameters():
        assert torch.allclose(parameter, again.get_parameter(name), atol=1e-6), name


# --- from disk to disk


@pytest.mark.parametrize(
    ("family", "to", "method"),
    [
        ("llama", {"num_local_experts": 4}, "upcycle"),
        ("qwen2", {"num_experts": 3, "shared_expert_intermediate_size": 100}, "upcycle"),
        ("mistral", {"num_experts": 3}, {"name": "upcycle", "drop": 0.3, "perturb": 0.1}),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_checkpoint_becomes_what_a_model_becomes(
    family: str, to: Any, method: Any, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(family, "causal-lm", **GQA, tie_word_embeddings=family == "llama")
    save_model(model, tmp_path / "small", dtype=dtype)
    monkeypatch.setattr(expert_rows, "_BLOCK", 32 * 7)
    plan = grow_checkpoint(tmp_path / "small", tmp_path / "big", to, method)
    assert plan.exact == (method == "upcycle")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "small", dtype="auto")
    assert str(loaded.dtype) == f"torch.{dtype}"
    save_model(grow(loaded, to, method), tmp_path / "live")
    made, wanted = (load_file(tmp_path / name / "model.safetensors") for name in ("big", "live"))
    assert made.keys() == wanted.keys()
    for name, value in wanted.items():
        assert made[name].dtype == value.dtype and torch.equal(made[name], value), name
    assert any(".experts.2." in name for name in made)
    made, wanted = (transformers.AutoConfig.from_pretrained(tmp_path / name).to_dict() for name in ("big", "live"))
    assert {**made, "_name_or_path": ""} == {**wanted, "_name_or_path": ""}
    record = read_lineage(tmp_path / "big").operation
    assert record.method == "upcycle" and record.maps is not None
    again = plan_from_record(record.maps)
    assert (again.upcycling, again.target.sizes, again.seed) == (plan.upcycling, plan.target.sizes, plan.seed)
    if dtype == "float32" and method == "upcycle":
        opened = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "big").eval()
        opened.set_experts_implementation("eager")
        assert error(model, opened) < 1e-5


def test_a_checkpoint_may_be_stored_in_another_dtype(tmp_path: Path) -> None:
    model = build("qwen2", "causal-lm", **GQA)
    save_model(model, tmp_path / "small")
    seen: list[tuple[int, int]] = []
    options = {"dtype": "bfloat16", "shard_bytes": 30_000, "progress": lambda done, total: seen.append((done, total))}
    grow_checkpoint(tmp_path / "small", tmp_path / "big", FOUR, "upcycle", **options)
    assert seen[-1][0] == seen[-1][1] > 0
    assert len(list((tmp_path / "big").glob("*.safetensors"))) > 2
    opened = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "big", dtype="auto")
    assert opened.dtype == torch.bfloat16
    wanted = grow(model, FOUR, "upcycle").bfloat16()
    assert all(torch.equal(value, opened.get_parameter(name)) for name, value in wanted.named_parameters())


def test_a_stored_tied_head_that_differs_is_refused(tmp_path: Path) -> None:
    model = build("llama", "causal-lm", tie_word_embeddings=True)
    save_model(model, tmp_path / "small")
    held = load_file(tmp_path / "small" / "model.safetensors")
    held["lm_head.weight"] = held["model.embed_tokens.weight"] + 1
    save_file(held, tmp_path / "small" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AnatomyError, match="but they differ"):
        grow_checkpoint(tmp_path / "small", tmp_path / "big", FOUR, "upcycle")
    assert not (tmp_path / "big").exists()


def test_a_recipe_upcycles_and_trains_what_came_out(tmp_path: Path) -> None:
    words = ["river", "stone", "bird", "seven", "runs", "falls", "and", "of"]
    texts = [" ".join(random.Random(number).choices(words, k=14)) + f" {number}." for number in range(120)]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    planned = make_plan(load_recipe(tmp_path / "recipe.yaml"))
    sparse, trained = planned.stage("sparse"), planned.stage("trained")
    assert sparse.exact and sparse.params is not None and trained.train_flops is not None
    # Two of four experts work on a token: six parameters of work a token would count all of them.
    assert trained.train_flops < 6 * 512 * sparse.params
    bequest.run(tmp_path / "recipe.yaml", out=tmp_path / "run")
    made = read_lineage(tmp_path / "run" / "sparse")
    assert made.measures["growth"]["preserved"] and made.operation.method == "upcycle"
    config = transformers.AutoConfig.from_pretrained(tmp_path / "run" / "trained")
    assert (config.model_type, config.num_local_experts, config.hidden_size) == ("mixtral", 4, 48)


RECIPE = """
name: sparse
corpora:
  text: {files: text.jsonl, held_out: 0.2}
stages:
  - pretrain: {name: small, model: {family: mistral, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2,
      max_position_embeddings: 64}, corpus: text, tokenizer: {vocab_size: 300}, tokens: 512, block: 16,
      batch_tokens: 256, lr: 3e-3}
  - grow: {name: wide, from: small, to: {hidden_size: 48, num_attention_heads: 3}}
  - grow: {name: sparse, from: wide, to: {num_local_experts: 4}, method: upcycle}
  - pretrain: {name: trained, from: sparse, corpus: text, tokens: 512, block: 16, batch_tokens: 256, lr: 1e-3}
"""


# --- refusals


@pytest.mark.parametrize(
    ("family", "variant", "to", "method", "complaint"),
    [
        ("gpt2", {}, FOUR, "upcycle", "gpt2 has no counterpart with experts; upcycle one of llama, mistral, qwen2"),
        ("llama", {"attention_bias": True}, FOUR, "upcycle", "attention_bias: mixtral has no biases"),
        ("llama", {}, {"num_experts_per_tok": 2}, "upcycle", "num_local_experts: the number of experts is not named"),
        ("llama", {}, {**FOUR, "hidden_size": 64}, "upcycle", "hidden_size: .*changes no other size; grow first"),
        ("llama", {}, {**FOUR, "norm_topk_prob": True}, "upcycle", "norm_topk_prob: upcycling makes experts"),
        ("llama", {}, {**FOUR, "num_experts_per_tok": 5}, "upcycle", "a token cannot be sent to 5 of 4 experts"),
        ("llama", {}, {"num_experts": 1}, "upcycle", "num_experts: must be a whole number of at least 2, not 1"),
        ("qwen2", {}, {**FOUR, "norm_topk_prob": 1}, "upcycle", "norm_topk_prob: must be true or false, not 1"),
        ("llama", {}, {**FOUR, "router_aux_loss_coef": -1}, "upcycle", "router_aux_loss_coef: must be a number"),
        ("llama", {}, FOUR, ["isometric", "upcycle"], "upcycle goes alone; grow first"),
        ("llama", {}, FOUR, {"name": "upcycle", "drop": 1}, "drop must be a share"),
        ("llama", {}, FOUR, "auto", "num_experts: llama has no experts; the method upcycle makes them"),
        ("gpt2", {}, FOUR, "auto", "num_experts: gpt2 has no experts; the method upcycle .* llama, mistral, qwen2"),
        ("mixtral", {}, {"num_local_experts": 16}, "auto", "num_local_experts: the number of experts stays 8"),
    ],
)
def test_what_cannot_be_upcycled_is_refused(family: str, variant: Any, to: Any, method: Any, complaint: str) -> None:
    config = complete_config(family, {"hidden_size": 32, **variant}, head="causal-lm")
    with pytest.raises(InputError, match=complaint):
        plan_growth(config, to, method)
