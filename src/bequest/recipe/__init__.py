"""A recipe: what is wanted, as a YAML file, validated into frozen pydantic models.

``sections`` holds the schema, ``loading`` reads a file and its command-line overrides, ``references`` checks what a
stage may refer to and ``method_checks`` which methods it may name, ``ancestry`` says what came before a stage and what
follows it and ``hashing`` when it must run again, ``catalogue`` reads the methods' names, fields and documentation from
their source, and ``templates/`` holds the starter recipes.  No torch anywhere.
"""

from bequest.recipe.ancestry import earlier_corpora, new_blocks, training_follows
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
    "new_blocks",
    "stage_hash",
    "training_follows",
]
