"""Bias and noise of methods over many realisations of one scan: curves, local resolution, and contrast by size."""

from .measuring import Curve, Point, contrast_by_size, curve_of, point_responses
from .repeating import repeated, with_truth
from .report import sections
from .work import LEVELS, units

__all__ = [
    "LEVELS",
    "Curve",
    "Point",
    "contrast_by_size",
    "curve_of",
    "point_responses",
    "repeated",
    "sections",
    "units",
    "with_truth",
]
