"""How much memory there is, asked before work begins that would otherwise be ended by the system without a word."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def available_memory() -> float:
    """Return how many bytes this process may still take; infinity where the system does not say.

    The least of what the machine has free (swap included), what the limit of its container or batch job leaves, and
    what the limit of the process (`ulimit -v`) leaves.
    """
    return min((math.inf, *_machine(), *_control_groups(), *_process()))


def require_memory(n_bytes: float, what: str, advice: str = "") -> None:
    """Raise MemoryError, with an estimate, where `what` needs more bytes than there are.

    Args:
        what : the subject of the message, such as "an image of 4000x4000x4000 voxels".
        advice : how less would do.
    """
    free = available_memory()
    if n_bytes > free:
        raise MemoryError(too_large(n_bytes, free, what, advice))


def too_large(n_bytes: float, free: float, what: str, advice: str = "") -> str:
    """Return the message about something that needs more memory than there is."""
    need = f"about {in_words(n_bytes)} of memory" if n_bytes < 2.0**60 else "more memory than any machine has"
    said = f"{what} needs {need}, and {in_words(max(free, 0.0))} are free"
    return f"{said}; {advice}" if advice else said


def in_words(n_bytes: float) -> str:
    """Return a number of bytes with a unit: "1.5 GiB"."""
    power = min(int(math.log(max(n_bytes, 1), 1024)), len(_UNITS) - 1)
    return f"{n_bytes / 1024**power:.4g} {_UNITS[power]}"


def _machine() -> Iterator[float]:
    found = _table(Path("/proc/meminfo"), ":")
    if "MemAvailable" in found:
        yield 1024 * (found["MemAvailable"] + found.get("SwapFree", 0))
    elif sys.platform == "darwin":
        yield float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _control_groups() -> Iterator[float]:
    """What the limits of Linux's control groups leave, of this group and of those that hold it."""
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, kinds, place = line.split(":", 2)
            root = Path("/sys/fs/cgroup") if not kinds else Path("/sys/fs/cgroup/memory")
            if kinds in ("", "memory"):
                own = root / place.lstrip("/")
                for folder in (own, *own.parents):
                    if folder == root.parent:
                        break
                    yield from _left_in(folder, kinds)


def _left_in(folder: Path, kinds: str) -> Iterator[float]:
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if kinds else ("memory.max", "memory.current")
    with suppress(OSError, ValueError):  # ValueError: "max", no limit
        most, used = (int((folder / name).read_text()) for name in names)
        cache = _table(folder / "memory.stat", " ")  # files that the system drops when it needs room
        yield float(most - used + cache.get("total_inactive_file" if kinds else "inactive_file", 0))


def _process() -> Iterator[float]:
    with suppress(ImportError, OSError, ValueError):
        import resource

        most = resource.getrlimit(resource.RLIMIT_AS)[0]
        if most != resource.RLIM_INFINITY:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            yield float(most - used)


def _table(path: Path, separator: str) -> dict[str, int]:
    """The whole numbers of lines "name separator number unit"."""
    with suppress(OSError, ValueError, IndexError):
        rows = (line.split(separator, 1) for line in path.read_text().splitlines())
        return {name.strip(): int(rest.split()[0]) for name, rest in rows}
    return {}
