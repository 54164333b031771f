"""``adopt`` and ``carry``: one directory in, one directory (or one lineage) out."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from bequest import lineage, storage
from bequest.commands import terminal
from bequest.commands.terminal import AsJson, Force
from bequest.errors import InputError
from bequest.recipe.quantities import short_bytes
from bequest.tensor_files import check_target, weight_files


def adopt(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A model or adapter that bequest did not make.")],
    base: Annotated[str | None, typer.Option(help="The base that it was tuned from.")] = None,
    task: Annotated[str | None, typer.Option(help="The labelled file that it was tuned on (gives the labels).")] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Give a lineage to a model or adapter; only lineage.json is written, nothing else changes."""
    place = Path(path)
    lineage.kind_of(place)
    target = place / lineage.FILE
    if target.exists() and not force:
        raise InputError("has a lineage already", where=place, remedy="pass --force to replace it")
    if base is not None and lineage.kind_of(Path(base)) != "model":
        raise InputError("is an adapter, and the base model is needed", where=base, key="--base")
    parents = [lineage.parent_of(base, "base", child=place)] if base is not None else []
    parameters, data = _task_facts(Path(task)) if task is not None else ({}, [])
    terminal.announce(f"writes {target}", as_json=as_json)
    made = lineage.make_lineage(
        place, name=place.resolve().name, stage="adopt", parameters=parameters, parents=parents, data=data
    )
    lineage.write_lineage(place, made)
    if as_json:
        terminal.show_json({"path": str(target), "lineage": made.model_dump(mode="json")})
        return
    stored = sum(file.stat().st_size for file in weight_files(place))
    tokenizer = (made.digests.tokenizer or "none")[:12]
    terminal.show(
        f"{made.kind} {made.name}, id {made.short_id}, {short_bytes(stored)}; digests: weights "
        f"{made.digests.weights[:12]}, config {made.digests.config[:12]}, tokenizer {tokenizer}"
    )
    terminal.finish(target, load=terminal.loading_lines(place))


def _task_facts(file: Path) -> tuple[dict[str, Any], list[lineage.DataUse]]:
    """The label map and the fingerprint of a labelled jsonl or csv file (its column ``label``)."""
    import csv
    import json

    if not file.is_file():
        raise InputError("no such file", where=file, key="--task")
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            csv_like = file.suffix in (".csv", ".tsv")
            rows: Any = (
                csv.DictReader(stream, delimiter="\t" if file.suffix == ".tsv" else ",")
                if csv_like
                else (json.loads(line) for line in stream if line.strip())
            )
            labels = sorted({str(row["label"]) for row in rows})
    except (KeyError, TypeError):
        raise InputError("an example has no label", where=file, key="label", remedy="name the column label") from None
    except ValueError as error:
        raise InputError(f"not a jsonl or csv file ({error})", where=file, key="--task") from None
    if not labels:
        raise InputError("is empty", where=file, key="--task")
    name = file.parent.name if file.stem in ("train", "test", "dev") and file.parent.name else file.stem
    data = [lineage.DataUse(name=name, fingerprint=storage.file_digest(file))]
    return {"task": name, "labels": labels}, data


def carry(
    tuned: Annotated[str, typer.Argument(metavar="TUNED", help="A PEFT adapter or a fully tuned model.")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="The directory to make.")],
    onto: Annotated[str, typer.Option(help="The base to carry it onto.")],
    old_base: Annotated[str | None, typer.Option(help="The base they were tuned on, if nothing recorded it.")] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Carry tuned weights onto another base without training: one of the same shape, or one that grew from theirs."""
    lineage.kind_of(Path(tuned))
    check_target(out, force=force, sources=[tuned, onto])
    terminal.announce(f"writes {out}/ ({Path(tuned).name} on {Path(onto).name})", as_json=as_json)
    from bequest.recycling import carry as carry_weights
    from bequest.reports.card import write_card

    made: Any = carry_weights(tuned, onto=onto, out=out, old=old_base, force=force)
    write_card(Path(out))
    record = lineage.read_lineage(out)
    if as_json:
        terminal.show_json({"out": out, "id": record.id, **made.carried.as_json(), "notes": list(made.notes)})
        return
    terminal.show(f"{made.carried.verdict}: {made.carried.reason}")
    for line in (*_what_moved(made.carried), *made.notes):
        terminal.show(f"  {line}")
    terminal.finish(out, load=terminal.loading_lines(Path(out)), next_step=f"bequest tree {out}")


def _what_moved(carried: Any) -> list[str]:
    """The parts that were carried, and the ranks that changed, in words."""
    parts = ", ".join(f"{number} {kind}" for kind, number in carried.modules.items())
    changes = Counter(f"{before} to {after}" for before, after in carried.ranks.values())
    ranks = [f"rank {change} in {number} modules" for change, number in changes.items()]
    return [f"carried: {parts}"] * bool(parts) + ranks
