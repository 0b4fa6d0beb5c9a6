"""The body on a CT, without the table under it: thin parts are cut away, pieces as thick as a limb stay."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.grid import ImageGrid
from ..core.resampling import resample

_TISSUE = -500.0  # HU; half of the way from air to water, where the mean over a voxel puts the skin
_COARSE = 4.0  # mm; a body needs no finer voxels, and the table's shells fade
_SHELL = 4.0  # mm; half of the thickness of shells and straps, cut before holes are filled: lungs must not open
_TABLE = 12.0  # mm; half of the thickness of the solid part of a table
_LIMB = 18.0  # mm; radius of the largest ball inside a piece that belongs to the body though it is apart
_SKIN = 4.0  # mm around the body that is kept, for ears and fingers


@dataclass(frozen=True, eq=False)
class BodyMask:
    """Where a body is, and how much else there was.

    Args:
        inside : (x, y, z) bool.
        n_pieces : of the body: trunk, arms, legs that do not touch each other.
        removed : mL of anything denser than -500 HU outside of it: table, head holder, blankets, tubes.
    """

    inside: np.ndarray
    n_pieces: int
    removed: float


def find_body(hu: np.ndarray, grid: ImageGrid) -> BodyMask | None:
    """Return where the body is on a CT (x, y, z) in Hounsfield units; None where there is none.

    On voxels of about 4 mm: all above -500 HU, opened to cut shells and straps, with its holes in axial slices filled
    (lungs, bowel), opened by a ball of 12 mm radius, which a table does not hold. The largest connected piece is the
    body, and so are others that hold a ball of 18 mm radius (arms beside the trunk, legs). 4 mm around them are kept.
    A body that is too small for this (an animal, a small phantom) is looked for with smaller balls.
    """
    coarse = _coarser(grid)
    values = np.asarray(resample(np.asarray(hu, np.float32) + 1000, grid, coarse)) - 1000
    found = _pieces(values > _TISSUE, coarse)
    if found is None:
        return None
    body, n_pieces = found
    rows = [_nearest(grid, coarse, axis) for axis in range(3)]
    inside = body[np.ix_(*rows)]
    removed = float(np.count_nonzero((hu > _TISSUE) & ~inside)) * grid.voxel_volume
    return BodyMask(inside, n_pieces, removed)


def _coarser(grid: ImageGrid) -> ImageGrid:
    """Voxels of about 4 mm over the same field of view, never finer than the grid's own."""
    extent = np.array(grid.shape) * grid.voxel_size
    shape = tuple(max(1, round(edge / max(_COARSE, size))) for edge, size in zip(extent, grid.voxel_size))
    size = extent / shape
    origin = grid.centre - (np.array(shape) - 1) / 2 * size
    return ImageGrid(shape, tuple(size.tolist()), tuple(origin.tolist()))


def _pieces(dense: np.ndarray, grid: ImageGrid) -> tuple[np.ndarray, int] | None:
    """The body among all that is dense, and the number of its pieces."""
    from scipy import ndimage

    for scale in (1.0, 0.5, 0.25, 0.0):
        solid = _opened(dense, scale * _SHELL, grid)
        for k in range(solid.shape[2]):
            solid[:, :, k] = ndimage.binary_fill_holes(solid[:, :, k])
        depth = _depth(solid, grid)
        core = depth > scale * _TABLE
        labels, n = ndimage.label(core, np.ones((3, 3, 3)))
        if not n:
            continue
        numbers = np.arange(1, n + 1)
        sizes = ndimage.sum_labels(core, labels, numbers)
        thickness = ndimage.maximum(depth, labels, numbers)
        kept = numbers[(sizes == sizes.max()) | (thickness > _LIMB)]
        away = ndimage.distance_transform_edt(~np.isin(labels, kept), sampling=grid.voxel_size)
        body = away <= scale * _TABLE + _half(grid) + _SKIN
        return body, kept.size
    return None


def _depth(solid: np.ndarray, grid: ImageGrid) -> np.ndarray:
    """How deep each voxel's centre is inside, in mm; what the image cuts goes on beyond it."""
    from scipy import ndimage

    if solid.all():
        return np.full(solid.shape, np.inf)
    return np.maximum(ndimage.distance_transform_edt(solid, sampling=grid.voxel_size) - _half(grid), 0) * solid


def _opened(solid: np.ndarray, radius: float, grid: ImageGrid) -> np.ndarray:
    from scipy import ndimage

    if radius <= 0:
        return solid.copy()
    core = _depth(solid, grid) > radius
    if not core.any():
        return core
    away: np.ndarray = ndimage.distance_transform_edt(~core, sampling=grid.voxel_size)
    return solid & (away <= radius + 2 * _half(grid))


def _half(grid: ImageGrid) -> float:
    """Half of a voxel, from its centre to its face, in the axial slice."""
    return max(grid.voxel_size[:2]) / 2


def _nearest(grid: ImageGrid, coarse: ImageGrid, axis: int) -> np.ndarray:
    place = grid.origin[axis] + np.arange(grid.shape[axis]) * grid.voxel_size[axis]
    index = np.rint((place - coarse.origin[axis]) / coarse.voxel_size[axis]).astype(int)
    return np.clip(index, 0, coarse.shape[axis] - 1)
