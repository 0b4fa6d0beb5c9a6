"""The physics of the scan: geometry, materials, collimators, and the linear operators they make."""

if __name__ != "emrecon.projectors":
    raise ImportError("this folder is a part of emrecon: `pip install .` first, then `import emrecon.projectors`")

from .acquisition import AcquisitionModel
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
from .listmode import ListmodeProjector
from .materials import Isotope, hounsfield_to_mu, isotope, isotopes, linear_attenuation, materials
from .operator import DenseOperator, Diagonal, LinearOperator, Projector
from .parallel import ParallelBeamGeometry, ParallelBeamProjector
from .pet import PETProjector
from .pet_geometry import PETScanner, PETSinogram, pet_scanners
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
    "Collimator",
    "CollimatorResponse",
    "DenseOperator",
    "Diagonal",
    "GaussianResponse",
    "ImageGrid",
    "Isotope",
    "LinearOperator",
    "LinearResponse",
    "ListmodeProjector",
    "MeasuredResponse",
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
    "TimeOfFlight",
    "accepted_fraction",
    "collimator",
    "collimators",
    "hounsfield_to_mu",
    "isotope",
    "isotopes",
    "klein_nishina",
    "klein_nishina_total",
    "linear_attenuation",
    "materials",
    "pet_scanners",
    "scale_to_tails",
    "scattered_energy",
    "single_scatter",
    "tail_mask",
]
