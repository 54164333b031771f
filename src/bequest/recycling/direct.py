"""Direct application: the outdated tuned weights on the new base, without training.

Recyclable Tuning (Qin, Qian et al., Findings of ACL 2023, arXiv 2305.08702), its baseline without training::

    adapter : load Δ and the head onto the new base
    full    : θ = θ_new + (θ_tuned − θ_old)      see :mod:`bequest.recycling.full_models`

For additive adapters (LoRA and its kin) both are the same ΔW.  Deviation from the released code: an adapter that does
not find every one of its places is refused where PEFT would only warn.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bequest import checkpoints, lineage, processes
from bequest.recycling.fitting import check_adapter, check_origin, tokenizer_notes
from bequest.recycling.full_models import change_made, write_changed
from bequest.recycling.recycler import Recycler, Tuning
from bequest.recycling.tuned import Generation, Tuned
from bequest.storage import read_json, write_json

if TYPE_CHECKING:
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
        check_origin(tuned, old)
        writes = processes.is_main()  # every process may ask: the answer is the same, and one writes it
        if writes:
            out.mkdir(parents=True, exist_ok=True)
        if tuned.kind == "adapter":
            notes = check_adapter(tuned, new)
            if writes:
                copy_adapter(tuned.path, out, new.name)
        else:
            change = change_made(tuned, old)
            notes = (*tokenizer_notes(tuned, new), *change.notes)
            write_changed(tuned, new, change, change.delta, out)
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
