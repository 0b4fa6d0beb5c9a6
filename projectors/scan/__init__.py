"""What a scan is: counts with their geometry and conditions, frames, gates and energy windows, and their model."""

from .acquisition import AcquisitionModel
from .beds import BedScan, bed_slices, grid_slices
from .counting import DeadTime, planar_sensitivity, scan_seconds, spect_calibration, view_decay
from .dynamic import DynamicScan, GatedScan, ScanSeries, all_views_at_once
from .energy_windows import (
    EnergyWindow,
    WindowedScan,
    WindowedSeries,
    dual_energy_window,
    smooth_projections,
    triple_energy_window,
)
from .frames import Frames, Gates, decay_factors, histogram_events, split_events
from .live_time import counted_windows, view_rates, with_dead_time, with_view_decay
from .recovery import RecoveryCurve, RecoveryTable
from .scan import Scan
from .study import Study
from .window_choice import ChosenWindows, peak_window, scatter_windows

__all__ = [
    "AcquisitionModel",
    "BedScan",
    "ChosenWindows",
    "DeadTime",
    "DynamicScan",
    "EnergyWindow",
    "Frames",
    "GatedScan",
    "Gates",
    "RecoveryCurve",
    "RecoveryTable",
    "Scan",
    "ScanSeries",
    "Study",
    "WindowedScan",
    "WindowedSeries",
    "all_views_at_once",
    "bed_slices",
    "counted_windows",
    "decay_factors",
    "dual_energy_window",
    "grid_slices",
    "histogram_events",
    "peak_window",
    "planar_sensitivity",
    "scan_seconds",
    "scatter_windows",
    "smooth_projections",
    "spect_calibration",
    "split_events",
    "triple_energy_window",
    "view_decay",
    "view_rates",
    "with_dead_time",
    "with_view_decay",
]
