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
    "ParallelHoleCollimator",
    "CollimatorResponse",
    "EffectiveSource",
    "GaussianResponse",
    "LinearResponse",
    "MeasuredResponse",
    "SPECTGeometry",
    "SPECTProjector",
    "SPECTScatterProjector",
    "collimator",
    "collimators",
]
