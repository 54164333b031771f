"""``carry``: tuned weights from one directory onto another base, without training.

    bequest carry triage-v1 --onto big triage-big

Onto a base that grew from the old one they go through the growth maps that its lineage records: what they compute is
unchanged where growth was exact, and merging commutes with growing always.  Onto another base of the same shape an
adapter comes out as the same adapter, bit for bit, and a fully tuned model as the new base plus the difference that
tuning made.  Either way the result is a plain PEFT adapter, or a plain model.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

from bequest import checkpoints, lineage
from bequest.anatomy import FAMILIES, head_of
from bequest.errors import InputError
from bequest.recycling.fitting import is_known_as
from bequest.recycling.through_maps import Carry
from bequest.recycling.tuned import Generation, Tuned, read_tuned
from bequest.storage import atomic_directory
from bequest.tensor_files import check_target, weight_files


def carry(
    tuned: str | Path, onto: str | Path, out: str | Path, *, old: str | Path | None = None, force: bool = False
) -> Tuned:
    """Carry tuned weights onto another base: one of the same shape, or one that grew from theirs.

    The directory has a lineage but no model card: ``bequest carry`` writes one beside it, as does
    ``bequest.reports.card.write_card(out)``.

    Args:
        tuned: a PEFT adapter's directory (LoRA, rsLoRA, DoRA, IA3, prompt or prefix tuning onto grown bases), a fully
            tuned classifier's, or, with ``old``, any fully tuned model's.
        onto: the base to carry them onto: a directory or a Hub id.
        out: the directory to make: a plain PEFT adapter (or model) with the tokenizer and a ``lineage.json``.
        old: the base they were tuned on, where nothing recorded it: a directory or a Hub id.  DoRA and fully tuned
            models need its weights.
        force: replace ``out`` if it exists.

    Returns:
        The carried weights; ``carried`` says what carrying preserved, ``notes`` what was compared.

    What is called exact is proven: the weights of the tuned model and of every base on the way are compared with their
    lineage, which costs one read of each and holds no more than a few MB of them (see ``lineage.proven_id``).

    Raises:
        InputError: a kind of adapter without a rule, maps that were not recorded, a tensor that finds no place of its
            shape on the base, another tokenizer, ``old`` is not there or not the base that the weights record, a
            damaged file, ``out`` exists.
    """
    target = check_target(out, force=force, sources=[tuned, onto, *([old] if old is not None else [])])
    base = Generation(onto)
    weight_files(tuned)  # before anything else is asked of them
    source = with_variant(read_tuned(tuned, any_head=old is not None), checkpoints.load_config(onto))
    before = given_base(old) if old is not None else recorded_base(source)
    with atomic_directory(target, force=force) as directory:
        made = Carry()(source, before, base, None, out=directory)
        assert made.carried is not None
        parents = [lineage.parent_of(source.path, "tuned", child=target)]
        if Path(onto).is_dir():
            parents.append(lineage.parent_of(onto, "base", child=target))
        record = lineage.make_lineage(
            directory,
            name=target.name,
            stage="carry",
            method="carry" if made.carried.through else "direct",
            parameters=made.parameters(),
            parents=parents,
        )
        lineage.write_lineage(directory, record)
    notes = (*compared(source, base, made), *made.notes)
    return replace(made, path=target, base=next((p.id for p in parents if p.role == "base"), None), notes=notes)


def with_variant(tuned: Tuned, config: dict[str, object]) -> Tuned:
    """An adapter that names no task, with the variant that its tensors' names show: the base's own, or none."""
    family = FAMILIES.get(str(config.get("model_type")))
    if tuned.kind != "adapter" or tuned.head != "bare" or family is None:
        return tuned
    inside = f"base_model.model.{family.prefix}."
    if not any(name.startswith(inside) for name in checkpoints.header_shapes(tuned.path)):
        return tuned
    return replace(tuned, head=head_of(config))


def given_base(old: str | Path) -> Generation:
    """The old base that the caller names.

    Raises:
        InputError: neither a model's directory nor a Hub model that can be reached.
    """
    place = checkpoints.fetch(old)
    if lineage.kind_of(place) != "model":
        raise InputError("is an adapter, and the base model is needed", where=old, key="old")
    return Generation(place, called=None if Path(old).is_dir() else str(old))


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
    if parent is None or place is None or not place.is_dir() or not is_known_as(place, parent.id):
        return None
    return Generation(place, called=hub)


def compared(tuned: Tuned, base: Generation, made: Tuned) -> tuple[str, ...]:
    """What lineages and digests say about the old and the new base."""
    if made.carried is not None and made.carried.through:
        named = f"tuned on {tuned.base_name}" if tuned.base_name else "tuned on its source"
        return (f"{named}; {base.name} grew from it: through the maps of {', '.join(made.carried.through)}",)
    if tuned.base is None:
        return ("nothing recorded which base these weights were tuned on",)
    if not Path(base.path).is_dir():
        return ("the new base is not on this disk: its weights were not compared",)
    if is_known_as(base.path, tuned.base):
        return ("the new base is the one they were tuned on",)
    return (f"tuned on {tuned.base_name} ({tuned.base[:12]}), now on {base.name}: tokenizer and shapes agree",)
