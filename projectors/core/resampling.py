"""Images from one grid to another, as a linear operator with an exact transpose."""

from __future__ import annotations

import math

import numpy as np

from .arrays import Array, PlanCache, array_namespace, as_real, like
from .grid import ImageGrid
from .memory import require_memory
from .operator import BatchOperator


class Resampling(BatchOperator):
    """An image on another grid, axis by axis: y = W_x W_y W_z x; for maps such as attenuation, and for guides.

    Args:
        grid : of the image, (nx, ny, nz).
        target : the other grid.

    Along an axis on which the target's voxels are longer, a voxel gets the mean of the image over its length, which is
    what keeps the noise of a CT low and thin bones in place; otherwise the image is interpolated linearly between
    centres of voxels. Outside of the image there are zeros: a voxel that is half outside has half of the mean.

    Runs on NumPy, CuPy and torch, with leading batch axes and gradients; the transpose is exact.

    Raises ValueError where the grids do not overlap.
    """

    def __init__(self, grid: ImageGrid, target: ImageGrid) -> None:
        self.grid, self.target = grid, target
        self.in_shape, self.out_shape = grid.shape, target.shape
        own, other = (np.stack([np.array(g.centre) + side * _half(g) for side in (-1, 1)]) for g in (grid, target))
        if np.any(own[1] <= other[0]) or np.any(own[0] >= other[1]):
            raise ValueError(
                f"resample: the grids do not overlap ({grid} from {own[0]} to {own[1]} mm, "
                f"{target} from {other[0]} to {other[1]} mm)"
            )
        self._plans = PlanCache()

    def _forward_batch(self, x: Array) -> Array:
        return _along_axes(x, self._matrices(x))

    def _adjoint_batch(self, y: Array) -> Array:
        return _along_axes(y, [matrix.T for matrix in self._matrices(y)])

    def _matrices(self, x: Array) -> list[Array]:
        """W_x, W_y and W_z, (target, own) voxels each."""
        own, other = (zip(g.origin, g.voxel_size, g.shape) for g in (self.grid, self.target))
        return self._plans.get(x, lambda: [like(_weights(*axes), x) for axes in zip(own, other)])


def resample(image: Array, grid: ImageGrid, target: ImageGrid) -> Array:
    """Return `image` on another grid, as `Resampling` does it: means where the target is coarser, else interpolated.

    Args:
        image : (..., nx, ny, nz) on `grid`.

    Returns (..., x, y, z) on `target`, float64 for float64 input and float32 otherwise; the image itself, and no copy,
    on equal grids.

    Raises ValueError where the image does not fit its grid, or the grids do not overlap; MemoryError where the
    result is larger than the memory that is free.
    """
    if tuple(image.shape[-3:]) != grid.shape:
        raise ValueError(f"resample: the image has shape {tuple(image.shape)}, but its grid has {grid.shape}")
    if grid.shape == target.shape and np.allclose(grid.affine, target.affine, atol=1e-4):
        return image
    operator = Resampling(grid, target)
    require_memory(16.0 * math.prod((*image.shape[:-3], *target.shape)), f"an image of {target}")
    return operator(as_real(image))


def _half(grid: ImageGrid) -> np.ndarray:
    """Half of the lengths of an image in mm."""
    return np.array(grid.shape) * grid.voxel_size / 2


def _weights(own: tuple[float, float, int], other: tuple[float, float, int]) -> np.ndarray:
    """Return (target, own) weights along an axis; both given as (first centre, size, number) of voxels."""
    (start, size, n), (first, length, m) = own, other
    centre = (first + np.arange(m) * length - start) / size  # of the target's voxels, in own ones
    distance = np.abs(centre[:, None] - np.arange(n))
    half = length / size / 2
    if half > 0.5 * (1 + 1e-6):
        return np.clip(half + 0.5 - distance, 0, 1) / (2 * half)
    inside = np.clip(centre, 0, n - 1)
    tents = np.maximum(1 - np.abs(inside[:, None] - np.arange(n)), 0)
    return np.where(np.abs(centre - inside)[:, None] <= 0.5 + 1e-6, tents, 0.0)


def _along_axes(x: Array, matrices: list[Array]) -> Array:
    """Return images (B, nx, ny, nz) with a matrix applied along each axis."""
    xp, (along_x, along_y, along_z) = array_namespace(x), matrices
    x = along_y @ (x @ along_z.T)
    items, n, ny, nz = x.shape
    return xp.reshape(along_x @ xp.reshape(x, (items, n, ny * nz)), (items, along_x.shape[0], ny, nz))
