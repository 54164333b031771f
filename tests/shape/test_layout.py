"""The layout rules: import arrows, names, sizes, the README's tree, the paper index."""

from __future__ import annotations

import ast
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

import bequest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "bequest"
MODULES = sorted(SOURCE.rglob("*.py"))
LAB = ROOT / "lab"
LAB_MODULES = sorted(path for path in LAB.rglob("*.py") if LAB / "cache" not in path.parents)

# From the bottom up.  A module imports its own package and any layer below, never a sibling of its own layer.
LAYERS: list[set[str]] = [
    {"errors"},
    {"storage", "methods", "processes"},
    {"tensor_files"},
    {"checkpoints", "lineage"},
    {"anatomy"},
    {"weights"},
    {"data"},
    {"training"},
    {"growth", "inheritance", "adaptation", "recycling"},
    {"measures"},
    {"reports"},
    {"recipe"},
    {"planning"},
    {"stages"},
    {"running"},
    {"demonstration"},
    {"commands"},
    {"cli"},
    {"__main__", "__init__"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
# Lists of facts, not programs.
TABLES_OF_DATA = {"encoders.py", "decoders.py", "modern_decoders.py", "experts.py", "demo_modules.py"}


def top(path: Path) -> str:
    """The first part of a module's name below bequest."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def runtime_imports(tree: ast.Module) -> list[str]:
    """Names of bequest modules imported at run time, at any depth of the file; TYPE_CHECKING blocks do not count."""
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            skipped.update(child for statement in node.body for child in ast.walk(statement))
    found: list[str] = []
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and node.module == "bequest":
            found += [f"bequest.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("bequest."):
            found.append(node.module)
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.startswith("bequest.")]
    return found


def arrow_errors(path_top: str, imports: list[str]) -> list[str]:
    """Imports of one module that do not go downwards."""
    errors = []
    for name in imports:
        target = name.split(".")[1]
        if target.startswith("__"):
            continue
        if target != path_top and RANK[target] >= RANK[path_top]:
            errors.append(f"{path_top} imports {name}")
    return errors


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_downwards(path: Path) -> None:
    assert top(path) in RANK, f"{top(path)} has no place in the layers"
    if top(path) == "__init__":
        return
    assert arrow_errors(top(path), runtime_imports(ast.parse(path.read_text()))) == []


def test_the_arrow_check_can_fail() -> None:
    upwards = ast.parse("def f():\n    from bequest.recycling.direct import Direct\n")
    assert arrow_errors("training", runtime_imports(upwards)) == ["training imports bequest.recycling.direct"]
    sibling = ast.parse("from bequest.growth import METHODS")
    assert arrow_errors("recycling", runtime_imports(sibling)) == ["recycling imports bequest.growth"]


def test_bequest_does_not_know_its_lab() -> None:
    imported = {
        name.split(".")[0]
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom) and node.level == 0
            else []
        )
    }
    assert "torch" in imported and "lab" not in imported


def test_the_lab_commits_no_data() -> None:
    done = subprocess.run(["git", "ls-files", "lab"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout: there is nothing to be committed")
    kinds = {Path(name).suffix for name in done.stdout.splitlines()}
    assert kinds <= {".py", ".yaml", ".csv", ".md"}


def test_no_module_bears_the_name_of_a_public_function() -> None:
    names = {path.stem for path in MODULES} | {path.name for path in SOURCE.rglob("*") if path.is_dir()}
    assert names & {*bequest.__all__, "compatibility"} == set()


def test_public_names_survive_imports_in_any_order() -> None:
    modules = [
        "bequest." + ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
        for path in MODULES
        if path.name != "__main__.py" and path != SOURCE / "__init__.py"
    ]
    random.Random(7).shuffle(modules)
    program = (
        "import importlib, bequest\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "for name in bequest.__all__:\n"
        "    value = getattr(bequest, name)\n"
        "    assert callable(value) and not isinstance(value, type(importlib)), (name, value)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("path", MODULES + LAB_MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_keep_their_size(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    if path.name not in TABLES_OF_DATA:
        assert len(text.splitlines()) <= 420, "a file past 400 lines wants a name of its own for a part of it"
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > 65
    ]
    assert long == []


@pytest.mark.parametrize("path", MODULES + LAB_MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_habits(path: Path) -> None:
    text = path.read_text()
    assert path.name != "utils.py"
    assert ast.get_docstring(ast.parse(text)), "every module opens by saying what it is"
    assert not re.search(r"\bhasattr\(|\bTODO\b|\bFIXME\b|NotImplementedError", text)


@pytest.mark.parametrize(
    ("tree", "kinds", "left_out"),
    [("src/bequest", {".py"}, {"__pycache__"}), ("lab", {".py", ".yaml"}, {"__pycache__", "cache"})],
    ids=["bequest", "lab"],
)
def test_readme_tree_is_the_disk(tree: str, kinds: set[str], left_out: set[str]) -> None:
    block = re.search(rf"```text\n{tree}/\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert block, f"README has no tree of {tree}/"
    listed = set(re.findall(r"^ {2}([\w/]+(?:\.\w+)?)\s", block.group(1), re.M))
    disk = {
        path.name + ("/" if path.is_dir() else "")
        for path in (ROOT / tree).iterdir()
        if path.suffix in kinds or (path.is_dir() and path.name not in left_out)
    }
    assert listed == disk


def test_every_method_is_in_the_paper_index() -> None:
    from bequest.adaptation import METHODS as ADAPT
    from bequest.growth import METHODS as GROW
    from bequest.inheritance import SCHEDULES
    from bequest.recycling import METHODS as RECYCLE

    index = (ROOT / "docs" / "papers.md").read_text()
    missing = [name for registry in (ADAPT, GROW, SCHEDULES, RECYCLE) for name in registry if f"`{name}`" not in index]
    assert missing == []
