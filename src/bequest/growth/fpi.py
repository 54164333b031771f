"""FPI, function-preserving initialisation (bert2BERT, Chen et al., ACL 2022, §3.2; Net2Net, Chen et al. 2016).

    U[i, :] = W[g_in(i), :] / C(i)   (an input that was copied C times is read in shares)      U[:, j] = U[:, g_out(j)]

One index map g stands behind the residual stream of the whole network; heads are copied whole, with their own key-value
heads.  Where a tied output embedding cannot be read in shares, the last norm before it carries them.

Deviations.  The map is circular, not drawn at random: only a balanced map is exact under LayerNorm.  The stream grows
by whole multiples here; inner axes (heads, FFN) by any factor, since nothing normalises across them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bequest.anatomy import Anatomy
from bequest.anatomy.maps import AxisMap, Maps, circular, duplicate, grouped_heads
from bequest.errors import InputError
from bequest.growth.method import Growth, Verdict

if TYPE_CHECKING:
    import torch

_STREAMS = {"hidden": "hidden_size", "embed": "embedding_size"}


@dataclass(frozen=True)
class FPI(Growth):
    """Width by copies that are read in equal shares: exact at whole multiples of the stream, for every family."""

    def maps(
        self,
        source: Anatomy,
        target: Anatomy,
        *,
        weights: Mapping[str, torch.Tensor] | None = None,
        rng: Any = None,
    ) -> Maps:
        """One circular map per axis; heads in groups."""
        uneven = _uneven(source, target)
        if uneven:
            axis, legal = uneven
            raise InputError(
                f"fpi grows the {axis} axis by whole multiples, and {target.sizes[axis]} is none of "
                f"{source.sizes[axis]}",
                key=_STREAMS[axis],
                remedy=f"choose {legal}",
            )
        axes: dict[str, AxisMap] = {
            axis: circular(source.sizes[axis], target.sizes[axis])
            for axis in ("hidden", "embed", "ffn")
            if axis in source.sizes
        }
        q_index, kv_index = grouped_heads(source.heads, source.kv_heads, target.heads, target.kv_heads)
        width = source.sizes["head_dim"]
        heads = duplicate(q_index, source.heads).expanded(width)
        axes |= {"q": heads, "attn": heads, "kv": duplicate(kv_index, source.kv_heads).expanded(width)}
        rule = {"method": "fpi", "map": "circular", "heads": q_index, "kv_heads": kv_index}
        return Maps(axes, tuple(range(source.layers)), rule)

    def verdict(self, source: Anatomy, target: Anatomy) -> Verdict:
        """Exact when the stream grows by a whole multiple."""
        uneven = _uneven(source, target)
        if uneven is None:
            return Verdict(True, "the stream grows by a whole multiple, and copies are read in equal shares")
        axis, legal = uneven
        norm = {"layer-post": "post-LN", "layer": "pre-LN", "rms": "RMSNorm"}[source.family.norm]
        reason = f"not lossless: {norm} and {target.sizes[axis]}/{source.sizes[axis]} is not an integer"
        return Verdict(False, f"{reason}; nearest exact width {legal}", {_STREAMS[axis]: legal})


def _uneven(source: Anatomy, target: Anatomy) -> tuple[str, int] | None:
    """The first stream axis that does not grow by a whole multiple, and its nearest legal size."""
    for axis in _STREAMS:
        if axis in source.sizes and target.sizes[axis] % source.sizes[axis]:
            return axis, max(2, round(target.sizes[axis] / source.sizes[axis])) * source.sizes[axis]
    return None
