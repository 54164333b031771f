"""A command-line program: its typer application, its errors as one line each, its exit codes.

Whatever goes wrong ends in one line on standard error and an exit code: 0 fine, 2 bad input, 3 failure while running,
130 interrupted.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import typer

from bequest.errors import BequestError, did_you_mean

BAD_INPUT, FAILED, INTERRUPTED = 2, 3, 130
AGAIN = "interrupted; run the same command again to resume"
# typer carries its own copy of click in some versions and imports click in others; both name this class so.
USAGE_ERROR: type[Exception] = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")


@dataclass(frozen=True)
class Program:
    """An application with its commands: ``name`` heads its errors, ``typed`` starts it (by default the name)."""

    app: typer.Typer
    name: str
    commands: Iterable[str]
    typed: str | None = None

    def main(self, arguments: Sequence[str] | None = None) -> None:
        """Run a command and leave with its exit code."""
        # Read when torch starts its threads.  Threads that spin while they wait are the default, and where another
        # process wants one of the cores they wait for a thread that is not running: two threads on a two-core machine
        # with one core taken trained at 250 tokens/s spinning and at 9,000 sleeping (docs/benchmarks.md).
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        # transformers and PEFT announce their own deprecations on the terminal; they are not the user's matter.
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft)\b")
        code = self.call(arguments)
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            # The reader (``head``, ``less``) has left; Python must not complain about it while it shuts down.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(code)

    def call(self, arguments: Sequence[str] | None = None) -> int:
        """Run a command; returns its exit code.  No exception leaves; BEQUEST_DEBUG=1 in the environment shows it."""
        given = list(arguments) if arguments is not None else None
        try:
            code = self.app(args=given, prog_name=self.typed or self.name, standalone_mode=False)
            if code == INTERRUPTED:  # typer takes a Ctrl-C for itself
                return self.fail(AGAIN, INTERRUPTED)
            return code if isinstance(code, int) else 0
        except BequestError as error:
            return self.fail(error.line(), error.exit_code, error)
        except USAGE_ERROR as error:
            return self.fail(self.usage(error), BAD_INPUT, error)
        except BrokenPipeError:
            return 0
        except (KeyboardInterrupt, typer.Abort) as error:
            return self.fail(AGAIN, INTERRUPTED, error)
        except MemoryError as error:
            return self.fail(f"memory ran out ({error}); lower micro_batch_tokens or batch", FAILED, error)
        except OSError as error:
            return self.fail(*disk(error), error)
        except Exception as error:
            if type(error).__name__ == "OutOfMemoryError":
                return self.fail("the device's memory ran out; lower micro_batch_tokens or batch", FAILED, error)
            text = " ".join(f"{type(error).__name__}: {error}".split())
            return self.fail(f"{text}; this is a bug in {self.name}: BEQUEST_DEBUG=1 shows where", FAILED, error)

    def fail(self, line: str, code: int, error: BaseException | None = None) -> int:
        """One line on standard error; returns the exit code."""
        if error is not None and os.environ.get("BEQUEST_DEBUG"):
            traceback.print_exception(error)
        coloured = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
        head = f"\033[1;31m{self.name}:\033[0m" if coloured else f"{self.name}:"
        sys.stderr.write(f"{head} {line}\n")
        return code

    def usage(self, error: Exception) -> str:
        """A wrong command line as one line with its remedy."""
        message = " ".join(error.format_message().split())  # type: ignore[attr-defined]
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else self.name
        message = message[:1].lower() + message[1:]
        words = message.split("'")
        if message.startswith("no such command") and len(words) > 1:
            return f"no such command {words[1]!r}; {did_you_mean(words[1], self.commands)}"
        return f"{message.rstrip('.')}; see {path} --help"


def disk(error: OSError) -> tuple[str, int]:
    """An error of the operating system: a full disk fails a run, a path that cannot be used is bad input."""
    place = f"{error.filename}: " if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        return f"{place}the disk is full or a file-size limit was met; free some space and run it again", FAILED
    return f"{place}{(error.strerror or str(error)).lower()}; check the path and its permissions", BAD_INPUT
