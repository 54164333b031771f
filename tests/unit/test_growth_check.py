"""The check of preservation: what it must see, where it must say that it is, and what it must not be fooled by."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bequest.anatomy import FAMILIES, Anatomy
from bequest.errors import InputError
from bequest.growth import Preservation, check_preservation, grow_planned, plan_growth
from bequest.growth.comparing import Streams, Tally, turns
from bequest.growth.generating import _parting
from bequest.growth.plan import GrowthPlan
from growth_support import VARIANTS, language_head
from growth_support import build as tiny

Change = Callable[[Any], None]


def build(family: str = "llama", head: str = "causal-lm", **extra: Any) -> Any:
    """A tiny jittered model that serves more than 64 positions."""
    return tiny(family, head, **{"max_position_embeddings": 100, **extra})


def grown(model: Any, to: dict[str, int], method: Any = "auto") -> tuple[Any, GrowthPlan]:
    plan = plan_growth(model, to, method)
    return grow_planned(model, plan), plan


@pytest.fixture(scope="module")
def llama() -> Any:
    return build(num_key_value_heads=2, tie_word_embeddings=True)


ODD = {"hidden_size": 72, "num_attention_heads": 9, "num_key_value_heads": 3, "num_hidden_layers": 5}


# --- what is preserved


def test_an_odd_width_and_identity_blocks_are_preserved(llama: Any) -> None:
    bigger, plan = grown(llama, ODD)
    for known in (plan, None):
        proof = check_preservation(llama, bigger, plan=known)
        assert proof.preserved and proof.first_layer is None and proof.reasons == (), proof.verdict
        assert proof.verdict.startswith("preserved: max relative error") and proof.dtype == "float32"
        assert 0 < proof.max_relative_error < proof.gate == 1e-5 and proof.kl < 1e-9 and proof.top1 == 1
        assert proof.generation is not None and proof.generation.preserved and proof.generation.tokens == 12
        assert proof.positions == 3 * 7 + 80 + 60 + 64
        assert proof.yardstick is None
    steps: list[tuple[int, int]] = []
    plain = check_preservation(llama, bigger, plan=plan, progress=lambda done, total: steps.append((done, total)))
    assert json.loads(json.dumps(plain.as_json()))["generation"]["prompts"] == 4
    assert steps == [(number, 6) for number in range(1, 7)]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_wider_and_deeper_in_float64(family: str) -> None:
    """With the plan and without it; float64 needs eager experts, and no padding in front of eager attention."""
    model = tiny(family, language_head(family), **VARIANTS[family][0]).double()
    if "num_experts_per_tok" in model.config.to_dict():
        model.set_experts_implementation("grouped_mm")
    even = FAMILIES[family].norm == "layer-post" or FAMILIES[family].normed_embeddings
    to = {"hidden_size": 64 if even else 48, "num_hidden_layers": model.config.num_hidden_layers + 1}
    if FAMILIES[family].norm == "layer-post":
        to.pop("num_hidden_layers")
    bigger, plan = grown(model, to)
    for known in (plan, None):
        proof = check_preservation(model, bigger, plan=known)
        assert plan.exact and proof.preserved and proof.first_layer is None, proof.verdict
        assert math.isfinite(proof.max_relative_error) and proof.dtype == "float64"
    assert proof.gate == (5e-6 if FAMILIES[family].norm == "rms" else 1e-12)


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize(("family", "width"), [("llama", 56), ("gemma", 56), ("gpt2", 56), ("bert", 64)])
def test_a_bare_model_is_compared_under_the_streams_own_scale(family: str, width: int, tie: bool) -> None:
    """gpt2's pads hold the stream's mean; a tied base's last norm carries n/N."""
    model = build(family, "bare", tie_word_embeddings=tie).double()
    bigger, plan = grown(model, {"hidden_size": width})
    for known in (plan, None):
        proof = check_preservation(model, bigger, plan=known)
        assert proof.preserved and proof.max_relative_error < 1e-6, proof.verdict
    last = [
        name for name, _ in bigger.named_parameters() if name.endswith(("norm.weight", "ln_f.weight", "Norm.weight"))
    ]
    wrong(last[-1])(bigger)
    assert not check_preservation(model, bigger, plan=plan).preserved


def test_training_mode_padding_and_hooks_are_left_as_they_were() -> None:
    model = build("gpt2", "sequence-classification").train()
    bigger, plan = grown(model, {"hidden_size": 64})
    proof = check_preservation(model, bigger, plan=plan)
    assert proof.preserved and proof.generation is None and proof.positions == 6
    for made in (model, bigger):
        assert made.training and made.config.pad_token_id is None
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in made.modules())


