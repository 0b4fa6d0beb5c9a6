"""Grids of cubes over the field of view of another grid, and whether there is memory for images on a grid."""

from __future__ import annotations

import math
from collections.abc import Sequence

from emrecon.projectors import ImageGrid
from emrecon.projectors.core.memory import available_memory, too_large

from .problem import ArgumentError

_IMAGES = 8  # of float32 that an engine holds besides the sensitivities of the subsets


def cubes(grid: ImageGrid, voxel: float, subsets: int = 8) -> ImageGrid:
    """Return a grid of cubes over the same field of view, to the nearest whole voxel, with the same centre.

    Args:
        voxel : edge of a cube in mm.
        subsets : of the reconstruction that is to fit in memory.

    Raises ArgumentError, with the least size that would do, where a reconstruction needs more memory than there is; and
    for a size that is not positive or larger than the field of view.
    """
    if not voxel > 0:
        raise ArgumentError("voxel", f"the voxel size must be positive mm, got {voxel}")
    extent = [n * size for n, size in zip(grid.shape, grid.voxel_size)]
    if voxel > max(extent):
        field = " x ".join(f"{edge:.4g}" for edge in extent)
        raise ArgumentError("voxel", f"voxels of {voxel:g} mm are larger than the field of view, {field} mm")
    _require_memory("voxel", [max(1.0, edge / voxel) for edge in extent], extent, subsets)
    nx, ny, nz = (max(1, round(edge / voxel)) for edge in extent)
    x, y, z = (centre - (n - 1) / 2 * voxel for centre, n in zip(grid.centre, (nx, ny, nz)))
    return ImageGrid((nx, ny, nz), (voxel, voxel, voxel), (x, y, z))


def image_bytes(shape: Sequence[float], subsets: int) -> float:
    """Return about how many bytes a reconstruction takes for images of a shape."""
    n_bytes = 4.0 * (_IMAGES + subsets)
    for n in shape:  # not math.prod: the product of large whole numbers is no float
        n_bytes *= float(n)
    return n_bytes


def checked_grid(grid: ImageGrid | None, default: ImageGrid, subsets: int, items: int = 1) -> ImageGrid:
    """Return the grid, or the default where there is none.

    Args:
        items : images of a batch that are in memory together.

    Raises TypeError for anything else, ArgumentError where a reconstruction needs more memory than there is.
    """
    chosen = default if grid is None else grid
    if not isinstance(chosen, ImageGrid):
        raise TypeError(f"grid must be an ImageGrid, got {type(grid).__name__}; ImageGrid(shape, voxel_size)?")
    extent = [n * size for n, size in zip(chosen.shape, chosen.voxel_size)]
    _require_memory("grid", chosen.shape, extent, subsets, items)
    return chosen


def _require_memory(
    argument: str, shape: Sequence[float], extent: Sequence[float], subsets: int, items: int = 1
) -> None:
    """Raise ArgumentError, with the voxel size that would fit, where there is no memory for images of a shape."""
    each, free = 4.0 * (_IMAGES + subsets) * items, available_memory()
    n_bytes = image_bytes(shape, subsets) * items
    if n_bytes <= free:
        return
    least = _rounded_up((extent[0] * extent[1] * extent[2] * each / free) ** (1 / 3))
    what = f"a reconstruction of {'x'.join(f'{n:.4g}' for n in shape)} voxels in {subsets} subsets"
    fewer = ", or fewer frames or gates at once" if items > 1 else ""
    what = f"{what} for {items} images" if items > 1 else what
    raise ArgumentError(argument, too_large(n_bytes, free, what, f"cubes of {least:g} mm would fit{fewer}"))


def _rounded_up(size: float) -> float:
    """The next number of two digits."""
    digits = 10.0 ** (math.floor(math.log10(size)) - 1)
    return math.ceil(size / digits) * digits
