"""``adapter_config.json`` as PEFT writes it, checked before anything relies on it; no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bequest.errors import InputError
from bequest.storage import read_json

CONFIG = "adapter_config.json"
PROMPTS = ("PROMPT_TUNING", "P_TUNING")
KINDS = ("LORA", "IA3", *PROMPTS, "PREFIX_TUNING")
MERGE = "merge it into its base (merge_and_unload) and carry the whole model with --old-base"
#: Options of LoRA that change weights otherwise than by s B A, or other tensors than those of modules.
OTHER_LORA = (
    *("layer_replication", "target_parameters", "trainable_token_indices", "megatron_config"),
    *("use_qalora", "use_bdlora", "arrow_config", "kasa_config", "monteclora_config"),
)
_KINDS_OF = {"r": "a whole number above 0", "lora_alpha": "a number other than 0"}
_AGAIN = "restore the file, or save the adapter again"


def read_config(path: Path) -> dict[str, Any]:
    """The config of the adapter in a directory, with everything that is read from it later of its right kind.

    Raises:
        InputError: no such file, no mapping, or a value that PEFT would not have written; the key is named.
    """
    file = path / CONFIG
    config = read_json(file)
    if not isinstance(config, dict):
        raise InputError("is not the config of an adapter", where=file, remedy=_AGAIN)
    for key in ("target_modules", "exclude_modules", "modules_to_save"):
        chosen = config.get(key) or []
        if not isinstance(chosen, str) and not (isinstance(chosen, list) and all(isinstance(x, str) for x in chosen)):
            raise InputError(f"{chosen!r} names no modules", where=file, key=key, remedy=_AGAIN)
    if config.get("peft_type") == "LORA":
        _check_lora(config, file)
    return config


def refuse_kind(config: Mapping[str, Any], where: Path) -> None:
    """Refuse adapters that no rule covers.

    Raises:
        InputError: the type, or an option of LoRA; it is named with the remedy.
    """
    kind = str(config.get("peft_type"))
    if kind not in KINDS:
        raise InputError(f"{kind} cannot be carried through growth maps", where=where, key="peft_type", remedy=MERGE)
    for key in OTHER_LORA if kind == "LORA" else ():
        if config.get(key):
            raise InputError(
                "LoRA of this kind cannot be carried through growth maps", where=where, key=key, remedy=MERGE
            )


def _check_lora(config: Mapping[str, Any], file: Path) -> None:
    for key in ("r", "lora_alpha"):
        if not _fits(key, config.get(key)):
            said = f"{config[key]!r} is not {_KINDS_OF[key]}" if key in config else "is missing"
            raise InputError(said, where=file, key=key, remedy=_AGAIN)
    for key, one in (("rank_pattern", "r"), ("alpha_pattern", "lora_alpha")):
        patterns = config.get(key) or {}
        if not isinstance(patterns, dict):
            raise InputError(f"{patterns!r} is no mapping of patterns to numbers", where=file, key=key, remedy=_AGAIN)
        for pattern, value in patterns.items():
            if not _fits(one, value):
                said = f"{value!r} is not {_KINDS_OF[one]}"
                raise InputError(said, where=file, key=f"{key}.{pattern}", remedy=_AGAIN)
            try:
                re.compile(pattern)
            except re.error as error:
                raise InputError(
                    f"{pattern!r} is no regular expression ({error})", where=file, key=key, remedy=_AGAIN
                ) from None


def _fits(key: str, value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return False
    return value != 0 if key == "lora_alpha" else isinstance(value, int) and value > 0
