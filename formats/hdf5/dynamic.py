"""Dynamic and gated scans in emrecon's HDF5 file: one dataset of counts for each frame or gate.

Datasets and attributes are those of docs/files.md with the schemas "dynamic" and "gated". Arrays with an axis of frames
are kept frame by frame, as `counts_0000`, `counts_0001`, ...: each has a checksum of its own.
"""

from __future__ import annotations

import math
import os
from typing import TypedDict

import h5py
import numpy as np

from emrecon.projectors import PETSinogram, SPECTGeometry, Study
from emrecon.projectors.core.errors import FormatError
from emrecon.projectors.scan.dynamic import DynamicScan, Frames, GatedScan, ScanSeries

from ..summary import series_summary
from .files import kind_of
from .geometry import load_geometry, put_geometry
from .storage import (
    check_bytes,
    creating,
    dataset_of,
    energy_window_of,
    load,
    number_of,
    opened,
    optional_put,
    optional_text,
    original_dtype,
    plain,
    put,
    store,
    text_of,
)
from .studies import load_study, put_study

SCHEMA_VERSION = 3
"""The latest version of the schemas "dynamic" and "gated": with a study 3, arc-corrected sinograms 2, all others 1."""

_MOST = 10_000  # frames


def write_dynamic(path: str | os.PathLike[str], scan: DynamicScan | GatedScan) -> None:
    """Write a dynamic or a gated scan to an HDF5 file; the file appears complete or not at all.

    Raises OSError naming `path` where it cannot be written, TypeError for dtypes that HDF5 cannot hold exactly.
    """
    if not isinstance(scan, (DynamicScan, GatedScan)):
        raise TypeError(f"write_dynamic expects a DynamicScan or a GatedScan, got {type(scan).__name__}; write_scan?")
    if len(scan) > _MOST:
        raise ValueError(f"write_dynamic writes up to {_MOST} frames or gates, got {len(scan)}; join some")
    with creating(path, "dynamic" if isinstance(scan, DynamicScan) else "gated", _version(scan)) as file:
        put_parts(file, scan)


def put_parts(file: h5py.Group, scan: DynamicScan | GatedScan) -> None:
    """Store all of a dynamic or gated scan in a file or a group."""
    if isinstance(scan, DynamicScan):
        put(file, "frames/starts", scan.frames.starts, "s")
        put(file, "frames/durations", scan.frames.durations, "s")
        put(file, "frames/schedule", scan.schedule, "1")
        put(file, "frames/reference", scan.reference, "s")
    else:
        put(file, "gates/durations", scan.durations, "s")
        put(file, "gates/cyclic", scan.cyclic, "1")
    _put_series(file, scan)


def load_parts(file: h5py.Group) -> DynamicScan | GatedScan:
    """Return the dynamic or gated scan that `put_parts` stored."""
    return _load_dynamic(file) if "frames" in file else _load_gated(file)


def _version(scan: DynamicScan | GatedScan) -> int:
    """The version that holds a scan."""
    if scan.study is not None or isinstance(getattr(scan.geometry, "span", 1), tuple):
        return SCHEMA_VERSION
    return 2 if isinstance(scan.geometry, PETSinogram) and scan.geometry.lines is not None else 1


def read_dynamic(path: str | os.PathLike[str]) -> DynamicScan:
    """Return the dynamic scan of a file that `write_dynamic` wrote, equal in every field and dtype.

    Raises FileNotFoundError where there is no file; FormatError, which names the file and the likely cause, where it is
    not HDF5, truncated, of another kind, of a newer schema, incomplete, of absurd size, or fails a checksum.
    """
    with opened(path, "dynamic") as file:
        return _load_dynamic(file)


def _load_dynamic(file: h5py.Group) -> DynamicScan:
    starts, durations, schedule, reference = (
        load(file, f"frames/{name}") for name in ("starts", "durations", "schedule", "reference")
    )
    frames = Frames(starts, durations)
    fields = _load_series(file, len(frames))
    return DynamicScan(frames=frames, reference=number_of(reference, "frames/reference"), schedule=schedule, **fields)


