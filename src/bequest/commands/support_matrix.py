"""``list families``: what can be grown, read from the tables and asked of the planner, so that it is never out of date.

Whether a width or a depth is exact is the verdict on a tiny config of the family; everything else stands in its table.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from bequest.commands import terminal
from bequest.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from bequest.anatomy.axes import Line
    from bequest.anatomy.table import Family

_SHORT = {
    "causal-lm": "causal",
    "masked-lm": "masked",
    "sequence-classification": "class",
    "discriminator": "disc",
}
_FUSED = {("q", "kv", "kv"): "qkv", ("qkv",): "qkv", ("ffn", "ffn"): "gate|up"}


@dataclass(frozen=True)
class Support:
    """One family's line of the matrix.

    Attributes:
        name: transformers' ``model_type``.
        heads: the variants that can be grown, besides the bare model.
        norm: ``RMS`` or ``LN``; before the block (``pre``), behind it (``post``), or both.
        width: exact at ``any`` width, at any that is a whole number of ``heads``, or at whole ``multiples``.
        depth: whether identity blocks are exact (bitwise).
        kv_groups: whether query heads may share key-value heads.
        experts: whether it is a mixture of experts.
        tied: whether the output embedding is the input embedding unless the config says otherwise.
        fused: projections that are stored as one tensor.
    """

    name: str
    heads: tuple[str, ...]
    norm: str
    width: str
    depth: bool
    kv_groups: bool
    experts: bool
    tied: bool
    fused: tuple[str, ...]


def supported(family: Family) -> Support:
    """What the table and the planner say of a family."""
    from bequest.anatomy.axes import parse

    lines = [parse(row.line) for row in family.rows if "{layer}" in row.name]
    axes = {dim.axes for line in lines for dim in line.dims}
    whole = family.whole_heads or family.head_dim == "quotient"
    return Support(
        name=family.name,
        heads=tuple(head for head in family.heads if head != "bare"),
        norm=_norm(family, lines),
        width=("heads" if whole else "any") if _exact(family, {"hidden_size": 96}) else "multiples",
        depth=_exact(family, {"num_hidden_layers": 5}),
        kv_groups="num_key_value_heads" in family.defaults,
        experts=any("expert" in dims for dims in axes),
        tied=bool(family.defaults.get("tie_word_embeddings")),
        fused=tuple(words for dims, words in _FUSED.items() if dims in axes),
    )


def _norm(family: Family, lines: list[Line]) -> str:
    if family.norm == "layer-post":
        return "LN post"
    roles = {dim.role for line in lines for dim in line.dims if "hidden" in dim.axes}
    places = [place for place, role in (("pre", "gain"), ("post", "post_gain")) if role in roles]
    return f"{'RMS' if family.norm == 'rms' else 'LN'} {'+'.join(places)}"


def _exact(family: Family, to: dict[str, int]) -> bool:
    """The planner's verdict on a tiny config, by the methods that ``auto`` takes and identity blocks."""
    from bequest.anatomy import complete_config
    from bequest.growth import plan_growth

    sizes = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 96}
    config = complete_config(family.name, sizes, head=next(iter(family.heads)), vocab_size=100)
    return plan_growth(config, to, "identity" if "num_hidden_layers" in to else "auto").exact


def list_families(name: str | None, as_json: bool) -> None:
    """Print the matrix, or one family's table."""
    from bequest.anatomy import FAMILIES

    if name is not None:
        _show_family(name, as_json)
        return
    found = [supported(family) for family in FAMILIES.values()]
    if as_json:
        terminal.show_json([asdict(support) for support in found])
        return
    columns = ["family", "heads", "norm", "width", "depth", "gqa", "moe", "tied", "fused"]
    terminal.show(
        terminal.grid("Families that can be grown", columns, [_row(support) for support in found]),
        "",
        "heads: causal or masked LM, sequence classification, discriminator; the bare model grows too",
        "width: exact at any width, at any whole number of heads, or at whole multiples only",
        "depth: whether identity blocks are exact, bit for bit",
        "tied: what the family does unless its config says otherwise",
        "the table of one: bequest list families NAME",
    )


def _row(support: Support) -> list[str]:
    def mark(value: bool) -> str:
        return "yes" if value else "-"

    return [
        support.name,
        ", ".join(_SHORT[head] for head in support.heads),
        support.norm,
        support.width,
        "exact" if support.depth else "-",
        mark(support.kv_groups),
        mark(support.experts),
        mark(support.tied),
        ", ".join(support.fused) or "-",
    ]


def _show_family(name: str, as_json: bool) -> None:
    """One family's table: each tensor, its axes, when it is there."""
    from bequest.anatomy import FAMILIES

    if name not in FAMILIES:
        raise InputError(f"no anatomy table for {name!r}", key="NAME", remedy=did_you_mean(name, FAMILIES))
    family = FAMILIES[name]
    rows = [[f"{family.prefix}.{row.name}" if family.prefix else row.name, row.line, row.when] for row in family.rows]
    for head, variant in family.heads.items():
        rows += [[row.name, row.line, f"{head}{' and ' + row.when if row.when else ''}"] for row in variant.rows]
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")
    named = {size: family.key(size) for size in sizes if family.key(size) in family.defaults}
    if as_json:
        table = [{"tensor": row[0], "line": row[1], "when": row[2]} for row in rows]
        support: dict[str, Any] = asdict(supported(family))
        terminal.show_json({**support, "sizes": named, "heads": list(family.heads), "table": table})
        return
    terminal.show(
        terminal.grid(f"{name}: tensors and the axes behind their dimensions", ["tensor", "axes", "when"], rows),
        "",
        terminal.grid(
            "sizes",
            ["name", "in config.json", "default"],
            [[size, key, str(family.defaults[key])] for size, key in named.items()],
        ),
    )
