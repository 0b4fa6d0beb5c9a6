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
from .materials import Isotope, hounsfield_to_mu, isotope, isotopes, linear_attenuation, materials
from .operator import DenseOperator, Diagonal, LinearOperator, Projector
from .scan import Scan
from .spect import SPECTProjector

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
    "MeasuredResponse",
    "Projector",
    "SPECTGeometry",
    "SPECTProjector",
    "Scan",
    "collimator",
    "collimators",
    "hounsfield_to_mu",
    "isotope",
    "isotopes",
    "linear_attenuation",
    "materials",
]
