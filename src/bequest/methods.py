"""Methods by name: one way, for every verb, from a recipe's words to the dataclass that does it.

A verb's registry maps a name to ``"module:Class"`` (or the class itself); a method from outside comes by its own dotted
path, ``"my_package.module:Class"``.  Near the bottom of the import order; no torch.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

from bequest.errors import InputError, did_you_mean


def make_method(
    registry: Mapping[str, str | type], name: str, options: Mapping[str, Any], *, kind: type, verb: str
) -> Any:
    """The method of that name with those options.

    Args:
        registry: the verb's ``METHODS``.
        name: a name in it, or ``"module:Class"``.
        options: fields of the method's dataclass.
        kind: the abstract class that the method must be of.
        verb: ``grow``, ``adapt``, ...; named in errors.

    Raises:
        InputError: no such method, one of another kind, or one without such a field or value.
    """
    found = named_class(registry, name, verb=verb)
    if not issubclass(found, kind):
        raise InputError(f"{name} is not a {kind.__name__}", key="method", remedy=f"subclass {kind.__name__}")
    fields = [field.name for field in dataclasses.fields(found)] if dataclasses.is_dataclass(found) else []
    for option in options:
        if option not in fields:
            raise InputError(f"{name} has no option {option!r}", key="method", remedy=did_you_mean(option, fields))
    try:
        return found(**options)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: {error}", key="method") from None


def named_class(registry: Mapping[str, str | type], name: str, *, verb: str) -> type:
    """The class behind a name or a dotted path.

    Raises:
        InputError: there is none.
    """
    target = registry.get(name, name if ":" in name else None)
    if target is None:
        raise InputError(f"no {verb} method {name!r}", key="method", remedy=did_you_mean(name, registry))
    if isinstance(target, type):
        return target
    module, _, attribute = target.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError(f"{name} cannot be imported ({error})", key="method") from None
    if not isinstance(found, type):
        raise InputError(f"{name} is not a class", key="method")
    return found
