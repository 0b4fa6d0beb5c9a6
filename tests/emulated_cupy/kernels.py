"""`cupy.RawModule` and `cupy.RawKernel`: CUDA sources compiled for the host, launched with checked arguments."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from .arrays import ndarray
from .compiling import kernels_of, library_of
from .counting import note_launch
from .device import CUDADriverError
from .listing import LISTED, check_call

_KINDS = {"f": "f", "i": "i", "u": "u", "b": "b"}
_orders: list[int] = [0]
_recordings: list[list[Launch]] = []


@dataclass(frozen=True)
class Launch:
    """A launch: the values of its arguments before and after it ran, and which of them are arrays of the device."""

    code: str
    options: tuple[str, ...]
    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_mem: int
    before: tuple[np.ndarray, ...]
    after: tuple[np.ndarray, ...]
    is_array: tuple[bool, ...]


@contextmanager
def thread_order(seed: int) -> Iterator[None]:
    """Run threads and blocks in another order for each seed; 0 is the plain one."""
    _orders.append(seed)
    try:
        yield
    finally:
        _orders.pop()


@contextmanager
def recording() -> Iterator[list[Launch]]:
    """Yield a list that the launches inside are added to."""
    launches: list[Launch] = []
    _recordings.append(launches)
    try:
        yield launches
    finally:
        _recordings.remove(launches)


class RawKernel:
    """`cupy.RawKernel`, compiled at its first launch."""

    def __init__(self, code: str, name: str, options: tuple[str, ...] = (), **others: Any) -> None:
        check_call("RawKernel", LISTED["classes"]["RawKernel"]["()"], (code, name), {"options": options, **others})
        self.code, self.name, self.options = code, name, options

    def __call__(self, grid: Any, block: Any, args: Any, *, shared_mem: int = 0) -> None:
        grid, block = (tuple(int(n) for n in (*extent, 1, 1)[:3]) for extent in (grid, block))
        _check_sizes(grid, block, shared_mem)
        library = library_of(self.code, self.options)
        named = _types(library, self.name)
        if len(named) != len(args):
            raise CUDADriverError(f"{self.name} takes {len(named)} arguments, got {len(args)}")
        held = [_held(self.name, i, kind, arg) for i, (kind, arg) in enumerate(zip(named, args, strict=True))]
        pointers = (ctypes.c_void_p * len(held))(*(h.ctypes.data for h in held))
        sizes = [(ctypes.c_int * 3)(*extent) for extent in (grid, block)]
        before = tuple(_copied(arg, h) for arg, h in zip(args, held)) if _recordings else ()
        run = getattr(library, f"run_{self.name}")
        run(*sizes, ctypes.c_int(shared_mem), ctypes.c_uint64(_orders[-1]), pointers)
        note_launch(self.name)
        for launches in _recordings:
            after = tuple(_copied(arg, h) for arg, h in zip(args, held))
            arrays = tuple(isinstance(arg, ndarray) for arg in args)
            launches.append(Launch(self.code, self.options, self.name, grid, block, shared_mem, before, after, arrays))

    def compile(self, log_stream: Any = None) -> None:
        """Compile now."""
        library_of(self.code, self.options)


class RawModule:
    """`cupy.RawModule`, compiled when the first kernel is asked for."""

    def __init__(self, code: str | None = None, *, options: tuple[str, ...] = (), **others: Any) -> None:
        check_call("RawModule", LISTED["classes"]["RawModule"]["()"], (code,), {"options": options, **others})
        if code is None:
            raise NotImplementedError("the double loads no compiled module")
        if not isinstance(options, tuple):
            raise TypeError(f"options must be a tuple, got {type(options)}")
        self.code, self.options = code, options

    def get_function(self, name: str) -> RawKernel:
        """Return a kernel with C linkage."""
        if name not in kernels_of(self.code):
            raise CUDADriverError(f"CUDA_ERROR_NOT_FOUND: named symbol not found: {name}")
        library_of(self.code, self.options)
        return RawKernel(self.code, name, self.options)

    def compile(self, log_stream: Any = None) -> None:
        """Compile now."""
        library_of(self.code, self.options)


@cache
def _types(library: ctypes.CDLL, kernel: str) -> list[str]:
    types = getattr(library, f"types_{kernel}")
    types.restype = ctypes.c_char_p
    return types().decode().split()  # type: ignore[no-any-return]


def _check_sizes(grid: tuple[int, ...], block: tuple[int, ...], shared_mem: int) -> None:
    most_grid, most_block = (2**31 - 1, 65535, 65535), (1024, 1024, 64)
    if (
        min(*grid, *block) < 1
        or any(n > most for n, most in zip((*grid, *block), (*most_grid, *most_block)))
        or block[0] * block[1] * block[2] > 1024
        or shared_mem > 49152  # more has to be asked for by max_dynamic_shared_size_bytes
    ):
        raise CUDADriverError(f"CUDA_ERROR_INVALID_VALUE: grid {grid}, block {block}, {shared_mem} bytes shared")


def _held(kernel: str, i: int, kind: str, arg: Any) -> np.ndarray:
    """The bytes of an argument; one that the device would read as something else is refused."""
    place = f"argument {i} of {kernel}"
    if kind.startswith("P"):
        if isinstance(arg, ndarray):
            if not arg.flags.c_contiguous:
                raise TypeError(f"{place}: a kernel sees memory, not strides, and this array is not in C order")
            found = f"{arg.dtype.kind}{arg.dtype.itemsize}"
            if arg.dtype.kind != "V" and kind[1:] not in (found, "v1") and not _same_width(kind[1:], found):
                raise TypeError(f"{place}: an array of {arg.dtype} for a pointer to {kind[1:]}")
            return np.array(arg._host.ctypes.data, np.uint64)
        if arg is None or (isinstance(arg, np.uint64) and int(arg) == 0):
            return np.array(0, np.uint64)
        raise TypeError(f"{place}: {type(arg)} for a pointer")
    if isinstance(arg, ndarray):
        raise TypeError(f"{place}: an array of the device for a number")
    value = np.asarray(arg)  # Python's numbers are passed as 64 bits
    if value.size != 1 or arg is None:
        raise TypeError(f"{place}: {type(arg)} for a number")
    if f"{value.dtype.kind}{value.dtype.itemsize}" != kind:
        raise TypeError(f"{place}: {value.dtype} for a parameter of type {kind}")
    return value


def _same_width(wanted: str, found: str) -> bool:
    """Integers of one width may be signed or not."""
    return wanted[0] in "iu" and found[0] in "iu" and wanted[1:] == found[1:]


def _copied(arg: Any, held: np.ndarray) -> Any:
    return arg._host.copy() if isinstance(arg, ndarray) else held.copy()
