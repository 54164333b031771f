"""Law: LiGO's operator holds FPI, stacking and interpolation; it starts where the source stands, and then learns."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import bequest
from bequest.checkpoints import save_model
from bequest.errors import InputError
from bequest.growth import Expansion, grow, grow_checkpoint, grow_planned, learn_maps, plan_from_record, plan_growth
from bequest.growth.growing import holding
from bequest.growth.ligo import expansion_flops
from bequest.growth.plan import GrowthPlan
from bequest.lineage import read_lineage
from bequest.planning import make_plan
from bequest.recipe import load_recipe
from growth_support import GQA, VOCAB, build, error, language_head, native_norms

TIED = {"tie_word_embeddings": True}
WIDE = {"hidden_size": 48}
DEEP = {"num_hidden_layers": 5}


def expanded(model: Any, plan: GrowthPlan, **options: Any) -> Expansion:
    weights = {name: value.detach() for name, value in model.named_parameters(remove_duplicate=False)}
    assert plan.maps is not None
    return Expansion(weights, plan.source, plan.target, plan.maps, **options)


def started(model: Any, plan: GrowthPlan, **options: Any) -> Any:
    """The larger model before the first step."""
    with torch.no_grad():
        return holding(model, plan, expanded(model, plan, **options).tensors())


def corpus(head: str, steps: int, seed: int = 0) -> Iterator[dict[str, torch.Tensor]]:
    """Batches of a language whose next token is mostly twice the last one."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        ids = torch.randint(2, VOCAB, (4, 12), generator=generator)
        for place in range(1, 12):
            known = torch.rand(4, generator=generator) < 0.8
            ids[:, place] = torch.where(known, 2 * ids[:, place - 1] % VOCAB, ids[:, place])
        targets = torch.full_like(ids, -100)
        if head == "causal-lm":
            targets[:, :-1] = ids[:, 1:]
        else:
            chosen = torch.rand(ids.shape, generator=generator) < 0.3
            chosen[0, 3] = True
            targets[chosen], ids = ids[chosen], torch.where(chosen, 1, ids)
        yield {"input_ids": ids, "targets": targets}


def loss(model: Any, head: str, seed: int) -> float:
    total = []
    with torch.no_grad():
        for batch in corpus(head, 8, seed):
            kept = batch["targets"] != -100
            log_p = model(input_ids=batch["input_ids"]).logits[kept].log_softmax(-1)
            total.append(-float(log_p.gather(-1, batch["targets"][kept][:, None]).mean()))
    return sum(total) / len(total)


# --- the operator's special cases


@pytest.mark.parametrize(
    ("family", "method", "to", "variant"),
    [
        ("bert", "fpi", {"hidden_size": 64}, {}),
        ("bert", "fpi", WIDE, TIED),
        ("gpt2", "scaled_average", WIDE, TIED),
        ("gpt2", ["fpi", "stack"], {"hidden_size": 64, **DEEP}, {}),
        ("llama", "isometric", {**WIDE, "num_attention_heads": 6, "num_key_value_heads": 3}, {**GQA, **TIED}),
        ("llama", ["isometric", "interpolate"], {**WIDE, **DEEP}, GQA),
        ("gpt_neox", ["scaled_average", "stack"], {**WIDE, **DEEP}, {}),
        ("gemma2", ["isometric", "identity"], {**WIDE, "num_hidden_layers": 3}, GQA),
        ("olmo2", "isometric", {**WIDE, "num_attention_heads": 6, "num_key_value_heads": 3}, GQA),
        ("electra", "fpi", {"hidden_size": 64}, {"embedding_size": 16}),
        ("modernbert", "stack", DEEP, {"num_hidden_layers": 3}),
        ("mixtral", "isometric", WIDE, GQA),
    ],
)
def test_fixed_matrices_reproduce_the_other_methods(
    family: str, method: Any, to: dict[str, int], variant: dict[str, Any]
) -> None:
    model = build(family, language_head(family), **variant).double()
    plan = plan_growth(model, to, method)
    wanted = dict(grow_planned(model, plan).named_parameters())
    found = expanded(model, plan).tensors()
    assert found.keys() == wanted.keys()
    for name, made in found.items():
        assert torch.allclose(made, wanted[name], rtol=1e-14, atol=1e-15), name


# --- where learning starts


