"""The parallel-beam projector's CPU kernels: every line, and every voxel, is a weighted sum of rows of lanes.

Arrays are (x, y, lane) and (view, bin, lane); lanes are contiguous. A line first lists what it crosses, then adds the
rows up a few at a time, so that the loop over lanes is a SIMD loop that loads each row once. The transpose lists for
each voxel the bins that see it, with the same weights: nothing is scattered, so threads share no memory and the result
does not depend on how many there are.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..core.compiling import inline_kernel as _inline
from ..core.compiling import kernel as _compile

_TAPS = 6  # rows summed in one loop


class Taps(NamedTuple):
    """The list of one thread: which rows are added up, and their weights; unused places weigh nothing."""

    row: np.ndarray
    weight: np.ndarray


def make_taps(most: int, dtype: np.dtype) -> Taps:
    """Return room for a list of `most` rows."""
    return Taps(np.zeros(most + _TAPS, np.int32), np.zeros(most + _TAPS, dtype))


@_compile
def forward(image, along_x, lines, taps, first, n, out):
    """out[v] = the sums along the lines of view v, for v in first::n.

    Args:
        image : (nx, ny, L).
        along_x, lines : as in `LinePlan`.
        out : (V, bins, L).
    """
    nx, ny, lanes = image.shape
    rows = image.reshape(-1, lanes)
    for v in range(first, out.shape[0], n):
        for b in range(out.shape[1]):
            count = _cross_line(along_x[v], lines[v], b, nx, ny, taps)
            _add_rows(rows, taps, count, out[v, b])


@_compile
def adjoint(projections, along_x, lines, taps, first, n, out):
    """out[x] = the transpose of `forward`, for x in first::n; out : (nx, ny, L)."""
    bins, lanes = projections.shape[1:]
    rows = projections.reshape(-1, lanes)
    for x in range(first, out.shape[0], n):
        for y in range(out.shape[1]):
            count = _see_voxel(along_x, lines, x, y, bins, taps)
            _add_rows(rows, taps, count, out[x, y])


@_inline
def _tent(distance, reach):
    """1 at 0, falling to 0 at `reach`; never negative."""
    return max(0.0, 1 - abs(distance) / reach)


@_compile
def _cross_line(along_x, line, b, nx, ny, taps):
    """List the voxels of the line of bin b; return their number."""
    start, per_step, per_bin, reach, scale = line[0], line[1], line[2], line[4], line[5]
    steps, across = (nx, ny) if along_x else (ny, nx)
    count = 0
    for i in range(steps):
        position = start + per_bin * b + per_step * i
        low = max(math.ceil(position - reach), 0)
        high = min(math.floor(position + reach), across - 1)
        for j in range(low, high + 1):
            taps.row[count] = i * ny + j if along_x else j * ny + i
            taps.weight[count] = scale * _tent(position - j, reach)
            count += 1
    return count


@_compile
def _see_voxel(along_x, lines, x, y, bins, taps):
    """List the bins of all views whose line crosses voxel (x, y); return their number."""
    count = 0
    for v in range(lines.shape[0]):
        start, per_step, per_bin = lines[v, 0], lines[v, 1], lines[v, 2]
        per_voxel, reach, scale = lines[v, 3], lines[v, 4], lines[v, 5]
        i, j = (x, y) if along_x[v] else (y, x)
        centre, half = (j - start - per_step * i) * per_voxel, reach * abs(per_voxel)
        low = max(math.ceil(centre - half), 0)
        high = min(math.floor(centre + half), bins - 1)
        for b in range(low, high + 1):
            position = start + per_bin * b + per_step * i
            taps.row[count] = v * bins + b
            taps.weight[count] = scale * _tent(position - j, reach)
            count += 1
    return count


@_compile
def _add_rows(rows, taps, count, out):
    """out = the weighted sum of the listed rows."""
    row, weight = taps
    lanes = out.size
    if lanes == 1:
        total = out.dtype.type(0)
        for c in range(count):
            total += weight[c] * rows[row[c], 0]
        out[0] = total
        return
    for c in range(count, -(-count // _TAPS) * _TAPS):
        row[c] = 0
        weight[c] = 0
    for k in range(lanes):
        out[k] = 0
    for c in range(0, count, _TAPS):
        a0, a1, a2, a3, a4, a5 = row[c], row[c + 1], row[c + 2], row[c + 3], row[c + 4], row[c + 5]
        w0, w1, w2 = weight[c], weight[c + 1], weight[c + 2]
        w3, w4, w5 = weight[c + 3], weight[c + 4], weight[c + 5]
        for k in range(lanes):
            out[k] += (
                w0 * rows[a0, k] + w1 * rows[a1, k] + w2 * rows[a2, k]
                + w3 * rows[a3, k] + w4 * rows[a4, k] + w5 * rows[a5, k]
            )  # fmt: skip
