"""Reconstruction in one pass: data in, image out, and networks that complete the data first."""

from .back_projection import BackProjection
from .completion import (
    CompletedScan,
    Completion,
    DataNet,
    OnData,
    PartialLikelihood,
    every_view,
    interpolated,
    partly_measured,
)
from .direct import Direct, normalised_data
from .folding import DataFolding
from .fusion import Fused
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
]
