"""Recycling: weights tuned for an old base become tuned weights for a new one.

``METHODS`` is the registry; a method is one frozen dataclass in one file.  :func:`carry` is the training-free path from
directory to directory, through the growth maps where the new base grew from the old one.  Importable without torch.
"""

from bequest.recycling.carrying import carry
from bequest.recycling.direct import Direct
from bequest.recycling.initialise import Initialise
from bequest.recycling.recycler import Recycler
from bequest.recycling.through_maps import Carry
from bequest.recycling.tuned import Carried, Generation, Tuned, read_tuned

METHODS: dict[str, type[Recycler]] = {
    "direct": Direct,
    "carry": Carry,
    "initialise": Initialise,
}

__all__ = [
    "METHODS",
    "Carried",
    "Carry",
    "Direct",
    "Generation",
    "Initialise",
    "Recycler",
    "Tuned",
    "carry",
    "read_tuned",
]
