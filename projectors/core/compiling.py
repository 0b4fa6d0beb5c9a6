"""Compiled CPU kernels: their flags, the folder they are kept in, and a word on the log while they compile."""

from __future__ import annotations

import logging
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core import event

_LOG = logging.getLogger(__name__)

FLAGS: dict[str, Any] = {"error_model": "numpy", "fastmath": {"contract", "reassoc", "nsz", "arcp"}}
"""How arithmetic is compiled: sums may be reordered, NaN and infinity are kept."""


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function at its first call, without Python's lock; what was compiled is kept for later runs."""
    return _compiled(function)


def inline_kernel(function: Callable[..., Any]) -> Any:
    """Compile a function as a part of the kernels that call it."""
    return _compiled(function, inline="always")


def cache_folder() -> str | None:
    """Return the folder that compiled kernels are kept in, None where there is no folder that can be written."""
    probe = kernel(_probe)
    return str(probe.stats.cache_path) if probe.stats.cache_path else None


@cache
def spare_folder() -> Path | None:
    """Return a folder of this user among the temporary files, for compiled kernels where no other can be written.

    None where there is none, or where it belongs to someone else: compiled kernels are code that is run.
    """
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    folder = Path(tempfile.gettempdir()) / f"emrecon-kernels-{user}"
    try:
        is_new = not folder.exists()
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or not _is_ours(found):
            return None
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return None
    if is_new:
        _LOG.warning("compiled kernels are kept in %s; set NUMBA_CACHE_DIR to choose another folder", folder)
    return folder


def _is_ours(found: os.stat_result) -> bool:
    return not hasattr(os, "getuid") or (found.st_uid == os.getuid() and not found.st_mode & 0o022)


def _compiled(function: Callable[..., Any], **more: Any) -> Any:
    """Keep compiled code where numba does, else in the spare folder, else nowhere."""
    # No function is called from C: without that way in, which takes every array apart, kernels compile sooner.
    flags = {"nogil": True, "no_cfunc_wrapper": True, **FLAGS, **more}
    try:
        return numba.njit(cache=True, **flags)(function)
    except RuntimeError:  # numba finds no folder to write to: a read-only installation and no home
        folder = spare_folder()
    if folder is None:
        _warn_once()
        return numba.njit(**flags)(function)
    with _kept_in(folder):
        return numba.njit(cache=True, **flags)(function)


@contextmanager
def _kept_in(folder: Path) -> Iterator[None]:
    """Let numba keep what the body decorates in a folder; functions of the user's own are not touched."""
    before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(folder)
    try:
        yield
    finally:
        numba.config.CACHE_DIR = before


@cache
def _warn_once() -> None:
    _LOG.warning(
        "compiled kernels cannot be kept, and every run compiles them again, which takes minutes; set NUMBA_CACHE_DIR "
        "to a folder that can be written"
    )


def _probe() -> None:
    """Nothing: a function to ask where it would be kept."""


class _Announcer(event.Listener):
    """Says on the log that kernels of a module are compiled, once for each module."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def on_start(self, event: Any) -> None:
        """Look at the function that is about to be compiled."""
        function = getattr(event.data.get("dispatcher"), "py_func", None)
        module = getattr(function, "__module__", None) or ""
        if module.startswith("emrecon.") and module not in self._said:
            self._said.add(module)
            _LOG.info("compiling kernels of %s, at their first use; it can take a minute", module)

    def on_end(self, event: Any) -> None:
        """Nothing is to be said."""


event.register("numba:compile", _Announcer())
