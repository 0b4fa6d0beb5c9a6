"""The native file: scans, images, frames, gates and windows in HDF5."""

from .dynamic import describe_dynamic, read_dynamic, read_gated, write_dynamic
from .windows import read_windowed_scan, write_windowed_scan

__all__ = [
    "describe_dynamic",
    "read_dynamic",
    "read_gated",
    "read_windowed_scan",
    "write_dynamic",
    "write_windowed_scan",
]
