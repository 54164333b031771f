"""``grow``, ``adopt`` and ``carry``: one directory in, one directory (or one lineage) out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bequest import lineage, storage
from bequest.commands import terminal
from bequest.commands.terminal import AsJson, Force
from bequest.errors import InputError, RunError
from bequest.recipe.quantities import ExplainedError, parse_count, short, short_bytes
from bequest.tensor_files import check_target, weight_files


def parse_sizes(words: list[str]) -> dict[str, Any]:
    """``["hidden_size=1024", "num_hidden_layers=24"]`` (commas work too) as a mapping.

    Raises:
        InputError: a word without ``=``, or a value that is no whole number.
    """
    sizes: dict[str, Any] = {}
    for pair in (pair for word in words for pair in word.split(",") if pair):
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise InputError(f"{pair!r} is not a size", key="--to", remedy="write --to hidden_size=1024")
        try:
            sizes[key.strip()] = parse_count(value)
        except ExplainedError as error:
            raise InputError(str(error), key=f"--to {key}", remedy=error.remedy) from None
    return sizes


def grow(
    source: Annotated[str, typer.Argument(metavar="SRC", help="The model directory to grow.")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="The directory to make.")],
    to: Annotated[list[str], typer.Option("--to", metavar="SIZE=N", help="Target sizes; others follow. Repeatable.")],
    method: Annotated[list[str] | None, typer.Option(help="auto, or methods by name. Repeatable.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Load both and measure what was preserved.")] = False,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Grow a model, checkpoint to checkpoint, one tensor at a time."""
    from bequest.growth import plan_growth

    place, target = Path(source), Path(out)
    if lineage.kind_of(place) == "adapter":
        raise InputError("is an adapter, and a model is needed", where=place, remedy="grow its base, then carry it")
    check_target(target, force=force, sources=[place])
    names = method or ["auto"]
    chosen: Any = names[0] if len(names) == 1 else names
    planned = plan_growth(place, parse_sizes(to), method=chosen)
    if planned.refusal is not None:
        nearest = ", ".join(f"{key}={value}" for key, value in (planned.nearest_exact or {}).items())
        raise InputError(planned.refusal, key="--to", remedy=f"the nearest that works: {nearest}" if nearest else None)
    verdict = f"{'exact' if planned.exact else 'approximate'}: {planned.reason}"
    if not as_json:
        inferred = "".join(f"\n    {key} {value}" for key, value in planned.inferred.items())
        size = short(planned.params)
        terminal.show(f"writes {target}/ ({size} parameters by {' + '.join(planned.methods)}; {verdict}){inferred}")

    from bequest.growth import grow_checkpoint
    from bequest.reports.card import write_card

    record = grow_checkpoint(place, target, planned.to, chosen, force=force).record()
    write_card(target)
    proof = _check(place, target, must=planned.exact) if check else None
    if as_json:
        found = vars(proof) if proof is not None else None
        made = lineage.read_lineage(target).id
        terminal.show_json({"out": out, "id": made, "params": planned.params, "plan": record, "check": found})
        return
    if proof is not None:
        terminal.show(proof.verdict)
    terminal.finish(target, load=terminal.loading_lines(target), next_step=f"bequest tree {target}")


def _check(source: Path, target: Path, *, must: bool) -> Any:
    """Measure what a growth preserved, and keep it in the lineage."""
    import dataclasses

    from bequest.checkpoints import load_model
    from bequest.growth import check_preservation
    from bequest.reports.card import write_card

    proof = check_preservation(load_model(source), load_model(target))
    lineage.add_measures(target, {"growth": dataclasses.asdict(proof)})
    write_card(target)
    if must and not proof.preserved:
        raise RunError(f"planned as exact, but {proof.verdict}", where=target, remedy="report this as a bug")
    return proof


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
    """Carry tuned weights onto another base of the same shape, without training."""
    lineage.kind_of(Path(tuned))
    check_target(out, force=force, sources=[tuned, onto])
    terminal.announce(f"writes {out}/ ({Path(tuned).name} on {Path(onto).name})", as_json=as_json)
    from bequest.recycling import carry as carry_weights
    from bequest.reports.card import write_card

    made: Any = carry_weights(tuned, onto=onto, out=out, old=old_base, force=force)
    write_card(Path(out))
    record = lineage.read_lineage(out)
    if as_json:
        terminal.show_json({"out": out, "id": record.id, "notes": list(made.notes)})
        return
    for note in made.notes:
        terminal.show(note)
    terminal.finish(out, load=terminal.loading_lines(Path(out)), next_step=f"bequest tree {out}")
