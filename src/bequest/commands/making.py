"""``new``, ``plan``, ``run``, ``report`` and ``demo``: from a recipe to generations and a report."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from bequest import storage
from bequest.commands import terminal
from bequest.commands.terminal import AsJson, Force
from bequest.errors import InputError, did_you_mean

Recipe = Annotated[str, typer.Argument(metavar="RECIPE", help="The recipe's YAML file.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="Changes, such as stages.v1.tokens=5M.")
]


def templates() -> dict[str, str]:
    """The starter recipes: name -> text."""
    folder = resources.files("bequest.recipe") / "templates"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".yaml")), key=lambda file: file.name)
    return {file.name.removesuffix(".yaml"): file.read_text(encoding="utf-8") for file in files}


def new(
    path: Annotated[str | None, typer.Argument(metavar="[FILE]", help="Where to write it; without: printed.")] = None,
    template: Annotated[str, typer.Option(help="Which one; an unknown name lists them.")] = "lifecycle",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """A commented starter recipe, ready to run."""
    known = templates()
    if template not in known:
        remedy = f"{did_you_mean(template, known)} ({', '.join(known)})"
        raise InputError(f"no template {template!r}", key="--template", remedy=remedy)
    if path is None:
        if as_json:
            terminal.show_json({"template": template, "text": known[template]})
        else:
            typer.echo(known[template], nl=False)
        return
    target = Path(path)
    if target.is_dir() or (target.exists() and not force):
        what = "is a directory" if target.is_dir() else "already exists"
        raise InputError(what, where=target, remedy="pass --force to replace it, or name another file")
    storage.write_text(target, known[template])
    if as_json:
        terminal.show_json({"template": template, "path": str(target)})
        return
    terminal.finish(target, next_step=f"bequest plan {target}, then bequest run {target}")


def plan(recipe: Recipe, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """What a run would do and cost, in seconds, loading nothing."""
    from bequest.commands.plan_text import plan_json, plan_parts
    from bequest.planning import make_plan
    from bequest.recipe import load_recipe

    planned = make_plan(load_recipe(recipe, overrides or []))
    if as_json:
        terminal.show_json(plan_json(planned))
        return
    terminal.show(*plan_parts(planned))
    changes = "".join(f" {override}" for override in overrides or [])
    terminal.show(f"nothing was loaded or written; next: bequest run {recipe}{changes}")


def run(
    recipe: Recipe,
    overrides: Overrides = None,
    out: Annotated[str | None, typer.Option(help="The run directory; default runs/NAME.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run a recipe, or resume it: the same command again goes on where it was."""
    from bequest.planning import make_plan
    from bequest.recipe import load_recipe
    from bequest.recipe.quantities import short_bytes

    wanted = load_recipe(recipe, overrides or [])
    planned = make_plan(wanted)
    directory = Path(out or wanted.out or Path("runs") / wanted.name)
    stages = f"{len(wanted.stages)} stages, about {short_bytes(planned.disk_bytes)}"
    terminal.announce(f"writes {directory}/ ({stages})", as_json=as_json)

    from bequest.running import run as run_recipe

    report = run_recipe(wanted, directory, console=terminal.progress(as_json))
    made = [stage.name for stage in planned.stages if stage.kind != "measure"]
    if as_json:
        terminal.show_json(
            {
                "out": str(report.out),
                "report": str(report.report),
                "ran": report.ran,
                "skipped": report.skipped,
                "seconds": round(report.seconds, 1),
                "stages": {name: str(report.directory(name)) for name in made},
            }
        )
        return
    terminal.show(f"ran {_named(report.ran)}; stood already: {_named(report.skipped)}; {report.seconds:.0f} s")
    last = report.directory(made[-1]) if made else report.out
    terminal.finish(report.report, load=terminal.loading_lines(last), next_step=f"bequest tree {report.out}")


def _named(names: list[str]) -> str:
    return ", ".join(names) if names else "nothing"


def report(
    directory: Annotated[str, typer.Argument(metavar="RUN", help="A run's directory.")], as_json: AsJson = False
) -> None:
    """Write report.html of a run again, from what stands in its directory."""
    place = Path(directory)
    if not place.is_dir():
        raise InputError("no such directory", where=place, remedy="name the directory that bequest run made")
    from bequest.reports.report import write_report

    path = write_report(place)
    if as_json:
        terminal.show_json({"report": str(path)})
        return
    terminal.finish(path, next_step="open it in a browser; it works offline")


def demo(
    overrides: Overrides = None,
    out: Annotated[str, typer.Option(help="The run directory.")] = "runs/demo",
    as_json: AsJson = False,
) -> None:
    """The whole lifecycle on text that your Python installation already carries, on a CPU, in minutes."""
    from bequest.demonstration import run_demo

    terminal.announce(f"writes {out}/; the same command again resumes", as_json=as_json)
    shown = run_demo(Path(out), console=terminal.progress(as_json), overrides=overrides or [])
    if as_json:
        terminal.show_json(
            {"out": out, "report": str(shown.report), "summary": list(shown.summary), "seconds": shown.seconds}
        )
        return
    terminal.show(*shown.summary)
    terminal.finish(shown.report, next_step=f"bequest tree {out}")
