"""Direct application: the outdated tuned weights on the new base, without training.

Recyclable Tuning (Qin, Qian et al., Findings of ACL 2023, arXiv 2305.08702), its baseline without training::

    adapter : load Δ and the head onto the new base
    full    : θ = θ_new + (θ_tuned − θ_old)      backbone tensors, by name, in fp32;   head = the tuned one, copied

For additive adapters (LoRA and its kin) both are the same ΔW.  Deviations from the released code: tensors are matched
by name, the head is never added to another head (the initialisation script there adds two random ones), and an adapter
that does not find every one of its places is refused where PEFT would only warn.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bequest import checkpoints, lineage, processes
from bequest.errors import InputError
from bequest.recycling.fitting import check_adapter, tokenizer_notes
from bequest.recycling.recycler import Recycler, Tuning
from bequest.recycling.tuned import CLASSIFIER, Generation, Tuned
from bequest.storage import read_json, write_json

if TYPE_CHECKING:
    from torch import Tensor

    from bequest.data.tasks import Task


@dataclass(frozen=True)
class Direct(Recycler):
    """Put the old tuned weights on the new base as they are: no training, no hyper-parameters."""

    def __call__(
        self,
        tuned: Tuned,
        old: Generation | None,
        new: Generation,
        task: Task | None,
        *,
        out: Path,
        tuning: Tuning | None = None,
    ) -> Tuned:
        """See :class:`Recycler`; neither task nor tuning is used, and an adapter does not need ``old``."""
        writes = processes.is_main()  # every process may ask: the answer is the same, and one writes it
        if writes:
            out.mkdir(parents=True, exist_ok=True)
        if tuned.kind == "adapter":
            notes = check_adapter(tuned, new)
            if writes:
                copy_adapter(tuned.path, out, new.name)
        else:
            notes = (*tokenizer_notes(tuned, new), *move_full(tuned, old, new, out))
        # The tuned weights' own tokenizer where they have one, else the new base's.
        if writes:
            checkpoints.copy_tokenizer(tuned.path if lineage.tokenizer_digest(tuned.path) else new.path, out)
        processes.wait()
        return replace(tuned, path=out, base=None, base_name=new.name, notes=notes, training=None)


def copy_adapter(source: Path, out: Path, base: str) -> None:
    """Copy an adapter's weights bit for bit; its config names the new base, and no revision of the old one."""
    for name in ("adapter_model.safetensors",):
        shutil.copyfile(source / name, out / name)
    config: dict[str, Any] = read_json(source / "adapter_config.json")
    write_json(out / "adapter_config.json", {**config, "base_model_name_or_path": base, "revision": None})


def move_full(tuned: Tuned, old: Generation | None, new: Generation, out: Path) -> tuple[str, ...]:
    """Write the new base with the difference that tuning made to the old one; returns notes.

    Raises:
        InputError: no old base, or a tensor that differs in name or shape.
    """
    from bequest.weights.deltas import apply_delta, delta, rounding_share

    if old is None:
        raise InputError(
            "a fully tuned model needs the base it was tuned on",
            where=tuned.path,
            key="old",
            remedy="give the old base, or distil",
        )
    labels = list(tuned.labels)
    live = checkpoints.load_model(tuned.path)
    before = backbone(old, labels)
    change = delta(live.state_dict(), before)
    made = checkpoints.load_model(new.path, head=CLASSIFIER, labels=labels)
    made.config.pad_token_id = live.config.pad_token_id
    # The fresh head is not a tensor of the new base: the tuned one is copied over it.
    state = apply_delta(backbone(new, labels), change)
    made.load_state_dict(state)
    if processes.is_main():
        checkpoints.save_model(made, out)
    return rounding_notes(tuned, old, rounding_share, live.state_dict(), before)


def backbone(base: Generation, labels: list[str]) -> dict[str, Tensor]:
    """The tensors of a base by the names they have in its classifier, without those that its files do not hold."""
    model = checkpoints.load_model(base.path, head=CLASSIFIER, labels=labels)
    stored = set(checkpoints.to_memory_names(checkpoints.header_shapes(base.path), model).values())
    return {name: value for name, value in model.state_dict().items() if name in stored}


def rounding_notes(tuned: Tuned, old: Generation, share: Any, after: Any, before: Any) -> tuple[str, ...]:
    """Say how much of the difference is rounding, where 16-bit files took part."""
    import torch

    kinds = {kind for path in (tuned.path, old.path) for _, kind in checkpoints.header_shapes(path).values()}
    widths = {"BF16": torch.bfloat16, "F16": torch.float16}
    coarse = next((widths[kind] for kind in ("BF16", "F16") if kind in kinds), None)
    if coarse is None:
        return ()
    lost = share({name: value for name, value in after.items() if name in before}, before, coarse)
    return (f"about {lost:.0%} of the difference is rounding: the files are 16-bit",)
