"""Arrays in `.npz` archives, read after a look at what they announce and without unpickling anything."""

from __future__ import annotations

import ast
import math
import os
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np

from .errors import FormatError, require_affordable, require_file

# of zip files, of compressed data, of headers (texts of Python) and of the types in them
_DAMAGES = (
    *(zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError, NotImplementedError),
    *(SyntaxError, TypeError, RecursionError, MemoryError),
)
_LONGEST_HEADER = 10_000  # of one array
_MOST_PARTS = 10_000


def read_arrays(path: str | os.PathLike[str], names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """Return arrays of an `.npz` archive by name.

    Args:
        names : of the arrays to read, all of them unless given.

    Raises FileNotFoundError; FormatError naming the file where it is no such archive, damaged, without one of the
    arrays, with arrays of objects, or larger in memory than is sensible for its size.
    """
    path = require_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            check_archive(path, archive)
            held = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
            found = {}
            for name in held if names is None else names:
                if name not in held:
                    raise FormatError(f"{path} has no array {name!r}; it has {', '.join(list(held)[:9]) or 'none'}")
                found[name] = _array(path, name, archive.read(held[name]))
            return found
    except FormatError:
        raise
    except _DAMAGES as error:
        raise FormatError(f"{path} is not an archive of arrays, or is damaged ({error})") from error


def check_archive(path: Path, archive: zipfile.ZipFile) -> None:
    """Raise FormatError where an archive has too many parts, or would become absurdly large."""
    entries = archive.infolist()
    if len(entries) > _MOST_PARTS:
        raise FormatError(f"{path} has {len(entries)} parts; damaged or hostile?")
    require_affordable(path, sum(entry.file_size for entry in entries), "its arrays")


def open_array(path: str | os.PathLike[str]) -> np.ndarray:
    """Return the array of an `.npy` file, read when it is looked at (a memory map); raises as `read_arrays` does."""
    path = require_file(path)
    try:
        with path.open("rb") as stream:
            shape, dtype, start, order = _layout(path, path.name, stream.read(_LONGEST_HEADER), path.stat().st_size)
        if dtype.itemsize == 0 or not math.prod(shape):
            return np.zeros(shape, dtype)
        return np.memmap(path, dtype, "r", start, shape, order)
    except FormatError:
        raise
    except _DAMAGES as error:
        raise FormatError(f"{path} is not an array, or is damaged ({error})") from error


def _array(path: Path, name: str, data: bytes) -> np.ndarray:
    """The array of the bytes of an `.npy` file."""
    shape, dtype, start, order = _layout(path, name, data, len(data))
    if dtype.itemsize == 0:  # the empty text
        return np.zeros(shape, dtype)
    return np.frombuffer(data, dtype, math.prod(shape), start).reshape(shape, order=order).copy()


def _layout(path: Path, name: str, data: bytes, size: int) -> tuple[tuple[int, ...], np.dtype, int, Literal["C", "F"]]:
    """Shape, dtype, first byte and order of an array that fills the `size` bytes whose first ones are `data`."""
    if data[:6] != b"\x93NUMPY" or data[6:7] not in (b"\1", b"\2", b"\3"):
        raise FormatError(f"{path}: {name} is not an array; damaged?")
    width = 2 if data[6] == 1 else 4
    start = 8 + width
    end = start + int.from_bytes(data[8:start], "little")
    header = ast.literal_eval(data[start:end].decode("latin-1")) if end <= _LONGEST_HEADER else None
    if not isinstance(header, dict) or header.keys() != {"descr", "fortran_order", "shape"}:
        raise FormatError(f"{path}: {name} has no header of an array; damaged?")
    shape, dtype = header["shape"], np.dtype(str(header["descr"]))
    whole = isinstance(shape, tuple) and all(type(length) is int and length >= 0 for length in shape)
    if dtype.hasobject or not whole or math.prod(shape) * dtype.itemsize != size - end:
        raise FormatError(f"{path}: {name} announces {dtype} of shape {shape}, which its {size} bytes are not")
    if dtype.itemsize == 0 and shape != ():
        raise FormatError(f"{path}: {name} announces {shape} values of no bytes; damaged?")
    return shape, dtype, end, "F" if header["fortran_order"] is True else "C"