EXACT = [
    ("llama", WIDE, {**GQA, **TIED}, "stack"),
    ("llama", {**WIDE, "num_hidden_layers": 3}, GQA, "identity"),
    ("gpt2", {**WIDE, "num_hidden_layers": 3}, TIED, "identity"),
    ("olmo2", {**WIDE, "num_attention_heads": 6, "num_key_value_heads": 3, "num_hidden_layers": 3}, GQA, "identity"),
    ("gemma", WIDE, {**GQA, **TIED}, "stack"),
    ("bert", {"hidden_size": 64}, TIED, "stack"),
    ("mixtral", WIDE, {**GQA, "num_local_experts": 3}, "stack"),
]


@pytest.mark.parametrize(("family", "to", "variant", "depth"), EXACT)
def test_it_starts_at_the_sources_function(family: str, to: Any, variant: Any, depth: str) -> None:
    model = native_norms(build(family, language_head(family), **variant).double())
    plan = plan_growth(model, to, {"name": "ligo", "depth": depth})
    assert not plan.exact
    noisy = native_norms(started(model, plan, noise=0.5))
    tolerance = 5e-7 if family == "mixtral" else 1e-12  # a router's softmax is float32
    assert error(model, noisy) < tolerance
    plain = dict(started(model, plan).named_parameters())
    assert sum(not torch.equal(value, plain[name]) for name, value in noisy.named_parameters()) > 4
    assert error(model, native_norms(started(model, plan, start="paper"))) > 1e-2


