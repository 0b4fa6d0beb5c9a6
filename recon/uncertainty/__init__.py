"""How sure an image is: standard deviations and covariances, local resolution, and realisations of the noise."""

from .diagonal import METHODS
from .linearised import DeviationMap, FilteredEstimate, LinearisedEstimate
from .maps import standard_deviation_map
from .penalised import PenalisedEstimate
from .point_response import Widths, contrast_recovery_map, local_point_response, response_widths

__all__ = [
    "METHODS",
    "DeviationMap",
    "FilteredEstimate",
    "LinearisedEstimate",
    "PenalisedEstimate",
    "Widths",
    "contrast_recovery_map",
    "local_point_response",
    "response_widths",
    "standard_deviation_map",
]
