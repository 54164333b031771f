"""Growth maps as a lineage keeps them: complete, small, and refused when damaged."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bequest.anatomy import complete_config
from bequest.anatomy.map_records import maps_from_record, maps_record
from bequest.anatomy.maps import Maps
from bequest.errors import InputError
from bequest.growth import plan_growth

GROWTHS: list[tuple[str, dict[str, Any], dict[str, int], Any]] = [
    ("llama", {"num_key_value_heads": 2}, {"hidden_size": 48, "num_hidden_layers": 4}, ["auto", "noise"]),
    ("gpt2", {}, {"hidden_size": 48}, ["scaled_average", "noise"]),
    ("gpt2", {}, {"hidden_size": 48, "num_hidden_layers": 5}, ["aki", "stack"]),
    ("bert", {}, {"hidden_size": 48}, {"name": "fpi", "map": "random"}),
    ("olmo2", {"num_key_value_heads": 2}, {"hidden_size": 44, "num_attention_heads": 6}, "auto"),
    ("llama", {}, {"hidden_size": 48, "num_hidden_layers": 3}, "direct_copy"),
]


def planned(family: str, sizes: dict[str, Any], to: dict[str, int], method: Any) -> Any:
    head = "masked-lm" if family == "bert" else "causal-lm"
    base = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
    return plan_growth(complete_config(family, {**base, **sizes}, head=head), to, method, seed=3)


@pytest.mark.parametrize(("family", "sizes", "to", "method"), GROWTHS, ids=lambda value: str(value)[:16])
def test_maps_survive_their_lineage(family: str, sizes: Any, to: Any, method: Any) -> None:
    plan = planned(family, sizes, to, method)
    record = json.loads(json.dumps(plan.record()))
    found = maps_from_record(record["maps"], record["digest"])
    assert found.digest() == plan.maps.digest() and found.order == plan.order
    for name, axis in plan.maps.axes.items():
        other = found.axes[name]
        assert (other.source, other.index, other.scales, other.pads) == (
            axis.source,
            axis.index,
            dict(axis.scales),
            dict(axis.pads),
        )
    assert (found.silent, found.fresh, found.donors, found.scope, found.noise, found.seed) == (
        plan.maps.silent,
        plan.maps.fresh,
        plan.maps.donors,
        plan.maps.scope,
        plan.maps.noise,
        plan.maps.seed,
    )


def test_records_of_large_models_are_small() -> None:
    sizes = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 11008}
    plan = plan_growth(complete_config("llama", sizes, head="causal-lm"), {"hidden_size": 5120}, "auto")
    assert len(json.dumps(maps_record(plan.maps or Maps({}, ())))) < 4000


def test_learned_maps_are_not_recorded_as_those_that_learning_starts_from() -> None:
    assert "maps" not in planned("llama", {}, {"hidden_size": 64}, "ligo").record()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda maps: maps["axes"]["hidden"]["scales"]["read"].__setitem__(0, 1.0), "not those of their digest"),
        (lambda maps: maps.pop("order"), "damaged"),
        (lambda maps: maps["axes"]["hidden"].update(index=[[0, 3]]), "damaged"),
        (lambda maps: maps["axes"].update(ffn=None), "damaged"),
    ],
)
def test_damaged_records_are_refused(change: Any, said: str) -> None:
    record = json.loads(json.dumps(planned("llama", {}, {"hidden_size": 48}, "auto").record()))
    change(record["maps"])
    with pytest.raises(InputError, match=said):
        maps_from_record(record["maps"], record["digest"])
