"""What there is, read from source and never imported: methods and their fields, schedules, adapters.

A verb's registry is the dict literal ``METHODS`` of its package; a method is one frozen dataclass whose
fields are documented by the string under each.  Reading the source keeps ``bequest plan`` light (no torch), and is the
only way to get at those strings.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path

VERBS = {"grow": "bequest.growth", "inherit": "bequest.inheritance", "adapt": "bequest.adaptation"}
VERBS |= {"recycle": "bequest.recycling"}


@dataclass(frozen=True)
class FieldDoc:
    """One hyper-parameter of a method: name, type, default (as written; None where it is required), meaning."""

    name: str
    type: str
    default: str | None
    text: str


@dataclass(frozen=True)
class MethodDoc:
    """One method: its name in recipes, its class, what it is (docstrings of class and module), its fields.

    ``defines`` names the functions that its class itself defines.
    """

    name: str
    verb: str
    target: str
    text: str
    module_text: str
    fields: tuple[FieldDoc, ...]
    defines: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """The first sentence of the documentation."""
        paragraph = " ".join((self.text or self.module_text).split("\n\n")[0].split())
        return paragraph.split(". ")[0].rstrip(".") + "." if paragraph else ""


def methods(verb: str) -> dict[str, MethodDoc]:
    """The methods of ``grow``, ``inherit``, ``adapt`` or ``recycle`` by name, in the order of the registry."""
    return dict(_registry(verb, "METHODS"))


def schedules() -> dict[str, MethodDoc]:
    """The schedules of a teacher's weight by name."""
    return dict(_registry("inherit", "SCHEDULES"))


@functools.cache
def _registry(verb: str, table: str) -> tuple[tuple[str, MethodDoc], ...]:
    package = VERBS[verb]
    homes = _imports(_parsed(module_file(package)), package)
    if table in homes:  # the package only passes it on
        package = homes[table][0]
    tree = _parsed(module_file(package))
    homes = _imports(tree, package)
    found = []
    for node in tree.body:
        target: ast.expr | None = node.target if isinstance(node, ast.AnnAssign) else None
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target = node.targets[0]
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        if isinstance(target, ast.Name) and target.id == table and isinstance(value, ast.Dict):
            for key, item in zip(value.keys, value.values, strict=True):
                if isinstance(key, ast.Constant):
                    found.append((str(key.value), _describe(str(key.value), verb, item, homes, package)))
    return tuple(found)


def _describe(name: str, verb: str, value: ast.expr, homes: dict[str, tuple[str, str]], package: str) -> MethodDoc:
    """The documentation behind one entry of a registry: a name, or a string ``module:Class``."""
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        module, _, symbol = value.value.partition(":")
    elif isinstance(value, ast.Name):
        module, symbol = homes.get(value.id, (package, value.id))
    else:
        return MethodDoc(name, verb, ast.unparse(value), "", "", ())
    tree = _parsed(module_file(module))
    module_text = ast.get_docstring(tree) or ""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == symbol:
            fields = _fields(node) if isinstance(node, ast.ClassDef) else ()
            defines = tuple(item.name for item in node.body if isinstance(item, ast.FunctionDef))
            text = ast.get_docstring(node) or ""
            return MethodDoc(name, verb, f"{module}:{symbol}", text, module_text, fields, defines)
    return MethodDoc(name, verb, f"{module}:{symbol}", "", module_text, ())


def outside_method(verb: str, path: str) -> MethodDoc:
    """A method from outside by its dotted path ``module:Class``; its source is read, and nothing is imported.

    Where the source cannot tell (a compiled module, a star import, a module's ``__getattr__``), the method is taken as
    it is.

    Raises:
        ModuleNotFoundError: there is no such module.
        NameError: the module does not have the name; ``name`` holds what it does have, joined by commas.
        TypeError: the name is a function.
        SyntaxError: the module is no Python.
    """
    module, _, symbol = path.partition(":")
    file = outside_file(module)
    unknown = MethodDoc(path, verb, path, "", "", ())
    if file is None:
        return unknown
    tree = _parsed(file)
    bound: dict[str, ast.stmt] = {}
    for node in (inner for statement in tree.body for inner in _statements(statement)):
        bound |= dict.fromkeys(_bound_names(node), node)
    found = bound.get(symbol)
    if isinstance(found, ast.ClassDef):
        defines = tuple(item.name for item in found.body if isinstance(item, ast.FunctionDef))
        text, module_text = ast.get_docstring(found) or "", ast.get_docstring(tree) or ""
        return MethodDoc(path, verb, path, text, module_text, _fields(found), defines)
    if isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef):
        raise TypeError(symbol)
    if found is None and "*" not in bound and "__getattr__" not in bound:
        raise NameError(symbol, name=",".join(name for name, node in bound.items() if isinstance(node, ast.ClassDef)))
    return unknown


