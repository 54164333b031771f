"""A PEFT adapter taken apart into what growth maps act on, and put together again as a plain PEFT directory.

Everything is float64 in between; files keep the widest type that the adapter was stored in.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bequest.anatomy import Anatomy
from bequest.errors import InputError
from bequest.recycling.adapter_config import CONFIG, PROMPTS, read_config, refuse_kind
from bequest.storage import disk_errors, write_json
from bequest.tensor_files import read_header, weight_files

WEIGHTS = "adapter_model.safetensors"
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_LORA = {
    "lora_A.weight": "a",
    "lora_B.weight": "b",
    "lora_B.bias": "bias",
    "lora_embedding_A": "a",
    "lora_embedding_B": "b",
    "lora_magnitude_vector": "magnitude",
}


@dataclass(frozen=True)
class LowRank:
    """LoRA on one module: ΔW = s B A; with DoRA the rows of W + ΔW times a factor.

    Attributes:
        a: [r, in].
        b: [out, r].
        alpha: s = alpha / r, or alpha / sqrt(r).
        lookup: whether the module is an embedding.
        bias: what ``lora_bias`` adds, before s; [out].
        magnitude: DoRA's length of each row, [out].
        factor: that length over the row's own in W + s B A, [out]; what is carried in place of ``magnitude``.
        began: the rank that it had before it was carried through any growth, in its own block.
    """

    a: Tensor
    b: Tensor
    alpha: float
    lookup: bool = False
    bias: Tensor | None = None
    magnitude: Tensor | None = None
    factor: Tensor | None = None
    began: int | None = None

    @property
    def rank(self) -> int:
        """The rank r."""
        return int(self.a.shape[0])

    def scaling(self, *, rslora: bool) -> float:
        """The factor s."""
        return self.alpha / (math.sqrt(self.rank) if rslora else self.rank)


@dataclass(frozen=True)
class Factors:
    """IA3 on one module: what its outputs (or its inputs, where it ``reads``) are multiplied by; [out] or [in]."""

    values: Tensor
    reads: bool


@dataclass(frozen=True)
class Adapter:
    """An adapter's parts by the names that their modules have in the model.

    Attributes:
        config: ``adapter_config.json``.
        modules: module -> LoRA.
        factors: module -> IA3.
        whole: tensor -> its tuned value (saved modules, trained biases, classification heads).
        prompt: virtual tokens, [tokens, hidden].
        prefix: virtual keys and values, [tokens, layers, 2, rows of kv].
        dtype: what the files are stored in.
    """

    config: Mapping[str, Any]
    modules: Mapping[str, LowRank] = field(default_factory=dict)
    factors: Mapping[str, Factors] = field(default_factory=dict)
    whole: Mapping[str, Tensor] = field(default_factory=dict)
    prompt: Tensor | None = None
    prefix: Tensor | None = None
    dtype: torch.dtype = torch.float32

    @property
    def kind(self) -> str:
        """PEFT's name of its type."""
        return str(self.config["peft_type"])

    @property
    def rslora(self) -> bool:
        """Whether s = alpha / sqrt(r)."""
        return bool(self.config.get("use_rslora"))

    @property
    def dora(self) -> bool:
        """Whether rows have magnitudes of their own."""
        return bool(self.config.get("use_dora"))

    @property
    def wrapped(self) -> frozenset[str]:
        """The modules that it wraps."""
        return frozenset(self.modules) | frozenset(self.factors)

    def counts(self) -> dict[str, int]:
        """The number of its parts by kind, for people."""
        lora = "dora" if self.dora else "rslora" if self.rslora else "lora"
        saved = {name.rpartition(".")[0] for name in self.whole}
        found = {lora: len(self.modules), "ia3": len(self.factors), "saved": len(saved)}
        found |= {"prompt": self.prompt is not None, "prefix": self.prefix is not None}
        return {name: int(number) for name, number in found.items() if number}