def test_control_noise_that_is_not_centred(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("llama", "causal-lm").double()
    plan = plan_growth(model, WIDE, "ligo")
    monkeypatch.setattr(
        Expansion, "_null_space", lambda self, found, std: std * self._drawn(found.target, found.source)
    )
    assert error(model, started(model, plan, noise=0.05)) > 1e-2


def test_the_papers_start_keeps_old_units_and_ties_what_reads_to_what_writes() -> None:
    model = build("bert", "masked-lm").double()
    plan = plan_growth(model, {**WIDE, "num_hidden_layers": 4}, {"name": "ligo", "start": "paper"})
    expansion = expanded(model, plan, start="paper")
    matrices = expansion.matrices(torch.float64)
    assert torch.equal(matrices["hidden", "write"][:32], torch.eye(32, dtype=torch.float64))
    assert torch.allclose(matrices["hidden", "write"][32:].norm(dim=1), torch.ones(16, dtype=torch.float64))
    assert set(expansion.widths) == {"hidden", "ffn", "q", "kv"}
    assert matrices["attn", "read"] is matrices["kv", "write"]
    mixture = expansion.mixtures["bert encoder layer 0 output dense weight"].detach()
    assert torch.allclose(mixture.sum(1), torch.ones(4, dtype=torch.float64))
    assert mixture.argmax(1).tolist() == [0, 1, 0, 1]
    assert 0 < float((mixture - torch.eye(2).repeat(2, 1)).abs().max()) < 0.2


# --- learning


@pytest.mark.parametrize(
    ("family", "to", "options"),
    [
        ("llama", {**WIDE, "num_hidden_layers": 3}, {"depth": "identity", "noise": 0.5}),
        ("gpt2", {"hidden_size": 64, "num_hidden_layers": 3}, {"noise": 0.5}),
        ("bert", {"hidden_size": 64, "num_hidden_layers": 3}, {}),
        ("bert", WIDE, {"start": "paper"}),
    ],
)
def test_gradients_reach_every_learned_matrix(family: str, to: Any, options: dict[str, Any]) -> None:
    model = build(family, language_head(family), **TIED).double()
    plan = plan_growth(model, to, {"name": "ligo", **options})
    start = {key: value for key, value in options.items() if key != "depth"}
    expansion = expanded(model, plan, **start)
    batch = next(corpus(language_head(family), 1))
    bigger = grow_planned(model, plan_growth(model, to, ["fpi", "stack"] if len(to) > 1 else "fpi"))
    out = torch.func.functional_call(bigger, expansion.tensors(), kwargs={"input_ids": batch["input_ids"]})
    out.logits.log_softmax(-1)[batch["targets"] != -100].square().mean().backward()
    for name, parameter in expansion.named_parameters():
        if name.endswith("key bias"):  # without rotary positions a key's bias changes no attention
            continue
        assert parameter.grad is not None and float(parameter.grad.abs().max()) > 1e-9, name


@pytest.mark.parametrize(
    ("family", "to", "options"),
    [
        ("llama", {**WIDE, "num_hidden_layers": 4}, {"depth": "identity"}),
        ("bert", {"hidden_size": 64}, {}),
        ("gpt2", {**WIDE, "num_hidden_layers": 4}, {"start": "paper"}),
    ],
)
def test_learning_lowers_the_loss(family: str, to: Any, options: dict[str, Any]) -> None:
    head = language_head(family)
    model = build(family, head, **TIED)
    plan = plan_growth(model, to, {"name": "ligo", "steps": 30, "lr": 3e-3, **options}, seed=3)
    before = {name: value.clone() for name, value in model.named_parameters()}
    bigger, learned = learn_maps(model, plan, corpus(head, 30))
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    assert learned.last_loss < learned.first_loss
    source = loss(model, head, seed=9)
    start = loss(started(model, plan, start=options.get("start", "exact")), head, seed=9)
    if "start" not in options:
        assert math.isclose(start, source, rel_tol=1e-5)
        first = learn_maps(model, plan, corpus(head, 1), steps=1)[1].first_loss
        assert math.isclose(first, learned.first_loss, rel_tol=1e-6)
    assert loss(bigger, head, seed=9) < start - 0.2
    assert bigger.dtype == torch.float32 and not bigger.training
    assert all(parameter.requires_grad for parameter in bigger.parameters())


def test_learning_is_the_same_whenever_the_seed_is() -> None:
    model = build("llama", "causal-lm")
    found = {}
    for seed in (0, 0, 1):
        plan = plan_growth(model, WIDE, {"name": "ligo", "steps": 3}, seed=seed)
        bigger, learned = learn_maps(model, plan, corpus("causal-lm", 3))
        same = found.setdefault(seed, (learned.digest, bigger.state_dict()))
        assert same[0] == learned.digest
        assert all(torch.equal(value, bigger.state_dict()[name]) for name, value in same[1].items())
    assert found[0][0] != found[1][0]


def test_what_it_costs_is_counted() -> None:
    model = build("llama", "causal-lm", **GQA)
    plan = plan_growth(model, {**WIDE, "num_hidden_layers": 3}, {"name": "ligo", "steps": 2})
    expansion = expanded(model, plan)
    with FlopCounterMode(display=False) as counter:
        expansion.tensors()
    assert plan.maps is not None
    once = expansion_flops(plan.source, plan.target, plan.maps)
    assert counter.get_total_flops() == once
    _, learned = learn_maps(model, plan, corpus("causal-lm", 2))
    body, whole = (plan.target.flops(12, head_share=share).train for share in (0.0, 1.0))
    model_flops = learned.tokens * body + learned.targets * (whole - body)
    assert (learned.tokens, learned.targets) == (2 * 48, 2 * 44)
    assert learned.train_flops == round(model_flops) + 7 * once  # 2 steps, both ways, and the last growth
    assert learned.parameters == sum(parameter.numel() for parameter in expansion.parameters())
    json.dumps(learned.as_json())


# --- refusals


def test_without_a_corpus_it_is_refused(tmp_path: Path) -> None:
    model = build("llama", "causal-lm")
    save_model(model, tmp_path / "small")
    with pytest.raises(InputError, match=r"ligo learns its maps on a corpus.*corpus:"):
        grow(model, WIDE, "ligo")
    with pytest.raises(InputError, match=r"ligo learns its maps on a corpus.*corpus:"):
        grow_checkpoint(tmp_path / "small", tmp_path / "big", WIDE, "ligo")
    assert not (tmp_path / "big").exists()
    with pytest.raises(InputError, match="were learned"):
        plan_from_record(plan_growth(model, WIDE, "ligo").record())


def test_what_cannot_be_learned_is_refused() -> None:
    model = build("llama", "causal-lm")
    plan = plan_growth(model, WIDE, {"name": "ligo", "steps": 3})
    with pytest.raises(InputError, match="ended after 2 of 3 steps"):
        learn_maps(model, plan, corpus("causal-lm", 2))
    with pytest.raises(InputError, match="isometric has nothing to learn"):
        learn_maps(model, plan_growth(model, WIDE, "isometric"), corpus("causal-lm", 3))
    bare = build("llama", "bare")
    with pytest.raises(InputError, match="a bare variant"):
        learn_maps(bare, plan_growth(bare, WIDE, "ligo"), corpus("causal-lm", 3))
    with pytest.raises(InputError, match="break the symmetry"):
        plan_growth(model, WIDE, ["ligo", "noise"])
    for options in ({"steps": 0}, {"lr": 0}, {"start": "random"}, {"depth": "top"}, {"noise": -1}):
        with pytest.raises(InputError, match=f"ligo: {next(iter(options))} must be"):
            plan_growth(model, WIDE, {"name": "ligo", **options})


# --- in a recipe


RECIPE = """
name: learned
seed: 1
corpora:
  text: {files: text.jsonl, held_out: 0.2}
stages:
  - pretrain: {name: small, model: {family: llama, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2,
      max_position_embeddings: 64}, corpus: text, tokenizer: {vocab_size: 320}, tokens: 512, block: 16,
      batch_tokens: 256, lr: 3e-3}
  - grow: {name: big, from: small, to: {hidden_size: 48, num_attention_heads: 3, num_hidden_layers: 3},
      method: {name: ligo, steps: 4, lr: 1e-3, depth: identity}, corpus: text, block: 16, batch_tokens: 128}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    draw = random.Random(5)
    words = ["alpha", "beta", "gamma", "and", "of", "the", "river", "stone", "bird", "seven", "runs", "falls"]
    texts = [" ".join(draw.choices(words, k=14)) + f" {number}." for number in range(120)]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path / "recipe.yaml"


def test_a_stage_learns_its_maps_on_its_corpus_and_counts_the_cost(recipe: Path) -> None:
    planned = make_plan(load_recipe(recipe)).stage("big")
    bequest.run(recipe, out=recipe.parent / "run")
    made = read_lineage(recipe.parent / "run" / "big")
    assert made.operation.method == "ligo"
    assert made.operation.maps is not None
    learned = made.operation.maps["learning"]
    assert (learned["steps"], learned["tokens"]) == (4, 4 * 128)
    assert (made.cost.tokens, made.cost.train_flops) == (learned["tokens"], learned["train_flops"])
    assert [(use.name, use.tokens) for use in made.data] == [("text", 512)]
    assert (planned.tokens, planned.updates, planned.exact) == (512, 4, False)
    # The last position of a block has no target, which the plan does not know.
    assert planned.train_flops is not None
    assert 0.9 * planned.train_flops < learned["train_flops"] <= planned.train_flops
    again = bequest.run(recipe, out=recipe.parent / "run")
    assert again.ran == []
    other = bequest.run(recipe, out=recipe.parent / "run", overrides=["stages.big.block=32"])
    assert other.ran == ["big"]


def test_a_masked_language_model_learns_its_maps_too(recipe: Path) -> None:
    text = recipe.read_text().replace("llama", "bert").replace("hidden_size: 48", "hidden_size: 64")
    recipe.write_text(text.replace("num_attention_heads: 3", "num_attention_heads: 4").replace("identity", "stack"))
    bequest.run(recipe, out=recipe.parent / "run")
    learned = (read_lineage(recipe.parent / "run" / "big").operation.maps or {})["learning"]
    assert 0 < learned["targets"] < learned["tokens"] / 2
    bequest.run(recipe, out=recipe.parent / "other")
    once, again = ((recipe.parent / out / "big" / "model.safetensors").read_bytes() for out in ("run", "other"))
    assert once == again


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("corpus: text, block: 16, batch_tokens: 128", "seed: 2", r"corpus: ligo learns its maps on a corpus"),
        ("{name: ligo, steps: 4, lr: 1e-3, depth: identity}", "[isometric, identity]", "corpus: .* learns nothing"),
        ("{name: ligo, steps: 4, lr: 1e-3, depth: identity}", "upcycle", "changes no other size"),
        ("corpus: text, block: 16, batch_tokens: 128", "block: 16", "block: is for learning maps on a corpus"),
        ("batch_tokens: 128", "batch_tokens: 100", "no whole number of blocks of 16; use 96"),
        ("block: 16, batch_tokens: 128", "block: 128, batch_tokens: 128", "128 is longer than the 64 positions"),
        ("corpus: text, block: 16, batch_tokens: 128", "corpus: txt", "stages.big.corpus: no corpus 'txt'"),
        ("{name: ligo, steps: 4,", "{name: ligo, steps: -4,", "steps must be a whole number"),
    ],
)
def test_what_a_recipe_cannot_say(recipe: Path, old: str, new: str, complaint: str) -> None:
    text = recipe.read_text()
    head, stage = text.split("  - grow:")
    assert old in stage
    recipe.write_text(f"{head}  - grow:{stage.replace(old, new)}")
    with pytest.raises(InputError, match=complaint):
        make_plan(load_recipe(recipe))
