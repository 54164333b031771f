"""When must a stage run again?  When its hash changed.

The hash covers the validated section with its defaults filled in, the schema version, the parents' ids and the data's
fingerprints.  It does not cover the YAML's text, the stage's own name, where it writes, or the names of other stages: a
reference to another stage counts by that stage's id.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from bequest import storage
from bequest.recipe.sections import Section

SCHEMA_VERSION = 1
# How a stage is worked off, and not what it makes (but for rounding): lowering these after a memory error, or asking
# for more checkpoints, must not throw away what has been learnt.
HOW_NOT_WHAT = frozenset({"micro_batch_tokens", "checkpoint_every", "keep"})
TOLD = re.compile(r"report_to|run_name|project|log_|dataloader_|trackio_|per_device_eval_batch_size|hub_")
# Options that later versions brought, at the values that mean "without": stages of older runs keep their hashes.
WITHOUT: dict[str, tuple[Any, ...]] = {
    "two_stage": (None,),
    "train_only": (None,),
    "keep_optimizer": (False,),
    "optimizer": ("fresh", "reset"),
    "corpus": (None,),
    "block": (None,),
    "batch_tokens": (None,),
}


def stage_hash(section: Section, parent_ids: Sequence[str], data_fingerprints: Mapping[str, str]) -> str:
    """The hash of a stage, as hex.

    Args:
        section: the validated stage.
        parent_ids: the ids of what ``section.references()`` names, in that order.
        data_fingerprints: per corpus or task that the stage reads, by name, a fingerprint of its content and of how it
            is read.
    """
    references = section.references()
    if len(parent_ids) != len(references):
        raise ValueError(f"{len(references)} parent ids are needed, one per reference, not {len(parent_ids)}")
    value = section.model_dump(mode="json", by_alias=True, exclude={"name", *HOW_NOT_WHAT})
    value = {key: item for key, item in value.items() if item not in WITHOUT.get(key, ())}
    if isinstance(value.get("training"), dict):
        value["training"] = {key: item for key, item in value["training"].items() if not TOLD.match(key)}
    if section.makes != "measures":  # what is measured is told by name, so there the names are part of the result
        for index, reference in enumerate(references):
            _put(value, reference.key, f"parent {index}")
    return storage.value_digest(
        {
            "schema": SCHEMA_VERSION,
            "section": value,
            "parents": [[reference.role, id_] for reference, id_ in zip(references, parent_ids, strict=True)],
            "data": dict(data_fingerprints),
        }
    )


def _put(value: Any, key: str, replacement: str) -> None:
    """Replace the entry at a dotted key (list positions as numbers)."""
    *path, last = key.split(".")
    for part in path:
        value = value[int(part)] if isinstance(value, list) else value[part]
    if isinstance(value, list):
        value[int(last)] = replacement
    else:
        value[last] = replacement
