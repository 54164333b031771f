"""A recipe: what is wanted, as a YAML file, validated into frozen pydantic models.

``sections`` holds the schema, ``loading`` reads a file and its command-line overrides, ``references`` checks what a
stage may refer to and ``method_checks`` which methods it may name, ``ancestry`` says what its bases were trained on and
``hashing`` when a stage must run again, ``catalogue`` reads the methods' names, fields and documentation from their
source, and ``templates/`` holds the starter recipes.  No torch anywhere.
"""

from bequest.recipe.ancestry import earlier_corpora
from bequest.recipe.hashing import SCHEMA_VERSION, stage_hash
from bequest.recipe.loading import load_recipe
from bequest.recipe.parts import MethodCall, Teacher
from bequest.recipe.sections import (
    STAGES,
    Adapt,
    Grow,
    Measure,
    Pretrain,
    Recipe,
    Recycle,
    Reference,
    Section,
    Tune,
)

__all__ = [
    "SCHEMA_VERSION",
    "STAGES",
    "Adapt",
    "Grow",
    "Measure",
    "MethodCall",
    "Pretrain",
    "Recipe",
    "Recycle",
    "Reference",
    "Section",
    "Teacher",
    "Tune",
    "earlier_corpora",
    "load_recipe",
    "stage_hash",
]
