"""The command line: ``bequest COMMAND``.

Starts fast: nothing heavy is imported before a command needs it.  Whatever goes wrong ends in one line on standard
error and an exit code: 0 fine, 2 bad input, 3 failure while running, 130 interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from bequest import __version__
from bequest.commands import growing, handling, looking, making
from bequest.commands.program import Program

COMMANDS: dict[str, Callable[..., None]] = {
    "demo": making.demo,
    "new": making.new,
    "list": looking.list_,
    "plan": making.plan,
    "run": making.run,
    "inspect": looking.inspect,
    "grow": growing.grow,
    "adopt": handling.adopt,
    "carry": handling.carry,
    "tree": looking.tree,
    "report": making.report,
}

app = typer.Typer(
    name="bequest",
    help="Hand down what one language model has learnt to the next: grow, inherit, adapt, recycle.",
    epilog="Start with: bequest demo, or bequest new recipe.yaml",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _name, _command in COMMANDS.items():
    app.command(_name)(_command)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        typer.echo(f"bequest {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit


PROGRAM = Program(app, "bequest", COMMANDS)


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script: run a command and leave with its exit code."""
    PROGRAM.main(arguments)


def call(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code.  No exception leaves, except with BEQUEST_DEBUG=1 in the environment."""
    return PROGRAM.call(arguments)


if __name__ == "__main__":
    main()
