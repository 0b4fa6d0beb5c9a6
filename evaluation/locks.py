"""Locks between processes, on one machine or on a shared file system, that end with whoever holds them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

FILE = "lock"


@contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[bool]:
    """Hold a folder's lock in the body, and yield whether it is held: False where another process has it.

    The system takes the lock from a process that ends, killed or not. The file stays.

    Args:
        wait : until the other process lets go.

    Raises OSError where the file system has no locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / FILE).open("a+") as file:
        if not _take(file, wait):
            yield False
            return
        try:
            yield True
        finally:
            _release(file)


if os.name == "nt":
    import time

    def _take(file: IO[str], wait: bool) -> bool:
        msvcrt: Any = __import__("msvcrt")
        while True:
            with suppress(OSError):
                file.seek(0)
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
                return True
            if not wait:
                return False
            time.sleep(0.5)

    def _release(file: IO[str]) -> None:
        msvcrt: Any = __import__("msvcrt")
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _take(file: IO[str], wait: bool) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True

    def _release(file: IO[str]) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)