def read_adapter(path: Path, *, layers: int) -> Adapter:
    """Take an adapter apart; ``layers`` is the number of blocks of its base.

    Raises:
        InputError: a type or an option that no rule covers, files that hold nothing, or damaged ones.
    """
    config = read_config(path)
    refuse_kind(config, path)
    stored = _stored(path)
    dtype = functools.reduce(torch.promote_types, (value.dtype for value in stored.values()))
    adapter = Adapter(config, dtype=dtype)
    pieces: dict[str, dict[str, Tensor]] = {}
    lookups: set[str] = set()
    factors: dict[str, Factors] = {}
    whole: dict[str, Tensor] = {}
    for key, value in stored.items():
        if key == "prompt_embeddings":
            prompt = value.double()
            prompted = adapter.kind in PROMPTS
            prefix = None if prompted else _blocks(prompt, layers, path)
            adapter = replace(adapter, prompt=prompt if prompted else None, prefix=prefix)
            continue
        name = key.removeprefix(_prefix(adapter.kind))
        suffix = next((suffix for suffix in (*_LORA, "ia3_l") if name.endswith(f".{suffix}")), None)
        module = name.removesuffix(f".{suffix}")
        if suffix is None:
            whole[name.replace(".base_layer.", ".")] = value.double()
        elif suffix == "ia3_l":
            factors[module] = Factors(value.double().flatten(), reads=value.ndim == 2 and value.shape[0] == 1)
        else:
            pieces.setdefault(module, {})[_LORA[suffix]] = value.double()
            lookups |= {module} if "embedding" in suffix else set()
    modules = {module: _low_rank(config, module, found, module in lookups, path) for module, found in pieces.items()}
    return replace(adapter, modules=modules, factors=factors, whole=whole)


def write_adapter(adapter: Adapter, directory: Path, *, base: str) -> None:
    """Write an adapter as PEFT reads it; its config calls the base ``base`` and names no revision of the old one.

    Raises:
        RunError: the disk is full.
    """
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    for module, part in adapter.modules.items():
        tensors |= {f"{module}.{key}": value for key, value in _lora_tensors(part).items()}
    for module, found in adapter.factors.items():
        tensors[f"{module}.ia3_l"] = found.values[None] if found.reads else found.values[:, None]
    for name, value in adapter.whole.items():
        module, _, leaf = name.rpartition(".")
        tensors[f"{module}.base_layer.{leaf}" if module in adapter.wrapped else name] = value
    named = {_prefix(adapter.kind) + name: value for name, value in tensors.items()}
    for prompt in (adapter.prompt, adapter.prefix):
        if prompt is not None:
            named["prompt_embeddings"] = prompt.flatten(1)
    with disk_errors(directory):
        # Copies even where the type stays: layers made of one source layer hold one tensor, and files hold it twice.
        stored = {name: value.to(adapter.dtype, copy=True).contiguous() for name, value in named.items()}
        save_file(stored, directory / WEIGHTS, metadata={"format": "pt"})
    write_json(directory / CONFIG, {**adapter.config, "base_model_name_or_path": base, "revision": None})


def rounding(adapter: Adapter) -> float:
    """What storing the adapter in its own type loses, relative to all of its numbers (root mean square; 0 to 1)."""
    parts: list[Tensor] = [*adapter.whole.values(), *(found.values for found in adapter.factors.values())]
    parts += [value for part in adapter.modules.values() for value in _lora_tensors(part).values()]
    parts += [prompt for prompt in (adapter.prompt, adapter.prefix) if prompt is not None]
    lost = sum(float((value - value.to(adapter.dtype).double()).square().sum()) for value in parts)
    total = sum(float(value.square().sum()) for value in parts)
    return math.sqrt(lost / total) if total else 0.0


def fitted_config(adapter: Adapter, before: Adapter, target: Anatomy) -> dict[str, Any]:
    """The adapter's config on the new base: its modules, ranks, alphas, and the sizes that prompts depend on.

    Args:
        adapter: as carried.
        before: as it was.
        target: the new base's anatomy.
    """
    config = dict(adapter.config)
    kinds = {anywhere(module) for module in before.wrapped}
    everywhere = {module for module in modules_of(target) if anywhere(module) in kinds}
    if adapter.wrapped and (adapter.wrapped != everywhere or _names_places(config)):
        # Blocks have moved, or some are left out: every module by its full name.
        config |= {key: None for key in ("layers_to_transform", "layers_pattern", "exclude_modules") if key in config}
        config["target_modules"] = sorted(adapter.wrapped)
        if adapter.factors:
            config["feedforward_modules"] = sorted(name for name, found in adapter.factors.items() if found.reads)
    if adapter.modules:
        parts = sorted(adapter.modules.items())
        config["rank_pattern"] = {name: part.rank for name, part in parts if part.rank != config["r"]}
        config["alpha_pattern"] = {
            name: _tidy(part.alpha) for name, part in parts if part.alpha != config["lora_alpha"]
        }
    if any(part.isdigit() for name in config.get("modules_to_save") or [] for part in name.split(".")):
        config["modules_to_save"] = sorted({name.rpartition(".")[0] for name in adapter.whole})
    sizes = {"num_layers": target.layers}
    if adapter.prompt is not None:
        config |= {**sizes, "token_dim": int(adapter.prompt.shape[1]), "num_attention_heads": target.heads}
    if adapter.prefix is not None:
        config |= {**sizes, "token_dim": int(adapter.prefix.shape[-1]), "num_attention_heads": target.kv_heads}
    return config


