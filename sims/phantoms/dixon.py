"""Dixon-like images of phantoms: how much water and how much fat an MR scanner sees in every voxel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.ndimage import zoom

from emrecon.projectors import ImageGrid

from ..noise import generator
from .phantom import Phantom, Region

WATER_AND_FAT = {
    "water": (1.0, 0.0),
    "muscle": (0.95, 0.03),
    "adipose": (0.10, 0.90),
    "lung": (0.12, 0.0),
    "bone-cortical": (0.03, 0.03),
    "air": (0.0, 0.0),
}
"""What is seen of materials; our choice of typical values."""

_MARROW = 1.3  # g/mL: bone below it is taken as trabecular, full of marrow
_MARROW_IMAGE = (0.35, 0.55)
_FLAT = (0.25, 0.30)
_DENSE = 1.5  # g/mL: bone above it is cortical


def dixon_images(phantom: Phantom, grid: ImageGrid, seed: int, *, noise: float = 0.03, bias: float = 0.2) -> np.ndarray:
    """Return the water and the fat image of a phantom of materials, (2, x, y, z) float32.

    Args:
        phantom : regions with materials; those that keep the attenuation below keep what is seen there.
        seed : of noise and bias.
        noise : standard deviation over the signal of water, of the magnitude of two Gaussians (Rician).
        bias : a smooth factor of both images within 1 - bias and 1 + bias, as of a receive coil.

    Lungs and cortical bone are nearly dark, as in reality: what tells them from air is where they are. Marrow has fat.

    Raises ValueError for noise or bias that is negative, and materials without an entry in `WATER_AND_FAT`.

    Source: ours; the fat fractions after Dixon 1984 (what the technique separates).
    """
    if noise < 0 or not 0 <= bias < 1:
        raise ValueError(f"dixon_images: noise must not be negative and bias from 0 to below 1, got {noise} and {bias}")
    random = generator(seed, "dixon")
    seen = [region for region in phantom.regions if region.material is not None or region.mu is not None]
    images = [
        Phantom(tuple(replace(region, activity=_signal(region)[k]) for region in seen)).activity(grid) for k in range(2)
    ]
    field = random.uniform(-1, 1, (3, 3, 3))
    smooth = zoom(field, [n / 3 for n in grid.shape], order=1, mode="nearest", grid_mode=True)
    factor = 1 + bias * smooth
    errors = noise * random.normal(size=(2, 2, *grid.shape))
    made = [np.hypot(factor * image + one[0], one[1]) for image, one in zip(images, errors)]
    return np.asarray(made, np.float32)


def _signal(region: Region) -> tuple[float, float]:
    """The signal of water and of fat."""
    if region.material is None:
        return (1.0, 0.0)  # a mu of its own: soft tissue
    if region.material.startswith("bone") and region.density is not None:
        if region.density < _MARROW:
            return _MARROW_IMAGE
        return WATER_AND_FAT["bone-cortical"] if region.density > _DENSE else _FLAT
    if region.material not in WATER_AND_FAT:
        raise ValueError(
            f"dixon_images: region {region.name!r} is of {region.material}; known are {', '.join(WATER_AND_FAT)}"
        )
    return WATER_AND_FAT[region.material]
