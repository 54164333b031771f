"""Law: the table is the one source.  Each tensor matches one line; without it growth, FLOPs and loading all fail."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bequest.anatomy import FAMILIES, Anatomy, check_model, complete_config, objective_of
from bequest.anatomy.table import Family
from bequest.checkpoints import new_model, save_model
from bequest.errors import AnatomyError
from bequest.growth import grow, grow_checkpoint

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
# Every switch that a line waits for is on, and key-value heads are fewer than query heads where there can be.
EXTRA: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1},
    "qwen3": {"attention_bias": True, "num_key_value_heads": 1, "head_dim": 4},
    "electra": {"embedding_size": 8},
    "distilbert": {"sinusoidal_pos_embds": True},
    "modernbert": {"norm_bias": True, "attention_bias": True, "mlp_bias": True, "classifier_bias": True},
    "phi3": {"num_key_value_heads": 1},
    "granite": {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1, "embedding_multiplier": 12},
    "smollm3": {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1, "no_rope_layer_interval": 2},
    "gemma": {"attention_bias": True, "num_key_value_heads": 1, "head_dim": 6},
    "gemma2": {"attention_bias": True, "num_key_value_heads": 1, "head_dim": 6},
    "gemma3_text": {"attention_bias": True, "num_key_value_heads": 1, "head_dim": 6},
    "olmo2": {"attention_bias": True, "num_key_value_heads": 1},
    "mixtral": {"num_key_value_heads": 1, "num_experts": 3},
    "qwen2_moe": {"num_key_value_heads": 1, "num_experts": 4, "num_experts_per_tok": 3, "moe_intermediate_size": 12},
}
HEADS = [(family, head) for family in FAMILIES for head in FAMILIES[family].heads]
EVERY_ROW = [
    pytest.param(name, head, part, number, id=f"{name}-{head}-{row.name}")
    for name, family in FAMILIES.items()
    for head, variant in family.heads.items()
    for part, rows in (("base", family.rows), ("extra", variant.base_rows), ("head", variant.rows))
    for number, row in enumerate(rows)
    if part != "base" or head == objective_of(family)
]


def build(family: str, head: str, **extra: Any) -> Any:
    positions = {"max_position_embeddings": 20}
    own = EXTRA.get(family, {})
    sizes = {key: value for key, value in SIZES.items() if FAMILIES[family].key(key) not in own}
    given = {**sizes, **own, **extra}
    config = complete_config(family, given, head=head, vocab_size=40, **positions)
    return new_model(config, seed=0).eval()


@pytest.mark.parametrize(("family", "head"), HEADS)
@pytest.mark.parametrize("tie", [True, False])
def test_each_tensor_of_the_live_model_matches_one_line(family: str, head: str, tie: bool) -> None:
    model = build(family, head, tie_word_embeddings=tie)
    anatomy = check_model(model)
    assert anatomy.head == head
    assert anatomy.class_name == type(model).__name__
    assert set(anatomy.tensors) == {name for name, _ in model.named_parameters()}
    assert anatomy.tied == dict(model.all_tied_weights_keys)
    assert anatomy.parameters() == model.num_parameters()
    rows = [row.name for row in (*anatomy.family.rows, *anatomy.variant.base_rows, *anatomy.variant.rows)]
    assert len(rows) == len(set(rows))
    modules = dict(model.named_modules())
    for module in (anatomy.lm_head, anatomy.output_embedding, anatomy.last_norm):
        assert module is None or module in modules
    if anatomy.output_embedding:
        assert modules[anatomy.output_embedding] is model.get_output_embeddings()
    assert anatomy.reads_last <= anatomy.tensors.keys() | anatomy.aliases.keys()


@pytest.mark.parametrize(("family", "head"), HEADS)
def test_disagreements_name_the_tensor(family: str, head: str) -> None:
    model = build(family, head)
    anatomy = check_model(model)
    shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
    some = sorted(anatomy.tensors)[len(anatomy.tensors) // 2]
    with pytest.raises(AnatomyError, match=r"some\.adapter\.weight: no line"):
        anatomy.check({**shapes, "some.adapter.weight": (3,)})
    with pytest.raises(AnatomyError, match=f"{some}: no tensor"):
        anatomy.check({name: shape for name, shape in shapes.items() if name != some})
    with pytest.raises(AnatomyError, match=rf"{some}: the model has \(7, 7, 7\)"):
        anatomy.check({**shapes, some: (7, 7, 7)})
    anatomy.check(shapes)


def without(name: str, head: str, part: str, number: int) -> tuple[Family, str]:
    """The family with one of its lines removed, and that line's kind."""
    family = FAMILIES[name]

    def cut(rows: tuple[Any, ...]) -> tuple[Any, ...]:
        return rows[:number] + rows[number + 1 :]

    if part == "base":
        return dataclasses.replace(family, rows=cut(family.rows)), family.rows[number].line
    variant = family.heads[head]
    field = "rows" if part == "head" else "base_rows"
    changed = dataclasses.replace(variant, **{field: cut(getattr(variant, field))})
    return dataclasses.replace(family, heads={**family.heads, head: changed}), getattr(variant, field)[number].line


