"""Solids with values painted on grids, as means over voxels, and cut into pieces along lines."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from emrecon.projectors import ImageGrid, SPECTGeometry
from emrecon.projectors.core.memory import require_memory

from .shapes import Solid, sub_positions

Layer = tuple[Solid, float]

Integrate = Callable[..., np.ndarray]

_VOXELS_AT_ONCE = 2**18


def painted(layers: Sequence[Layer], grid: ImageGrid, oversample: int) -> np.ndarray:
    """Return the mean of the painted values over every voxel, float32, a few x-planes at a time.

    Raises MemoryError where the image is larger than the memory that is free.
    """
    require_memory(4.0 * math.prod(grid.shape), f"an image of {grid}")
    axes, half, offsets = voxels_of(grid, oversample)
    image = np.zeros(grid.shape, np.float32)
    n_planes = max(1, _VOXELS_AT_ONCE // (grid.shape[1] * grid.shape[2]))
    for i in range(0, grid.shape[0], n_planes):
        image[i : i + n_planes] = _painted_block(layers, [axes[0][i : i + n_planes], *axes[1:]], half, offsets)
    return image


def voxels_of(grid: ImageGrid, oversample: int) -> tuple[list[np.ndarray], tuple[float, float, float], np.ndarray]:
    """Return what voxels are sampled by: centres along the axes, half edges (no depth in one slice), and offsets."""
    if oversample < 1:
        raise ValueError(f"oversample must be at least 1, got {oversample}")
    flat = grid.shape[2] == 1
    half = (grid.voxel_size[0] / 2, grid.voxel_size[1] / 2, 0.0 if flat else grid.voxel_size[2] / 2)
    return [c.ravel() for c in grid.coordinates()], half, sub_positions(half, oversample)


def _painted_block(
    layers: Sequence[Layer], axes: list[np.ndarray], half: tuple[float, float, float], offsets: np.ndarray
) -> np.ndarray:
    values = np.zeros([axis.size for axis in axes])
    edge = np.zeros(values.shape, bool)
    met = []
    for shape, value in layers:
        window = window_of(shape, axes, half)
        if all(part.stop > part.start for part in window):
            x, y, z = np.meshgrid(*(axis[part] for axis, part in zip(axes, window)), indexing="ij", sparse=True)
            values[window][shape.contains(x, y, z)] = value
            edge[window] |= shape.straddles(x, y, z, half)
            met.append((shape, value))
    if len(offsets) > 1:
        centres = np.stack([axis[index] for axis, index in zip(axes, np.nonzero(edge))], 1)
        values[edge] = _mean_over_voxels(met, centres, half, offsets)
    return values


def _mean_over_voxels(
    layers: Sequence[Layer], centres: np.ndarray, half: tuple[float, float, float], offsets: np.ndarray
) -> np.ndarray:
    """Return the mean over `offsets` of the painted value for voxels at `centres` (n, 3)."""
    samples = np.zeros((len(centres), len(offsets)))
    for shape, value in layers:
        x, y, z = centres.T
        near = shape.straddles(x, y, z, half)
        samples[shape.contains(x, y, z) & ~near] = value
        x, y, z = np.moveaxis(centres[near][:, None] + offsets, -1, 0)
        samples[near] = np.where(shape.contains(x, y, z), value, samples[near])
    mean: np.ndarray = samples.mean(1)
    return mean


def window_of(shape: Solid, axes: list[np.ndarray], half: tuple[float, float, float]) -> tuple[slice, ...]:
    """Return the part of the grid whose voxels can touch the shape."""
    low, high = shape.bounds
    return tuple(
        slice(int(np.searchsorted(axis, a - h, "left")), int(np.searchsorted(axis, b + h, "right")))
        for axis, a, b, h in zip(axes, low, high, half)
    )


def pieces(shapes: Sequence[Solid], table: np.ndarray, points: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Return value x length, (quantities, pieces, lines), from the table (regions, quantities) with NaN for "as below".

    Every line is cut where it enters and leaves a region; the value of a piece is that of the last region around it.
    """
    if not shapes:
        return np.zeros((table.shape[1], 1, len(points)))
    enter, leave = np.stack([shape.crossing(points, directions) for shape in shapes], 1)
    if not (np.all(np.isfinite(enter)) and np.all(np.isfinite(leave))):
        raise ValueError("a line never leaves an infinite region; give the cylinder a height")
    hit, layer = _met(leave > enter)
    enter, leave = (np.where(hit, np.take_along_axis(t, layer, 0), 0.0) for t in (enter, leave))
    cuts = np.sort(np.concatenate([enter, leave]), axis=0)
    length, middle = np.diff(cuts, axis=0), (cuts[1:] + cuts[:-1]) / 2
    painted = np.zeros((table.shape[1], *length.shape))
    for first, last, values in zip(enter, leave, table[layer]):
        inside = (first < middle) & (middle < last)
        for q, value in enumerate(values.T):
            painted[q] = np.where(inside & ~np.isnan(value), value, painted[q])
    return painted * length


def attenuated(activity: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Return what gets through, from activity x mm and mu x mm of the pieces (pieces, lines), the detector last."""
    depth = depth / 10
    ahead = np.cumsum(depth[::-1], 0)[::-1] - depth
    own = np.divide(-np.expm1(-depth), depth, out=np.ones_like(depth), where=depth > 0)
    seen: np.ndarray = (activity * np.exp(-ahead) * own).sum(0)
    return seen


def _met(hit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (most, lines) whether there is such a region and its number: the regions each line meets, in their order.

    Args:
        hit : (regions, lines). Of the many regions of a phantom a line meets few, and the rest is dropped here.
    """
    line, region = np.nonzero(hit.T)
    n_met = hit.sum(0)
    place = np.arange(line.size) - (np.cumsum(n_met) - n_met)[line]
    layer = np.zeros((max(1, int(n_met.max(initial=0))), hit.shape[1]), int)
    layer[place, line] = region
    return np.arange(layer.shape[0])[:, None] < n_met, layer


def rays(geometry: SPECTGeometry, oversample: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the points (bins * oversample, rows * oversample, 3) and the direction (3,) of the rays of each view."""
    if oversample < 1:
        raise ValueError(f"oversample must be at least 1, got {oversample}")
    (u, z), n = geometry.bin_centres(), oversample
    du, dz = (((np.arange(n) + 0.5) / n - 0.5) * size for size in geometry.pixel_size)
    fine_z = (z[:, None] + dz).ravel()
    for toward, along, centres in zip(*geometry.directions, u):
        points = np.empty((centres.size * n, fine_z.size, 3))
        points[..., :2] = (centres[:, None] + du).reshape(-1, 1, 1) * along
        points[..., 2] = fine_z
        yield points, np.append(toward, 0.0)
