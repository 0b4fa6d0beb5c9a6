"""The native file: scans, images, frames, gates, windows and beds in HDF5."""

from .beds import describe_beds, read_beds, write_beds
from .dynamic import describe_dynamic, read_dynamic, read_gated, write_dynamic
from .series import describe_windowed_series, read_windowed_series, write_windowed_series
from .windows import read_windowed_scan, write_windowed_scan

__all__ = [
    "describe_beds",
    "describe_dynamic",
    "describe_windowed_series",
    "read_beds",
    "read_dynamic",
    "read_gated",
    "read_windowed_scan",
    "read_windowed_series",
    "write_beds",
    "write_dynamic",
    "write_windowed_scan",
    "write_windowed_series",
]
