"""``carry``: tuned weights from one directory onto another base of the same shape, without training.

    bequest carry triage-v1 --onto v2 triage-v2

An adapter comes out as the same adapter, bit for bit, with its config naming the new base; a fully tuned model as the
new base plus the difference that tuning made.  Bases of another shape need the growth map between them, and say so.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

from bequest import checkpoints, lineage
from bequest.errors import InputError
from bequest.recycling.direct import Direct
from bequest.recycling.tuned import Generation, Tuned, read_tuned
from bequest.storage import atomic_directory
from bequest.tensor_files import check_target


def carry(
    tuned: str | Path, onto: str | Path, out: str | Path, *, old: str | Path | None = None, force: bool = False
) -> Tuned:
    """Carry tuned weights onto another base of the same shape.

    The directory has a lineage but no model card: ``bequest carry`` writes one beside it, as does
    ``bequest.reports.card.write_card(out)``.

    Args:
        tuned: a PEFT adapter's directory, or a fully tuned classifier's.
        onto: the base to carry them onto: a directory or a Hub id.
        out: the directory to make: a plain PEFT adapter (or model) with the tokenizer and a ``lineage.json``.
        old: the base they were tuned on; needed for a fully tuned model unless its lineage says where it lies.
        force: replace ``out`` if it exists.

    Returns:
        The carried weights; ``notes`` says what was compared and what to know about them.

    Raises:
        InputError: a tensor that finds no place of its shape on the base, another tokenizer, ``out`` exists.
    """
    target = check_target(out, force=force, sources=[tuned, onto, *([old] if old is not None else [])])
    source, base = read_tuned(tuned), Generation(onto)
    checkpoints.load_config(onto)  # refuses in one line what is no base
    before = Generation(old) if old is not None else recorded_base(source)
    with atomic_directory(target, force=force) as directory:
        made = Direct()(source, before, base, None, out=directory)
        parents = [lineage.parent_of(source.path, "tuned", child=target)]
        if Path(onto).is_dir():
            parents.append(lineage.parent_of(onto, "base", child=target))
        record = lineage.make_lineage(
            directory, name=target.name, stage="carry", method="direct", parameters=made.parameters(), parents=parents
        )
        lineage.write_lineage(directory, record)
    notes = (*compared(source, base), *made.notes)
    return replace(made, path=target, base=next((p.id for p in parents if p.role == "base"), None), notes=notes)


def recorded_base(tuned: Tuned) -> Generation | None:
    """The base that the weights' lineage points to, where it still lies there (or on the Hub) unchanged."""
    if not (tuned.path / lineage.FILE).is_file():
        return None
    parent = lineage.read_lineage(tuned.path).parent("base")
    hub = parent.name if parent is not None and parent.path is None and "/" in parent.name else None
    place = tuned.path / parent.path if parent is not None and parent.path else None
    if hub is not None:  # only a Hub id has a slash: a directory is recorded by its last part
        with contextlib.suppress(InputError):
            place = checkpoints.fetch(hub)
    if parent is None or place is None or not place.is_dir() or lineage.identity_of(place) != parent.id:
        return None
    return Generation(place, called=hub)


def compared(tuned: Tuned, base: Generation) -> tuple[str, ...]:
    """What the digests say about the old and the new base."""
    if tuned.base is None:
        return ("nothing recorded which base these weights were tuned on",)
    if not Path(base.path).is_dir():
        return ("the new base is not on this disk: its weights were not compared",)
    if lineage.identity_of(base.path) == tuned.base:
        return ("the new base is the one they were tuned on",)
    return (f"tuned on {tuned.base_name} ({tuned.base[:12]}), now on {base.name}: tokenizer and shapes agree",)
