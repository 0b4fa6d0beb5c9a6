"""Scans of several bed positions in the native HDF5 file: a group for each bed, which holds what a scan's file does."""

from __future__ import annotations

import os

import h5py

from emrecon.projectors import BedScan, Scan, WindowedScan
from emrecon.projectors.core.errors import FormatError

from ..summary import beds_summary
from .files import load_scan, put_scan
from .storage import creating, group_of, load, number_of, opened, put, require_room
from .windows import load_windows, put_windows

_KIND, _VERSION = "beds", 1
_MOST_BEDS = 1000


def write_beds(path: str | os.PathLike[str], scan: BedScan) -> None:
    """Write a `BedScan` to an HDF5 file (schema "beds"); the file appears complete or not at all.

    Raises OSError naming `path` where it cannot be written, TypeError for dtypes that HDF5 cannot hold exactly.
    """
    if not isinstance(scan, BedScan):
        raise TypeError(f"write_beds expects a BedScan, got {type(scan).__name__}; write_scan?")
    if len(scan) > _MOST_BEDS:
        raise ValueError(f"write_beds writes up to {_MOST_BEDS} beds, got {len(scan)}")
    with creating(path, _KIND, _VERSION) as file:
        put(file, "n_beds", len(scan), "1")
        put(file, "timed_factors", scan.timed_factors, "1")
        for i, bed in enumerate(scan):
            group = file.create_group(f"bed_{i}")
            if isinstance(bed, WindowedScan):
                put_windows(group, bed)
            else:
                put_scan(group, bed)


def read_beds(path: str | os.PathLike[str]) -> BedScan:
    """Return the scan that `write_beds` wrote, equal in every field and dtype; arrays are NumPy's.

    Raises FileNotFoundError where there is no file; FormatError, which names the file and the likely cause, where it is
    not HDF5, truncated, of another kind, of a newer schema, incomplete, of absurd size, or fails its checksum.
    """
    with opened(path, _KIND) as file:
        n = number_of(load(file, "n_beds"), "n_beds")
        if n % 1 or not 2 <= n <= _MOST_BEDS:
            raise FormatError(f"{path}: n_beds is {n:g}, expected 2 to {_MOST_BEDS}; edited by hand?")
        groups = [group_of(file, f"bed_{i}") for i in range(int(n))]
        if len({h5py.h5o.get_info(group.id).addr for group in groups}) < len(groups):
            raise FormatError(f"{path}: several beds are one and the same group; edited by hand?")
        require_room(file, [f"{group.name[1:]}/{name}" for group in groups for name in group if name[:6] == "counts"])
        timed = bool(number_of(load(file, "timed_factors"), "timed_factors"))
        beds: list[Scan | WindowedScan] = [
            load_windows(group) if "n_windows" in group else load_scan(group) for group in groups
        ]
        return BedScan(tuple(beds), timed)


def describe_beds(path: str | os.PathLike[str]) -> dict[str, object]:
    """Return what a file of several beds holds as names and plain values, after verifying all of it."""
    return {"format": "emrecon HDF5"} | beds_summary(read_beds(path))
