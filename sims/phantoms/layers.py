"""Painting of phantoms with folded surfaces: several images at once, and each fold evaluated once for all levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from emrecon.projectors import ImageGrid

from .folds import Folded
from .painting import voxels_of, window_of
from .phantom import Region
from .shapes import Coordinate, Solid

_VOXELS_AT_ONCE = 2**18


@dataclass(frozen=True)
class _Layer:
    """Regions that are evaluated together: levels of the same folds, each within the one before, or one solid."""

    rows: tuple[int, ...]
    shapes: tuple[Solid, ...]

    def row(self, x: Coordinate, y: Coordinate, z: Coordinate) -> np.ndarray:
        """Return the row of the region that is on top, -1 outside."""
        first = self.shapes[0]
        if isinstance(first, Folded):
            depth = first.depth(x, y, z)
            levels = [shape.level for shape in self.shapes]  # type: ignore[attr-defined]
            return np.array([-1, *self.rows], np.int16)[np.searchsorted(levels, depth)]
        return np.where(first.contains(x, y, z), np.int16(self.rows[0]), np.int16(-1))

    def straddles(self, x: Coordinate, y: Coordinate, z: Coordinate, half: tuple[float, float, float]) -> np.ndarray:
        first = self.shapes[0]
        if isinstance(first, Folded):
            levels = [shape.level for shape in self.shapes]  # type: ignore[attr-defined]
            return first.near_levels(x, y, z, half, (min(levels), max(levels)))
        return first.straddles(x, y, z, half)


def _layers(regions: Sequence[Region]) -> list[_Layer]:
    def surface(item: tuple[int, Region]) -> Folded | int:
        row, region = item
        return replace(region.shape, level=0.0) if isinstance(region.shape, Folded) else row

    groups = [list(items) for _, items in groupby(enumerate(regions), surface)]
    return [_Layer(tuple(row for row, _ in items), tuple(region.shape for _, region in items)) for items in groups]


def painted_together(
    regions: Sequence[Region], pictures: list[list[int]], values: list[np.ndarray], grid: ImageGrid, oversample: int
) -> list[np.ndarray]:
    """Return for every picture (columns, nx, ny, nz): the mean over the voxels of each column of its values.

    Args:
        pictures : for each what every region paints, a row of `values` or -1 to leave what is below.
        values : for each (rows, columns); where no region is, they are 0.
    """
    axes, half, offsets = voxels_of(grid, oversample)
    layers, paints = _layers(regions), [np.array([*picture, -1], np.int16) for picture in pictures]
    tables = [np.vstack([table, np.zeros_like(table[:1])]) for table in values]  # row -1: outside of everything
    images = [np.zeros((table.shape[1], *grid.shape), np.float32) for table in tables]
    n = max(1, _VOXELS_AT_ONCE // (grid.shape[1] * grid.shape[2]))
    for i in range(0, grid.shape[0], n):
        tops, edge, samples = _tops(layers, paints, [axes[0][i : i + n], *axes[1:]], half, offsets)
        for image, table, top, sampled in zip(images, tables, tops, samples):
            for column, value in zip(image, table.T):
                block = value[top]
                block[edge] = value[sampled].mean(1)
                column[i : i + n] = block
    return images


def _tops(
    layers: list[_Layer],
    paints: list[np.ndarray],
    axes: list[np.ndarray],
    half: tuple[float, float, float],
    offsets: np.ndarray,
) -> tuple[list[np.ndarray], np.ndarray, list[np.ndarray]]:
    """Return what is on top at the voxels' centres, where an edge may be, and what is on top at points of these."""
    tops = [np.full([axis.size for axis in axes], -1, np.int16) for _ in paints]
    edge = np.zeros(tops[0].shape, bool)
    met = []
    for layer in layers:
        window = window_of(layer.shapes[0], axes, half)
        if all(part.stop > part.start for part in window):
            x, y, z = np.meshgrid(*(axis[part] for axis, part in zip(axes, window)), indexing="ij", sparse=True)
            rows = layer.row(x, y, z)
            _put([top[window] for top in tops], rows, paints)
            near = layer.straddles(x, y, z, half)
            edge[window] |= near
            met.append((layer, window, rows, near))
    if len(offsets) == 1:
        edge[:] = False
        met = []
    index = np.cumsum(edge).reshape(edge.shape) - 1
    centres = np.stack([axis[i] for axis, i in zip(axes, np.nonzero(edge))], 1)
    samples = [np.full((len(centres), len(offsets)), -1, np.int16) for _ in paints]
    for layer, window, rows, near in met:
        here = edge[window]
        points = centres[index[window][near]][:, None] + offsets
        sampled = np.repeat(rows[here][:, None], len(offsets), 1)
        sampled[near[here]] = layer.row(*np.moveaxis(points, -1, 0))
        _put_at(samples, index[window][here], sampled, paints)
    return tops, edge, samples


def _put(tops: list[np.ndarray], rows: np.ndarray, paints: list[np.ndarray]) -> None:
    for top, paint in zip(tops, paints):
        painted = paint[rows]
        np.copyto(top, painted, where=painted >= 0)


def _put_at(samples: list[np.ndarray], at: np.ndarray, rows: np.ndarray, paints: list[np.ndarray]) -> None:
    for sample, paint in zip(samples, paints):
        painted = paint[rows]
        sample[at] = np.where(painted >= 0, painted, sample[at])