def read_gated(path: str | os.PathLike[str]) -> GatedScan:
    """Return the gated scan of a file that `write_dynamic` wrote; raises as `read_dynamic` does."""
    with opened(path, "gated") as file:
        return _load_gated(file)


def _load_gated(file: h5py.Group) -> GatedScan:
    durations = load(file, "gates/durations")
    cyclic = bool(number_of(load(file, "gates/cyclic"), "gates/cyclic"))
    return GatedScan(durations=durations, cyclic=cyclic, **_load_series(file, len(np.atleast_1d(durations))))


def describe_dynamic(path: str | os.PathLike[str]) -> dict[str, object]:
    """Return what a file of a dynamic or gated scan holds as names and plain values, after verifying all of it."""
    kind = kind_of(path)
    scan = read_dynamic(path) if kind == "dynamic" else read_gated(path)
    return {"format": "emrecon HDF5"} | series_summary(scan)


def _put_series(file: h5py.Group, scan: ScanSeries) -> None:
    for name, units in (("counts", "counts"), ("background", "counts"), ("factors", "1")):
        values = getattr(scan, name)
        if getattr(values, "ndim", 0) > len(scan.geometry.shape) and values.shape[0] == len(scan):
            for i in range(len(scan)):
                store(file, _name(name, i), values[i, ...], units)
        else:
            store(file, name, values, units)
    optional_put(file, "energy_window", scan.energy_window, "keV")
    optional_put(file, "radionuclide", scan.radionuclide, "")
    put(file, "description", scan.description, "")
    put_geometry(file, scan.geometry)
    put_study(file, scan.study)


class _Fields(TypedDict):
    """The fields that dynamic and gated scans share."""

    counts: np.ndarray
    geometry: SPECTGeometry | PETSinogram
    background: np.ndarray | float
    factors: np.ndarray | float
    radionuclide: str | None
    energy_window: tuple[float, float] | None
    description: str
    study: Study | None


def _load_series(file: h5py.Group, n: int) -> _Fields:
    """The shared fields of n frames or gates; n is checked before anything is read."""
    if n > _MOST:
        raise FormatError(f"{file.file.filename} announces {n} frames, more than {_MOST}; edited by hand?")
    return {
        "counts": _load_parts(file, "counts", n),
        "geometry": load_geometry(file),
        "background": _load_values(file, "background", n),
        "factors": _load_values(file, "factors", n),
        "radionuclide": optional_text(file, "radionuclide"),
        "energy_window": energy_window_of(file),
        "description": text_of(file, "description"),
        "study": load_study(file),
    }


def _load_values(file: h5py.Group, name: str, n: int) -> np.ndarray | float:
    return _load_parts(file, name, n) if _name(name, 0) in file else plain(load(file, name))


def _load_parts(file: h5py.Group, name: str, n: int) -> np.ndarray:
    if _name(name, n) in file:
        raise FormatError(f"{file.file.filename} holds more {name} than its {n} frames or gates; edited by hand?")
    kinds = [_kind(file, _name(name, i)) for i in range(n)]
    odd = next((i for i in range(n) if kinds[i] != kinds[0]), None)
    if odd is not None:
        raise FormatError(
            f"{file.file.filename}: {_name(name, odd)} is {kinds[odd]}, the first {kinds[0]}; edited by hand?"
        )
    shape, dtype = kinds[0]
    check_bytes(file, n * math.prod(shape) * dtype.itemsize)
    if len({h5py.h5o.get_info(file[_name(name, i)].id).addr for i in range(n)}) < n:
        raise FormatError(f"{file.file.filename}: several {name} are one and the same dataset; edited by hand?")
    values = np.empty((n, *shape), dtype)
    for i in range(n):
        values[i] = load(file, _name(name, i))
    return values


def _kind(file: h5py.Group, name: str) -> tuple[tuple[int, ...], np.dtype]:
    dataset = dataset_of(file, name)
    return tuple(dataset.shape), original_dtype(file, dataset)


def _name(name: str, i: int) -> str:
    return f"{name}_{i:04d}"
