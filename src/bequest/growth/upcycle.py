"""Sparse upcycling: a dense decoder becomes one with experts that are copies of its FFN (growth.md §10).

Komatsuzaki et al., Sparse Upcycling, ICLR 2023, arXiv 2212.05055.  A block's FFN f is replaced by

    y = sum over the chosen experts e of g_e f_e(x)      with f_e = f:   y = f(x)   iff   sum of the chosen g_e = 1

so the function stays exactly, whatever the router says, where the gates of the chosen experts are normalised (Mixtral
always, Qwen2-MoE with ``norm_topk_prob: true``, which is what is written unless ``to`` says otherwise) or all experts
are chosen.  Without that every FFN is scaled by the chosen share of the softmax, and the plan says *approximate*.

The router is N(0, 0.02²).  Qwen2-MoE also has an expert that every token uses: it gets the FFN's gate and up
projections and a down projection of zeros, so it adds nothing at first and learns from the first step on.  All blocks
get experts.  Every config field that decides what is computed (positions, eps, window, head_dim) is the source's, since
the two families' defaults differ.

Experts that are equal differ only by what the router sends them.  ``drop`` re-initialises a share of each expert's
neurons (Drop-Upcycling, Nakamura et al., ICLR 2025, arXiv 2502.19261, r = 0.5 there): N(mean, std²) of the weights that
go, by matrix; ``perturb`` adds noise.  Either is no longer exact.  The paper's capacity factor is not wanted here: no
token is dropped.  The coefficient of the balancing loss is 1e-3 (AquilaMoE); it enters a loss only where the training
code asks transformers for it, which bequest's own loop does not.

Sizes do not change: widen or deepen first, then upcycle.  Imports neither torch nor transformers.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from bequest.anatomy import FAMILIES, Anatomy, Tensor
from bequest.anatomy.maps import Maps
from bequest.errors import InputError, did_you_mean
from bequest.growth.method import FAR, Direction, Growth, Verdict
from bequest.growth.noise import refuse_std
from bequest.growth.plan import GrowthPlan, Method, PlannedTensor, method_named

if TYPE_CHECKING:
    import torch

#: Dense family -> the family with experts that has the same attention and norms.
EXPERTS = {"llama": "mixtral", "mistral": "mixtral", "qwen2": "qwen2_moe"}
_EXPERT_KEYS = ("num_experts", "num_local_experts", "num_experts_per_tok")
_CHOSEN = 2
_BALANCING = 1e-3
# What a config says besides the fields of its family.
_GENERAL = ("id2label", "label2id", "num_labels", "problem_type", "dtype", "torch_dtype", "head_dim")
_BIASES = ("attention_bias", "mlp_bias")

Fill = Literal["copy", "zero", "fresh"]
#: What a block of the target has and a block of the source lacks -> the source's tensors, laid end to end.
_MADE: dict[str, tuple[str, ...]] = {
    "mlp.experts.gate_up_proj": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
    "mlp.experts.down_proj": ("mlp.down_proj.weight",),
    "mlp.shared_expert.gate_proj.weight": ("mlp.gate_proj.weight",),
    "mlp.shared_expert.up_proj.weight": ("mlp.up_proj.weight",),
}
_ZERO = ("mlp.shared_expert.down_proj.weight",)
_FRESH = ("mlp.gate.weight", "mlp.shared_expert_gate.weight")


@dataclass(frozen=True)
class Upcycle(Growth):
    """Experts that are copies of the dense FFN: exact where the chosen gates sum to one."""

    directions: ClassVar[frozenset[Direction]] = frozenset()
    drop: float = 0.0
    """The share of each expert's neurons that is re-initialised; 0 keeps the function."""
    perturb: float = 0.0
    """The standard deviation of noise on the experts, relative to each row's; 0 keeps the function."""

    def __post_init__(self) -> None:
        if not (isinstance(self.drop, int | float) and 0 <= self.drop < 1):
            raise ValueError(f"drop must be a share of at least 0 and below 1, not {self.drop!r}")
        refuse_std(self.perturb, "perturb")

    def maps(
        self,
        source: Anatomy,
        target: Anatomy,
        *,
        weights: Mapping[str, torch.Tensor] | None = None,
        rng: random.Random,
    ) -> Maps:
        """No axis changes."""
        rule = {"method": "upcycle", "drop": self.drop, "perturb": self.perturb}
        return Maps({}, tuple(range(source.layers)), {"upcycle": rule})

    def verdict(self, source: Anatomy, target: Anatomy) -> Verdict:
        """Exact where the chosen gates sum to one and the experts are plain copies."""
        experts, chosen = target.sizes["expert"], target.config["num_experts_per_tok"]
        changed = [f"{name} {value:g}" for name, value in (("drop", self.drop), ("perturb", self.perturb)) if value]
        if changed:
            # Noise of three matrices in each of the blocks adds up like independent errors.
            noisy = min(FAR, 5 * self.perturb * math.sqrt(source.layers))
            reason = f"the experts are no plain copies of the FFN ({', '.join(changed)})"
            return Verdict(False, reason, predicted=FAR if self.drop else noisy)
        if not target.config.get("norm_topk_prob", True) and chosen < experts:
            reason = "not lossless: the chosen gates do not sum to one (norm_topk_prob is false)"
            return Verdict(False, reason, {"norm_topk_prob": True}, FAR * (1 - chosen / experts))
        return Verdict(True, "every expert is a copy of the FFN, and the chosen gates sum to one")


