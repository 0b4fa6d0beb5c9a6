"""How sure an image is: standard deviations and covariances, local resolution, and realisations of the noise."""

from .diagonal import METHODS
from .iterated import IteratedEstimate
from .linearised import DeviationMap, FilteredEstimate, LinearisedEstimate
from .maps import standard_deviation_map
from .penalised import PenalisedEstimate
from .point_response import Widths, contrast_recovery_map, local_point_response, response_widths
from .resampling import bootstrap, bootstrap_counts, bootstrap_statistics, realisations

__all__ = [
    "METHODS",
    "DeviationMap",
    "FilteredEstimate",
    "IteratedEstimate",
    "LinearisedEstimate",
    "PenalisedEstimate",
    "Widths",
    "bootstrap",
    "bootstrap_counts",
    "bootstrap_statistics",
    "contrast_recovery_map",
    "local_point_response",
    "realisations",
    "response_widths",
    "standard_deviation_map",
]
