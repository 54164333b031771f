"""May these tuned weights be put on this base?  Names, shapes, tokenizers and kinds, before anything is loaded.

PEFT only warns when an adapter's keys match nothing, and the model is then the bare base bit for bit; and a
checkpoint's name says nothing about what it is.  So every tensor must find its place and digests are compared
(Recyclable Tuning, arXiv 2305.08702, moves adapters by loading them; the checks are ours).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bequest import checkpoints, lineage
from bequest.errors import InputError
from bequest.recycling.tuned import CLASSIFIER, Generation, Tuned, class_names
from bequest.storage import read_json

# Kinds whose ΔW depends on the base they lie on: putting them on another base is legal but changes what they do.
BASE_DEPENDENT = {"IA3", "OFT", "BOFT", "HRA", "HIRA", "ROAD", "PSOFT", "OSF"}
# LoRA initialisations whose factors are relative to a residual base that the adapter's file does not hold.
SPLIT_INITIALISATIONS = ("pissa", "olora", "corda", "loftq")
_NO_MAP = "a base of other sizes needs the growth map: its lineage must lead to the old base (--old-base names it)"


def check_adapter(tuned: Tuned, new: Generation, *, mapped: bool = False) -> tuple[str, ...]:
    """Refuse an adapter that cannot work on ``new``; returns what is worth knowing about one that can.

    ``mapped`` says that its modules went through growth maps and are no plain copies.

    Raises:
        InputError: a tensor finds no place of its shape, another tokenizer, or factors relative to a residual base; the
            tensor or key is named.
    """
    config = read_json(tuned.path / "adapter_config.json")
    refuse_split(tuned, config)
    shapes = {name: shape for name, (shape, _) in checkpoints.header_shapes(tuned.path).items()}
    compare_shapes(tuned, new, shapes, adapter_shapes(tuned, new))
    notes = [*tokenizer_notes(tuned, new), *kind_notes(config)]
    copied = sorted(set(config.get("modules_to_save") or []))
    if copied and not mapped:
        notes.append(f"copied as they are: {', '.join(copied)}")
    return tuple(notes)


def refuse_split(tuned: Tuned, config: Mapping[str, Any]) -> None:
    """Refuse PiSSA-like adapters that were not converted to plain LoRA."""
    start = str(config.get("init_lora_weights", "")).lower()
    if start.startswith(SPLIT_INITIALISATIONS):
        raise InputError(
            f"its factors are relative to a residual base ({start})",
            where=tuned.path,
            key="init_lora_weights",
            remedy="save it again with save_pretrained(..., path_initial_model_for_weight_conversion=...)",
        )


def adapter_shapes(tuned: Tuned, new: Generation) -> dict[str, tuple[int, ...]]:
    """The names and shapes that this adapter would have on ``new``; no weights are loaded.

    Raises:
        InputError: the adapter's target modules are not in the base.
    """
    import torch
    from peft import PeftConfig, get_peft_model, get_peft_model_state_dict

    model = checkpoints.meta_model(labelled(checkpoints.load_config(new.path), tuned), head=tuned.head)
    try:
        with torch.device("meta"):
            placed = PeftConfig.from_pretrained(str(tuned.path))
            placed.base_model_name_or_path = None
            wrapped = get_peft_model(model, placed)
    except ValueError as error:
        raise InputError(
            f"its target modules are not in this base ({error})",
            where=tuned.path,
            key="target_modules",
            remedy="carry it onto a base of the same family",
        ) from None
    # The embedding matrix of the old base has no business in an adapter: it would overwrite the new one's.
    found = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    return {name: tuple(value.shape) for name, value in found.items()}


def labelled(config: Mapping[str, Any], tuned: Tuned) -> dict[str, Any]:
    """A base's config with the labels of the tuned weights, where they have a classification head."""
    if tuned.head != CLASSIFIER:
        return dict(config)
    labels = list(tuned.labels) or class_names(tuned.path)
    return {
        **config,
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
    }


def compare_shapes(
    tuned: Tuned, new: Generation, stored: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuse unless every stored tensor finds a place of its name and shape, and every place its tensor."""
    for name in sorted(stored.keys() | expected.keys()):
        if name not in expected:
            raise InputError(
                f"{new.name} has no place for this tensor",
                where=tuned.path,
                key=name,
                remedy=f"its family, depth or head differs; {_NO_MAP}",
            )
        if name not in stored:
            raise InputError(
                f"{new.name} has a place that this adapter does not fill",
                where=tuned.path,
                key=name,
                remedy=f"its family, depth or head differs; {_NO_MAP}",
            )
        if stored[name] != expected[name]:
            raise InputError(
                f"shape {stored[name]} where {new.name} needs {expected[name]}",
                where=tuned.path,
                key=name,
                remedy=_NO_MAP,
            )
    if not stored:
        raise InputError("the adapter holds no tensor", where=tuned.path)


def tokenizer_notes(tuned: Tuned, new: Generation) -> list[str]:
    """Compare tokenizers: refuse different ones, say so when one is unknown."""
    theirs, ours = lineage.tokenizer_digest(tuned.path), new.tokenizer
    if theirs and ours and theirs != ours and not same_ids(tuned.path, new.path):
        raise InputError(
            f"tuned with another tokenizer than {new.name}'s",
            where=tuned.path,
            key="tokenizer",
            remedy="tune again; ids mean other words there",
        )
    return [] if theirs and ours else ["tokenizers were not compared: one of the two directories holds none"]


def same_ids(mine: str | Path, other: str | Path) -> bool:
    """Whether two tokenizers make the same ids of the same text, however their files were written.

    Digests of the files also see which special tokens are named (older Hub models leave that to the tokenizer's class,
    and saving names them), and what a newer version of transformers writes in another way.
    """
    pair = [checkpoints.load_tokenizer(path) for path in (mine, other)]
    if pair[0].get_vocab() != pair[1].get_vocab() or not all(tokenizer.is_fast for tokenizer in pair):
        return False
    rules = [json.loads(tokenizer.backend_tokenizer.to_str()) for tokenizer in pair]
    return all(rules[0][key] == rules[1][key] for key in ("normalizer", "pre_tokenizer", "model"))


def kind_notes(config: Mapping[str, Any]) -> list[str]:
    """Say when an adapter's effect depends on its base."""
    kind = str(config.get("peft_type"))
    if kind in BASE_DEPENDENT or config.get("use_dora"):
        name = "DoRA" if config.get("use_dora") else kind
        return [f"{name} acts relative to its base: on another base its change of the weights differs"]
    return []
