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
    "DenseOperator",
    "Diagonal",
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
    "SPECTGeometry",
    "SPECTProjector",
    "Scan",
    "ScatterSampling",
    "SingleSliceRebinning",
    "SinogramCompression",
    "TimeOfFlight",
    "accepted_fraction",
    "as_parallelproj_lors",
    "as_parallelproj_tof",
    "attenuation_factors",
    "collimator",
    "collimators",
    "crystal_rates",
    "events_product",
    "from_operator",
    "hounsfield_to_mu",
    "isotope",
    "isotopes",
    "klein_nishina",
    "klein_nishina_total",
    "linear_attenuation",
    "materials",
    "pair_products",
    "pet_scanners",
    "scale_to_tails",
    "scattered_energy",
    "single_scatter",
    "suv",
    "tail_mask",
]
