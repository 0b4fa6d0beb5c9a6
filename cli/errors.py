"""What went wrong, in a line, and the exit code that a script can rely on."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path

from emrecon.projectors.core.files import is_about_writing
from emrecon.recon import ArgumentError, LostRankError

from .outputs import OutputError
from .printing import printable


class ExitCode(IntEnum):
    """What a script can rely on."""

    DONE = 0
    ERROR = 1
    USAGE = 2
    INPUT = 3
    OUTPUT = 4
    INTERRUPTED = 130


class InterruptionError(Exception):
    """Someone pressed Control-C, or the system asked the command to end; the text says where it can go on."""


@contextmanager
def interruptible(advice: Callable[[], str]) -> Iterator[None]:
    """Turn Control-C in the body into InterruptionError, with advice on how to go on."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise InterruptionError(advice()) from stop


def exit_code(error: BaseException) -> ExitCode:
    """Return the exit code of an error."""
    if isinstance(error, (InterruptionError, KeyboardInterrupt)):
        return ExitCode.INTERRUPTED
    if isinstance(error, OutputError) or (isinstance(error, OSError) and is_about_writing(error)):
        return ExitCode.OUTPUT
    if isinstance(error, ArgumentError):
        return ExitCode.USAGE
    if is_memory(error) or isinstance(error, FloatingPointError):
        return ExitCode.ERROR
    return ExitCode.INPUT if isinstance(error, (OSError, ValueError, TypeError, ArithmeticError)) else ExitCode.ERROR


def is_memory(error: BaseException) -> bool:
    """Whether there was not enough memory, of this machine or of a GPU, also as torch says it."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(said in str(error) for said in ("can't allocate", "out of memory"))
    )


def explained(error: BaseException) -> str:
    """Return what to print for an error: one short text that a terminal shows as it is."""
    return printable(_text(error))


def _text(error: BaseException) -> str:
    if isinstance(error, InterruptionError):
        return f"interrupted; {error}"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if is_memory(error):
        return f"not enough memory{_in_function(error)}: {str(error) or 'no room for what it holds'}"
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{_name(error.filename)}: {error.strerror}"
    expected = isinstance(error, (OSError, ValueError, TypeError, ImportError, FloatingPointError, LostRankError))
    if expected and not isinstance(error, RecursionError) and str(error):
        return str(error)
    place = _in_function(error)
    return f"unexpected {type(error).__name__}{place}: {error} (EMRECON_TRACEBACK=1 shows where it comes from)"


def _name(path: object) -> str:
    return os.fsdecode(path) if isinstance(path, (str, bytes, Path)) else str(path)


def _in_function(error: BaseException) -> str:
    """Where in the library the error arose: " in read_scan"; nothing where that is not known."""
    names = [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__) if _is_ours(frame)]
    public = [name for name in names if not name.startswith(("_", "<")) and name not in ("main", "run", "guarded")]
    return f" in {public[-1]}" if public else ""


def _is_ours(frame: object) -> bool:
    return str(getattr(frame, "f_globals", {}).get("__name__", "")).startswith("emrecon.")
