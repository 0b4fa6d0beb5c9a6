"""`emrecon info`: what runs here, or what a file holds."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import typer

from emrecon import formats
from emrecon.projectors.core.compiling import cache_folder
from emrecon.projectors.core.threads import thread_count

from . import learned
from .printing import plain_console, printable

_PACKAGES = ("emrecon", "numpy", "scipy", "numba", "h5py", "nibabel", "torch", "cupy-cuda12x", "cupy-cuda13x")


def info(
    file: Annotated[Path | None, typer.Argument(help="A scan or an image; without it, this machine.")] = None,
) -> None:
    """Say what a file holds; without a file, which versions, threads, devices and kernels are in use."""
    facts = formats.describe(file) if file is not None else _machine()
    width, console = max(map(len, facts)), plain_console()
    for name, value in facts.items():
        console.print(f"{name:{width}}  {printable(_plain(value))}")


def _machine() -> dict[str, Any]:
    gpu = _gpu()
    return {
        "python": f"{sys.version.split()[0]} on {platform.system()} {platform.machine()}",
        **{name: _version(name) for name in _PACKAGES if _version(name)},
        "CPU threads": thread_count(),
        "CPU kernels": f"numba, compiled at first use and {_kept()}",
        "GPU": gpu or "none (install emrecon[cuda12] or emrecon[cuda13] to use one)",
        "GPU kernels": "CUDA through CuPy, compiled at first use" if gpu else "not in use",
        "trained networks": ", ".join(learned.PRETRAINED),
    }


def _kept() -> str:
    folder = cache_folder()
    return f"kept in {folder}" if folder else "not kept: no folder can be written; set NUMBA_CACHE_DIR"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _gpu() -> str:
    try:
        import cupy

        names = [
            cupy.cuda.runtime.getDeviceProperties(i)["name"].decode() for i in range(cupy.cuda.runtime.getDeviceCount())
        ]
    except Exception:  # CuPy is missing, or there is no driver: both mean that no GPU can be used
        return ""
    return ", ".join(names)


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return " x ".join(_plain(v) for v in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
