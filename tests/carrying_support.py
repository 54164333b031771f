"""What the tests of carrying share: grown bases on disk with their lineage, adapters on them, and PEFT's own word."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import load_file

from bequest import checkpoints, lineage
from bequest.anatomy.surgery import grow_tensors
from bequest.growth import GrowthPlan, grow_planned, plan_growth
from growth_support import batches, build, native_norms


@dataclass(frozen=True)
class Family:
    """An old base and the one that grew from it, live and on disk, in float64 with native norms."""

    model: Any
    bigger: Any
    plan: GrowthPlan
    old: Path
    new: Path


def fresh(model: Any) -> Any:
    """A copy of a model, with native norms of its own (those that PEFT saves whole are copies once more)."""
    return native_norms(copy.deepcopy(model))


def lineage_for(directory: Path, stage: str, base: Path | None, **more: Any) -> Path:
    """Write the lineage of what lies in a directory."""
    parents = [lineage.parent_of(base, "base", child=directory)] if base is not None else []
    made = lineage.make_lineage(directory, name=directory.name, stage=stage, parents=parents, **more)
    lineage.write_lineage(directory, made)
    return directory


def resigned(directory: Path) -> None:
    """Give a lineage that was edited the id of its new content."""
    record = lineage.read_lineage(directory)
    new = lineage.lineage_id(record.digests.weights, record.parents, record.operation)
    lineage.write_lineage(directory, record.model_copy(update={"id": new}))


def grown_from(model: Any, old: Path, new: Path, to: Mapping[str, int], method: Any, seed: int = 0) -> Family:
    """Grow a model that lies in ``old`` into ``new``, with the lineage that a grow stage leaves."""
    plan = plan_growth(model, to, method, seed=seed)
    bigger = native_norms(grow_planned(model, plan))
    checkpoints.save_model(bigger, new)
    lineage_for(new, "grow", old, method="+".join(plan.methods), maps=plan.record())
    return Family(model, bigger, plan, old, new)


def grown(
    home: Path, family: str, head: str, to: Mapping[str, int], method: Any = "auto", *, seed: int = 0, **variant: Any
) -> Family:
    """A tiny jittered base of a family, grown."""
    model = native_norms(build(family, head, **variant).double())
    checkpoints.save_model(model, home / "old")
    return grown_from(model, home / "old", home / "new", to, method, seed)


def adapted(family: Family, config: Any, out: Path, *, seed: int = 7) -> Any:
    """A PEFT adapter on the old base, everything that it trains jittered, saved with its lineage; the live model."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        wrapped = peft.get_peft_model(fresh(family.model), config, autocast_adapter_dtype=False)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.double()
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    wrapped.save_pretrained(str(out), save_embedding_layers=False)
    lineage_for(out, "tune", family.old)
    return native_norms(wrapped).eval()


def on(base: Any, directory: Path) -> Any:
    """What PEFT makes of an adapter's directory on a base, in the types of both."""
    wrapped = peft.PeftModel.from_pretrained(fresh(base), str(directory), autocast_adapter_dtype=False)
    stored = load_file(directory / "adapter_model.safetensors")
    if "prompt_embeddings" in stored:  # PEFT makes these float32, whatever the file and the model are
        wrapped.prompt_encoder["default"].embedding.weight.data = stored["prompt_embeddings"]
    return native_norms(wrapped).eval()


def logits(model: Any) -> list[torch.Tensor]:
    """Logits at positions that are neither padding nor virtual tokens."""
    if model.config.pad_token_id is None:
        model.config.pad_token_id = 0
    found = []
    with torch.no_grad():
        for batch in batches(model):
            out = model(**batch).logits
            if out.ndim == 3:
                out = out[:, -batch["input_ids"].shape[1] :][batch["attention_mask"].bool()]
            found.append(out)
    return found


def apart(expected: Any, found: Any) -> float:
    """max|difference| / max|logit| of two models, over all batches."""
    pairs = zip(logits(expected), logits(found), strict=True)
    return max(float((one - other).abs().max() / one.abs().max()) for one, other in pairs)


def merged(wrapped: Any) -> dict[str, torch.Tensor]:
    """The parameters of an adapted model after PEFT merged the adapter."""
    return parameters(copy.deepcopy(wrapped).merge_and_unload())


def parameters(model: Any) -> dict[str, torch.Tensor]:
    """A model's parameters by name, tied ones once."""
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def commutes(family: Family, source: Any, target: Any) -> float:
    """T2: how far what merging adds to the grown base is from the growth of what it adds to the old one.

    Weight by weight, over the largest change; null-space noise and fresh values are the base's own and cancel.
    """
    assert family.plan.maps is not None
    maps = dataclasses.replace(family.plan.maps, noise=None)
    one, other = (
        grow_tensors(weights, family.plan.source, family.plan.target, maps)
        for weights in (merged(source), parameters(family.model))
    )
    after, before = merged(target), parameters(family.bigger)
    changes = {name: one[name] - other[name] for name in one}
    largest = max(float(change.abs().max()) for change in changes.values())
    worst = max(float((after[name] - before[name] - change).abs().max()) for name, change in changes.items())
    return worst / largest
