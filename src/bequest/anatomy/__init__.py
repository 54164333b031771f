"""The anatomy of models: which axis stands behind each dimension of each tensor.

Everything here but :mod:`bequest.anatomy.surgery` is importable without torch.
"""

from bequest.anatomy.agreement import check_model
from bequest.anatomy.anatomy import Anatomy, Place, Tensor, Unit, Use, anatomy_of
from bequest.anatomy.configs import complete_config, sizes_of, target_config
from bequest.anatomy.families import FAMILIES, HEADS, family_named, family_of, head_of, objective_of
from bequest.anatomy.flops import Flops
from bequest.anatomy.settled import settle

__all__ = [
    "FAMILIES",
    "HEADS",
    "Anatomy",
    "Flops",
    "Place",
    "Tensor",
    "Unit",
    "Use",
    "anatomy_of",
    "check_model",
    "complete_config",
    "family_named",
    "family_of",
    "head_of",
    "objective_of",
    "settle",
    "sizes_of",
    "target_config",
]