# --- what is not, and where


def wrong(path: str) -> Change:
    def change(model: Any) -> None:
        with torch.no_grad():
            model.get_parameter(path)[3] += 1.0

    return change


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("path", "block"),
    [
        ("model.embed_tokens.weight", -1),
        ("model.layers.0.self_attn.v_proj.weight", 0),
        ("model.layers.1.mlp.down_proj.weight", 1),
        ("model.layers.2.self_attn.o_proj.weight", 2),
        ("model.layers.4.mlp.up_proj.weight", None),  # an identity block reads what it likes
        ("model.layers.4.mlp.down_proj.weight", 4),
        ("model.norm.weight", 5),
    ],
)
def test_the_first_block_that_differs_is_named(llama: Any, path: str, block: int | None, known: bool) -> None:
    bigger, plan = grown(llama, ODD)
    assert sorted(plan.maps.silent) == [1, 3, 4]  # type: ignore[union-attr]
    wrong(path)(bigger)
    proof = check_preservation(llama, bigger, plan=plan if known else None)
    assert proof.first_layer == block and proof.preserved == (block is None), proof.verdict
    assert block is None or "the error is above 1e-05" in proof.reasons


@pytest.mark.parametrize(
    ("order", "still", "layers", "expected"),
    [
        ((0, 1, 2), (), 3, [1, 2, 3]),
        ((0, 0, 1, 1), (1, 3), 2, [1, 1, 2, 2]),  # identity blocks behind their originals
        ((0, 0, 1, 1), (0, 2), 2, [0, 1, 1, 2]),  # and before them
        ((0, 1, 0, 1), (), 2, [1, 2, 2, 2]),  # stacked: what comes on top must not change the stream
        ((0, 0, 1, 1), (), 2, [1, 1, 2, 2]),  # interpolated: the second copy must not
        ((0, 1, -1, -1), (), 2, [1, 2, 2, 2]),
    ],
)
def test_layers_are_matched_by_the_maps_order(
    order: tuple[int, ...], still: tuple[int, ...], layers: int, expected: list[int]
) -> None:
    assert turns(order, frozenset(still), layers) == expected


@pytest.mark.parametrize(("method", "block"), [("stack", 2), ("interpolate", 1)])
def test_where_copied_depth_begins_to_differ(method: str, block: int) -> None:
    model = build()
    bigger, plan = grown(model, {"num_hidden_layers": 4}, method)
    for known in (plan, None):
        proof = check_preservation(model, bigger, plan=known)
        assert not proof.preserved and proof.first_layer == block, proof.verdict


@pytest.mark.parametrize(
    ("family", "head", "path", "row"),
    [
        ("gpt2", "causal-lm", "transformer.wpe.weight", 70),
        ("bert", "masked-lm", "bert.embeddings.position_embeddings.weight", 70),
        ("bert", "masked-lm", "bert.embeddings.token_type_embeddings.weight", 1),
    ],
)
def test_what_only_long_or_second_segments_show(family: str, head: str, path: str, row: int) -> None:
    model = build(family, head)
    bigger, plan = grown(model, {"hidden_size": 64})
    assert check_preservation(model, bigger, plan=plan).preserved
    with torch.no_grad():
        bigger.get_parameter(path)[row, 3] += 0.5
    proof = check_preservation(model, bigger, plan=plan)
    assert not proof.preserved and proof.first_layer == -1


@pytest.mark.parametrize("positions", [3, 8])
def test_models_of_few_positions(positions: int) -> None:
    model = build("gpt2", max_position_embeddings=positions)
    bigger, plan = grown(model, {"hidden_size": 64})
    proof = check_preservation(model, bigger, plan=plan)
    assert proof.preserved, proof.verdict
    assert proof.generation is not None and proof.generation.tokens == 1


def test_a_cache_that_is_wrong_shows_in_generation_alone() -> None:
    """A block that is wrong for single tokens only, as a decoding step sees them: whole sequences are right."""
    model = build()
    bigger, plan = grown(model, {"num_hidden_layers": 4})
    bigger.model.layers[2].mlp.register_forward_hook(lambda _, __, out: out + 1 if out.shape[1] == 1 else None)
    proof = check_preservation(model, bigger, plan=plan)
    assert proof.max_relative_error == 0 and proof.first_layer is None
    assert not proof.preserved and proof.reasons == ("other tokens are generated",)
    assert proof.generation is not None and proof.generation.cached < proof.generation.prompts
    assert "differ without the cache" in proof.verdict


