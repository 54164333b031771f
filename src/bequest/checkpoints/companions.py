"""What lies beside a model: its tokenizer, and the adapters tuned on it."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from bequest.checkpoints.headers import header_shapes, is_adapter, refuse_unless_hub
from bequest.checkpoints.quiet import quiet
from bequest.errors import InputError
from bequest.storage import disk_errors
from bequest.tensor_files import ADAPTER_CONFIG

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "chat_template.jinja"),
)
"""Every file that a tokenizer of transformers may consist of."""


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a directory or a Hub id.

    Raises:
        InputError: there is none.
    """
    from transformers import AutoTokenizer

    directory = Path(path)
    if directory.is_dir():
        if not any((directory / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
            raise InputError("no tokenizer in this directory", where=path, remedy="save one there")
    else:
        refuse_unless_hub(path)
    try:
        with quiet():
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path)
    except Exception as error:
        raise InputError(f"the tokenizer cannot be loaded ({error})", where=path) from None
    return tokenizer


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, directory: str | Path) -> None:
    """Save a tokenizer into a directory.

    Raises:
        RunError: the disk is full.
    """
    with disk_errors(Path(directory)):
        tokenizer.save_pretrained(str(directory))


def copy_tokenizer(source: str | Path, directory: str | Path) -> None:
    """Copy a tokenizer's files as they are; nothing where ``source`` is no directory or holds none.

    Raises:
        RunError: the disk is full.
    """
    with disk_errors(Path(directory)):
        for name in TOKENIZER_FILES:
            if (Path(source) / name).is_file():
                shutil.copyfile(Path(source) / name, Path(directory) / name)


def load_adapter(model: PreTrainedModel, path: str | Path, *, trainable: bool = False) -> PeftModel:
    """Put a PEFT adapter on a model.

    Raises:
        InputError: no adapter there, or one that does not fit the model; the tensor is named.
    """
    from peft import PeftModel

    if not is_adapter(path):
        raise InputError("no adapter in this directory", where=path, remedy=f"it must hold {ADAPTER_CONFIG}")
    stored = {name: shape for name, (shape, _) in header_shapes(path).items()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is missing is judged below, by name
            wrapped: PeftModel = PeftModel.from_pretrained(model, str(path), is_trainable=trainable)
    except (ValueError, RuntimeError, KeyError) as error:
        raise InputError(f"the adapter does not fit this model ({error})", where=path) from None
    expected = {name: tuple(value.shape) for name, value in _adapter_state(wrapped).items()}
    for name in sorted(stored.keys() ^ expected.keys()):
        side = "the model has no place for this tensor" if name in stored else "the adapter lacks this tensor"
        raise InputError(f"the adapter does not fit this model: {side}", where=path, key=name)
    return wrapped


def save_adapter(model: PeftModel, directory: str | Path) -> None:
    """Save a PEFT adapter as a plain PEFT directory.

    Raises:
        RunError: the disk is full.
    """
    with disk_errors(Path(directory)), quiet():
        # "auto" would ask the Hub for the base's config by its name, and store the old base's embeddings.
        model.save_pretrained(str(directory), save_embedding_layers=False)


def _adapter_state(model: PeftModel) -> dict[str, torch.Tensor]:
    """An adapter's tensors by the names they have on disk; the base's embeddings are none of them."""
    from peft import get_peft_model_state_dict

    state: dict[str, torch.Tensor] = get_peft_model_state_dict(model, save_embedding_layers=False)
    return state
