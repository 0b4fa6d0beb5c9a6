"""What seconds and numbers depend on beside the code: processor, cores, versions, threads, memory."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("emrecon", "numpy", "scipy", "numba", "torch", "cupy-cuda12x", "cupy-cuda13x")


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that numbers come from, those that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


@cache
def machine() -> str:
    """Return processor, cores that this process may use, system, and GPU where torch has found one, as a line."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    said = [_processor(), f"{cores} cores", f"{platform.system()} {platform.machine()}"]
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        said.append(str(torch.cuda.get_device_name()))
    return ", ".join(said)


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or "unknown processor"


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Let projections, and torch where it is loaded, use n threads in the body."""
    before, torch = os.environ.get("EMRECON_NUM_THREADS"), sys.modules.get("torch")
    torch_before = torch.get_num_threads() if torch is not None else None
    os.environ["EMRECON_NUM_THREADS"] = str(n)
    if torch is not None:
        torch.set_num_threads(n)
    try:
        yield
    finally:
        if before is None:
            del os.environ["EMRECON_NUM_THREADS"]
        else:
            os.environ["EMRECON_NUM_THREADS"] = before
        if torch is not None:
            torch.set_num_threads(torch_before)


class PeakMemory:
    """The most memory of this process, in bytes, since the object was made.

    Where the system cannot begin anew (elsewhere than on Linux), since the process began.
    """

    def __init__(self) -> None:
        self._anew = False
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
            self._anew = True

    def bytes(self) -> int:
        """Return it; 0 where nobody tells."""
        with suppress(OSError, StopIteration, ValueError):
            lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
            return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
        with suppress(ImportError):
            import resource

            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return int(peak if sys.platform == "darwin" else 1024 * peak)
        return 0
