"""SPECT: cameras, collimators, the projector with attenuation and response, modelled scatter."""

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
from .effective_source import EffectiveSource, SPECTScatterProjector
from .projector import SPECTProjector

__all__ = [
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
    "collimators",
]
