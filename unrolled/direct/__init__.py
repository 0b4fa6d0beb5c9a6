"""Reconstruction in one pass: data in, image out, and networks that complete the data first."""

from .back_projection import BackProjection
from .coarse import CoarseLikelihood, coarse_bins
from .completion import (
    CompletedScan,
    Completion,
    DataNet,
    PartialLikelihood,
    interpolated,
    partly_measured,
)
from .direct import Direct, normalised_data
from .folding import DataFolding
from .fusion import Fused
from .on_data import OnData
from .patterns import every_view, without_bins, without_crystals
from .scans import ScanDescription, described, differences
from .tracers import Separated
from .views import among_views

__all__ = [
    "BackProjection",
    "CoarseLikelihood",
    "CompletedScan",
    "Completion",
    "DataFolding",
    "DataNet",
    "Direct",
    "Fused",
    "OnData",
    "PartialLikelihood",
    "ScanDescription",
    "Separated",
    "among_views",
    "coarse_bins",
    "described",
    "differences",
    "every_view",
    "interpolated",
    "normalised_data",
    "partly_measured",
    "without_bins",
    "without_crystals",
]
