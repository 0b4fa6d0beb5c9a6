"""Where the lines of parallel beams cross an image, as the kernels need it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..core.grid import ImageGrid
from .geometry import ParallelBeamGeometry


class LinePlan(NamedTuple):
    """The lines of every view in voxel indices.

    A line that steps along x (along_x, otherwise y) is at voxel i of that axis for its i-th step, and then at::

        position = start + per_step * i + per_bin * bin

    across it. The voxel j across has the weight scale * max(0, 1 - ``|position - j|`` / reach) in that bin.

    Args:
        along_x : (views,) int32.
        lines : (views, 6) float64: start, per_step, per_bin, its inverse, reach, scale (mm).
    """

    along_x: np.ndarray
    lines: np.ndarray

    def take(self, views: np.ndarray) -> LinePlan:
        """Return the plan of some views."""
        return LinePlan(self.along_x[views], self.lines[views])


def make_plan(grid: ImageGrid, geometry: ParallelBeamGeometry, *, splat: bool) -> LinePlan:
    """Return where the lines of all views cross the grid."""
    cosine, sine = np.cos(np.deg2rad(geometry.angles)), np.sin(np.deg2rad(geometry.angles))
    first, (dx, dy, _), (x, y, _) = geometry.bin_centres()[:, 0], grid.voxel_size, grid.origin
    along_x = np.abs(sine) / dx >= np.abs(cosine) / dy
    # swap the axes where lines run along y: `b` is then the part of the normal along the axis across
    a, b = np.where(along_x, (cosine, sine), (sine, cosine))
    (step, across), (x, y) = np.where(along_x, [[dx], [dy]], [[dy], [dx]]), np.where(along_x, [[x], [y]], [[y], [x]])
    per_bin = geometry.bin_size / (b * across)
    reach = np.abs(per_bin) if splat else np.ones_like(per_bin)
    scale = dx * dy / geometry.bin_size * np.ones_like(b) if splat else step / np.abs(b)
    start, per_step = ((first - a * x) / b - y) / across, -a * step / (b * across)
    return LinePlan(along_x.astype(np.int32), np.stack([start, per_step, per_bin, 1 / per_bin, reach, scale], 1))
