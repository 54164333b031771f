"""The only place that loads and saves models, tokenizers and adapters, and that knows transformers' names on disk.

Importable without torch or transformers; both are imported where they are needed.
"""

from bequest.checkpoints.companions import copy_tokenizer, load_adapter, load_tokenizer, save_adapter, save_tokenizer
from bequest.checkpoints.headers import (
    fetch,
    header_shapes,
    hub_tokenizer,
    is_adapter,
    load_config,
    stored_bytes,
    stored_dtype,
)
from bequest.checkpoints.models import (
    GROUPED_ROWS,
    live_config,
    load_model,
    meta_model,
    new_model,
    save_model,
    takes_grouped_experts,
)
from bequest.checkpoints.names import Part, to_disk_names, to_memory_names, to_memory_parts

__all__ = [
    "GROUPED_ROWS",
    "Part",
    "copy_tokenizer",
    "fetch",
    "header_shapes",
    "hub_tokenizer",
    "is_adapter",
    "live_config",
    "load_adapter",
    "load_config",
    "load_model",
    "load_tokenizer",
    "meta_model",
    "new_model",
    "save_adapter",
    "save_model",
    "save_tokenizer",
    "stored_bytes",
    "stored_dtype",
    "takes_grouped_experts",
    "to_disk_names",
    "to_memory_names",
    "to_memory_parts",
]
