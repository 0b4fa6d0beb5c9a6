"""Recovery coefficients from the image of a phantom whose spheres are known."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from emrecon.projectors import ImageGrid, RecoveryTable
from emrecon.projectors.core.arrays import Array, to_numpy

from .image_quality import ImageQualityLayout, background_level
from .regions import Sphere, region_of


def sphere_recovery(
    image: Array,
    grid: ImageGrid,
    spheres: Sequence[Sphere],
    concentration: float,
    *,
    background: float = 0.0,
    measured_background: float | None = None,
) -> RecoveryTable:
    """Return the recovery coefficients of spheres in an image, RC = (mean - measured background) / (true - background).

    Args:
        image : (x, y, z) Bq/mL on `grid`.
        spheres : of inner diameters, at their places in mm; several of one diameter are averaged.
        concentration : true one in the spheres, Bq/mL.
        background : true one around them, Bq/mL.
        measured_background : what the image has there; needed where there is a background.

    Voxels that a surface crosses count with the part that is inside.

    Raises ValueError where a sphere reaches out of the image, sizes are fewer than two, the image is negative in a
    sphere, or the concentrations make no sense.
    """
    volume = _volume(image, grid)
    _check(concentration, background)
    if background > 0 and measured_background is None:
        raise ValueError("spheres in a warm background need measured_background, what the image has around them")
    around = float(measured_background or 0.0)
    means = []
    for sphere in spheres:
        region = region_of(f"sphere of {sphere.diameter:g} mm", sphere, grid)
        whole = math.pi / 6 * sphere.diameter**3 / 1000
        if region.volume(grid) < 0.97 * whole and _reaches_out(sphere, grid):
            raise ValueError(f"the sphere of {sphere.diameter:g} mm at {sphere.centre} mm reaches out of {grid}")
        means.append(float(region.mean(volume)))
    diameters = [sphere.diameter for sphere in spheres]
    shares = [(mean - around) / (concentration - background) for mean in means]
    return RecoveryTable.from_spheres(diameters, shares, true=1.0)


def nema_recovery(
    image: Array, grid: ImageGrid, layout: ImageQualityLayout, concentration: float, *, background: float = 0.0
) -> RecoveryTable:
    """Return the recovery coefficients of the hot spheres of a NEMA phantom, in whole spheres and not in discs.

    Args:
        image : (x, y, z) Bq/mL on `grid`.
        layout : where the spheres and the background's regions are, `ImageQualityLayout(**sims.nema_layout())`; of
            spheres with a ratio of 0, which are cold, nothing is measured.
        concentration, background : true ones in hot spheres and around them, Bq/mL. The measured background is the mean
            of the layout's background regions, of the diameter of the largest sphere.

    Raises ValueError as `sphere_recovery` and `nema_image_quality`.
    """
    hot = [
        Sphere(tuple(centre), float(diameter))
        for centre, diameter, ratio in zip(layout.centres.tolist(), layout.diameters, layout.ratios)
        if ratio > 0
    ]
    if not hot:
        raise ValueError("the layout has no hot spheres")
    measured = background_level(_volume(image, grid), grid, layout) if background > 0 else None
    return sphere_recovery(image, grid, hot, concentration, background=background, measured_background=measured)


def _check(concentration: float, background: float) -> None:
    if not (math.isfinite(concentration) and concentration > 0 and 0 <= background < concentration):
        raise ValueError(
            f"the true concentration of spheres must be positive and above the background, got {concentration:g} and "
            f"{background:g}"
        )


def _volume(image: Array, grid: ImageGrid) -> np.ndarray:
    volume = np.asarray(to_numpy(image), float)
    if volume.shape != grid.shape:
        raise ValueError(f"an image of shape {volume.shape} does not fit a grid of {grid.shape}")
    if not np.isfinite(volume).all():
        raise ValueError("the image holds NaN or infinite values")
    return volume


def _reaches_out(sphere: Sphere, grid: ImageGrid) -> bool:
    low = np.array(grid.origin) - np.array(grid.voxel_size) / 2
    high = low + np.array(grid.shape) * grid.voxel_size
    return bool((sphere.bounds[0] < low - 1e-6).any() or (sphere.bounds[1] > high + 1e-6).any())
