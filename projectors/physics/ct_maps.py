"""From a CT to an attenuation map on another grid: converted in the CT's own voxels first, then averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..core.grid import ImageGrid
from ..core.progress import tracked
from ..core.resampling import resample
from .attenuation import hounsfield_to_mu

_AIR = -1000.0  # HU
_BLOCK = 2**24  # values that are converted at a time
_TISSUE = -300.0  # HU, above which what touches the edge of a CT is not air
_WIDE, _FILLED = 0.8, 0.97  # of the image's width; of a disc, whose pixels all have values
_TOUCHING = 40.0  # mm along the edge, more than the ends of a table


@dataclass(frozen=True, eq=False)
class AttenuationMap:
    """An attenuation map on its own grid, and what its maker should tell; `spect_problem` and `pet_problem` take it.

    Args:
        values : (x, y, z) in 1/cm.
        grid : of the values, in the coordinates of the scan.
        energy : keV of the photons that it is for, None where that is not known.
        notes : what was assumed, a sentence each.
        source : what it was made of, in a line.
    """

    values: np.ndarray
    grid: ImageGrid
    energy: float | None = None
    notes: tuple[str, ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        if tuple(self.values.shape) != self.grid.shape:
            raise ValueError(f"AttenuationMap values of {tuple(self.values.shape)} do not fit a grid of {self.grid}")

    def __str__(self) -> str:
        return f"{self.source or 'attenuation map'}, on {self.grid}"


def attenuation_from_ct(
    hu: np.ndarray,
    ct_grid: ImageGrid,
    grid: ImageGrid,
    energy_kev: float,
    *,
    kvp: float = 120,
    scanner: str | None = None,
    inside: np.ndarray | None = None,
) -> np.ndarray:
    """Return the attenuation map of a CT on another grid: mu = mean of `hounsfield_to_mu` over each voxel, 1/cm.

    Args:
        hu : (x, y, z) Hounsfield units on `ct_grid`.
        grid : of the map, in the same coordinates; float32 (x, y, z) on it are returned.
        energy_kev, kvp, scanner : as for `hounsfield_to_mu`.
        inside : (x, y, z) bool on `ct_grid`; outside of it is air (default: everything counts).

    Converting first matters where bone, soft tissue and air share a voxel: the two lines of the conversion meet at
    water. Where the grid is finer than the CT, values are interpolated between the CT's centres. There is no
    attenuation where the CT does not reach.

    Raises ValueError for a shape, voltage, scanner or energy that does not fit, and grids that do not overlap.
    """
    if tuple(hu.shape) != ct_grid.shape:
        raise ValueError(f"attenuation_from_ct: hu of shape {tuple(hu.shape)} does not fit its grid, {ct_grid}")
    first, last = _edges(ct_grid), _edges(grid)
    if any(a1 <= b0 or b1 <= a0 for (a0, a1), (b0, b1) in zip(first, last)):
        raise ValueError(f"the CT lies at {_shown(first)}, and the image at {_shown(last)}: they do not overlap")
    step = max(1, _BLOCK // (ct_grid.shape[0] * ct_grid.shape[1]))
    mu = np.empty((*grid.shape[:2], ct_grid.shape[2]), np.float32)
    for start in tracked(range(0, ct_grid.shape[2], step), "attenuation of CT"):
        part = slice(start, min(start + step, ct_grid.shape[2]))
        block = np.asarray(hu[..., part], np.float32)
        if inside is not None:
            block = np.where(inside[..., part], block, np.float32(_AIR))
        slab = _slices(ct_grid, part)
        values = np.asarray(hounsfield_to_mu(block, energy_kev, kvp, scanner), np.float32)
        mu[..., part] = resample(values, slab, _beneath(grid, slab))
    return np.asarray(resample(mu, _beneath(grid, ct_grid), grid))


def ct_coverage(ct_grid: ImageGrid, grid: ImageGrid) -> str | None:
    """Return a sentence where slices of an image lie outside of a CT, or None."""
    place = grid.origin[2] + np.arange(grid.shape[2]) * grid.voxel_size[2]
    (bottom, top), (start, end) = _edges(ct_grid)[2], _edges(grid)[2]
    outside = int(((place < bottom) | (place > top)).sum())
    if not outside:
        return None
    return (
        f"the CT covers z {bottom:.0f} to {top:.0f} mm of {start:.0f} to {end:.0f} mm: {outside} of {grid.shape[2]} "
        "slices lie outside of it and are taken as air, without attenuation"
    )


def ct_truncation(hu: np.ndarray, ct_grid: ImageGrid) -> str | None:
    """Return a sentence where tissue touches the edge of a CT's field of view, so that a body may go on, or None.

    The field of view is the image, or a disc in it where everything outside of one has the value of the corners.
    """
    nx, ny, n_slices = ct_grid.shape
    if min(nx, ny) < 3:
        return None
    edge = _edge_of_field(hu)
    n = (hu[edge] > _TISSUE).sum(0)
    cut = int((n * np.mean(ct_grid.voxel_size[:2]) > _TOUCHING).sum())
    if not cut:
        return None
    width = nx * ct_grid.voxel_size[0]
    return (
        f"tissue touches the edge of the CT ({width:.0f} mm wide) in {cut} of {n_slices} slices: is the body cut off?"
    )


def _edge_of_field(hu: np.ndarray) -> np.ndarray:
    """(x, y) bool: the outermost pixels of the field of view."""
    nx, ny = hu.shape[:2]
    edge = np.zeros((nx, ny), bool)
    edge[[0, -1]] = edge[:, [0, -1]] = True
    outside = hu[0, 0, 0]
    if not np.all(hu[:: nx - 1, :: ny - 1] == outside):
        return edge
    x, y = (np.arange(n) - (n - 1) / 2 for n in (nx, ny))
    radius, filled = np.hypot(x[:, None], y[None, :]), (hu != outside).any(2)
    full = float(radius[filled].max(initial=0.0))
    disc = radius <= full - 1
    if full < _WIDE * max(nx, ny) / 2 or not filled[disc].mean() > _FILLED:
        return edge
    ring: np.ndarray = disc & (radius > full - 2.5)
    return ring


def shifted_grid(grid: ImageGrid, shift: Sequence[float]) -> ImageGrid:
    """Return a grid moved by (x, y, z) mm."""
    x, y, z = (float(start + by) for start, by in zip(grid.origin, shift))
    return ImageGrid(grid.shape, grid.voxel_size, (x, y, z))


def _slices(grid: ImageGrid, part: slice) -> ImageGrid:
    x, y, z = grid.origin
    shape = (*grid.shape[:2], part.stop - part.start)
    return ImageGrid(shape, grid.voxel_size, (x, y, z + part.start * grid.voxel_size[2]))


def _beneath(grid: ImageGrid, slices: ImageGrid) -> ImageGrid:
    """x and y of a grid, z of another one."""
    (nx, ny, _), (dx, dy, _), (x, y, _) = grid.shape, grid.voxel_size, grid.origin
    return ImageGrid((nx, ny, slices.shape[2]), (dx, dy, slices.voxel_size[2]), (x, y, slices.origin[2]))


def _edges(grid: ImageGrid) -> list[tuple[float, float]]:
    """Where a grid begins and ends, in mm along each axis."""
    ends = []
    for n, size, origin in zip(grid.shape, grid.voxel_size, grid.origin):
        first = origin - size / 2
        ends.append((first, first + n * size))
    return ends


def _shown(edges: list[tuple[float, float]]) -> str:
    return ", ".join(f"{axis} {first:.0f} to {last:.0f} mm" for axis, (first, last) in zip("xyz", edges))
