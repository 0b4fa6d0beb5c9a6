"""The native file: scans, images, frames, gates, windows and beds in HDF5."""

from .beds import describe_beds, read_beds, write_beds
from .dynamic import describe_dynamic, read_dynamic, read_gated, write_dynamic
from .windows import read_windowed_scan, write_windowed_scan

__all__ = [
    "describe_beds",
    "describe_dynamic",
    "read_beds",
    "read_dynamic",
    "read_gated",
    "read_windowed_scan",
    "write_beds",
    "write_dynamic",
    "write_windowed_scan",
]
