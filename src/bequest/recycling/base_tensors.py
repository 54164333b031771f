"""Single tensors of a model's files by their names in memory, as they are stored, without loading the model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bequest import checkpoints
from bequest.anatomy import Anatomy
from bequest.errors import InputError
from bequest.tensor_files import read_header, weight_files

if TYPE_CHECKING:
    from torch import Tensor


class BaseTensors:
    """Tensors of a base, each read when it is asked for.

    Args:
        path: the model's directory.
        config: its config, with the labels of the variant.
        anatomy: of that variant: its tied aliases are answered with their owners.
    """

    def __init__(self, path: str | Path, config: Mapping[str, Any], anatomy: Anatomy) -> None:
        files = {name: file for file in weight_files(path) for name in read_header(file)[0]}
        memory = checkpoints.to_memory_names(files, checkpoints.meta_model(config, head=anatomy.head))
        self.path, self.aliases = path, anatomy.tied
        self.places = {target: (files[name], name) for name, target in memory.items() if target is not None}

    def __getitem__(self, name: str) -> Tensor:
        """One tensor in float64.

        Raises:
            InputError: the files do not hold it.
        """
        import torch
        from safetensors import safe_open

        owner = name if name in self.places else self.aliases.get(name, name)
        if owner not in self.places:
            raise InputError("the base's files do not hold this tensor", where=self.path, key=name)
        file, stored = self.places[owner]
        with safe_open(file, framework="pt") as stream:
            tensor: Tensor = stream.get_tensor(stored)
        return tensor.to(torch.float64)
