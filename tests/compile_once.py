"""Each kernel is compiled once for all processes of a run: who needs what another compiles waits for it."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from pathlib import Path

from numba.core.compiler_lock import global_compiler_lock
from numba.core.dispatcher import Dispatcher

try:
    import fcntl
except ImportError:  # a system without locks of files: processes compile the same, as they would without this file
    fcntl = None

_held: Counter[str] = Counter()  # what this process compiles at the moment; numba's lock guards it


def compile_once() -> None:
    """Let numba's dispatchers take a lock on the kept code of their function while they look for it or make it.

    Locks are taken from callers to callees, so that two processes never wait for each other. They also keep two
    processes from losing each other's entries in the index of a function.
    """
    if fcntl is None or getattr(Dispatcher.compile, "takes_turns", False):
        return
    compile_alone = Dispatcher.compile

    def compile(self, sig):
        with global_compiler_lock, _turn(self):
            return compile_alone(self, sig)

    compile.takes_turns = True
    Dispatcher.compile = compile


@contextmanager
def _turn(dispatcher):
    folder = dispatcher._cache.cache_path
    name = f"{dispatcher.py_func.__module__}.{dispatcher.py_func.__qualname__}"
    key = f"{folder}/{name}"
    if folder is None or _held[key]:
        yield
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    with open(f"{key}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        _held[key] += 1
        try:
            yield
        finally:
            _held[key] -= 1
