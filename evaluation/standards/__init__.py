"""Protocols of the standards on simulated phantoms: NEMA NU 2 (PET), NEMA NU 1 (SPECT), and quantitative Lu-177."""

from .sample import SAMPLE_GRID, SAMPLE_RATIO, grid_of_sample, sample_image, snapped_layout

__all__ = [
    "SAMPLE_GRID",
    "SAMPLE_RATIO",
    "grid_of_sample",
    "sample_image",
    "snapped_layout",
]
