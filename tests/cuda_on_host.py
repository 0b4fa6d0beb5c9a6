"""Run the CUDA sources on the host by NumPy arrays: the same kernel code, compiled by a C++ compiler.

This checks indices, weights and the launch code without a GPU. `emulated_cupy` is the whole device: CuPy's names,
counted copies and shuffled threads.
"""

from __future__ import annotations

import ctypes
from importlib.resources import files

import numpy as np
import pytest
import scipy.fft
from emulated_cupy.compiling import compiler, library_of

__all__ = ["HostEngine", "compiler", "cupy_or_skip"]


def cupy_or_skip():
    """CuPy, or skip the test where CuPy or a GPU is missing."""
    cupy = pytest.importorskip("cupy")
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError:
        pytest.skip("no CUDA device")
    return cupy


class HostEngine:
    """Stands in for CuPy: NumPy arrays, and kernels that run on the host."""

    xp = np
    fft = scipy.fft

    def launch(self, source, kernel, real, grid, block, args):
        """Run every thread of a launch."""
        package, _, name = source.rpartition("/")
        library = library_of((files(package) / name).read_text(encoding="utf-8"), (f"-DREAL={real}",))
        values = [ctypes.c_void_p(a.ctypes.data) if isinstance(a, np.ndarray) and a.ndim else a for a in args]
        buffers = [v if isinstance(v, ctypes.c_void_p) else np.ascontiguousarray(v) for v in values]
        pointers = [ctypes.addressof(b) if isinstance(b, ctypes.c_void_p) else b.ctypes.data for b in buffers]
        array = (ctypes.c_void_p * len(pointers))(*pointers)
        sizes = [(ctypes.c_int * 3)(*map(int, (*extent, 1, 1)[:3])) for extent in (grid, block)]
        getattr(library, f"run_{kernel}")(*sizes, ctypes.c_int(0), ctypes.c_uint64(0), array)
