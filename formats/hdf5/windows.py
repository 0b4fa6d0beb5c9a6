"""Scans of several energy windows in the native HDF5 file: one geometry, and the counts of every window."""

from __future__ import annotations

import os

import h5py

from emrecon.projectors import Scan
from emrecon.projectors.core.errors import FormatError
from emrecon.projectors.scan.energy_windows import EnergyWindow, WindowedScan

from ..summary import scan_summary
from .geometry import load_camera, put_geometry
from .storage import (
    creating,
    load,
    number_of,
    opened,
    optional_number,
    optional_put,
    optional_text,
    plain,
    put,
    require_room,
    store,
    text_of,
)
from .studies import load_study, put_study

_KIND = "windowed-scan"
_VERSION = 2  # 1 where there is no study
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
    with creating(path, _KIND, 1 if scan.study is None else _VERSION) as file:
        put_windows(file, scan)


def put_windows(file: h5py.Group, scan: WindowedScan) -> None:
    """Store all of a scan of several windows in a file or a group."""
    put(file, "n_windows", len(scan.windows), "1")
    for i, (window, counts) in enumerate(zip(scan.windows, scan.counts)):
        store(file, f"counts_{i}", counts, "counts")
        put(file, f"windows/{i}/name", window.name, "")
        put(file, f"windows/{i}/limits", window.limits, "keV")
    store(file, "factors", scan.factors, "1")
    optional_put(file, "duration", scan.duration, "s")
    optional_put(file, "radionuclide", scan.radionuclide, "")
    put(file, "description", scan.description, "")
    put_geometry(file, scan.geometry)
    put_study(file, scan.study)


def read_windowed_scan(path: str | os.PathLike[str]) -> WindowedScan:
    """Return the scan that `write_windowed_scan` wrote, equal in every field and dtype; arrays are NumPy's.

    Raises FileNotFoundError where there is no file; FormatError, which names the file and the likely cause, where it is
    not HDF5, truncated, of another kind, of a newer schema, incomplete, of absurd size, or fails its checksum.
    """
    with opened(path, _KIND) as file:
        return load_windows(file)


def load_windows(file: h5py.Group) -> WindowedScan:
    """Return the scan that `put_windows` stored."""
    n = number_of(load(file, "n_windows"), "n_windows")
    if n % 1 or not 1 <= n <= _MOST_WINDOWS:
        raise FormatError(f"{file.file.filename}: n_windows is {n:g}, expected 1 to {_MOST_WINDOWS}; edited by hand?")
    numbers = range(int(n))
    require_room(file, [*(f"counts_{i}" for i in numbers), "factors"])
    return WindowedScan(
        tuple(_load_window(file, i) for i in numbers),
        tuple(load(file, f"counts_{i}") for i in numbers),
        load_camera(file),
        factors=plain(load(file, "factors")),
        duration=optional_number(file, "duration"),
        radionuclide=optional_text(file, "radionuclide"),
        description=text_of(file, "description"),
        study=load_study(file),
    )


def _load_window(file: h5py.Group, i: int) -> EnergyWindow:
    limits = load(file, f"windows/{i}/limits")
    if limits.shape != (2,):
        raise FormatError(
            f"{file.file.filename}: windows/{i}/limits has shape {limits.shape}, expected 2; edited by hand?"
        )
    return EnergyWindow(float(limits[0]), float(limits[1]), text_of(file, f"windows/{i}/name"))


def describe_windowed_scan(path: str | os.PathLike[str]) -> dict[str, object]:
    """Return what a file of several energy windows holds as names and plain values, after verifying all of it."""
    scan = read_windowed_scan(path)
    names = (f"{window.name or i} ({window.lower:g} to {window.upper:g})" for i, window in enumerate(scan.windows))
    facts = scan_summary(Scan(scan.counts[0], scan.geometry, factors=scan.factors, duration=scan.duration))
    return facts | {"format": "emrecon HDF5", "holds": "SPECT scan", "energy windows (keV)": ", ".join(names)}
