"""Ideal parallel beams: their lines and the integrals along them."""

from .geometry import ParallelBeamGeometry
from .projector import ParallelBeamProjector

__all__ = [
    "ParallelBeamGeometry",
    "ParallelBeamProjector",
]
