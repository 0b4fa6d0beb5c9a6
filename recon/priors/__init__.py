"""What images are expected to look like: values, gradients, curvatures and proximal maps."""

from .image_gradient import ImageGradient
from .pairs import (
    BowsherWeights,
    Huber,
    Hyperbolic,
    LogCosh,
    PairPrior,
    Quadratic,
    RelativeDifference,
    Similarity,
    bowsher,
    spatial_weights,
)
from .patches import MedianRoot, MedianRootSurrogate, NonLocal
from .prior import Objective, ProximablePrior, SmoothPrior
from .smoothed_variation import ParallelLevelSets, SmoothedDirectionalTotalVariation, SmoothedTotalVariation
from .total_variation import DirectionalGradient, DirectionalTotalVariation, DualBallPrior, TotalVariation

__all__ = [
    "BowsherWeights",
    "DirectionalGradient",
    "DirectionalTotalVariation",
    "DualBallPrior",
    "Huber",
    "Hyperbolic",
    "ImageGradient",
    "LogCosh",
    "MedianRoot",
    "MedianRootSurrogate",
    "NonLocal",
    "Objective",
    "PairPrior",
    "ParallelLevelSets",
    "ProximablePrior",
    "Quadratic",
    "RelativeDifference",
    "Similarity",
    "SmoothPrior",
    "SmoothedDirectionalTotalVariation",
    "SmoothedTotalVariation",
    "TotalVariation",
    "bowsher",
    "spatial_weights",
]
