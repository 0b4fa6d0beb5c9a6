"""Networks that correct data before a reconstruction: attenuation maps from other images, scatter from sinograms."""

from .attenuation import ATTENUATION_SOURCES, AttenuationNetwork, attenuation_unet, predicted_attenuation
from .scatter import SCATTER_NETWORKS, ScatterNetwork, attenuation_lines, predicted_scatter, scatter_preset

__all__ = [
    "ATTENUATION_SOURCES",
    "SCATTER_NETWORKS",
    "AttenuationNetwork",
    "ScatterNetwork",
    "attenuation_lines",
    "attenuation_unet",
    "predicted_attenuation",
    "predicted_scatter",
    "scatter_preset",
]
