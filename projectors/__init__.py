"""The physics of the scan: geometry, materials, collimators, and the linear operators they make."""

if __name__ != "emrecon.projectors":
    raise ImportError("this folder is a part of emrecon: `pip install .` first, then `import emrecon.projectors`")

from .acquisition import AcquisitionModel
from .blur import GaussianBlur, MeasuredBlur
from .collimator import (
    Collimator,
    CollimatorResponse,
    GaussianResponse,
    LinearResponse,
    MeasuredResponse,
    collimator,
    collimators,
)
from .counting import DeadTime, RecoveryTable, planar_sensitivity, scan_seconds, spect_calibration, view_decay
from .dynamic import (
    DynamicScan,
    Frames,
    GatedScan,
    Gates,
    ScanSeries,
    all_views_at_once,
    decay_factors,
    histogram_events,
    split_events,
)
from .effective_source import EffectiveSource, SPECTScatterProjector
from .energy_windows import EnergyWindow, WindowedScan, dual_energy_window, smooth_projections, triple_energy_window
from .geometry import ImageGrid, SPECTGeometry
from .interop import as_parallelproj_lors, as_parallelproj_tof, from_operator
from .listmode import ListmodeProjector
from .materials import Isotope, hounsfield_to_mu, isotope, isotopes, linear_attenuation, materials
from .operator import DenseOperator, Diagonal, LinearOperator, Projector
from .pairs import Normalisation, crystal_rates, events_product, pair_products
from .parallel import ParallelBeamGeometry, ParallelBeamProjector
from .pet import PETProjector
from .pet_geometry import PETScanner, PETSinogram, pet_scanners
from .quantities import Calibration, attenuation_factors, suv
from .rebin import ArcCorrection, SingleSliceRebinning, SinogramCompression
from .scan import Scan
from .scatter import (
    ScatterSampling,
    accepted_fraction,
    klein_nishina,
    klein_nishina_total,
    scale_to_tails,
    scattered_energy,
    single_scatter,
    tail_mask,
)
from .spect import SPECTProjector
from .tof import TimeOfFlight

__all__ = [
    "AcquisitionModel",
    "ArcCorrection",
    "Calibration",
    "Collimator",
    "CollimatorResponse",
    "DeadTime",
    "DenseOperator",
    "Diagonal",
    "DynamicScan",
    "EffectiveSource",
    "EnergyWindow",
    "Frames",
    "GatedScan",
    "Gates",
    "GaussianBlur",
    "GaussianResponse",
    "ImageGrid",
    "Isotope",
    "LinearOperator",
    "LinearResponse",
    "ListmodeProjector",
    "MeasuredBlur",
    "MeasuredResponse",
    "Normalisation",
    "PETProjector",
    "PETScanner",
    "PETSinogram",
    "ParallelBeamGeometry",
    "ParallelBeamProjector",
    "Projector",
    "RecoveryTable",
    "SPECTGeometry",
    "SPECTProjector",
    "SPECTScatterProjector",
    "Scan",
    "ScanSeries",
    "ScatterSampling",
    "SingleSliceRebinning",
    "SinogramCompression",
    "TimeOfFlight",
    "WindowedScan",
    "accepted_fraction",
    "all_views_at_once",
    "as_parallelproj_lors",
    "as_parallelproj_tof",
    "attenuation_factors",
    "collimator",
    "collimators",
    "crystal_rates",
    "decay_factors",
    "dual_energy_window",
    "events_product",
    "from_operator",
    "histogram_events",
    "hounsfield_to_mu",
    "isotope",
    "isotopes",
    "klein_nishina",
    "klein_nishina_total",
    "linear_attenuation",
    "materials",
    "pair_products",
    "pet_scanners",
    "planar_sensitivity",
    "scale_to_tails",
    "scan_seconds",
    "scattered_energy",
    "single_scatter",
    "smooth_projections",
    "spect_calibration",
    "split_events",
    "suv",
    "tail_mask",
    "triple_energy_window",
    "view_decay",
]
