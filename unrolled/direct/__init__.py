"""Reconstruction in one pass: data in, image out, and networks that complete the data first."""

from .back_projection import BackProjection
from .completion import (
    CompletedScan,
    Completion,
    DataNet,
    OnData,
    PartialLikelihood,
    interpolated,
    partly_measured,
)
from .direct import Direct, normalised_data
from .folding import DataFolding
from .fusion import Fused
from .patterns import every_view, without_bins, without_crystals
from .scans import ScanDescription, described, differences

__all__ = [
    "BackProjection",
    "CompletedScan",
    "Completion",
    "DataFolding",
    "DataNet",
    "Direct",
    "Fused",
    "OnData",
    "PartialLikelihood",
    "ScanDescription",
    "described",
    "differences",
    "every_view",
    "interpolated",
    "normalised_data",
    "partly_measured",
    "without_bins",
    "without_crystals",
]
