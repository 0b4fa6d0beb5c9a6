"""The command `emrecon`, and what its exit codes mean."""

from __future__ import annotations

import os
import sys
from enum import IntEnum
from typing import Annotated

import typer
from rich.console import Console

from emrecon import __version__

from . import demo, info, reconstruct, simulate, train
from .outputs import OutputError

app = typer.Typer(
    name="emrecon",
    help="Reconstruct SPECT and PET scans. Exit codes: 0 done, 2 wrong usage, 3 unusable input, 4 output not written, "
    "130 interrupted, 1 anything else.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"emrecon {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Hold the options that come before a command."""


app.command("demo")(demo.demo)
app.command("reconstruct")(reconstruct.reconstruct)
app.command("info")(info.info)
app.command("simulate")(simulate.simulate)
app.command("train")(train.train)


class ExitCode(IntEnum):
    """What a script can rely on."""

    DONE = 0
    ERROR = 1
    USAGE = 2
    INPUT = 3
    OUTPUT = 4
    INTERRUPTED = 130


def main() -> None:
    """Run the command; one line on standard error says what went wrong (EMRECON_TRACEBACK=1 shows where)."""
    try:
        app(standalone_mode=True)
    except KeyboardInterrupt:
        _fail("interrupted", ExitCode.INTERRUPTED)
    except OutputError as error:
        _fail(error, ExitCode.OUTPUT)
    except (OSError, ValueError, TypeError) as error:
        _fail(error, ExitCode.INPUT)
    except (ImportError, MemoryError, FloatingPointError) as error:
        _fail(error or "not enough memory", ExitCode.ERROR)


def _fail(error: object, code: ExitCode) -> None:
    if os.environ.get("EMRECON_TRACEBACK") and isinstance(error, BaseException):
        raise error
    Console(stderr=True, soft_wrap=True).print(f"[bold red]emrecon:[/] {_text(error)}", highlight=False)
    sys.exit(int(code))


def _text(error: object) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error).replace("[", r"\[")


if __name__ == "__main__":
    main()
