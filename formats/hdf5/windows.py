"""Scans of several energy windows in the native HDF5 file: one geometry, and the counts of every window."""

from __future__ import annotations

import os
from typing import Any

import h5py

from emrecon.projectors import Scan
from emrecon.projectors.core.errors import FormatError
from emrecon.projectors.scan.energy_windows import EnergyWindow, WindowedScan

from ..summary import scan_summary
from .files import _GEOMETRY_UNITS, _creating, _load, _load_camera, _number, _opened, _plain, _put, _store, _text

_KIND = "windowed-scan"
_VERSION = 1
_MOST_WINDOWS = 1000


def write_windowed_scan(path: str | os.PathLike[str], scan: WindowedScan) -> None:
    """Write a `WindowedScan` to an HDF5 file (schema "windowed-scan"); the file appears complete or not at all.

    Counts are stored as those of a scan are: compressed, with their dtype and checksum.
    Raises OSError naming `path` where it cannot be written, TypeError for dtypes that HDF5 cannot hold exactly.
    """
    if not isinstance(scan, WindowedScan):
        raise TypeError(f"write_windowed_scan expects a WindowedScan, got {type(scan).__name__}; write_scan?")
    if len(scan.windows) > _MOST_WINDOWS:
        raise ValueError(f"write_windowed_scan writes up to {_MOST_WINDOWS} windows, got {len(scan.windows)}")
    with _creating(path, _KIND, _VERSION) as file:
        _put(file, "n_windows", len(scan.windows), "1")
        for i, (window, counts) in enumerate(zip(scan.windows, scan.counts)):
            _store(file, f"counts_{i}", counts, "counts")
            _put(file, f"windows/{i}/name", window.name, "")
            _put(file, f"windows/{i}/limits", window.limits, "keV")
        _store(file, "factors", scan.factors, "1")
        if scan.duration is not None:
            _put(file, "duration", float(scan.duration), "s")
        if scan.radionuclide is not None:
            _put(file, "radionuclide", scan.radionuclide, "")
        _put(file, "description", scan.description, "")
        for name, units in _GEOMETRY_UNITS.items():
            _put(file, f"geometry/{name}", getattr(scan.geometry, name), units)


def read_windowed_scan(path: str | os.PathLike[str]) -> WindowedScan:
    """Return the scan that `write_windowed_scan` wrote, equal in every field and dtype; arrays are NumPy's.

    Raises FileNotFoundError where there is no file; FormatError, which names the file and the likely cause, where it is
    not HDF5, truncated, of another kind, of a newer schema, incomplete, of absurd size, or fails its checksum.
    """
    with _opened(path, _KIND) as file:
        n = _number(_load(file, "n_windows"), "n_windows")
        if n % 1 or not 1 <= n <= _MOST_WINDOWS:
            raise FormatError(f"{path}: n_windows is {n:g}, expected 1 to {_MOST_WINDOWS}; edited by hand?")
        numbers = range(int(n))
        values: dict[str, Any] = {
            "windows": tuple(_load_window(file, i) for i in numbers),
            "counts": tuple(_load(file, f"counts_{i}") for i in numbers),
            "geometry": _load_camera(file),
            "factors": _plain(_load(file, "factors")),
            "description": _text(file, "description"),
        }
        if "duration" in file:
            values["duration"] = _number(_load(file, "duration"), "duration")
        if "radionuclide" in file:
            values["radionuclide"] = _text(file, "radionuclide")
        return WindowedScan(**values)


def _load_window(file: h5py.File, i: int) -> EnergyWindow:
    limits = _load(file, f"windows/{i}/limits")
    if limits.shape != (2,):
        raise FormatError(f"{file.filename}: windows/{i}/limits has shape {limits.shape}, expected 2; edited by hand?")
    return EnergyWindow(float(limits[0]), float(limits[1]), _text(file, f"windows/{i}/name"))


def describe_windowed_scan(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what a file of several energy windows holds as names and plain values, after verifying all of it."""
    scan = read_windowed_scan(path)
    names = (f"{window.name or i} ({window.lower:g} to {window.upper:g})" for i, window in enumerate(scan.windows))
    facts = scan_summary(Scan(scan.counts[0], scan.geometry, factors=scan.factors, duration=scan.duration))
    return facts | {"format": "emrecon HDF5", "holds": "SPECT scan", "energy windows (keV)": ", ".join(names)}