def upcycling(method: Method, source: Anatomy, to: Mapping[str, Any]) -> Upcycle | None:
    """The method, where it is upcycling.

    Raises:
        InputError: upcycling together with other methods, or experts among the sizes of other methods.
    """
    entries = [method] if isinstance(method, (str, Mapping)) else list(method)
    names = [entry.get("name") if isinstance(entry, Mapping) else entry for entry in entries]
    if "upcycle" not in names:
        _refuse_experts(source, to)
        return None
    if len(names) > 1:
        raise InputError("upcycle goes alone", key="method", remedy="grow first, then upcycle what was grown")
    found = method_named(entries[0])[1]
    assert isinstance(found, Upcycle)
    return found


def _refuse_experts(source: Anatomy, to: Mapping[str, Any]) -> None:
    key = next((key for key in to if key in _EXPERT_KEYS), None)
    if key is None:
        return
    name, experts = source.family.name, source.sizes.get("expert")
    if experts is not None:
        stays = source.config["num_experts_per_tok"] if key == "num_experts_per_tok" else experts
        what = "the number of experts a token is sent to" if key == "num_experts_per_tok" else "the number of experts"
        raise InputError(f"{what} stays {stays}", key=key, remedy="leave it out")
    whom = "them (--method upcycle)" if name in EXPERTS else f"them, of one of {', '.join(EXPERTS)}"
    raise InputError(f"{name} has no experts", key=key, remedy=f"the method upcycle makes {whom}")


def plan_upcycling(source: Anatomy, to: Mapping[str, Any], method: Upcycle, *, block: int, seed: int) -> GrowthPlan:
    """Decide what a dense model becomes; nothing is loaded.

    Args:
        source: of a dense family.
        to: ``num_experts`` (or the family's own name of it) and, where wanted, ``num_experts_per_tok``,
            ``router_aux_loss_coef``, ``norm_topk_prob``, ``shared_expert_intermediate_size``.
        method: with its options.
        block: tokens in a sequence, for the FLOPs.
        seed: of everything drawn.

    Raises:
        InputError: a family that has no counterpart with experts, or keys and values that cannot be.
    """
    config, inferred = expert_config(source, to)
    target = Anatomy(config, source.head)
    verdict = method.verdict(source, target)
    maps = method.maps(source, target, rng=random.Random(seed))
    options = {name: value for name, value in (("drop", method.drop), ("perturb", method.perturb)) if value}
    return GrowthPlan(
        source=source,
        target=target,
        to=dict(to),
        exact=verdict.exact,
        reason=verdict.reason,
        predicted_error=verdict.predicted,
        nearest_exact=verdict.nearest,
        refusal=None,
        tensors=tuple(_planned(tensor, source) for tensor in target.tensors.values()),
        params=target.parameters(),
        flops=target.flops(block),
        block=block,
        target_config=config,
        inferred=inferred,
        methods=("upcycle",),
        calls=({"name": "upcycle", **options},),
        order=maps.order,
        seed=seed,
        maps=maps,
        upcycling=method,
    )


