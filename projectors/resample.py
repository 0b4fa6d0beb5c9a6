"""Images from one grid to another."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import map_coordinates

from .geometry import ImageGrid


def resample(image: np.ndarray, grid: ImageGrid, target: ImageGrid) -> np.ndarray:
    """Return `image` on another grid: trilinear between voxel centres, zero outside; for maps such as attenuation.

    image : (nx, ny, nz) on `grid`.  Returns the shape of `target`, in the dtype of `image`; no copy on equal grids.
    Raises ValueError where the image does not fit its grid, or the grids do not overlap.
    """
    if tuple(image.shape) != grid.shape:
        raise ValueError(f"resample: image of shape {tuple(image.shape)} on a grid of {grid.shape}")
    if grid.shape == target.shape and np.allclose(grid.affine, target.affine, atol=1e-4):
        return image
    own, other = (
        np.stack([g.origin, np.array(g.origin) + (np.array(g.shape) - 1) * g.voxel_size]) for g in (grid, target)
    )
    if np.any(own[1] < other[0]) or np.any(own[0] > other[1]):
        raise ValueError(f"resample: the grids do not overlap ({grid} from {own[0]} mm, {target} from {other[0]} mm)")
    positions = [
        (origin + np.arange(n) * size - own_origin) / own_size
        for origin, n, size, own_origin, own_size in zip(
            target.origin or (), target.shape, target.voxel_size, grid.origin or (), grid.voxel_size
        )
    ]
    values: np.ndarray = map_coordinates(image, np.meshgrid(*positions, indexing="ij"), order=1, mode="constant")
    return values