class Speaker:
    """A model whose logits depend on the number of tokens it is given."""

    device = torch.device("cpu")
    logits = torch.tensor([[9.0, 1.0, 0.0], [5.0, 5.00005, 0.0]])

    def __call__(self, input_ids: torch.Tensor, **_: Any) -> Any:
        return SimpleNamespace(logits=self.logits[None, input_ids.shape[1] - 2 :][:, :1])


def test_continuations_part_at_ties_and_otherwise() -> None:
    def parting(ours: list[int], theirs: list[int], gate: float) -> str:
        return _parting(Speaker(), [7, 7], ours, theirs, gate)

    assert parting([0, 1], [0, 1], 1e-5) == "none"
    assert parting([0, 1], [0, 0], 1e-5) == "tie"
    assert parting([0, 1], [1, 0], 1e-5) == "other"
    assert parting([0, 1], [0, 0], 1e-6) == "other"


def test_not_a_number_is_not_preserved() -> None:
    model = build()
    bigger, plan = grown(model, {"hidden_size": 64})
    with torch.no_grad():
        bigger.model.layers[1].mlp.up_proj.weight[0, 0] = math.nan
    proof = check_preservation(model, bigger, plan=plan)
    assert not proof.preserved and math.isnan(proof.max_relative_error) and proof.first_layer == 1
    assert proof.as_json()["max_relative_error"] == "nan"
    back = check_preservation(bigger, bigger)
    assert not back.preserved and back.reasons[0] == "the source itself computes no finite numbers"


