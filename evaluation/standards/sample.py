"""One image of the NEMA body phantom that anyone can make again, for comparing programs that measure it."""

from __future__ import annotations

import math

import numpy as np

from emrecon.projectors import ImageGrid
from emrecon.recon import ImageQualityLayout
from emrecon.sims import nema_iec_body, nema_layout


def grid_of_sample(size: float = 2.0) -> ImageGrid:
    """Return the grid of the sample image: square transverse slices, 320 x 320 x 184 mm, cubic voxels of `size` mm."""
    n, m = round(320 / size), round(184 / size)
    return ImageGrid((n, n, m), (size, size, size), (size / 2 - 160, size / 2 - 160, size / 2 - 113))


SAMPLE_GRID = grid_of_sample()
"""Of 2 mm: programs that search a sphere within 10 pixels do not reach the next one."""

SAMPLE_RATIO = 4.0
_BACKGROUND = 5.3  # kBq/mL, that of the standard
_FWHM = 6.0
_NOISE = 1.2


def sample_image(seed: int = 1, grid: ImageGrid = SAMPLE_GRID) -> np.ndarray:
    """Return the phantom of NU 2-2018 in kBq/mL, blurred to 6 mm, with noise that neighbouring voxels share.

    Returns:
        (x, y, z) float64 on `grid` (`grid_of_sample`), the same on every machine to rounding.
    """
    from scipy.ndimage import gaussian_filter

    body = nema_iec_body(SAMPLE_RATIO, _BACKGROUND).activity(grid, oversample=2)
    sigma = _FWHM / (2 * math.sqrt(2 * math.log(2))) / grid.voxel_size[0]
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=grid.shape), 1.2)
    return np.asarray(gaussian_filter(body, sigma) + _NOISE * noise * (body > 0))


def snapped_layout(grid: ImageGrid = SAMPLE_GRID, ratio: float = SAMPLE_RATIO) -> ImageQualityLayout:
    """Return the layout of the phantom, the regions of the spheres centred on pixels as in programs without parts."""
    layout = ImageQualityLayout(**nema_layout(ratio))
    size, origin = np.array(grid.voxel_size), np.array(grid.origin)
    centres = np.round((layout.centres - origin) / size) * size + origin
    return ImageQualityLayout(**{**nema_layout(ratio), "centres": centres})
