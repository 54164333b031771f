"""Checkpoint to checkpoint: rows of the source in, rows of the target out, at about the speed of copying files.

The plan comes from the config and the files' headers, so every name, every size and every byte's place is known before
anything is written.  Each source tensor is read once, block by block; the blocks are filled by ``row_blocks.py`` as in
memory, and written by a second thread.  Memory: a few blocks, whatever the model's size.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bequest import lineage
from bequest.checkpoints import copy_tokenizer, is_adapter, live_config, load_config, meta_model
from bequest.checkpoints.shards import SHARD_BYTES, ShardWriter, ToStore
from bequest.checkpoints.stored import FLOATS, RowReader, Segment, found_segments, saved_segments
from bequest.errors import AnatomyError, InputError, RunError, did_you_mean
from bequest.growth.expert_rows import write_experts
from bequest.growth.feeding import Progress, alike, carry_out, jobs
from bequest.growth.plan import GrowthPlan, Method, plan_growth
from bequest.lineage.digesting import remember_digest
from bequest.storage import atomic_directory, free_bytes, write_json
from bequest.tensor_files import StoredTensor, check_target, stored_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_GENERATION = "generation_config.json"


def grow_checkpoint(
    source: str | Path,
    out: str | Path,
    to: Mapping[str, Any],
    method: Method = "auto",
    *,
    force: bool = False,
    shard_bytes: int = SHARD_BYTES,
    dtype: str | None = None,
    seed: int = 0,
    training_follows: bool = False,
    progress: Progress | None = None,
) -> GrowthPlan:
    """Grow a model directory into a new one, block by block.

    The directory has a lineage but no model card: ``bequest grow`` writes one beside it, as does
    ``bequest.reports.card.write_card(out)``.

    Args:
        source: a model directory with safetensors weights.
        out: the directory to make: config, weights, the source's tokenizer and generation config, a lineage.
        to, method, seed, training_follows: as for :func:`bequest.grow`.
        force: replace an existing ``out``.
        shard_bytes: the most bytes of one file of weights.
        dtype: what the weights are stored in (``"bfloat16"``); by default each as in the source.
        progress: called with (bytes written, bytes in all).

    Returns:
        The plan that was carried out; ``plan.record()`` is what a lineage keeps.

    Raises:
        InputError: no whole model there, or sizes, methods or a dtype that cannot be.
        AnatomyError: the files and the family's table disagree; nothing is left then.
        RunError: the disk is full or cannot be read, another run is making ``out``, or a value is too large for
            float16; nothing half-written is left.
    """
    directory = Path(source)
    if not directory.is_dir() or is_adapter(directory):
        raise InputError(
            "no such model directory", where=source, remedy="give a directory with config.json and weights"
        )
    target = check_target(out, force=force, sources=[directory])
    if dtype is not None and dtype not in FLOATS.values():
        remedy = did_you_mean(dtype, FLOATS.values())
        raise InputError(f"no dtype {dtype!r} that weights are stored in", key="dtype", remedy=remedy)
    plan = plan_growth(load_config(directory), to, method, seed=seed, training_follows=training_follows)
    plan.final_maps(where=source)
    checked = _checked(directory, plan)
    tensors = _to_store(plan, checked, dtype)
    _check_room(target, sum(tensor.bytes for tensor in tensors.values()))
    with atomic_directory(target, force=force) as temporary:
        _write_weights(plan, checked, tensors, temporary, shard_bytes, progress)
        write_json(temporary / "config.json", _stored_config(plan, directory, dtype))
        copy_tokenizer(directory, temporary)
        if (directory / _GENERATION).is_file():
            shutil.copyfile(directory / _GENERATION, temporary / _GENERATION)
        lineage.write_lineage(temporary, _lineage(plan, temporary, directory, target, dtype))
    return plan


def _lineage(plan: GrowthPlan, made: Path, source: Path, out: Path, dtype: str | None) -> lineage.Lineage:
    """The lineage of what lies whole in ``made`` and will lie in ``out``."""
    return lineage.make_lineage(
        made,
        name=out.name,
        stage="grow",
        method="+".join(plan.methods),
        parameters={"to": dict(plan.to), **({"dtype": dtype} if dtype is not None else {})},
        maps=plan.record(),
        parents=[lineage.parent_of(source, "base", child=out)],
        seed=plan.seed,
    )


@dataclass(frozen=True)
class _Source:
    """The source's weights, which are what its config and its family's table say.

    Args:
        stored: tensor on the disk -> where it lies.
        segments: parameter -> its segments; aliases too.
        twins: owner -> its stored alias.
    """

    stored: Mapping[str, StoredTensor]
    segments: Mapping[str, tuple[Segment, ...]]
    twins: Mapping[str, str]

    def dtype(self, name: str) -> str:
        """The stored dtype of a parameter."""
        return self.stored[self.segments[name][0].name].dtype

    def in_files(self) -> list[str]:
        """The parameters in the order in which they lie in the files."""

        def place(name: str) -> tuple[str, int]:
            first = self.stored[self.segments[name][0].name]
            return first.file.name, first.start

        return sorted(self.segments, key=place)


def _checked(directory: Path, plan: GrowthPlan) -> _Source:
    """The source's tensors; the config, the table, the index and the headers must agree."""
    source = plan.source
    model = meta_model(source.config)
    stored = stored_tensors(directory)
    shapes = {name: tensor.shape for name, tensor in {**source.tensors, **source.aliases}.items()}
    segments = _segments(stored, shapes, model, plan)
    for name, held in segments.items():
        kinds = {stored[segment.name].dtype for segment in held}
        if len(kinds) > 1 or not kinds <= FLOATS.keys():
            message = f"is stored as {' and '.join(sorted(kinds))}, which cannot be grown"
            remedy = "load the model and save it again as bfloat16 or float32"
            raise InputError(message, where=directory, key=name, remedy=remedy)
    twins = {source.tied[alias]: alias for alias in source.aliases if alias in segments}
    return _Source(stored, segments, twins)