def test_the_tally_against_the_formulas() -> None:
    generator = torch.Generator().manual_seed(3)
    left, right = (torch.randn(150, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    tally = Tally(distribution=True)
    tally.add(left[:100], right[:100])
    tally.add(left[100:], right[100:])
    assert tally.error == pytest.approx(float((left - right).abs().max() / left.abs().max()))
    p, q = left.softmax(-1), right.softmax(-1)
    assert tally.kl == pytest.approx(float((p * (p / q).log()).sum(-1).mean()))
    assert tally.top1 == pytest.approx(float((left.argmax(-1) == right.argmax(-1)).double().mean()))
    one = Tally(distribution=True)
    one.add(torch.tensor([[0.3], [-1.0]]), torch.tensor([[0.4], [1.0]]))
    assert one.top1 == 0.5 and one.kl > 0


# --- half precision


def test_half_precision_stands_beside_the_sources_own_change() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        model = build()
        bigger, plan = grown(model, {"hidden_size": 56})
        half = check_preservation(model.to(dtype), bigger.to(dtype), plan=plan)
        assert half.gate is None and not half.preserved and half.reasons == ("half precision proves nothing",)
        assert half.yardstick is not None and half.yardstick.kl > 0 and half.rounding, half.verdict
        assert f"the source's own float32 -> {half.yardstick.dtype} change" in half.verdict
        assert "more than" not in half.verdict
    wrong("model.layers.1.mlp.down_proj.weight")(bigger)
    broken = check_preservation(model, bigger, plan=plan)
    assert not broken.rounding and "more than the 4 times that rounding explains" in broken.verdict


def test_what_was_stored_in_half_precision_is_judged_in_float32() -> None:
    """Whole powers of two are stored without rounding, and pass; other factors are no further off than rounding."""
    model = build()
    for width, preserved in ((64, True), (56, False)):
        bigger, plan = grown(model.bfloat16(), {"hidden_size": width})
        proof = check_preservation(model.float(), bigger.float(), plan=plan, stored=torch.bfloat16)
        assert proof.preserved == preserved and proof.rounding, proof.verdict
        assert proof.yardstick is not None and proof.yardstick.dtype == "bfloat16"
        assert model.dtype == torch.float32


# --- copies, and whether training can tell them apart

LOCKS: dict[str, tuple[dict[str, Any], dict[str, int], Any, dict[str, int], dict[str, int]]] = {
    "copies": ({}, {"hidden_size": 64}, "fpi", *[{"head": 8, "neuron": 80, "hidden": 32}] * 2),
    "noise": (
        {},
        {"hidden_size": 64},
        ["fpi", "noise"],
        {"head": 0, "neuron": 0, "hidden": 0},
        {"head": 0, "neuron": 0, "hidden": 0},
    ),
    "uneven": (
        {"num_key_value_heads": 2},
        {"hidden_size": 72, "num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 57},
        "isometric",
        {"head": 10, "kv_head": 2, "neuron": 34, "hidden": 40},
        {"head": 6, "kv_head": 0, "neuron": 34, "hidden": 40},
    ),
}


@pytest.mark.parametrize("name", LOCKS)
def test_locked_units_are_those_that_training_does_not_tell_apart(name: str) -> None:
    """The report against twenty steps: what it calls locked stays equal to 1e-9, every other copy parts by more."""
    extra, to, method, duplicated, locked = LOCKS[name]
    model = build(**extra).double()
    bigger, plan = grown(model, to, method)
    proof = check_preservation(model, bigger, plan=plan)
    assert (proof.duplicated_units, proof.locked_units) == (duplicated, locked)
    optimizer = torch.optim.AdamW(bigger.parameters(), lr=3e-3)
    ids = torch.randint(2, 48, (20, 4, 12), generator=torch.Generator().manual_seed(2))
    for batch in ids:
        optimizer.zero_grad()
        logits = bigger(input_ids=batch).logits[:, :-1]
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten()).backward()
        optimizer.step()
    assert {kind: near(bigger, plan.target, kind) for kind in locked} == locked


def near(model: Any, anatomy: Anatomy, kind: Any) -> int:
    """A slow reference: units whose rows equal an earlier unit's up to 1e-9, over all layers."""
    parameters = dict(model.named_parameters())
    if kind == "hidden":
        uses = anatomy.writers("hidden")
        groups = [[torch.cat([parameters[use.tensor].movedim(use.dim, 0).flatten(1) for use in uses], dim=1)]]
    else:
        groups = [
            [
                torch.cat([parameters[place.tensor].narrow(place.dim, place.indices.start, size(place)).reshape(-1)])
                for place in unit.writes
            ]
            for layer in range(anatomy.layers)
            for unit in anatomy.units(kind, layer)
        ]
        per_layer = len(groups) // anatomy.layers
        flat = torch.stack([torch.cat(group) for group in groups])
        groups = [[flat[layer * per_layer : (layer + 1) * per_layer]] for layer in range(anatomy.layers)]
    count = 0
    for (rows,) in groups:
        apart = torch.cdist(rows, rows, p=math.inf)
        count += int((torch.tril(apart < 1e-9, diagonal=-1).any(dim=1)).sum())
    return count


def size(place: Any) -> int:
    return int(place.indices.stop - place.indices.start)


# --- bad input


def refused(said: str, **changes: Any) -> None:
    model = build()
    bigger, plan = grown(model, {"hidden_size": 64})
    given: dict[str, Any] = {"model": model, "bigger": bigger, "plan": plan, **changes}
    with pytest.raises(InputError, match=said):
        check_preservation(given.pop("model"), given.pop("bigger"), **given)


def test_strangers_plans_and_prompts_are_refused() -> None:
    model = build()
    refused("another kind of model", model=build("gpt2"))
    refused("another kind of model", bigger=build(head="bare"))
    larger = build()
    larger.resize_token_embeddings(50)
    refused("the vocabularies differ", bigger=larger)
    refused("the dtypes differ", bigger=build().double())
    refused("plan is one for models of other sizes", plan=plan_growth(model, {"hidden_size": 96}))
    refused("there is no tokenizer", prompts=["a text"])
    refused("has 100 tokens; 1 to 99", prompts=[list(range(2, 48)) * 2 + [7] * 8])
    refused("has 0 tokens", prompts=[[]])
    refused("outside the vocabulary", prompts=[[48]])


def test_prompts_are_compared_and_continued() -> None:
    model = build()
    bigger, plan = grown(model, {"hidden_size": 56})
    texts = ["abc", "hello", "x", "growing"]

    def tokenizer(text: str) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) % 46 + 2 for letter in text]}

    proof = check_preservation(model, bigger, plan=plan, prompts=texts, tokenizer=tokenizer)
    assert proof.preserved and proof.generation is not None and proof.generation.same == 4
    assert proof.positions == 3 * 7 + 80 + 60 + 64 + sum(map(len, texts))
    special = 31
    with torch.no_grad():
        bigger.model.embed_tokens.weight[special] += 1.0
    known = check_preservation(model, bigger, plan=plan, prompts=[[special, 5, 6]])
    assert isinstance(known, Preservation) and not known.preserved


def test_the_streams_of_a_plan() -> None:
    """gpt2 at 32 -> 56: 32 tiles with a = sqrt(56/32), 24 pads that hold the mean; without a map nothing is scaled."""
    plan = plan_growth(build("gpt2"), {"hidden_size": 56})
    streams, x = Streams.planned(plan), torch.randn(5, 32, dtype=torch.float64)
    scale = math.sqrt(56 / 32)
    expected = torch.cat([x, x.mean(-1, keepdim=True).expand(5, 24)], dim=1) * scale
    assert torch.allclose(streams.expected(x), expected)
    deeper = Streams.planned(plan_growth(build("gpt2"), {"num_hidden_layers": 3}))
    assert torch.equal(deeper.expected(x), x)
