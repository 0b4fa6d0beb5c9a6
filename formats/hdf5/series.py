"""Dynamic and gated scans of several energy windows in the native HDF5 file: a group for each window."""

from __future__ import annotations

import os

import h5py

from emrecon.projectors import EnergyWindow, WindowedSeries
from emrecon.projectors.core.errors import FormatError

from ..summary import series_summary
from .dynamic import load_parts, put_parts
from .storage import creating, group_of, load, number_of, opened, put, text_of

_KIND, _VERSION = "windowed-series", 1
_MOST_WINDOWS = 1000


def write_windowed_series(path: str | os.PathLike[str], scan: WindowedSeries) -> None:
    """Write a `WindowedSeries` to an HDF5 file (schema "windowed-series"); the file appears complete or not at all.

    Raises OSError naming `path` where it cannot be written, TypeError for dtypes that HDF5 cannot hold exactly.
    """
    if not isinstance(scan, WindowedSeries):
        raise TypeError(f"write_windowed_series expects a WindowedSeries, got {type(scan).__name__}; write_dynamic?")
    if len(scan.windows) > _MOST_WINDOWS:
        raise ValueError(f"write_windowed_series writes up to {_MOST_WINDOWS} windows, got {len(scan.windows)}")
    with creating(path, _KIND, _VERSION) as file:
        put(file, "n_windows", len(scan.windows), "1")
        for i, (window, series) in enumerate(zip(scan.windows, scan.series)):
            group = file.create_group(f"window_{i}")
            put(group, "name", window.name, "")
            put_parts(group, series)  # type: ignore[arg-type]  # a dynamic or a gated scan


def read_windowed_series(path: str | os.PathLike[str]) -> WindowedSeries:
    """Return the scan that `write_windowed_series` wrote, equal in every field and dtype; arrays are NumPy's.

    Raises FileNotFoundError where there is no file; FormatError, which names the file and the likely cause, where it is
    not HDF5, truncated, of another kind, of a newer schema, incomplete, of absurd size, or fails its checksum.
    """
    with opened(path, _KIND) as file:
        n = number_of(load(file, "n_windows"), "n_windows")
        if n % 1 or not 1 <= n <= _MOST_WINDOWS:
            raise FormatError(f"{path}: n_windows is {n:g}, expected 1 to {_MOST_WINDOWS}; edited by hand?")
        groups = [group_of(file, f"window_{i}") for i in range(int(n))]
        if len({h5py.h5o.get_info(group.id).addr for group in groups}) < len(groups):
            raise FormatError(f"{path}: several windows are one and the same group; edited by hand?")
        series = [load_parts(group) for group in groups]
        windows = []
        for group, part in zip(groups, series):
            if part.energy_window is None:
                raise FormatError(f"{path}: {group.name} has no energy window; edited by hand?")
            windows.append(EnergyWindow(*part.energy_window, text_of(group, "name")))
        return WindowedSeries(tuple(windows), tuple(series))


def describe_windowed_series(path: str | os.PathLike[str]) -> dict[str, object]:
    """Return what a file of a series in several windows holds as names and plain values, after verifying all of it."""
    scan = read_windowed_series(path)
    names = (f"{window.name} ({window.lower:g} to {window.upper:g})" for window in scan.windows)
    facts = series_summary(scan.series[0])  # type: ignore[arg-type]  # a dynamic or a gated scan
    facts.pop("energy window (keV)", None)
    return {"format": "emrecon HDF5"} | facts | {"energy windows (keV)": ", ".join(names)}