def _statements(node: ast.stmt) -> list[ast.stmt]:
    """A statement of a module, and those inside when it is an ``if`` or a ``try``."""
    if not isinstance(node, ast.If | ast.Try | ast.With):
        return [node]
    inside = [
        statement
        for child in ast.iter_child_nodes(node)
        if isinstance(child, ast.stmt)
        for statement in _statements(child)
    ]
    handlers = node.handlers if isinstance(node, ast.Try) else []
    return inside + [statement for handler in handlers for item in handler.body for statement in _statements(item)]


def _bound_names(node: ast.stmt) -> list[str]:
    """The names that a statement binds in its module."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return [node.name]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name.partition(".")[0] for alias in node.names]
    return [part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)]


def _fields(node: ast.ClassDef) -> tuple[FieldDoc, ...]:
    """The annotated fields of a dataclass, each with the string under it."""
    found = []
    for statement, following in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        kind = ast.unparse(statement.annotation)
        if kind.startswith("ClassVar") or statement.target.id.startswith("_"):
            continue
        text = ""
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            text = " ".join(str(following.value.value).split())
        default = ast.unparse(statement.value) if statement.value is not None else None
        found.append(FieldDoc(statement.target.id, kind, default, text))
    return tuple(found)


# -- other packages' names --------------------------------------------------------------------------------------------


@functools.cache
def adapter_types() -> tuple[str, ...]:
    """The adapter types that the installed PEFT knows, in lower case."""
    tree = _parsed(_package_root("peft") / "utils" / "peft_types.py")
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == "PeftType":
            return tuple(field.targets[0].id.lower() for field in node.body if _is_member(field))  # type: ignore[attr-defined]
    return ()


def _is_member(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)


@functools.cache
def adapter_fields(kind: str) -> tuple[str, ...]:
    """The config fields of one adapter type in the installed PEFT; empty where its config lies in an unusual place."""
    root = _package_root("peft")
    file = root / "tuners" / kind / "config.py"
    if not file.is_file():
        return ()
    return _class_fields(file) + _class_fields(root / "config.py")


def _class_fields(file: Path) -> tuple[str, ...]:
    classes = [node for node in _parsed(file).body if isinstance(node, ast.ClassDef)]
    return tuple(field.name for node in classes for field in _fields(node))


# -- source -----------------------------------------------------------------------------------------------------------


def module_file(module: str) -> Path:
    """The source file of a module; its parents below the top package are not imported.

    Raises:
        ModuleNotFoundError: there is no such module.
    """
    top, *parts = module.split(".")
    base = _package_root(top).joinpath(*parts)
    for candidate in (base / "__init__.py", base.with_suffix(".py")):
        if candidate.is_file():
            return candidate
    raise ModuleNotFoundError(f"no module named {module!r}", name=module)


def outside_file(module: str) -> Path | None:
    """The source file of somebody else's module, without importing it or its parents; None where it has no source.

    Raises:
        ModuleNotFoundError: there is no such module.
    """
    top, *parts = module.split(".")
    missing = ModuleNotFoundError(f"no module named {module!r}", name=module)
    if not all(part.isidentifier() for part in (top, *parts)):
        raise missing
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # a module that was made by hand and has no spec
        return None
    if spec is None:
        raise missing
    if not parts:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    for root in spec.submodule_search_locations or ():
        base = Path(root, *parts)
        for candidate in (base / "__init__.py", base.with_suffix(".py")):
            if candidate.is_file():
                return candidate
        if any(base.parent.glob(f"{base.name}.*")):
            return None
    raise missing


def _package_root(top: str) -> Path:
    spec = importlib.util.find_spec(top)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no module named {top!r}", name=top)
    return Path(spec.origin).parent


@functools.cache
def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _imports(tree: ast.Module, package: str) -> dict[str, tuple[str, str]]:
    """Local name -> (module, name there) for every ``from ... import`` of a package's ``__init__``."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            module = f"{package}.{node.module}" if node.level else node.module
            for alias in node.names:
                found[alias.asname or alias.name] = (module, alias.name)
    return found