def modules_of(anatomy: Anatomy) -> dict[str, str]:
    """Module -> its weight, for every module that an adapter can wrap."""
    everything = {**anatomy.tensors, **anatomy.aliases}
    return {
        name.removesuffix(".weight"): name
        for name, tensor in everything.items()
        if len(tensor.line.dims) == 2 and name.endswith(".weight")
    }


def anywhere(module: str) -> str:
    """A module's name without the number of its block."""
    return ".".join("*" if part.isdigit() else part for part in module.split("."))


# --- parts


def _stored(path: Path) -> dict[str, Tensor]:
    """An adapter's tensors as they are stored.

    Raises:
        InputError: no safetensors, a torn file, nothing in it, or a tensor of another type than floating point.
    """
    from safetensors.torch import load_file

    (file,) = weight_files(path)
    read_header(file)
    stored = load_file(file)
    if not stored:
        raise InputError("the adapter holds no tensor", where=path)
    for name, value in stored.items():
        if value.dtype not in _FLOATS:
            raise InputError(
                f"is stored as {value.dtype}", where=file, key=name, remedy="save it in a 16, 32 or 64 bit float"
            )
    return stored


def _prefix(kind: str) -> str:
    """What stands before a module's name: only tuners put a model of their own around the base."""
    return "base_model." if kind in (*PROMPTS, "PREFIX_TUNING") else "base_model.model."


def _low_rank(
    config: Mapping[str, Any], module: str, pieces: Mapping[str, Tensor], lookup: bool, where: Path
) -> LowRank:
    if not {"a", "b"} <= pieces.keys():
        raise InputError("LoRA needs both of its factors", where=where, key=module, remedy="save the adapter again")
    # PEFT reads these keys as patterns for the end of a module's name, the first that fits wins.
    alphas: Mapping[str, float] = config.get("alpha_pattern") or {}
    named = (alpha for pattern, alpha in alphas.items() if re.match(rf"(.*\.)?({pattern})$", module))
    alpha, rank = next(named, config["lora_alpha"]), int(pieces["a"].shape[0])
    return LowRank(alpha=alpha, lookup=lookup, began=rank, **pieces)


def _lora_tensors(part: LowRank) -> dict[str, Tensor]:
    names = ("lora_embedding_A", "lora_embedding_B") if part.lookup else ("lora_A.weight", "lora_B.weight")
    found = {names[0]: part.a, names[1]: part.b}
    if part.bias is not None:
        found["lora_B.bias"] = part.bias
    if part.magnitude is not None:
        found["lora_magnitude_vector"] = part.magnitude
    return found


def _blocks(prefix: Tensor, layers: int, where: Path) -> Tensor:
    if prefix.ndim != 2 or not prefix.numel() or prefix.shape[1] % (2 * layers):
        raise InputError(
            f"{tuple(prefix.shape)} does not divide into keys and values of {layers} layers",
            where=where,
            key="prompt_embeddings",
            remedy="save the adapter again",
        )
    return prefix.reshape(len(prefix), layers, 2, -1)


def _names_places(config: Mapping[str, Any]) -> bool:
    """Whether the config chooses modules by the number of their block."""
    chosen = [config.get(key) or [] for key in ("target_modules", "exclude_modules")]
    by_number = (
        any(letter.isdigit() for letter in one)
        if isinstance(one, str)
        else any(part.isdigit() for name in one for part in name.split("."))
        for one in chosen
    )
    return config.get("layers_to_transform") is not None or any(by_number)


def _tidy(alpha: float) -> float | int:
    return int(alpha) if float(alpha).is_integer() else float(alpha)
