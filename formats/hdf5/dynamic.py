"""Dynamic and gated scans in emrecon's HDF5 file: one dataset of counts for each frame or gate.

Datasets and attributes are those of docs/files.md with the schemas "dynamic" and "gated". Arrays with an axis of frames
are kept frame by frame, as `counts_0000`, `counts_0001`, ...: each has a checksum of its own.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from emrecon.projectors import PETSinogram, Scan
from emrecon.projectors.core.errors import FormatError, check_size
from emrecon.projectors.scan.dynamic import DynamicScan, Frames, GatedScan, ScanSeries

from ..summary import scan_summary
from . import files

SCHEMA_VERSION = 1
"""The version of the schemas "dynamic" and "gated" that is written."""

_MOST = 10_000  # frames


def write_dynamic(path: str | os.PathLike[str], scan: DynamicScan | GatedScan) -> None:
    """Write a dynamic or a gated scan to an HDF5 file; the file appears complete or not at all.

    Raises OSError naming `path` where it cannot be written, TypeError for dtypes that HDF5 cannot hold exactly.
    """
    if not isinstance(scan, (DynamicScan, GatedScan)):
        raise TypeError(f"write_dynamic expects a DynamicScan or a GatedScan, got {type(scan).__name__}; write_scan?")
    if len(scan) > _MOST:
        raise ValueError(f"write_dynamic writes up to {_MOST} frames or gates, got {len(scan)}; join some")
    with files._creating(path, "dynamic" if isinstance(scan, DynamicScan) else "gated", SCHEMA_VERSION) as file:
        if isinstance(scan, DynamicScan):
            files._put(file, "frames/starts", scan.frames.starts, "s")
            files._put(file, "frames/durations", scan.frames.durations, "s")
            files._put(file, "frames/schedule", scan.schedule, "1")
            files._put(file, "frames/reference", scan.reference, "s")
        else:
            files._put(file, "gates/durations", scan.durations, "s")
            files._put(file, "gates/cyclic", scan.cyclic, "1")
        _put_series(file, scan)


def read_dynamic(path: str | os.PathLike[str]) -> DynamicScan:
    """Return the dynamic scan of a file that `write_dynamic` wrote, equal in every field and dtype.

    Raises FileNotFoundError where there is no file; FormatError, which names the file and the likely cause, where it is
    not HDF5, truncated, of another kind, of a newer schema, incomplete, of absurd size, or fails a checksum.
    """
    with files._opened(path, "dynamic") as file:
        starts, durations, schedule, reference = (
            files._load(file, f"frames/{name}") for name in ("starts", "durations", "schedule", "reference")
        )
        frames = Frames(starts, durations)
        more: dict[str, Any] = {"reference": files._number(reference, "frames/reference"), "schedule": schedule}
        values = _load_series(file, len(frames))
        return DynamicScan(values.pop("counts"), values.pop("geometry"), frames, **values, **more)


def read_gated(path: str | os.PathLike[str]) -> GatedScan:
    """Return the gated scan of a file that `write_dynamic` wrote; raises as `read_dynamic` does."""
    with files._opened(path, "gated") as file:
        durations = files._load(file, "gates/durations")
        cyclic = bool(files._number(files._load(file, "gates/cyclic"), "gates/cyclic"))
        values = _load_series(file, len(np.atleast_1d(durations)))
        return GatedScan(values.pop("counts"), values.pop("geometry"), durations, **values, cyclic=cyclic)


def describe_dynamic(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what a file of a dynamic or gated scan holds as names and plain values, after verifying all of it."""
    kind = files.kind_of(path)
    scan = read_dynamic(path) if kind == "dynamic" else read_gated(path)
    facts = scan_summary(Scan(scan.counts, scan.geometry, scan.background, scan.factors))
    low, high = scan.seconds.min(), scan.seconds.max()
    facts |= {
        "format": "emrecon HDF5",
        "holds": f"{kind} scan",
        "parts": str(scan.frames) if isinstance(scan, DynamicScan) else f"{len(scan)} gates",
        "seconds per view": f"{low:.6g}" if low == high else f"{low:.6g} to {high:.6g}",
        "radionuclide": scan.radionuclide,
        "energy window (keV)": scan.energy_window,
        "description": scan.description or None,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _put_series(file: h5py.File, scan: ScanSeries) -> None:
    for name, units in (("counts", "counts"), ("background", "counts"), ("factors", "1")):
        values = getattr(scan, name)
        if getattr(values, "ndim", 0) > len(scan.geometry.shape) and values.shape[0] == len(scan):
            for i in range(len(scan)):
                files._store(file, _name(name, i), values[i, ...], units)
        else:
            files._store(file, name, values, units)
    if scan.energy_window is not None:
        files._put(file, "energy_window", scan.energy_window, "keV")
    if scan.radionuclide is not None:
        files._put(file, "radionuclide", scan.radionuclide, "")
    files._put(file, "description", scan.description, "")
    if isinstance(scan.geometry, PETSinogram):
        files._put_sinogram(file, scan.geometry)
    else:
        for name, units in files._GEOMETRY_UNITS.items():
            files._put(file, f"geometry/{name}", getattr(scan.geometry, name), units)


def _load_series(file: h5py.File, n: int) -> dict[str, Any]:
    """The fields that both kinds share; n is checked before anything is read."""
    if n > _MOST:
        raise FormatError(f"{file.filename} announces {n} frames, more than {_MOST}; edited by hand?")
    window = files._energy_window(file)
    return {
        "counts": _load_parts(file, "counts", n),
        "geometry": files._load_sinogram(file) if "geometry/scanner" in file else files._load_camera(file),
        "background": _load_values(file, "background", n),
        "factors": _load_values(file, "factors", n),
        "radionuclide": files._text(file, "radionuclide") if "radionuclide" in file else None,
        "energy_window": window,
        "description": files._text(file, "description"),
    }


def _load_values(file: h5py.File, name: str, n: int) -> Any:
    return _load_parts(file, name, n) if _name(name, 0) in file else files._plain(files._load(file, name))


def _load_parts(file: h5py.File, name: str, n: int) -> np.ndarray:
    if _name(name, n) in file:
        raise FormatError(f"{file.filename} holds more {name} than its {n} frames or gates; edited by hand?")
    kinds = [_kind(file, _name(name, i)) for i in range(n)]
    odd = next((i for i in range(n) if kinds[i] != kinds[0]), None)
    if odd is not None:
        raise FormatError(f"{file.filename}: {_name(name, odd)} is {kinds[odd]}, the first {kinds[0]}; edited by hand?")
    shape, dtype = kinds[0]
    check_size(Path(file.filename), (n, *shape), f"all {name}")
    if len({h5py.h5o.get_info(file[_name(name, i)].id).addr for i in range(n)}) < n:
        raise FormatError(f"{file.filename}: several {name} are one and the same dataset; edited by hand?")
    values = np.empty((n, *shape), dtype)
    for i in range(n):
        values[i] = files._load(file, _name(name, i))
    return values


def _kind(file: h5py.File, name: str) -> tuple[tuple[int, ...], np.dtype]:
    dataset = files._dataset(file, name)
    return tuple(dataset.shape), files._original_dtype(file, dataset)


def _name(name: str, i: int) -> str:
    return f"{name}_{i:04d}"
