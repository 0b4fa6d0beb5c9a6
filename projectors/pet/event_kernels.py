"""CPU kernels of the list-mode projector: single lines, each followed from voxel to voxel."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from .kernels import _coefficients, _compile, _cumulated, _inline


class EventPlan(NamedTuple):
    """Where the lines of events are; `edges`, `kernel` and `per_mm` as in `PETPlan`.

    Args:
        crystals : (crystals, 3) positions in mm, float64
        axial : (1,) whether lines may be followed along z: not for cylinders, whose sinograms never are
    """

    crystals: np.ndarray
    axial: np.ndarray
    origin: np.ndarray
    voxel: np.ndarray
    edges: np.ndarray
    kernel: np.ndarray
    per_mm: np.ndarray


class _Line(NamedTuple):
    """The steps first to last of a line in space, along its main axis.

    At step i it is at i of the main axis, c0 + i dc of one other and z0 + i dz of the third; voxels are `strides` apart
    in memory along the three, and there are m and k_end of them along the others. step : mm.
    """

    first: int
    last: int
    strides: tuple[int, int, int]
    m: int
    c0: float
    dc: float
    k_end: int
    z0: float
    dz: float
    step: float


@_compile
def events_forward(image, events, plan, weight, begin, end, out):
    """out[e] = the line integral of `image` in mm for the events begin to end, with their TOF bin where there is one.

    Args:
        image : (nx, ny, nz).
        events : (E, 2 or 3) crystals and TOF bin.
        weight : room for one line's steps.
    """
    flat = image.reshape(image.size)
    for e in range(begin, end):
        line = _event(image.shape, events, plan, e, weight)
        out[e] = _along(flat, line, weight) * line.step


@_compile
def events_adjoint(values, events, plan, weight, begin, end, image):
    """image += the transpose of `events_forward` applied to `values`."""
    real, flat = image.dtype.type, image.reshape(image.size)
    for e in range(begin, end):
        if values[e] == 0:
            continue
        line = _event(image.shape, events, plan, e, weight)
        _scatter(real(values[e] * line.step), line, weight, flat)


@_compile
def _event(shape, events, plan, e, weight):
    """The line of an event, and its TOF weights: only steps within reach of its bin are kept."""
    a, b = plan.crystals[events[e, 0]], plan.crystals[events[e, 1]]
    dx, dy, dz = b[0] - a[0], b[1] - a[1], b[2] - a[2]
    length = math.sqrt(dx * dx + dy * dy + dz * dz)
    strides = (shape[1] * shape[2], shape[2], 1)
    if length == 0:
        return _Line(0, 0, strides, 1, 0.0, 0.0, 1, 0.0, 0.0, 0.0)
    steep = abs(dz) > abs(dx) and abs(dz) > abs(dy)
    if (dx == 0 and dy == 0) or (steep and plan.axial[0]):
        main, one, other = 2, 0, 1
    elif abs(dx) >= abs(dy):
        main, one, other = 0, 1, 2
    else:
        main, one, other = 1, 0, 2
    t0, dt = (plan.origin[main] - a[main]) / (b[main] - a[main]), plan.voxel[main] / (b[main] - a[main])
    c0, dc = _coordinate(a[one], b[one] - a[one], plan.origin[one], plan.voxel[one], t0, dt)
    z0, dz = _coordinate(a[other], b[other] - a[other], plan.origin[other], plan.voxel[other], t0, dt)
    low, high = 0.0, shape[main] - 1.0
    low, high = _within(low, high, t0, dt, 0.0, 1.0)
    low, high = _within(low, high, c0, dc, -1.0, float(shape[one]))
    low, high = _within(low, high, z0, dz, -1.0, float(shape[other]))
    if plan.edges.shape[0] > 0:
        reach = length * plan.per_mm[0]
        start, slope = (t0 - 0.5) * reach, dt * reach
        lower, upper = plan.edges[events[e, 2]], plan.edges[events[e, 2] + 1]
        low, high = _within(low, high, start, slope, lower - 1.0, upper + 1.0)
        first, last = _whole_steps(low, high)
        _time_weights(first, last, start, slope, lower, upper, plan.kernel, weight)
    else:
        first, last = _whole_steps(low, high)
    order = (strides[main], strides[one], strides[other])
    return _Line(first, last, order, shape[one], c0, dc, shape[other], z0, dz, abs(dt) * length)


@_inline
def _coordinate(start, way, origin, voxel, t0, dt):
    """The coordinate of a line in voxels, as start and slope."""
    return (start + t0 * way - origin) / voxel, dt * way / voxel


@_inline
def _within(low, high, start, slope, lower, upper):
    """Narrow the steps [low, high] to those with lower <= start + i slope <= upper."""
    if slope == 0:
        if start < lower or start > upper:
            return 1.0, 0.0
        return low, high
    one, other = (lower - start) / slope, (upper - start) / slope
    return max(low, min(one, other)), min(high, max(one, other))


@_inline
def _whole_steps(low, high):
    """The whole steps within [low, high], as [first, last): none where a line misses the image, however far."""
    if low <= high:
        return math.ceil(low), math.floor(high) + 1
    return 0, 0


@_compile
def _time_weights(first, last, start, slope, lower, upper, kernel, weight):
    """weight[i - first] = the part of the timing kernel at step i that falls between lower and upper."""
    c, real = _coefficients(kernel), kernel.dtype.type
    one, begin, slope = real(1), real(start + first * slope), real(slope)
    for i in range(max(last - first, 0)):
        u = begin + real(np.int32(i)) * slope
        weight[i] = max(_cumulated(upper - u, c, one) - _cumulated(lower - u, c, one), real(0))


@_inline
def _part(position, below):
    """How far a position is beyond the whole number below it; rounding must not make a weight negative."""
    return min(max(position - below, 0.0), 1.0)


@_compile
def _along(flat, line, weight):
    """The weighted sum of an image along a line; `flat` is the image as one axis."""
    main, cross, third = line.strides
    m, k_end, c0, dc, z0, dz = line.m, line.k_end, line.c0, line.dc, line.z0, line.dz
    real = flat.dtype.type
    total = real(0)
    timed = weight.shape[0] > 0
    for i in range(line.first, line.last):
        c, z = c0 + i * dc + 1, z0 + i * dz + 1
        j, k = int(c), int(z)
        v, w = real(_part(c, j)), real(_part(z, k))
        j, k = j - 1, k - 1
        at = i * main + j * cross + k * third
        here = real(0)
        if j >= 0 and k >= 0 and j < m - 1 and k < k_end - 1:
            near, far, up = np.uint64(at), np.uint64(at + cross), np.uint64(third)
            below = flat[near] + v * (flat[far] - flat[near])
            above = flat[near + up] + v * (flat[far + up] - flat[near + up])
            here = below + w * (above - below)
        else:
            for a in range(2):
                for b in range(2):
                    if 0 <= j + a < m and 0 <= k + b < k_end:
                        part = (v if a else real(1) - v) * (w if b else real(1) - w)
                        here += part * flat[np.uint64(at + a * cross + b * third)]
        total += here * weight[np.uint64(i - line.first)] if timed else here
    return total


@_compile
def _scatter(value, line, weight, flat):
    """Add `value` to the voxels of a line with the weights of `_along`."""
    main, cross, third = line.strides
    m, k_end, c0, dc, z0, dz = line.m, line.k_end, line.c0, line.dc, line.z0, line.dz
    real = flat.dtype.type
    timed = weight.shape[0] > 0
    for i in range(line.first, line.last):
        c, z = c0 + i * dc + 1, z0 + i * dz + 1
        j, k = int(c), int(z)
        v, w = real(_part(c, j)), real(_part(z, k))
        j, k = j - 1, k - 1
        at = i * main + j * cross + k * third
        here = value * weight[np.uint64(i - line.first)] if timed else value
        above = w * here
        below = here - above
        if j >= 0 and k >= 0 and j < m - 1 and k < k_end - 1:
            near, far, up = np.uint64(at), np.uint64(at + cross), np.uint64(third)
            flat[far] += v * below
            flat[far + up] += v * above
            flat[near] += below - v * below
            flat[near + up] += above - v * above
        else:
            for a in range(2):
                for b in range(2):
                    if 0 <= j + a < m and 0 <= k + b < k_end:
                        part = (v if a else real(1) - v) * (above if b else below)
                        flat[np.uint64(at + a * cross + b * third)] += part