def _segments(
    stored: Mapping[str, StoredTensor],
    shapes: Mapping[str, tuple[int, ...]],
    model: PreTrainedModel,
    plan: GrowthPlan,
) -> dict[str, tuple[Segment, ...]]:
    """Parameter -> its segments, after the table has accounted for every tensor of the files and its shape."""
    from bequest.checkpoints import to_memory_names

    taken = model.state_dict().keys()
    memory = to_memory_names(stored, model)
    left_out = {
        name for name, found in memory.items() if found is None or (found not in taken and plan.source.droppable(found))
    }
    kept = {name: found for name, found in memory.items() if name not in left_out and found is not None}
    segments = found_segments(kept, shapes, model)
    seen = {found: tuple(stored[name].shape) for name, found in kept.items() if found not in shapes}
    for parameter, held in segments.items():
        wrong = [segment for segment in held if stored[segment.name].shape != segment.shape]
        if wrong and len(held) > 1:
            message = f"the file has {stored[wrong[0].name].shape} where the config gives {wrong[0].shape}"
            raise AnatomyError(message, key=wrong[0].name)
        seen[parameter] = stored[held[0].name].shape if wrong else shapes[parameter]
    plan.source.check(seen)
    return segments


def _to_store(plan: GrowthPlan, source: _Source, dtype: str | None) -> dict[str, ToStore]:
    """Target parameter -> its segments on the disk and its dtype."""
    names = {torch_name: name for name, torch_name in FLOATS.items()}
    shapes = {name: tensor.shape for name, tensor in plan.target.tensors.items()}
    origins = {planned.name: planned.source for planned in plan.tensors}
    return {
        name: ToStore(segments, names[dtype] if dtype is not None else source.dtype(origins[name]))
        for name, segments in saved_segments(shapes, meta_model(plan.target_config)).items()
    }


def _check_room(target: Path, needed: int) -> None:
    free = free_bytes(target)
    if needed > free:
        raise RunError(
            f"the disk is full: {needed / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free",
            where=target,
            remedy="free some space and run the same command again",
        )


def _write_weights(
    plan: GrowthPlan,
    source: _Source,
    tensors: Mapping[str, ToStore],
    out: Path,
    shard_bytes: int,
    progress: Progress | None,
) -> None:
    """The target's tensors; what was read and written is digested on the way and not read again."""
    dtypes = {name: getattr(torch, FLOATS[tensor.dtype]) for name, tensor in tensors.items()}
    fillings = alike(plan, dtypes) if plan.upcycling is None else []
    todo = jobs(fillings, list(plan.source.tensors), source.in_files(), source.twins)
    with (
        _one_thread(),
        RowReader(source.stored, source.segments, digest=True) as reader,
        ShardWriter(out, tensors, shard_bytes=shard_bytes) as writer,
    ):
        carry_out(fillings, todo, reader, writer, progress)
        if plan.upcycling is not None:
            write_experts(plan, reader, writer, dtypes, source.twins, progress)
        written = writer.finish()
    for place, sha256 in [*written, *reader.digests()]:
        remember_digest(place.file, place.start, place.length, sha256)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Torch computes on one thread: the others read, write and digest."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _stored_config(plan: GrowthPlan, directory: Path, dtype: str | None) -> dict[str, Any]:
    """The target's config as transformers writes it."""
    config = live_config(plan.target_config).to_dict()
    stored = load_config(directory)
    for key in ("dtype", "torch_dtype"):
        if stored.get(key) is not None:
            config["dtype"] = stored[key]
    if dtype is not None:
        config["dtype"] = dtype
    # Neither where it came from, nor code that is not copied, nor an empty note on quantisation.
    for key in ("_name_or_path", "auto_map", "quantization_config"):
        config.pop(key, None)
    return dict(config)
