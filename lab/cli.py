"""The lab's command line: ``python -m lab COMMAND``, from the top of a checkout.

Errors are one line and exit codes are bequest's: 0 fine, 2 bad input, 3 failure while running, 130 interrupted.
Try it: ``python -m lab list``, then ``python -m lab run stream --scale smoke``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from bequest.commands import terminal
from bequest.commands.program import FAILED, Program
from bequest.commands.terminal import AsJson
from bequest.errors import InputError, did_you_mean
from lab import places

SCALES = ("smoke", "cpu", "gpu")
Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME...]", help="Sources; all of them if none is named.")]
AnyCode = Annotated[bool, typer.Option("--any-code", help="Rows of other revisions of the code count too.")]
Hours = Annotated[float | None, typer.Option(help="Start no cell that would end later, going by the longest so far.")]
Methods = Annotated[list[str] | None, typer.Option(help="Only this method. Repeatable.")]
OnlyCheck = Annotated[bool, typer.Option("--check", help="Only say whether docs/evidence.md is what it should be.")]
Again = Annotated[bool, typer.Option("--again", help="Make it anew even where it stands in the cache.")]


def experiments() -> dict[str, Path]:
    """The experiment files by name."""
    return {path.stem: path for path in sorted((places.checkout() / "lab").glob("*.yaml"))}


def fetch(
    names: Names = None,
    again: Again = False,
    as_json: AsJson = False,
) -> None:
    """Corpora and tasks from the package registries: checked, unpacked, converted, never imported."""
    from lab.kit import fetching

    found = fetching.fetch(names or (), terminal.progress(as_json), again)
    if as_json:
        terminal.show_json([str(item.directory) for item in found])
        return
    terminal.show(f"{len(found)} sources in {places.cache() / 'data'}; each has a MANIFEST.json with its licence")


def model(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Models, such as minilm; see lab list.")],
    again: Again = False,
    as_json: AsJson = False,
) -> None:
    """Ready-to-use model directories out of registry packages, or pre-trained here."""
    from lab.models import MODELS, make

    for name in names:
        if name not in MODELS:
            raise InputError(f"no model {name!r}", remedy=f"{did_you_mean(name, MODELS)} (python -m lab list)")
    console = terminal.progress(as_json)
    made = [make(name, console, again=again) for name in names]
    if as_json:
        terminal.show_json([str(path) for path in made])
        return
    terminal.show(*(str(path) for path in made))


def run(
    experiment: Annotated[str, typer.Argument(metavar="EXPERIMENT", help="A name (see lab list) or a YAML file.")],
    scale: Annotated[str, typer.Option(help="smoke, cpu or gpu.")] = "smoke",
    seeds: Annotated[int | None, typer.Option(help="Only the first so many of the scale's seeds.", min=1)] = None,
    method: Methods = None,
    max_hours: Annotated[
        float | None, typer.Option(help="Start no cell that would end later, going by the longest so far.")
    ] = None,
    commit: Annotated[bool, typer.Option("--commit", help="Commit the results file after every row.")] = False,
    any_code: AnyCode = False,
    keep_models: Annotated[bool, typer.Option("--keep-models", help="Keep the weights of finished cells.")] = False,
    as_json: AsJson = False,
) -> None:
    """An experiment: every cell whose row does not stand yet; the same command again goes on."""
    from lab.experiments.running import run_experiment

    known = experiments()
    path = known.get(experiment, Path(experiment))
    if not path.is_file():
        near = did_you_mean(experiment, known)
        raise InputError(f"no experiment {experiment!r}", remedy=f"{near} (python -m lab list)")
    if scale not in SCALES:
        raise InputError(f"no scale {scale!r}", key="--scale", remedy=did_you_mean(scale, SCALES))
    smoke = scale == "smoke"  # made-up text proves that it runs, and nothing else: its rows are nobody's evidence
    summary = run_experiment(
        path,
        scale,
        seeds=seeds,
        methods=method or (),
        max_hours=max_hours,
        results=places.cache() / "smoke" if smoke else places.results(),
        work=places.cells(),
        console=terminal.progress(as_json),
        commit=commit and not smoke,
        any_code=any_code,
        keep_models=keep_models,
        made_of_rows=_page,  # so that no commit leaves docs/evidence.md behind the rows
    )
    if as_json:
        terminal.show_json(summary.as_json())
    if summary.failed:
        raise typer.Exit(FAILED)


def _page() -> list[Path]:
    """The evidence page, written anew from the rows that stand."""
    import lab.evidence

    return lab.evidence.write(places.checkout())


def evidence(check: OnlyCheck = False) -> None:
    """docs/evidence.md out of the committed results."""
    import lab.evidence

    root = places.checkout()
    if check:
        if differences := lab.evidence.check(root):
            raise InputError(differences[0], where=root / "docs" / "evidence.md", remedy="make evidence")
        terminal.show("docs/evidence.md is what the committed results say")
        return
    terminal.finish(lab.evidence.write(root)[0])


def list_(as_json: AsJson = False) -> None:
    """Sources, models and experiments: what there is."""
    from rich.table import Table

    from lab.experiments.reading import load_experiment
    from lab.kit.packages import SOURCES
    from lab.models import MODELS

    questions = {name: load_experiment(path).question for name, path in experiments().items()}
    if as_json:
        makes = {name: {"corpora": source.corpora, "tasks": source.tasks} for name, source in SOURCES.items()}
        terminal.show_json({"sources": makes, "models": list(MODELS), "experiments": questions})
        return
    sources = Table("source", "corpora", "tasks", "package", "licence", box=None, padding=(0, 2, 0, 0))
    for name, source in SOURCES.items():
        package = source.package
        made = (", ".join(source.corpora), ", ".join(source.tasks))
        sources.add_row(name, *made, f"{package.registry} {package.name} {package.version}", source.licence)
    models = Table("model", "what it is", box=None, padding=(0, 2, 0, 0))
    for name, maker in MODELS.items():
        models.add_row(name, maker.summary)
    asked = Table("experiment", "question", box=None, padding=(0, 2, 0, 0))
    for name, question in questions.items():
        asked.add_row(name, question)
    terminal.show(sources, "", models, "", asked)


COMMANDS: dict[str, Callable[..., None]] = {
    "fetch": fetch,
    "model": model,
    "run": run,
    "evidence": evidence,
    "list": list_,
}
app = typer.Typer(
    name="lab",
    help="The evidence of bequest: real corpora and models from the package registries, and experiments on them.",
    epilog="Start with: python -m lab list",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _name, _command in COMMANDS.items():
    app.command(_name)(_command)
PROGRAM = Program(app, "lab", COMMANDS, typed="python -m lab")
