"""Where the lab keeps what it makes: one cache that git ignores, and the committed results.

The cache is ``$BEQUEST_LAB_CACHE``, else ``lab/cache`` in the checkout.  Try it: ``lab.places.data("wikitext2")``.
"""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "BEQUEST_LAB_CACHE"


def checkout() -> Path:
    """The top of the checkout: the directory that holds ``lab/``."""
    return Path(__file__).resolve().parent.parent


def cache() -> Path:
    """Everything fetched or made: ``$BEQUEST_LAB_CACHE`` (``~`` allowed), else ``lab/cache`` in the checkout."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser().absolute() if named else checkout() / "lab" / "cache"


def packages() -> Path:
    """The packages as the registries sent them."""
    return cache() / "packages"


def data(name: str) -> Path:
    """The converted corpora and tasks of one source."""
    return cache() / "data" / name


def models(name: str) -> Path:
    """One model directory of the model kit."""
    return cache() / "models" / name


def cells(*parts: str) -> Path:
    """The run directories of experiments: ``cells(experiment, scale, cell)``."""
    return cache().joinpath("cells", *parts)


def results() -> Path:
    """The committed rows of the experiments."""
    return checkout() / "lab" / "results"
