"""A sphere in an image by its profile: recovered activity, width of the blur, and the usual uptakes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from emrecon.projectors import ImageGrid
from emrecon.projectors.core.arrays import Array, to_numpy

from .regions import Sphere

_TO_SIGMA = 1 / (2 * math.sqrt(2 * math.log(2)))


@dataclass(frozen=True)
class SphereFit:
    """A sphere measured in an image, in the image's unit and mm.

    Args:
        radius, fwhm, activity : of the fitted profile, see `blurred_sphere`.
        background : around it.
        maximum : the largest voxel.
        isocontour : mean of the voxels above half way from background to maximum (A50 of EARL).
        mean : of the voxels whose centre is within the fitted radius.
    """

    radius: float
    fwhm: float
    activity: float
    background: float
    maximum: float
    isocontour: float
    mean: float


def blurred_sphere(
    distance: ArrayLike, radius: float, fwhm: float, activity: float, background: float = 0.0, wall: float = 0.0
) -> np.ndarray:
    """Return the activity at distances from the centre of a sphere in a cold wall, after a Gaussian blur.

    ::

        p(r) = activity g(r; R) + background (1 - g(r; R + wall))
        g(r; R) = (erf(a) + erf(b)) / 2 - s / (r sqrt(2 pi)) (exp(-a'^2) - exp(-b^2)),
                  a = (R - r) / (s sqrt 2),  a' = a,  b = (R + r) / (s sqrt 2),  s = fwhm / 2.355

    Args:
        distance : mm; radius, fwhm, wall : mm.

    Source: Hofheinz et al. 2010 (profiles of spheres with cold walls).
    """
    r = np.asarray(distance, float)
    sigma = fwhm * _TO_SIGMA
    return activity * _ball(r, radius, sigma) + background * (1 - _ball(r, radius + wall, sigma))


def sphere_profile(
    image: Array,
    grid: ImageGrid,
    sphere: Sphere,
    background: float,
    *,
    wall: float = 1.0,
    reach: float | None = None,
    fixed_radius: bool = False,
) -> SphereFit:
    """Fit the profile of a blurred sphere to an image, and return its uptakes.

    Args:
        image : (x, y, z) on `grid`.
        sphere : where it is; its radius is where the fit starts, or stays for `fixed_radius`.
        background : mean value around it, which is not fitted.
        wall : mm of its cold wall.
        reach : mm; voxels of the image within this distance of the centre count (default: the radius and 9 mm).

    Least squares of radius, FWHM and activity, all positive; a voxel at distance r weighs 1 / r (the residual), so that
    shells count alike. The voxel at the centre, whose weight would be infinite, is left out.

    Raises ValueError where sphere or wall leave the image, values are NaN, or the fit does not converge.
    """
    from scipy.optimize import least_squares

    volume = np.asarray(to_numpy(image), float)
    if volume.shape != grid.shape:
        raise ValueError(f"sphere_profile: an image of shape {volume.shape} does not fit a grid of {grid.shape}")
    far = sphere.diameter / 2 + 9.0 if reach is None else reach
    low = np.array(grid.origin) - np.array(grid.voxel_size) / 2
    high = low + np.array(grid.shape) * grid.voxel_size
    centre = np.array(sphere.centre)
    outside = sphere.diameter / 2 + wall
    if np.any(centre - outside < low) or np.any(centre + outside > high):
        raise ValueError(f"a sphere of {sphere.diameter:g} mm and its wall at {sphere.centre} mm reach out of {grid}")
    x, y, z = grid.coordinates()
    distance = np.sqrt((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2)
    near = distance <= far
    r, values = distance[near], volume[near]
    if not np.isfinite(values).all():
        raise ValueError("the image holds NaN or infinite values around the sphere")
    weight = np.where(r > 0, 1 / np.where(r > 0, r, 1.0), 0.0)

    def residual(p: np.ndarray) -> np.ndarray:
        radius = sphere.diameter / 2 if fixed_radius else p[2]
        return np.asarray(weight * (blurred_sphere(r, radius, p[0], p[1], background, wall) - values))

    top = float(values.max())
    start = [2 * grid.voxel_size[0], max(top, 1e-12)] + ([] if fixed_radius else [sphere.diameter / 2])
    found = least_squares(residual, start, bounds=([1e-3, 0.0, 1e-3][: len(start)], np.inf), x_scale=start)
    if not found.success:
        raise ValueError(f"no profile of a sphere fits at {sphere.centre} mm: {found.message}")
    radius = sphere.diameter / 2 if fixed_radius else float(found.x[2])
    high_enough = values[values >= background + 0.5 * (top - background)]
    inside = values[r <= radius]
    mean = float(inside.mean()) if inside.size else float("nan")
    return SphereFit(radius, float(found.x[0]), float(found.x[1]), background, top, float(high_enough.mean()), mean)


def _ball(r: np.ndarray, radius: float, sigma: float) -> np.ndarray:
    """Return a ball of activity 1 blurred by a Gaussian, at distances r from its centre."""
    from scipy.special import erf

    scale = sigma * math.sqrt(2)
    a, b = (radius - r) / scale, (radius + r) / scale
    small = r < 1e-4 * scale
    safe = np.where(small, 1.0, r)
    ring = sigma / math.sqrt(2 * math.pi) * (np.exp(-(a**2)) - np.exp(-(b**2))) / safe
    at_centre = 2 * radius / (math.sqrt(2 * math.pi) * sigma) * math.exp(-((radius / scale) ** 2))
    return np.asarray(0.5 * (erf(a) + erf(b)) - np.where(small, at_centre, ring))
