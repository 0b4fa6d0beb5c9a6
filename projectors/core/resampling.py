"""Images from one grid to another."""

from __future__ import annotations

import math

import numpy as np
from scipy.ndimage import map_coordinates

from .grid import ImageGrid
from .memory import require_memory


def resample(image: np.ndarray, grid: ImageGrid, target: ImageGrid) -> np.ndarray:
    """Return `image` on another grid: trilinear between voxel centres, zero outside; for maps such as attenuation.

    Args:
        image : (nx, ny, nz) on `grid`.

    Returns the shape of `target`, in the dtype of `image`; no copy on equal grids.

    Raises ValueError where the image does not fit its grid, or the grids do not overlap; MemoryError where the
    result is larger than the memory that is free.
    """
    if tuple(image.shape) != grid.shape:
        raise ValueError(f"resample: the image has shape {tuple(image.shape)}, but its grid has {grid.shape}")
    if grid.shape == target.shape and np.allclose(grid.affine, target.affine, atol=1e-4):
        return image
    own, other = (
        np.stack([np.array(g.origin), np.array(g.origin) + (np.array(g.shape) - 1) * g.voxel_size])
        for g in (grid, target)
    )
    if np.any(own[1] < other[0]) or np.any(own[0] > other[1]):
        raise ValueError(f"resample: the grids do not overlap ({grid} from {own[0]} mm, {target} from {other[0]} mm)")
    require_memory(32.0 * math.prod(target.shape), f"an image of {target}")  # with the positions of its voxels
    positions = [
        _onto_border((origin + np.arange(n) * size - own_origin) / own_size, own_n)
        for origin, n, size, own_origin, own_n, own_size in zip(
            target.origin, target.shape, target.voxel_size, grid.origin, grid.shape, grid.voxel_size
        )
    ]
    values: np.ndarray = map_coordinates(image, np.meshgrid(*positions, indexing="ij"), order=1, mode="constant")
    return values


def _onto_border(position: np.ndarray, n: int) -> np.ndarray:
    """Return positions with those that only rounding puts outside 0 to n - 1 put back."""
    inside = np.clip(position, 0, n - 1)
    return np.where(np.abs(position - inside) < 1e-6, inside, position)
