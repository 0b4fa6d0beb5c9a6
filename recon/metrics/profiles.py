"""Widths of peaks as NEMA measures them: the maximum by a parabola, half and tenth of it by straight lines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from emrecon.projectors import ImageGrid
from emrecon.projectors.core.arrays import Array, to_numpy


class Peak(NamedTuple):
    """A peak: its position and its full widths at half and at a tenth of its maximum, all in mm (or any unit)."""

    position: float
    fwhm: float
    fwtm: float


@dataclass(frozen=True)
class PointWidths:
    """The image of a point source, in mm.

    Args:
        position : (x, y, z) of the peak.
        fwhm, fwtm : (x, y, z) full widths at half and at a tenth of the maximum.
    """

    position: tuple[float, float, float]
    fwhm: tuple[float, float, float]
    fwtm: tuple[float, float, float]

    def radial_tangential(self, axis: tuple[float, float] = (0.0, 0.0)) -> tuple[Peak, Peak]:
        """Return the widths along and across the radius from a rotation axis at (x, y) mm.

        The point must lie about in the direction of x or of y from there, where radial and tangential are x and y.

        Raises ValueError for one more than 20 degrees from both, or on the axis.
        """
        dx, dy = abs(self.position[0] - axis[0]), abs(self.position[1] - axis[1])
        if min(dx, dy) > math.tan(math.radians(20)) * max(dx, dy) or max(dx, dy) == 0:
            raise ValueError(f"a point at {self.position} mm lies neither along x nor along y from the axis at {axis}")
        along = 0 if dx > dy else 1
        radial, tangential = (Peak(self.position[i], self.fwhm[i], self.fwtm[i]) for i in (along, 1 - along))
        return radial, tangential


def peak_width(profile: ArrayLike, spacing: float, first: float = 0.0) -> Peak:
    """Return position and widths of the largest peak of a profile.

    Args:
        profile : (samples,) values, the highest not at an end.
        spacing : between samples, in the unit that widths shall have; first : position of sample 0.

    The maximum is that of the parabola through the highest sample and its two neighbours, which also gives the
    position. Half and a tenth of it are where straight lines between neighbouring samples cross them, first on the way
    down from the peak.

    Raises ValueError where the highest sample is at an end, is not positive, or the profile does not fall to a tenth.

    Source: NEMA NU 2 (spatial resolution) and NU 1 (tomographic resolution).
    """
    values = np.asarray(profile, float)
    if values.ndim != 1 or values.size < 3 or not np.isfinite(values).all():
        raise ValueError(f"peak_width needs a profile of 3 or more finite values, got shape {values.shape}")
    if not spacing > 0:
        raise ValueError(f"peak_width spacing must be positive, got {spacing}")
    k = int(values.argmax())
    if not 0 < k < values.size - 1:
        raise ValueError(f"the highest of {values.size} values of the profile is at its end; is the peak in it?")
    before, top, after = values[k - 1 : k + 2]
    if not top > 0:
        raise ValueError(f"the highest value of the profile is {top:g}; a peak must be positive")
    curvature = 2 * top - before - after
    shift = (after - before) / (2 * curvature) if curvature > 0 else 0.0
    maximum = top + (after - before) * shift / 4
    widths = [
        spacing * (_crossing(values[k:], part * maximum, part) + _crossing(values[k::-1], part * maximum, part))
        for part in (0.5, 0.1)
    ]
    return Peak(first + spacing * (k + shift), *widths)


def point_response(
    image: Array, grid: ImageGrid, near: Sequence[float] | None = None, reach: float = 30.0
) -> PointWidths:
    """Return where a point source lies in an image and how wide it is, along x, y and z.

    Args:
        image : (x, y, z) on `grid`, of a point much smaller than a voxel; pixels should be a third of the FWHM or less.
        near : (x, y, z) mm of the source; None takes the highest voxel of the image.
        reach : mm; a box of so much to every side of the source is looked at. Other sources must be outside.

    Profiles through the highest voxel are sums over the two other directions, over twice the FWHM there as the standard
    has it (whole voxels, one FWHM to each side), and measured by `peak_width`.

    Raises ValueError where nothing of the image is near, and as `peak_width` does.

    Source: NEMA NU 2-2018, section 3.
    """
    volume = np.asarray(to_numpy(image), float)
    if volume.shape != grid.shape:
        raise ValueError(f"point_response: an image of shape {volume.shape} does not fit a grid of {grid.shape}")
    if near is None:
        near = grid.affine[:3, :3] @ np.unravel_index(int(volume.argmax()), volume.shape) + np.array(grid.origin)
    starts, stops = [], []
    for place, origin, size, n in zip(near, grid.origin, grid.voxel_size, grid.shape):
        low, high = (place - reach - origin) / size, (place + reach - origin) / size
        starts.append(max(0, math.ceil(low - 1e-9)))
        stops.append(min(n, math.floor(high + 1e-9) + 1))
        if stops[-1] - starts[-1] < 3:
            raise ValueError(f"fewer than 3 voxels of {grid} are within {reach:g} mm of {tuple(map(float, near))} mm")
    box = volume[tuple(slice(a, b) for a, b in zip(starts, stops))]
    peak = np.unravel_index(int(box.argmax()), box.shape)
    first = [grid.origin[i] + grid.voxel_size[i] * starts[i] for i in range(3)]
    thin = [peak_width(_through(box, peak, i, (0, 0, 0)), grid.voxel_size[i]).fwhm for i in range(3)]
    half = tuple(round(width / size) for width, size in zip(thin, grid.voxel_size))
    found = [peak_width(_through(box, peak, i, half), grid.voxel_size[i], first[i]) for i in range(3)]
    (x, y, z), fwhm, fwtm = zip(*found)
    return PointWidths((x, y, z), fwhm, fwtm)


def centroid(image: Array, grid: ImageGrid, near: Sequence[float], reach: float = 15.0) -> tuple[float, float, float]:
    """Return the centre of gravity of a small source, (x, y, z) mm, as for a marker of the co-registration test.

    Args:
        image : (x, y, z) on `grid`: activity, or the attenuation of a marker in air.
        near : (x, y, z) mm; reach : mm, radius of the ball around it that counts.

    Values below a tenth of the largest in the ball are left out, which keeps noise and streaks away.

    Raises ValueError where the ball holds nothing positive, or reaches out of the image.
    """
    volume = np.asarray(to_numpy(image), float)
    if volume.shape != grid.shape:
        raise ValueError(f"centroid: an image of shape {volume.shape} does not fit a grid of {grid.shape}")
    x, y, z = grid.coordinates()
    inside = (x - near[0]) ** 2 + (y - near[1]) ** 2 + (z - near[2]) ** 2 <= reach**2
    low = np.array(grid.origin) - np.array(grid.voxel_size) / 2
    high = low + np.array(grid.shape) * grid.voxel_size
    if np.any(np.array(near) - reach < low) or np.any(np.array(near) + reach > high):
        raise ValueError(f"a ball of {reach:g} mm around {tuple(map(float, near))} mm reaches out of {grid}")
    top = float(volume[inside].max())
    if not (math.isfinite(top) and top > 0):
        raise ValueError(f"nothing is positive within {reach:g} mm of {tuple(map(float, near))} mm")
    weight = np.where(inside & (volume >= top / 10), volume, 0.0)
    a, b, c = (float((weight * axis).sum() / weight.sum()) for axis in (x, y, z))
    return a, b, c


def _through(box: np.ndarray, peak: tuple[np.intp, ...], axis: int, half: tuple[int, ...]) -> np.ndarray:
    """Return the profile along an axis through a voxel, summed over `half` voxels to each side across it."""
    window = [slice(max(0, int(k) - h), int(k) + h + 1) for k, h in zip(peak, half)]
    window[axis] = slice(None)
    return np.asarray(box[tuple(window)].sum(tuple(i for i in range(3) if i != axis)))


def _crossing(falling: np.ndarray, level: float, part: float) -> float:
    """Return how many samples from the first the values fall to a level."""
    below = np.flatnonzero(falling <= level)
    if not below.size:
        raise ValueError(f"the profile does not fall to {part:g} of its maximum before it ends; make it longer")
    k = int(below[0])
    high, low = falling[k - 1], falling[k]
    return k - 1 + float((high - level) / (high - low))