def expert_config(source: Anatomy, to: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The config with experts, and what of it was not named: key -> ``"value (why)"``."""
    dense = source.config
    name = EXPERTS.get(source.family.name)
    if name is None:
        remedy = f"upcycle one of {', '.join(EXPERTS)}"
        raise InputError(f"{source.family.name} has no counterpart with experts", key="method", remedy=remedy)
    family = FAMILIES[name]
    for key in _BIASES:
        if dense.get(key):
            raise InputError(f"{name} has no biases, and the source has some", key=key)
    if source.head not in family.heads:
        raise InputError(f"{name} has no {source.head} variant", key="architectures")
    named = _named(to, family.native.get("num_experts", "num_experts"), name)
    config = {key: value for key, value in dense.items() if key in family.defaults or key in _GENERAL}
    config |= _positions(source) | _window(source)
    config |= {"model_type": name, "architectures": [family.heads[source.head].class_name]}
    ffn = source.sizes["ffn"]
    given: dict[str, Any] = {
        "num_experts_per_tok": _CHOSEN,
        "router_aux_loss_coef": _BALANCING,
        "output_router_logits": False,
    }
    why = {"num_experts_per_tok": "the usual", "router_aux_loss_coef": "the usual"}
    if name == "qwen2_moe":
        given |= {"moe_intermediate_size": ffn, "decoder_sparse_step": 1, "mlp_only_layers": [], "qkv_bias": True}
        given |= {"norm_topk_prob": True, "shared_expert_intermediate_size": ffn}
        why |= {"norm_topk_prob": "so that the gates sum to one", "shared_expert_intermediate_size": "as the FFN"}
    config |= {**given, **named}
    return config, {key: f"{given[key]} ({reason})" for key, reason in why.items() if key not in named}


def _named(to: Mapping[str, Any], experts: str, name: str) -> dict[str, Any]:
    """The keys of the config that ``to`` names, checked."""
    known = {"num_experts": experts, experts: experts, "num_experts_per_tok": "num_experts_per_tok"}
    known["router_aux_loss_coef"] = "router_aux_loss_coef"
    if name == "qwen2_moe":
        known |= {key: key for key in ("norm_topk_prob", "shared_expert_intermediate_size")}
    for key, value in to.items():
        if key not in known:
            remedy = "grow first, then upcycle what was grown" if key in _SIZES else did_you_mean(key, known)
            raise InputError("upcycling makes experts and changes no other size", key=key, remedy=remedy)
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= (2 if known[key] == experts else 1)
        if key == "norm_topk_prob" and not isinstance(value, bool):
            raise InputError(f"must be true or false, not {value!r}", key=key)
        if key == "router_aux_loss_coef" and not (isinstance(value, int | float) and value >= 0):
            raise InputError(f"must be a number of at least 0, not {value!r}", key=key)
        if key not in ("norm_topk_prob", "router_aux_loss_coef") and not whole:
            least = 2 if known[key] == experts else 1
            raise InputError(f"must be a whole number of at least {least}, not {value!r}", key=key)
    named = {known[key]: value for key, value in to.items()}
    if experts not in named:
        raise InputError("the number of experts is not named", key=experts, remedy=f"write {experts}: 8")
    return named


_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")


def _positions(source: Anatomy) -> dict[str, Any]:
    """Rotary positions as the source has them: its family's default base differs from the target's."""
    config, base = source.config, source.family.defaults["rope_parameters"]["rope_theta"]
    given = {key: value for key, value in config.items() if ("rope" in key or "rotary" in key) and value is not None}
    return given or {"rope_theta": base}


def _window(source: Anatomy) -> dict[str, Any]:
    """Sliding windows as the source has them."""
    keys = ("sliding_window", "use_sliding_window", "max_window_layers", "layer_types")
    return {"sliding_window": None, **{key: source.config[key] for key in keys if key in source.config}}


# --- where the target's rows come from


@dataclass(frozen=True)
class Part:
    """Rows of a target tensor that come from one place; rows count through all matrices of a tensor, a vector is one.

    Args:
        tensor: of the target.
        first, rows, columns: which rows, and how wide they are.
        origin: the source tensor whose first ``rows`` rows they copy; of rows that copy none, one of the same dtype.
        fill: ``copy``, ``zero`` or ``fresh``.
        expert: whose they are; None outside the experts.
    """

    tensor: str
    first: int
    rows: int
    columns: int
    origin: str
    fill: Fill = "copy"
    expert: int | None = None


def parts_of(tensor: Tensor, source: Anatomy) -> tuple[Part, ...]:
    """Where the rows of a target tensor come from."""
    name, shape = tensor.name, tensor.shape
    rows, columns = (1, *shape)[-2:]
    own = _own_name(name)
    if own is None:
        return (Part(name, 0, rows, columns, name),)
    block = name.removesuffix(own)
    if own not in _MADE:
        return (Part(name, 0, rows, columns, f"{block}mlp.up_proj.weight", "zero" if own in _ZERO else "fresh"),)
    found: list[Part] = []
    whole = rows // len(_MADE[own])
    for expert in range(shape[0]) if len(shape) == 3 else (None,):
        for number, origin in enumerate(block + one for one in _MADE[own]):
            begin = (expert or 0) * rows + number * whole
            # An expert has the FFN's own width; a shared one may be narrower, or hold the FFN several times.
            height = source.tensors[origin].shape[0]
            for start in range(0, whole, height):
                count = min(height, whole - start)
                found.append(Part(name, begin + start, count, columns, origin, expert=expert))
    return tuple(found)


def _own_name(name: str) -> str | None:
    """What a tensor of an expert family is called in its block, where the dense family has none of that name."""
    return next((own for own in (*_MADE, *_ZERO, *_FRESH) if name.endswith(f".{own}")), None)


def _planned(tensor: Tensor, source: Anatomy) -> PlannedTensor:
    origin = parts_of(tensor, source)[0].origin
    return PlannedTensor(tensor.name, tensor.shape, origin, source.tensors[origin].shape)


def dropped_neurons(method: Upcycle, block: str, expert: int, neurons: int, seed: int) -> list[int]:
    """The neurons of an expert that are re-initialised, in order; each expert of each block draws its own."""
    rng = random.Random(f"{seed} {block} {expert}")
    return sorted(rng.sample(range(neurons), max(1, int(method.drop * neurons)) if method.drop else 0))
