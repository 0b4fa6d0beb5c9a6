"""Model observers: how well a lesion is found in images, as the statistics of many images say it."""

from .areas import (
    AreaComparison,
    Measured,
    ROCPoints,
    area_under_curve,
    compare_areas,
    detectability,
    roc_curve,
)
from .channels import (
    channel_outputs,
    difference_of_gaussians,
    gabor_channels,
    laguerre_gauss_channels,
    slice_channels,
    square_channels,
)
from .gaussian_check import NormalityTests, normality
from .held_out_scores import Observer, held_out, leave_one_out, leave_pair_out_area
from .hotelling import ChannelisedHotelling
from .localisation import (
    LROCPoints,
    ScanningHotelling,
    area_under_lroc,
    compare_lroc_areas,
    localised,
    lroc_curve,
)
from .multi_slice import MultiSliceHotelling
from .signal_to_noise import SignalToNoise, snr_interval

__all__ = [
    "AreaComparison",
    "ChannelisedHotelling",
    "LROCPoints",
    "Measured",
    "MultiSliceHotelling",
    "NormalityTests",
    "Observer",
    "ROCPoints",
    "ScanningHotelling",
    "SignalToNoise",
    "area_under_curve",
    "area_under_lroc",
    "channel_outputs",
    "compare_areas",
    "compare_lroc_areas",
    "detectability",
    "difference_of_gaussians",
    "gabor_channels",
    "held_out",
    "laguerre_gauss_channels",
    "leave_one_out",
    "leave_pair_out_area",
    "localised",
    "lroc_curve",
    "normality",
    "roc_curve",
    "slice_channels",
    "snr_interval",
    "square_channels",
]
