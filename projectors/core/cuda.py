"""The CUDA engine: compile kernels through CuPy, launch them on the caller's stream, follow the caller's arrays."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from .arrays import Array, is_torch
from .compiling import spare_folder

_LOG = logging.getLogger(__name__)

Arguments = tuple[Array | np.generic | float | None, ...]
"""What a kernel is called with: arrays on the device, numbers, and None for a null pointer."""


class Engine(Protocol):
    """What the host code needs: an array namespace, an FFT module, and a way to launch a kernel."""

    xp: ModuleType
    fft: ModuleType

    def launch(
        self, source: str, kernel: str, real: str, grid: tuple[int, ...], block: tuple[int, ...], args: Arguments
    ) -> None:
        """Run `kernel` of `source` compiled for `real` ("float" or "double").

        Args:
            source : "package/file", such as "emrecon.projectors.spect/spect.cu".
        """
        ...


class CupyEngine:
    """CuPy: RawModule kernels on the current stream."""

    def __init__(self) -> None:
        self.xp = import_cupy()
        self.fft = import_module("cupyx.scipy.fft")

    def launch(
        self, source: str, kernel: str, real: str, grid: tuple[int, ...], block: tuple[int, ...], args: Arguments
    ) -> None:
        """Run a kernel on the current device and stream, compiling its file at the first call."""
        _module(source, real).get_function(kernel)(grid, block, args)


def import_cupy() -> ModuleType:
    """Return the module cupy, or say how to get it."""
    _keep_kernels()
    try:
        import cupy
    except ImportError as error:
        raise ImportError(
            'arrays on a CUDA device need CuPy: pip install "emrecon[cuda12]" or "emrecon[cuda13]" to suit the driver'
        ) from error
    return cupy


@cache
def _keep_kernels() -> None:
    """Let CuPy keep what it compiles in a folder that can be written: it stops where its own, of the home, cannot."""
    if "CUPY_CACHE_DIR" in os.environ or os.environ.get("CUPY_CACHE_IN_MEMORY") == "1":
        return
    try:
        Path("~/.cupy/kernel_cache").expanduser().mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        folder = spare_folder()
        if folder is not None:
            os.environ["CUPY_CACHE_DIR"] = str(folder / "cupy")  # read at every compilation


@cache
def _module(source: str, real: str) -> Any:
    package, _, name = source.rpartition("/")
    _LOG.info("compiling CUDA kernels of %s, or taking them from CuPy's cache", source)
    code = (files(package) / name).read_text(encoding="utf-8")
    return import_cupy().RawModule(code=code, options=(f"-DREAL={real}", "--std=c++14", "--use_fast_math"))


@contextmanager
def on_device(x: Array) -> Iterator[tuple[Engine, Array]]:
    """Yield an engine and `x` as a CuPy array, on the device and current stream of `x` (torch's for a tensor)."""
    engine = CupyEngine()
    cupy = engine.xp
    with ExitStack() as stack:
        if not is_torch(x):
            stack.enter_context(x.device)
            yield engine, cupy.ascontiguousarray(x)
            return
        import torch

        stack.enter_context(cupy.cuda.Device(x.device.index))
        stack.enter_context(cupy.cuda.ExternalStream(torch.cuda.current_stream(x.device).cuda_stream))
        yield engine, cupy.from_dlpack(x.detach().contiguous())


def returned_like(values: Array, x: Array) -> Array:
    """Return a CuPy result as a tensor where `x` is one, without a copy."""
    if not is_torch(x):
        return values
    import torch

    return torch.from_dlpack(values)
