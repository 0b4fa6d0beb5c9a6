"""The share of each voxel that lies inside of closed contours, or inside of voxels of another grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from emrecon.projectors import ImageGrid

_LINES = 9  # in each pixel, along the second axis; odd, so that one goes through its centre
_TIE = 1e-4  # of a voxel; contours are moved by so much, or a voxel that is cut in half would count on both sides
_APART = 2.5  # times the usual distance; planes farther apart belong to separate pieces
_SAME_PLANE = 0.01  # mm


def area_shares(contours: Sequence[np.ndarray], axes: Sequence[tuple[float, float, int]]) -> np.ndarray:
    """Return the share of each pixel inside of closed contours of one plane, (n, m).

    Args:
        contours : (points, 2) mm each.
        axes : (first centre, size, number) of the pixels along both axes.

    What lies inside of an even number of contours is outside: an inner contour is a hole, and a keyhole (one contour
    that runs in and out along a line) needs nothing else. Along the first axis lengths are exact, along the second one
    9 lines are drawn through each pixel.
    """
    (first, size, n), (start, length, m) = axes
    edges = np.concatenate([np.stack([points, np.roll(points, -1, 0)], 1) for points in contours])
    a = (edges[:, :, 0] - first) / size + 0.5 + _TIE  # in pixels from the lower face
    b = ((edges[:, :, 1] - start) / length + 0.5) * _LINES - 0.5  # in lines
    low, high = b.min(1), b.max(1)
    begin = np.clip(np.ceil(low), 0, m * _LINES).astype(int)
    end = np.clip(np.ceil(high), 0, m * _LINES).astype(int)  # a point on a line counts once, for the edge above it
    crossed = np.maximum(end - begin, 0)
    edge = np.repeat(np.arange(len(edges)), crossed)
    line = np.arange(crossed.sum()) - np.repeat(np.cumsum(crossed) - crossed, crossed) + begin[edge]
    (a0, a1), (b0, b1) = a[edge].T, b[edge].T
    at = np.clip(a0 + (line - b0) * (a1 - a0) / (b1 - b0), 0, n)
    order = np.lexsort((at, line))
    at, line = at[order], line[order]
    sign = 1 - 2 * (np.arange(at.size) % 2)  # in, out, in, out: each line is crossed an even number of times
    steps = np.zeros((m * _LINES, n + 2))
    pixel = np.minimum(at.astype(int), n)
    share = at - pixel
    np.add.at(steps, (line, pixel), sign * (1 - share))
    np.add.at(steps, (line, pixel + 1), sign * share)
    inside = np.cumsum(steps, 1)[:, :n]
    found: np.ndarray = inside.reshape(m, _LINES, n).mean(1).T
    return found


def volume_shares(
    planes: dict[float, list[np.ndarray]], spacing: float, axis: int, grid: ImageGrid
) -> tuple[np.ndarray, int]:
    """Return the share of each voxel inside of the contours of parallel planes, (x, y, z), and how many gaps there are.

    Args:
        planes : position along `axis` in mm -> contours (points, 2) along the two other axes, in order x, y, z.
        spacing : mm between planes, what a single one stands for.
        grid : in the coordinates of the contours.

    A plane stands for a slab that ends half way to its neighbours, and half a spacing beyond the last one. Between
    planes more than 2.5 spacings apart there is nothing.
    """
    heights = np.array(sorted(planes))
    across = [k for k in range(3) if k != axis]
    lines = [(grid.origin[k], grid.voxel_size[k], grid.shape[k]) for k in range(3)]
    gaps = np.diff(heights)
    apart = gaps > _APART * spacing
    reach = np.where(apart, spacing / 2, gaps / 2)
    below, above = (np.concatenate(ends) for ends in (([spacing / 2], reach), (reach, [spacing / 2])))
    start, size, n = lines[axis]
    lower = start + (np.arange(n) - 0.5)[:, None] * size
    heights_here = heights + _TIE * size
    weights = _overlap((lower, lower + size), (heights_here - below, heights_here + above)) / size
    shares = np.zeros([n, *(grid.shape[k] for k in across)])
    for k in np.flatnonzero(weights.any(0)):
        area = area_shares(planes[float(heights[k])], [lines[j] for j in across])
        rows = np.flatnonzero(weights[:, k])
        shares[rows] += weights[rows, k, None, None] * area
    return np.moveaxis(shares, 0, axis), int(apart.sum())


def box_shares(inside: np.ndarray, own: ImageGrid, grid: ImageGrid) -> np.ndarray:
    """Return the share of each voxel of a grid inside of the voxels of another one that are True, (x, y, z).

    Args:
        inside : (x, y, z) bool on `own`.
    """
    shares = inside.astype(np.float32)
    for axis in range(3):
        (a, size, n), (b, length, m) = (
            (here.origin[axis] - here.voxel_size[axis] / 2, here.voxel_size[axis], here.shape[axis])
            for here in (own, grid)
        )
        lower, other = b + np.arange(m)[:, None] * length, a + np.arange(n) * size + _TIE * length
        weights = _overlap((lower, lower + length), (other, other + size)) / length
        shares = np.moveaxis(np.tensordot(weights.astype(np.float32), shares, (1, axis)), 0, axis)
    return shares


def _overlap(one: tuple[np.ndarray, np.ndarray], two: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """The length that intervals (lower, upper) have in common."""
    common: np.ndarray = np.maximum(np.minimum(one[1], two[1]) - np.maximum(one[0], two[0]), 0)
    return common


def usual_spacing(heights: Sequence[float]) -> float | None:
    """Return the median distance of neighbouring planes in mm, None for one plane."""
    gaps = np.diff(np.unique(heights))
    gaps = gaps[gaps > _SAME_PLANE]
    return float(np.median(gaps)) if gaps.size else None
