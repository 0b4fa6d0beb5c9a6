"""The command `emrecon`, and what its exit codes mean."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from rich.text import Text

from emrecon import __version__

from . import benchmark, compare, demo, dose, enhance, info, reconstruct, report, simulate, train, view
from .errors import ExitCode, exit_code, explained
from .printing import broken_output, log_shown, messages, printable, steady

_LOG = logging.getLogger("emrecon")

app = typer.Typer(
    name="emrecon",
    help="Reconstruct SPECT and PET scans. Exit codes: 0 done, 2 wrong usage, 3 unusable input, 4 output not written, "
    "130 interrupted (143 by a signal to end), 1 anything else.",
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
app.command("view")(view.view)
app.command("compare")(compare.compare)
app.command("report")(report.report)
app.command("enhance")(enhance.enhance)
app.command("dose")(dose.dose)
app.command("simulate")(simulate.simulate)
app.command("train")(train.train)
app.command("benchmark")(benchmark.benchmark)


def main() -> None:
    """Run the command; one line on standard error says what went wrong (EMRECON_TRACEBACK=1 shows where)."""
    with _surroundings() as ended:
        code = _run()
        lost = broken_output()
        if lost is not None and code == ExitCode.DONE:
            _say(f"standard output is incomplete: {lost.strerror or lost}")
            code = int(ExitCode.OUTPUT)
        code = 128 + ended[0] if ended and code == ExitCode.INTERRUPTED else code
    if code:
        sys.exit(code)


def _run() -> int:
    """Run the command and return its exit code."""
    try:
        code = app(prog_name="emrecon", standalone_mode=False)
    except Exception as error:
        if hasattr(error, "format_message"):
            return _usage(error)
        return _failed(error)
    except KeyboardInterrupt as error:
        return _failed(error)
    if code == ExitCode.INTERRUPTED:  # typer keeps Control-C for itself where no command has advice
        _say("interrupted")
    return code if isinstance(code, int) else 0


def _usage(error: Any) -> int:
    """Say what is wrong with the command line, and return the exit code."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":  # the help is printed already
        return int(ExitCode.USAGE)
    if context is not None:
        messages().print(f"{context.get_usage()}\nTry '{context.command_path} --help' for help.")
    _say(printable(error.format_message()))
    return int(error.exit_code)


def _failed(error: BaseException) -> int:
    if os.environ.get("EMRECON_TRACEBACK"):
        raise error
    _say(explained(error))
    return int(exit_code(error))


def _say(text: str) -> None:
    messages().print(Text("emrecon: ", "bold red") + Text(text))


@contextmanager
def _surroundings() -> Iterator[list[int]]:
    """Keep results safe from outputs that fail and from signals to end; yield the signals that came.

    Warnings become notes. All is as it was after the body.
    """
    ended: list[int] = []

    def end(number: int, frame: FrameType | None) -> NoReturn:
        ended.append(number)
        raise KeyboardInterrupt

    streams, before = (sys.stdout, sys.stderr), None
    sys.stdout, sys.stderr = map(steady, streams)
    own_signals = threading.current_thread() is threading.main_thread()
    if own_signals and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        before = signal.signal(signal.SIGTERM, end)  # files are left complete, or not at all
    try:
        with warnings.catch_warnings(), log_shown():
            warnings.showwarning = _logged
            yield ended
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
        sys.stdout, sys.stderr = streams


def _logged(message: Warning | str, *where: Any, **more: Any) -> None:
    _LOG.warning("%s", message)


if __name__ == "__main__":
    main()
