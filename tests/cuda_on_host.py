"""Run the CUDA sources on the host: the same kernel code, compiled by a C++ compiler, one thread after another.

This checks indices, weights and the launch code without a GPU. It cannot check races, but no kernel here shares memory
between threads.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
from functools import cache
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import scipy.fft

_SHIM = """
#include <cstddef>
#include <algorithm>
#include <cmath>
using std::min; using std::max;
struct Index { int x, y, z; };
static Index blockIdx, threadIdx, blockDim, gridDim;
typedef unsigned long long Counter;
static Counter atomicAdd(Counter* at, Counter value) { Counter old = *at; *at += value; return old; }
#define __global__
#define __device__
"""

_LAUNCHER = """
template <typename... P, typename... A>
static void launch(void (*kernel)(P...), const int* grid, const int* block, A... args) {
    blockDim = {block[0], block[1], block[2]};
    gridDim = {grid[0], grid[1], grid[2]};
    for (int z = 0; z < grid[2]; ++z) for (int y = 0; y < grid[1]; ++y) for (int x = 0; x < grid[0]; ++x)
        for (int b = 0; b < block[1]; ++b) for (int a = 0; a < block[0]; ++a) {
            blockIdx = {x, y, z}; threadIdx = {a, b, 0};
            kernel(args...);
        }
}
template <typename T> static T read(void* p) { return *static_cast<T*>(p); }
template <typename... P, std::size_t... I>
static void unpack(void (*kernel)(P...), const int* grid, const int* block, void** args, std::index_sequence<I...>) {
    launch(kernel, grid, block, read<P>(args[I])...);
}
template <typename... P>
static void run(void (*kernel)(P...), const int* grid, const int* block, void** args) {
    unpack(kernel, grid, block, args, std::index_sequence_for<P...>());
}
"""


def compiler() -> str | None:
    """The C++ compiler, or None where there is none."""
    return shutil.which("g++") or shutil.which("clang++")


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
        library = _library(source, real)
        values = [ctypes.c_void_p(a.ctypes.data) if isinstance(a, np.ndarray) and a.ndim else a for a in args]
        buffers = [v if isinstance(v, ctypes.c_void_p) else np.ascontiguousarray(v) for v in values]
        pointers = [ctypes.addressof(b) if isinstance(b, ctypes.c_void_p) else b.ctypes.data for b in buffers]
        array = (ctypes.c_void_p * len(pointers))(*pointers)
        sizes = [(ctypes.c_int * 3)(*map(int, (*extent, 1, 1)[:3])) for extent in (grid, block)]
        getattr(library, f"run_{kernel}")(*sizes, array)


@cache
def _library(source: str, real: str) -> ctypes.CDLL:
    package, _, name = source.rpartition("/")
    code = (files(package) / name).read_text(encoding="utf-8")
    kernels = [line.split("void ")[1].split("(")[0] for line in code.splitlines() if "__global__ void" in line]
    wrappers = "".join(
        f'extern "C" void run_{k}(const int* g, const int* b, void** a) {{ run({k}, g, b, a); }}\n' for k in kernels
    )
    whole = "#include <utility>\n" + _SHIM + code + _LAUNCHER + wrappers
    command = [str(compiler()), "-std=c++17", "-O2", "-shared", "-fPIC", f"-DREAL={real}"]
    key = hashlib.sha256("\0".join([whole, *command]).encode()).hexdigest()[:24]
    library = Path(os.environ["EMRECON_HOST_KERNELS"]) / f"{key}.so"
    if not library.exists():
        with TemporaryDirectory(dir=library.parent) as folder:
            cpp, made = Path(folder, "kernels.cpp"), Path(folder, "kernels.so")
            cpp.write_text(whole)
            subprocess.run([*command, str(cpp), "-o", str(made)], check=True, capture_output=True, text=True)
            made.replace(library)  # whole or not at all: another worker may make the same
    return ctypes.CDLL(str(library))