@pytest.fixture(scope="session")
def live_models(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], tuple[Any, Path]]:
    made = {}
    for family, head in HEADS:
        model = build(family, head, tie_word_embeddings=False)
        place = tmp_path_factory.mktemp(f"{family}-{head}")
        save_model(model, place)
        made[family, head] = (model, place)
    return made


@pytest.mark.parametrize(("name", "head", "part", "number"), EVERY_ROW)
def test_without_one_line_growth_flops_and_loading_fail(
    name: str,
    head: str,
    part: str,
    number: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    live_models: dict[tuple[str, str], tuple[Any, Path]],
) -> None:
    model, place = live_models[name, head]
    before = check_model(model).flops(16).forward
    family, line = without(name, head, part, number)
    monkeypatch.setitem(FAMILIES, name, family)
    with pytest.raises(AnatomyError, match="no line of the table"):
        check_model(model)
    with pytest.raises(AnatomyError, match="no line of the table"):
        grow(model, {"hidden_size": 32})
    with pytest.raises(AnatomyError, match="no line of the table"):
        grow_checkpoint(place, tmp_path / "out", {"hidden_size": 32})
    assert not (tmp_path / "out").exists()
    if ("<-" in line or "->" in line) and not line.startswith(("vocab ->", "pos ->", "type ->")):
        config = {**model.config.to_dict(), "architectures": [type(model).__name__]}
        assert Anatomy(config, head).flops(16).forward != before


@pytest.mark.parametrize(("family", "head"), HEADS)
@pytest.mark.parametrize("tie", [True, False])
def test_flops_equal_torchs_own_count(family: str, head: str, tie: bool) -> None:
    """The oracle counts what is multiplied; only the rotary tables' outer products are not ours."""
    model = build(family, head, tie_word_embeddings=tie)
    model.set_attn_implementation("eager")
    model.set_experts_implementation("eager")  # whose products the oracle sees: the grouped kernel it counts as nothing
    anatomy = check_model(model)
    model.config.pad_token_id = 0
    rows, block = 3, 12
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.randint(2, 40, (rows, block)), attention_mask=torch.ones(rows, block, dtype=torch.long))
    # One outer product for each kind of layer that has angles of its own, of head_dim per token; the angles are the
    # same for the whole batch and may be multiplied once.
    kinds = len(set(anatomy.config.get("layer_types", [None])))
    rotary = kinds * anatomy.sizes["head_dim"] if anatomy.family.rotary else 0
    flops = anatomy.flops(block)
    measured = counter.get_total_flops() / (rows * block)
    assert flops.forward <= measured + 1e-6
    assert measured - flops.forward <= rotary + 1e-6
    assert flops.train == flops.forward + flops.backward == 3 * flops.forward
    if anatomy.lm_head:
        assert anatomy.flops(block, head_share=0.25).forward < flops.forward
