"""Reconstruction: likelihoods, the steps that improve an image, and the loops that repeat them."""

if __name__ != "emrecon.recon":
    raise ImportError("this folder is a part of emrecon: `pip install .` first, then `import emrecon.recon`")

from .em import Iterate, em_step, mlem, osem
from .fbp import FilteredBackprojection, Window, angular_weights, fbp, ramp_kernel
from .image_quality import ImageQuality, ImageQualityLayout, SphereQuality, nema_image_quality
from .likelihood import ListmodeLikelihood, PoissonLikelihood
from .metrics import nrmse
from .prior import Objective, ProximablePrior, SmoothPrior
from .priors import (
    Bowsher,
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
from .run import Checkpoint, Log, ProgressBar, RelativeChange, run
from .transmission import Smoothness, SmoothPenalty, TransmissionLikelihood, ostr

__all__ = [
    "Bowsher",
    "Checkpoint",
    "FilteredBackprojection",
    "Huber",
    "Hyperbolic",
    "ImageQuality",
    "ImageQualityLayout",
    "Iterate",
    "ListmodeLikelihood",
    "Log",
    "LogCosh",
    "Objective",
    "PairPrior",
    "PoissonLikelihood",
    "ProgressBar",
    "ProximablePrior",
    "Quadratic",
    "RelativeChange",
    "RelativeDifference",
    "Similarity",
    "SmoothPenalty",
    "SmoothPrior",
    "Smoothness",
    "SphereQuality",
    "TransmissionLikelihood",
    "Window",
    "angular_weights",
    "bowsher",
    "em_step",
    "fbp",
    "mlem",
    "nema_image_quality",
    "nrmse",
    "osem",
    "ostr",
    "ramp_kernel",
    "run",
    "spatial_weights",
]
