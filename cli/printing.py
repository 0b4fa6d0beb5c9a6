"""Printing that loses no results: text is shown as it is, and a closed or full output does not end the work."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

from emrecon.projectors.core.bars import show_progress

LONGEST = 2000
"""The most characters of a message that are shown: what a damaged file holds may be a million."""


def plain_console(*, quiet: bool = False, stderr: bool = False) -> Console:
    """Return a console that shows text as it is: names of files may look like rich's markup or codes of emoji."""
    return Console(quiet=quiet, stderr=stderr, soft_wrap=True, markup=False, emoji=False, highlight=False)


def printable(text: str) -> str:
    """Return a text without characters that steer a terminal, and cut in the middle where it is very long."""
    if len(text) > LONGEST:
        end = LONGEST // 4
        text = f"{text[: LONGEST - end]} ... ({len(text) - LONGEST} characters are left out) ... {text[-end:]}"
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


@cache
def messages() -> Console:
    """Return the console on standard error, which bars, notes and errors share so that lines stay whole."""
    return plain_console(stderr=True)


def note(text: str, to: Console | None = None) -> None:
    """Print something that the user should look at, on standard error unless told."""
    (to or messages()).print(Text("note: ", "yellow") + Text(text))


@contextmanager
def quietly(quiet: bool) -> Iterator[None]:
    """Show bars for the work in the body, or, where that is wanted, nothing of the log but errors."""
    log = logging.getLogger("emrecon")
    # whoever else listens, such as the record of a run, hears everything
    told: list[logging.Logger | logging.Handler] = [one for one in log.handlers if isinstance(one, _Printer)] or [log]
    levels = [one.level for one in told]
    for one in told if quiet else ():
        one.setLevel(logging.ERROR)
    try:
        with nullcontext() if quiet else show_progress(messages()):
            yield
    finally:
        for one, level in zip(told, levels):
            one.setLevel(level)


@contextmanager
def log_shown() -> Iterator[None]:
    """Print on standard error what the library logs in the body: warnings as notes."""
    log, handler = logging.getLogger("emrecon"), _Printer()
    level, passed_on = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False  # or a handler of the root logger prints it again
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = passed_on


@contextmanager
def warnings_kept() -> Iterator[list[str]]:
    """Give a list that gets every warning the library logs in the body, each once."""
    keeper = _Keeper(logging.WARNING)
    log = logging.getLogger("emrecon")
    log.addHandler(keeper)
    try:
        yield keeper.texts
    finally:
        log.removeHandler(keeper)


class _Keeper(logging.Handler):
    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = printable(record.getMessage())
        if text not in self.texts:
            self.texts.append(text)


class _Printer(logging.Handler):
    """Prints warnings as notes, each once: a folder that is looked at twice says the same twice."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text = printable(record.getMessage())
        if record.levelno >= logging.WARNING:
            if text not in self._said:
                self._said.add(text)
                note(text)
        else:
            messages().print(Text(text, "dim"))


class Steady:
    """A stream that goes on in silence once it cannot be written: `| head -1` has left, or the disk is full.

    `failure` is the error that ended it, None while it works.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failure: OSError | None = None

    @property
    def is_broken(self) -> bool:
        """Whether text was lost though someone waits for it: not where the reader of a pipe has left."""
        return self.failure is not None and self.failure.errno not in (errno.EPIPE, errno.EINVAL)

    def write(self, text: str) -> int:
        """Write text, unless the stream failed before."""
        return self._tried(lambda: self._stream.write(text), len(text))

    def flush(self) -> None:
        """Hand on what was written."""
        self._tried(self._stream.flush, None)

    def _tried(self, action: Any, otherwise: Any) -> Any:
        if self.failure is not None:
            return otherwise
        try:
            return action()
        except OSError as error:
            self.failure = error
            self._leave()
            return otherwise

    def _leave(self) -> None:
        """Send what is still in the buffer nowhere, or Python complains about it at its end."""
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def steady(stream: TextIO | None) -> Any:
    """Return a stream that neither an error nor a character outside its encoding stops; None stays None."""
    if stream is None or isinstance(stream, Steady):
        return stream
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")
    return Steady(stream)


def broken_output() -> OSError | None:
    """Return why standard output is incomplete, None where it is whole or nobody reads it any more."""
    out = sys.stdout
    if not isinstance(out, Steady):
        return None
    out.flush()
    return out.failure if out.is_broken else None
