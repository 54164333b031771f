"""Laws of every growth method, on every family, tied and untied, at sizes that hypothesis draws, everything jittered.

A method called exact is exact: below 1e-12 in float64, below 1e-5 in float32.  One called approximate is wrong by more
than 1e-6 and by less than it predicted.  The verdict itself is under law.
"""

from __future__ import annotations

import zlib
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from bequest.anatomy import FAMILIES
from bequest.errors import InputError
from bequest.growth import grow, grow_planned, plan_growth
from growth_support import VARIANTS, build, error, language_head, native_norms

#: Every method that decides maps by itself, with the depth it goes with.
METHODS: list[Any] = [
    ["auto", "noise"],
    ["fpi", "stack"],
    [{"name": "fpi", "map": "random"}, "identity"],
    ["aki", "stack"],
    [{"name": "aki", "scope": "formula"}, "interpolate"],
    ["isometric", "noise", "identity"],
    ["scaled_average", "identity", "noise"],
    "direct_copy",
    "net2net",
    "lemon",
    ["hypercloning", "identity"],
]
#: What the table of a family allows its width to be, in heads.
TIED = [
    (family, number, tie) for family in VARIANTS for number in range(len(VARIANTS[family])) for tie in (True, False)
]


@st.composite
def sizes(draw: st.DrawFn, family: str, kv_heads: int) -> dict[str, int]:
    """A larger target: fractional or whole in width, heads in groups, any FFN, one to three layers more or none."""
    record = FAMILIES[family]
    heads = draw(st.sampled_from([4, 5, 6, 8, 9, 12]))
    free = record.head_dim != "quotient"
    hidden = draw(st.sampled_from([32, 40, 44, 64, 80])) if free and not record.whole_heads else 8 * heads
    to = {"hidden_size": hidden, "num_attention_heads": heads, "intermediate_size": draw(st.integers(40, 97))}
    if kv_heads < 4:
        # Every query head must find a place beside its own key-value head.
        legal = [kv for kv in range(kv_heads, heads + 1) if heads % kv == 0 and heads // kv >= 4 // kv_heads]
        to["num_key_value_heads"] = draw(st.sampled_from(legal or [heads]))
    elif family not in ("bert", "roberta", "distilbert", "electra", "modernbert", "gpt2", "gpt_neox", "opt"):
        to["num_key_value_heads"] = heads
    return to


@pytest.mark.parametrize(("family", "number", "tie"), TIED, ids=lambda value: str(value))
def test_every_verdict_is_true(family: str, number: int, tie: bool) -> None:
    variant = {**VARIANTS[family][number], "tie_word_embeddings": tie}
    single = build(family, language_head(family), **variant)
    double = native_norms(build(family, language_head(family), **variant).double())
    layers = single.config.num_hidden_layers
    seen: set[tuple[bool, str]] = set()

    @seed(zlib.crc32(f"{family} {number} {tie}".encode()))
    @settings(
        max_examples=2,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def check(data: st.DataObject) -> None:
        to = data.draw(sizes(family, variant.get("num_key_value_heads", 4)))
        to["num_hidden_layers"] = layers + data.draw(st.integers(1, 3))
        for method in METHODS:
            try:
                plan = plan_growth(single, to, method)
            except InputError as refused:
                assert "head" in refused.line() or "width" in refused.line(), refused
                continue
            if plan.maps is None:
                assert plan.refusal
                continue
            wrong = error(double, native_norms(grow(double, to, method)))
            seen.add((plan.exact, plan.methods[0]))
            if plan.exact:
                assert plan.predicted_error == 0
                assert wrong < 1e-12, (plan.methods, to)
                assert error(single, grow_planned(single, plan)) < 1e-5, (plan.methods, to)
            else:
                assert 1e-6 < wrong < plan.predicted_error, (plan.methods, to)

    check()
    assert any(exact for exact, _ in seen) or FAMILIES[family].norm == "layer-post"
    assert any(not exact for exact, _ in seen)
