"""SPECT: cameras, collimators, the projector with attenuation and response, modelled scatter."""

from .bed_projector import BedProjector
from .camera import SPECTGeometry
from .collimation import (
    CollimatorResponse,
    GaussianResponse,
    LinearResponse,
    MeasuredResponse,
    ParallelHoleCollimator,
    collimator,
    collimators,
)
from .collimator_names import collimator_named
from .effective_source import EffectiveSource, SPECTScatterProjector
from .projector import SPECTProjector

__all__ = [
    "BedProjector",
    "CollimatorResponse",
    "EffectiveSource",
    "GaussianResponse",
    "LinearResponse",
    "MeasuredResponse",
    "ParallelHoleCollimator",
    "SPECTGeometry",
    "SPECTProjector",
    "SPECTScatterProjector",
    "collimator",
    "collimator_named",
    "collimators",
]
