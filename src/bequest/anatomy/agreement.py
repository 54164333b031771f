"""A live model held against its family's table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bequest.anatomy.anatomy import Anatomy, anatomy_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check_model(model: PreTrainedModel) -> Anatomy:
    """The anatomy of a live model, after every one of its parameters has been matched with a line of the table.

    Raises:
        InputError: the family or its variant has no table.
        AnatomyError: a tensor that no line names, a line that no tensor matches, or a size that disagrees.
    """
    config = model.config.to_dict()
    config["architectures"] = [type(model).__name__]
    config.pop("_name_or_path", None)
    anatomy = anatomy_of(config)
    anatomy.check({name: tuple(value.shape) for name, value in model.named_parameters(remove_duplicate=False)})
    return anatomy
