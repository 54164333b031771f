"""``list``, ``inspect`` and ``tree``: what there is, what a directory holds, where it comes from.  Read-only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from bequest import lineage, storage
from bequest.commands import terminal
from bequest.commands.support_matrix import list_families
from bequest.commands.terminal import AsJson
from bequest.errors import InputError, did_you_mean
from bequest.recipe import catalogue
from bequest.recipe.quantities import short, short_bytes
from bequest.tensor_files import read_header, weight_files

# -- list -------------------------------------------------------------------------------------------------------------


def list_(
    what: Annotated[Literal["families", "methods"], typer.Argument(help="families or methods.")],
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One of them, documented in full.")] = None,
    as_json: AsJson = False,
) -> None:
    """What there is: the families that can be grown, or the methods of every verb, documented from their own source."""
    if what == "families":
        list_families(name, as_json)
    else:
        _list_methods(name, as_json)


def _list_methods(name: str | None, as_json: bool) -> None:
    found = {verb: catalogue.methods(verb) for verb in catalogue.VERBS}
    found["inherit"] = {**found["inherit"], **catalogue.schedules()}
    if name is not None:
        _show_methods([known[name] for known in found.values() if name in known], name, found, as_json)
        return
    if as_json:
        terminal.show_json({verb: [_method_json(doc) for doc in known.values()] for verb, known in found.items()})
        return
    rows = [[verb, doc.name, doc.summary.replace("``", "")] for verb, known in found.items() for doc in known.values()]
    terminal.show(
        terminal.grid("Methods", ["verb", "name", "what it does"], rows),
        "",
        "fields and papers of one: bequest list methods NAME",
        'a method of your own: method: {name: "my_package.module:Class", ...}',
    )


def _show_methods(
    docs: list[catalogue.MethodDoc], name: str, found: dict[str, dict[str, catalogue.MethodDoc]], as_json: bool
) -> None:
    if not docs:
        names = [known for methods in found.values() for known in methods]
        raise InputError(f"no method {name!r}", key="NAME", remedy=did_you_mean(name, names))
    if as_json:
        terminal.show_json([_method_json(doc) for doc in docs])
        return
    from rich.text import Text

    for doc in docs:
        terminal.show(Text.assemble((doc.name, "bold"), f"  ({doc.verb}; {doc.target})"), Text())
        terminal.show(*(Text(text.strip()) for text in (doc.module_text, doc.text) if text), Text())
        if doc.fields:
            rows = [[f.name, f.type, "required" if f.default is None else f.default, f.text] for f in doc.fields]
            terminal.show(terminal.grid("fields", ["name", "type", "default", "meaning"], rows))


def _method_json(doc: catalogue.MethodDoc) -> dict[str, Any]:
    fields = [{"name": f.name, "type": f.type, "default": f.default, "text": f.text} for f in doc.fields]
    both = "\n\n".join(text for text in (doc.module_text, doc.text) if text)
    return {"name": doc.name, "verb": doc.verb, "class": doc.target, "text": both, "fields": fields}


# -- inspect ----------------------------------------------------------------------------------------------------------


def inspect(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="A model or adapter directory.")],
    as_json: AsJson = False,
) -> None:
    """Parameters, family, tokenizer, digests, exact growth targets near by, and lineage of a directory."""
    place = Path(directory)
    kind = lineage.kind_of(place)
    facts = _adapter_facts(place) if kind == "adapter" else _model_facts(place)
    digests = lineage.digests(place)
    targets = [] if kind == "adapter" else _targets(place)
    record = lineage.read_lineage(place) if (place / lineage.FILE).is_file() else None
    if as_json:
        terminal.show_json(
            {
                "path": directory,
                "kind": kind,
                **facts,
                "digests": digests.model_dump(),
                "growth": targets,
                "lineage": record.model_dump(mode="json") if record else None,
            }
        )
        return
    rows = [[key, str(value)] for key, value in facts.items()]
    rows += [[f"{key} digest", value or "none"] for key, value in digests.model_dump().items()]
    terminal.show(terminal.grid(f"{directory}: {kind}", ["", ""], rows))
    if targets:
        terminal.show("")
        cells = [[t["to"], short(t["params"]), "exact" if t["exact"] else "approximate", t["reason"]] for t in targets]
        terminal.show(terminal.grid("grows to", ["sizes", "params", "verdict", "why"], cells, right=["params"]))
    if record is None:
        terminal.show(f"no lineage; make one: bequest adopt {directory}")
    else:
        terminal.show("", terminal.grid("lineage", ["", ""], _lineage_rows(record)))


def _model_facts(place: Path) -> dict[str, Any]:
    from bequest.anatomy import anatomy_of, sizes_of
    from bequest.checkpoints import load_config

    anatomy = anatomy_of(place)
    dtypes: dict[str, int] = {}
    for file in weight_files(place):
        for entry in read_header(file)[0].values():
            dtypes[entry["dtype"]] = dtypes.get(entry["dtype"], 0) + 1
    tokenizer = place / "tokenizer.json"
    words = "none"
    if tokenizer.is_file():
        model = storage.read_json(tokenizer)["model"]
        words = f"{model.get('type', 'unknown')}, {len(model['vocab'])} entries"
    flops = anatomy.flops(128)
    return {
        "family": anatomy.family.name,
        "class": anatomy.class_name,
        "parameters": f"{anatomy.parameters():,}",
        **sizes_of(load_config(place)),
        "vocabulary": anatomy.sizes["vocab"],
        "tokenizer": words,
        "stored as": ", ".join(f"{dtype} ({count} tensors)" for dtype, count in sorted(dtypes.items())),
        "on disk": short_bytes(sum(file.stat().st_size for file in weight_files(place))),
        "training FLOPs per token (block 128)": short(flops.train),
    }


def _adapter_facts(place: Path) -> dict[str, Any]:
    config = storage.read_json(place / "adapter_config.json")
    headers = [read_header(file)[0] for file in weight_files(place)]
    count = 0
    for header in headers:
        for entry in header.values():
            size = 1
            for length in entry["shape"]:
                size *= length
            count += size
    shown = (
        "peft_type",
        "task_type",
        "r",
        "lora_alpha",
        "target_modules",
        "modules_to_save",
        "base_model_name_or_path",
    )
    facts = {key: lineage.clean(config[key]) for key in shown if config.get(key) not in (None, [])}
    return {**facts, "parameters": f"{count:,}"}


def _targets(place: Path) -> list[dict[str, Any]]:
    """A fractional width, a doubling and half as many layers again, each with its verdict."""
    from bequest.anatomy import sizes_of
    from bequest.checkpoints import load_config
    from bequest.growth import plan_growth

    config = load_config(place)
    sizes = sizes_of(config)
    wide, deep = sizes["hidden_size"], sizes["num_hidden_layers"]
    wishes = [("hidden_size", width) for width in (wide * 4 / 3, wide * 3 / 2, 2 * wide) if width == int(width)]
    found = []
    for key, value in [*wishes, ("num_hidden_layers", deep + max(1, deep // 2))]:
        try:
            plan = plan_growth(config, {key: int(value)})
        except InputError:  # a width that its heads do not divide
            continue
        named = f"{key}={int(value)}"
        found.append({"to": named, "params": plan.params, "exact": plan.exact, "reason": plan.reason})
    return found


def _lineage_rows(record: lineage.Lineage) -> list[list[str]]:
    cost, versions = record.cost, record.environment.versions
    rows = [
        ["id", record.id],
        ["made by", " ".join(part for part in (record.operation.stage, record.operation.method) if part)],
        *([f"{parent.role}", f"{parent.name} ({parent.id[:12]})"] for parent in record.parents),
    ]
    if cost.tokens or cost.train_flops:
        flops = f"{short(cost.train_flops)} FLOPs, {short(cost.teacher_flops)} of teachers"
        rows.append(
            ["cost", f"{short(cost.tokens)} tokens, {flops}, {cost.wall_seconds:.0f} s on {cost.device or '?'}"]
        )
    rows += [["data", f"{use.name}{f', {short(use.tokens)} tokens' if use.tokens else ''}"] for use in record.data]
    rows.append(
        ["with", ", ".join(f"{k} {v}" for k, v in versions.items() if k in ("bequest", "torch", "transformers"))]
    )
    return rows


# -- tree -------------------------------------------------------------------------------------------------------------


def tree(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="A run directory, or one model or adapter.")],
    as_json: AsJson = False,
) -> None:
    """The lineage as a tree: of a run, its generations from the oldest on; of one model or adapter, its ancestors."""
    place = Path(directory)
    if not place.is_dir():
        raise InputError("no such directory", where=place)
    inside = sorted(
        child for child in place.iterdir() if not child.name.startswith(".") and (child / lineage.FILE).is_file()
    )
    if (place / lineage.FILE).is_file() or not inside:
        _show_ancestry(place, as_json)
        return
    records = {child.name: lineage.read_lineage(child) for child in inside}
    if as_json:
        nodes = [{"path": name, **record.model_dump(mode="json")} for name, record in records.items()]
        terminal.show_json({"path": directory, "generations": nodes})
        return
    _show_forest(place, records)


def _show_ancestry(place: Path, as_json: bool) -> None:
    from rich.tree import Tree

    top = lineage.ancestry(place)
    if as_json:
        terminal.show_json(_ancestor_json(top))
        return

    def grown(node: lineage.Ancestor, branch: Tree) -> None:
        for parent in node.parents:
            gone = "" if parent.lineage else "  (not here any more)"
            label = _label(parent.name, parent.lineage, parent.id, role=parent.role, end=gone)
            grown(parent, branch.add(label))

    root = Tree(_label(top.name, top.lineage, top.id), guide_style="dim")
    grown(top, root)
    terminal.show(root)


def _ancestor_json(node: lineage.Ancestor) -> dict[str, Any]:
    operation = node.lineage.operation if node.lineage else None
    return {
        "id": node.id,
        "name": node.name,
        "role": node.role,
        "path": str(node.path) if node.path else None,
        "stage": operation.stage if operation else None,
        "method": operation.method if operation else None,
        "parents": [_ancestor_json(parent) for parent in node.parents],
    }


def _show_forest(place: Path, records: dict[str, lineage.Lineage]) -> None:
    """Every generation below its base; the other parents (teachers, donors) are named beside it."""
    from rich.tree import Tree

    by_id = {record.id: name for name, record in records.items()}
    root = Tree(f"{place}", guide_style="dim", style="bold")
    branches: dict[str, Tree] = {}

    def branch_of(name: str, path: tuple[str, ...] = ()) -> Tree:
        if name in branches:
            return branches[name]
        record = records[name]
        base = record.parent("base") or next(iter(record.parents), None)
        home = by_id.get(base.id) if base else None
        above = branch_of(home, (*path, name)) if home is not None and home not in (*path, name) else root
        others = [parent for parent in record.parents if parent is not base or home is None]
        beside = "".join(f"  {parent.role}: {parent.name}" for parent in others)
        branches[name] = above.add(_label(name, record, record.id, end=beside))
        return branches[name]

    for name in sorted(records, key=lambda known: (_depth(known, records, by_id), known)):
        branch_of(name)
    terminal.show(root)


def _depth(name: str, records: dict[str, lineage.Lineage], by_id: dict[str, str], limit: int = 100) -> int:
    base = records[name].parent("base")
    home = by_id.get(base.id) if base else None
    return 0 if home is None or limit == 0 else 1 + _depth(home, records, by_id, limit - 1)


def _label(name: str, record: lineage.Lineage | None, id_: str, *, role: str = "", end: str = "") -> Any:
    """One node: its name, what was done, at what cost, what was measured."""
    from rich.text import Text

    label = Text.assemble((f"{role}: " if role else "", "dim"), (name, "bold"))
    if record is not None:
        done = " ".join(part for part in (record.operation.stage, record.operation.method) if part)
        label.append(f"  {done}", style="cyan")
        if record.cost.tokens:
            label.append(f"  {short(record.cost.tokens)} tokens, {short(record.cost.train_flops)} FLOPs")
        losses = record.measures.get("held_out") or {}
        shown = [f"{corpus} {value['loss']:.2f}" for corpus, value in losses.items() if "loss" in value]
        if shown:
            label.append(f"  held-out loss: {', '.join(shown)}", style="green")
    label.append(end, style="yellow")
    label.append(f"  {id_[:12]}", style="dim")
    return label
