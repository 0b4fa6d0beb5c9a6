"""Grids of cubes over the field of view of another grid."""

from __future__ import annotations

from emrecon.projectors import ImageGrid

from .problem import ArgumentError


def cubes(grid: ImageGrid, voxel: float) -> ImageGrid:
    """Return a grid of cubes over the same field of view, to the nearest whole voxel, with the same centre.

    Args:
        voxel : edge of a cube in mm.

    Raises ArgumentError unless it is positive.
    """
    if not voxel > 0:
        raise ArgumentError("voxel", f"the voxel size must be positive mm, got {voxel}")
    nx, ny, nz = (max(1, round(n * size / voxel)) for n, size in zip(grid.shape, grid.voxel_size))
    x, y, z = (centre - (n - 1) / 2 * voxel for centre, n in zip(grid.centre, (nx, ny, nz)))
    return ImageGrid((nx, ny, nz), (voxel, voxel, voxel), (x, y, z))
