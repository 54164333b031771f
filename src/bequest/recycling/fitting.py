"""May these tuned weights be put on this base?  Names, shapes, tokenizers and kinds, before anything is loaded.

PEFT only warns when an adapter's keys match nothing, and the model is then the bare base bit for bit; and a
checkpoint's name says nothing about what it is.  So every tensor must find its place and digests are compared
(Recyclable Tuning, arXiv 2305.08702, moves adapters by loading them; the checks are ours).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bequest import checkpoints, lineage
from bequest.errors import InputError
from bequest.recycling.adapter_config import read_config
from bequest.recycling.tuned import CLASSIFIER, Generation, Tuned, class_names

# Kinds whose ΔW depends on the base they lie on: putting them on another base is legal but changes what they do.
BASE_DEPENDENT = {"IA3", "OFT", "BOFT", "HRA", "HIRA", "ROAD", "PSOFT", "OSF"}
# LoRA initialisations whose factors are relative to a residual base that the adapter's file does not hold.
SPLIT_INITIALISATIONS = ("pissa", "olora", "corda", "loftq")
_NO_MAP = "a base of other sizes needs the growth map: its lineage must lead to the old base (--old-base names it)"


def check_origin(tuned: Tuned, old: Generation | None) -> None:
    """Refuse weights that are not those of their lineage, and an old base that is not the one it records.

    Both are decided by the weights that lie there, and not by what a ``lineage.json`` beside them says; that costs one
    read of each (``lineage.proven_id``).

    Raises:
        InputError: the weights have changed since, or were tuned on another base than ``old``.
    """
    if (tuned.path / lineage.FILE).is_file():
        record = lineage.read_lineage(tuned.path)
        if not lineage.describes(record, tuned.path):
            raise InputError(
                "the weights are not those of this lineage, so the base they were tuned on is not known",
                where=tuned.path / lineage.FILE,
                key="digests.weights",
                remedy=f"bequest adopt {tuned.path} --base BASE --force",
            )
        lineage.check_id(record, tuned.path)
    if tuned.base is None or old is None or not Path(old.path).is_dir() or is_known_as(old.path, tuned.base):
        return
    given = lineage.proven_id(old.path)
    raise InputError(
        f"tuned on {tuned.base_name} ({tuned.base[:12]}), not on {old.name} ({given[:12]})",
        where=tuned.path,
        key="old",
        remedy=f"leave --old-base out; if they were, bequest adopt {tuned.path} --base {old.name} --force",
    )


def is_known_as(directory: str | Path, identity: str) -> bool:
    """Whether an id is that of the weights in a directory: by its lineage, or as adopting them would give it.

    A base that was adopted with its own base after something had been tuned on it is known by both.
    """
    adopted = lineage.lineage_id(lineage.weights_digest(directory), (), lineage.Operation(stage="adopt"))
    return identity in (adopted, lineage.proven_id(directory))


def check_adapter(tuned: Tuned, new: Generation, *, mapped: bool = False) -> tuple[str, ...]:
    """Refuse an adapter that cannot work on ``new``; returns what is worth knowing about one that can.

    ``mapped`` says that its modules went through growth maps and are no plain copies.

    Raises:
        InputError: a tensor finds no place of its shape, another tokenizer, or factors relative to a residual base; the
            tensor or key is named.
    """
    config = read_config(tuned.path)
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
    except (TypeError, KeyError, AttributeError, re.error) as error:
        raise InputError(
            f"PEFT cannot read this adapter ({type(error).__name__}: {error})",
            where=tuned.path / "adapter_config.json",
            remedy="restore the file, or save the adapter again",
        ) from None
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
