"""The CPU kernels of total variation: differences of an image, what is made of them voxel by voxel, and the transpose.

Images are (x, y, z), differences (3, x, y, z); z is contiguous. Every kernel works row by row along z in a few rows of
its own, so that all loops are SIMD loops over cached memory, and writes only the slabs x = first, first + n, ...
A direction field of size 0 stands for none.
"""

from __future__ import annotations

import numpy as np
from numba import njit

SHORT, LONG = 2**20 - 1, 2**31 - 1  # what 1 is in a dual of 21 bits, and of 32
BITS = 21
_MIDDLE, _MASK = 2 ** (BITS - 1), 2**BITS - 1
_FROM_SHORT, _FROM_LONG = np.float32(1 / SHORT), 1 / LONG
_SHORT, _ROUND = np.float32(SHORT), np.float32(_MIDDLE + 0.5)

N_ROWS = 15  # of scratch for `descend` and its relatives
MOVE, MEASURE, FINISH = 0, 1, 2

_FLAGS = {"nogil": True, "cache": True, "error_model": "numpy", "fastmath": {"contract", "reassoc", "nsz", "arcp"}}
_compile = njit(**_FLAGS)
_inline = njit(inline="always", **_FLAGS)


@_compile
def _differences(image, weights, i, j, rows):
    """rows[a] = the forward differences along axis a of row (i, j); 0 at the far border."""
    here = image[i, j]
    east, north = image[min(i + 1, image.shape[0] - 1), j], image[i, min(j + 1, image.shape[1] - 1)]
    wx, wy, wz = weights[0], weights[1], weights[2]
    last = here.size - 1
    for k in range(last + 1):
        rows[0, k] = wx * (east[k] - here[k])
    for k in range(last + 1):
        rows[1, k] = wy * (north[k] - here[k])
    for k in range(last):
        rows[2, k] = wz * (here[k + 1] - here[k])
    rows[2, last] = 0


@_compile
def _across(direction, i, j, rows, square):
    """rows <- (I - d d') rows, square = <rows, (I - d d') rows> for the direction d of each voxel."""
    n = square.size
    for k in range(n):
        square[k] = rows[0, k] * rows[0, k] + rows[1, k] * rows[1, k] + rows[2, k] * rows[2, k]
    if direction.size == 0:
        return
    dx, dy, dz = direction[0, i, j], direction[1, i, j], direction[2, i, j]
    along = rows[3]
    for k in range(n):
        along[k] = dx[k] * rows[0, k] + dy[k] * rows[1, k] + dz[k] * rows[2, k]
    for k in range(n):
        square[k] = max(square[k] - along[k] * along[k], 0)
    for k in range(n):
        rows[0, k] -= dx[k] * along[k]
    for k in range(n):
        rows[1, k] -= dy[k] * along[k]
    for k in range(n):
        rows[2, k] -= dz[k] * along[k]


@_compile
def differences(image, weights, first, n, out):
    """out = the forward differences."""
    rows = np.empty((3, image.shape[2]), image.dtype)
    for i in range(first, image.shape[0], n):
        for j in range(image.shape[1]):
            _differences(image, weights, i, j, rows)
            for a in range(3):
                out[a, i, j] = rows[a]


@_compile
def transpose(flux, weights, first, n, out):
    """out = the transpose of `differences`, applied to flux."""
    nx, ny, nz = out.shape
    wz = weights[2]
    zero = weights[2] - weights[2]
    for i in range(first, nx, n):
        for j in range(ny):
            x0, x1 = flux[0, max(i - 1, 0), j], flux[0, i, j]
            y0, y1 = flux[1, i, max(j - 1, 0)], flux[1, i, j]
            z, target = flux[2, i, j], out[i, j]
            ax, bx = weights[0] if i > 0 else zero, weights[0] if i < nx - 1 else zero
            ay, by = weights[1] if j > 0 else zero, weights[1] if j < ny - 1 else zero
            for k in range(nz):
                target[k] = ax * x0[k] - bx * x1[k] + ay * y0[k] - by * y1[k]
            for k in range(nz - 1):
                target[k] -= wz * z[k]
            for k in range(1, nz):
                target[k] += wz * z[k - 1]


@_compile
def lengths(image, weights, direction, epsilon, first, n, out):
    """out[x] = the sum of sqrt(square + epsilon^2) - epsilon over slab x, in float64."""
    nz = image.shape[2]
    rows, square = np.empty((4, nz), image.dtype), np.empty(nz, image.dtype)
    epsilon_square = epsilon * epsilon
    tiny = image.dtype.type(1e-30)
    for i in range(first, image.shape[0], n):
        total = 0.0
        for j in range(image.shape[1]):
            _differences(image, weights, i, j, rows)
            _across(direction, i, j, rows, square)
            for k in range(nz):
                total += np.float64(square[k] / (np.sqrt(square[k] + epsilon_square) + epsilon + tiny))
        out[i] = total


@_compile
def inverse_lengths(image, weights, direction, epsilon, first, n, out):
    """out = 1 / sqrt(square + epsilon^2)."""
    nz = image.shape[2]
    rows, square = np.empty((4, nz), image.dtype), np.empty(nz, image.dtype)
    epsilon_square, one = epsilon * epsilon, image.dtype.type(1)
    for i in range(first, image.shape[0], n):
        for j in range(image.shape[1]):
            _differences(image, weights, i, j, rows)
            _across(direction, i, j, rows, square)
            target = out[i, j]
            for k in range(nz):
                target[k] = one / np.sqrt(square[k] + epsilon_square)


@_compile
def flux(image, weights, direction, epsilon, first, n, out):
    """out = M d / sqrt(d' M d + epsilon^2), where d are the differences and M = I - direction direction'."""
    nz = image.shape[2]
    rows, square = np.empty((4, nz), image.dtype), np.empty(nz, image.dtype)
    epsilon_square, one = epsilon * epsilon, image.dtype.type(1)
    for i in range(first, image.shape[0], n):
        for j in range(image.shape[1]):
            _differences(image, weights, i, j, rows)
            _across(direction, i, j, rows, square)
            for k in range(nz):
                square[k] = one / np.sqrt(square[k] + epsilon_square)
            for a in range(3):
                target = out[a, i, j]
                for k in range(nz):
                    target[k] = rows[a, k] * square[k]


@_compile
def flux_derivative(image, v, weights, direction, epsilon, first, n, out):
    """out = the derivative of `flux` at image along v, (M e - M d (d' M e) / r^2) / r."""
    nz = image.shape[2]
    rows, change = np.empty((4, nz), image.dtype), np.empty((4, nz), image.dtype)
    square, inner = np.empty(nz, image.dtype), np.empty(nz, image.dtype)
    epsilon_square, one = epsilon * epsilon, image.dtype.type(1)
    for i in range(first, image.shape[0], n):
        for j in range(image.shape[1]):
            _differences(v, weights, i, j, change)
            _across(direction, i, j, change, inner)
            _differences(image, weights, i, j, rows)
            for k in range(nz):
                inner[k] = rows[0, k] * change[0, k] + rows[1, k] * change[1, k] + rows[2, k] * change[2, k]
            _across(direction, i, j, rows, square)
            for k in range(nz):
                square[k] = one / np.sqrt(square[k] + epsilon_square)
                inner[k] *= square[k] * square[k]
            for a in range(3):
                target = out[a, i, j]
                for k in range(nz):
                    target[k] = (change[a, k] - rows[a, k] * inner[k]) * square[k]


@_inline
def _unpack(words, i, j, p):
    """p = the dual of row (i, j): three integers of 32 bits, or one with 21 bits for each."""
    p0, p1, p2 = p[0], p[1], p[2]
    if words.shape[0] == 3:
        a, b, c = words[0, i, j], words[1, i, j], words[2, i, j]
        for k in range(p0.size):
            p0[k], p1[k], p2[k] = a[k] * _FROM_LONG, b[k] * _FROM_LONG, c[k] * _FROM_LONG
        return
    word = words[0, i, j]
    for k in range(p0.size):
        p0[k] = np.float32(np.int32((word[k] & _MASK) - _MIDDLE)) * _FROM_SHORT
        p1[k] = np.float32(np.int32(((word[k] >> BITS) & _MASK) - _MIDDLE)) * _FROM_SHORT
        p2[k] = np.float32(np.int32((word[k] >> (2 * BITS)) - _MIDDLE)) * _FROM_SHORT


@_inline
def _pack(words, i, j, p):
    """The inverse of `_unpack`, rounding to the nearest."""
    p0, p1, p2 = p[0], p[1], p[2]
    if words.shape[0] == 3:
        a, b, c = words[0, i, j], words[1, i, j], words[2, i, j]
        for k in range(p0.size):
            a[k], b[k], c[k] = np.rint(p0[k] * LONG), np.rint(p1[k] * LONG), np.rint(p2[k] * LONG)
        return
    word = words[0, i, j]
    for k in range(p0.size):
        a = np.int64(np.int32(np.float32(p0[k]) * _SHORT + _ROUND))
        b = np.int64(np.int32(np.float32(p1[k]) * _SHORT + _ROUND))
        c = np.int64(np.int32(np.float32(p2[k]) * _SHORT + _ROUND))
        word[k] = a | (b << BITS) | (c << (2 * BITS))


@_compile
def _steps(step, i, j, out):
    """out = the steps of row (i, j); axes of `step` may have size 1."""
    row = step[min(i, step.shape[0] - 1), min(j, step.shape[1] - 1)]
    if row.size == 1:
        out[:] = row[0]
    else:
        out[:] = row


@_compile
def _rates(step, speed, least, i, j, shape, rate, highest, other):
    """rate = speed / (step + the largest step of the next voxels), at most speed / least."""
    n = rate.size
    _steps(step, i, j, rate)
    highest[:] = rate
    for k in range(n - 1):
        highest[k] = max(highest[k], rate[k + 1])
    _steps(step, min(i + 1, shape[0] - 1), j, other)
    for k in range(n):
        highest[k] = max(highest[k], other[k])
    _steps(step, i, min(j + 1, shape[1] - 1), other)
    for k in range(n):
        highest[k] = max(highest[k], other[k])
    for k in range(n):
        rate[k] = speed / max(rate[k] + highest[k], least)


@_inline
def _step_up(here, there, weight, rate, p):
    """p += rate times the difference of two rows."""
    for k in range(p.size):
        p[k] += rate[k] * (weight * (there[k] - here[k]))


@_compile
def _ascend(here, north, east, p, weights, direction, rate, ball, i, j, d, square):
    """p <- project(p + rate K t) for row (i, j), where t is `here` and, in the next rows, `north` and `east`."""
    one = weights.dtype.type(1)
    n = here.size
    p0, p1, p2 = p[0], p[1], p[2]
    if direction.size > 0:
        _rows_differences(here, north, east, weights, d)
        _across(direction, i, j, d, square)
        for a in range(3):
            pa, da = p[a], d[a]
            for k in range(n):
                pa[k] += rate[k] * da[k]
    else:
        _step_up(here, east, weights[0], rate, p0)
        _step_up(here, north, weights[1], rate, p1)
        _step_up(here[:-1], here[1:], weights[2], rate, p2[:-1])
    if not ball:
        for a in range(3):
            pa = p[a]
            for k in range(n):
                pa[k] = min(max(pa[k], -one), one)
        return
    for k in range(n):
        square[k] = one / max(one, np.sqrt(p0[k] * p0[k] + p1[k] * p1[k] + p2[k] * p2[k]))
    for k in range(n):
        p0[k] *= square[k]
        p1[k] *= square[k]
        p2[k] *= square[k]


@_inline
def _rows_differences(here, north, east, weights, d):
    """d = the differences of a row, from it and its next rows."""
    wx, wy, wz = weights[0], weights[1], weights[2]
    d0, d1, d2, last = d[0], d[1], d[2], here.size - 1
    for k in range(last + 1):
        d0[k] = wx * (east[k] - here[k])
    for k in range(last + 1):
        d1[k] = wy * (north[k] - here[k])
    for k in range(last):
        d2[k] = wz * (here[k + 1] - here[k])
    d2[last] = 0


@_compile
def _gap(here, north, east, p, weights, direction, ball, i, j, d, square):
    """The sum of |K t| - <p, K t> over row (i, j)."""
    n = here.size
    _rows_differences(here, north, east, weights, d)
    _across(direction, i, j, d, square)
    total = square[0] - square[0]
    if ball:
        for k in range(n):
            total += np.sqrt(d[0, k] * d[0, k] + d[1, k] * d[1, k] + d[2, k] * d[2, k])
    else:
        for k in range(n):
            total += abs(d[0, k]) + abs(d[1, k]) + abs(d[2, k])
    for k in range(n):
        total -= p[0, k] * d[0, k] + p[1, k] * d[1, k] + p[2, k] * d[2, k]
    return np.float64(total)


@_compile
def _act(mode, here, north, east, words, step, weights, direction, numbers, ball, i, j, rows):
    """Move the dual of row (i, j), which is rows[3:6], or return its share of the gap."""
    p, d, square = rows[3:6], rows[6:10], rows[10]
    if mode == MEASURE:
        return _gap(here, north, east, p, weights, direction, ball, i, j, d, square)
    if step.size > 1:
        _rates(step, numbers[2], numbers[3], i, j, words.shape[1:], rows[13], d[0], d[1])
    _ascend(here, north, east, p, weights, direction, rows[13], ball, i, j, d, square)
    _pack(words, i, j, p)
    return 0.0


@_inline
def _flow(p, before, wx, wy, wz, flow):
    """flow = D'p in a row without what comes from the plane before; `before` is p[1] of the row before."""
    p0, p1, p2, n = p[0], p[1], p[2], flow.size
    for k in range(n):
        flow[k] = wy * (before[k] - p1[k]) - wx * p0[k]
    flow[0] -= wz * p2[0]
    for k in range(1, n):
        flow[k] += wz * (p2[k - 1] - p2[k])


@_compile
def sweep(mode, image, step, weights, direction, numbers, floor, ball, first, last, words, t, start, plane, rows, totals):
    """One pass over the planes first ... last - 1, with the dual of all of them but the last.

    With u = max(floor, image - step K'p) for the dual p in `words`, and (share, ahead, speed, least) in `numbers`,
        MOVE : t moves by `share` towards u without the floor, and p ascends at t + `ahead` times the move;
        MEASURE : totals[x] = the sum of |K u| - <p, K u>, the duality gap at u, by planes;   FINISH : t <- u.
    start, plane : get what p ascends at in the first and in the last plane, for `close`.  rows : scratch.
    """
    nz = image.shape[2]
    wx, wy, wz, share, ahead = weights[0], weights[1], weights[2], numbers[0], numbers[1]
    own, p, d, square = rows[0:3], rows[3:6], rows[6:10], rows[10]
    d0, d1, d2, u, flow, before, steps = rows[6], rows[7], rows[8], rows[0], rows[11], rows[12], rows[14]
    if step.size == 1:
        steps[:] = step[0, 0, 0]
        rows[13][:] = numbers[2] / (steps[0] + steps[0])
    for i in range(first, last):
        before[:] = 0
        for j in range(image.shape[1]):
            _unpack(words, i, j, own)
            if direction.size > 0:
                d[0:3] = own
                _across(direction, i, j, d, square)
                own[:] = d[0:3]
            _flow(own, before, wx, wy, wz, flow)
            before[:] = own[1]
            if i > 0:
                _unpack(words, i - 1, j, p)
                d0[:] = p[0]
                if direction.size > 0:
                    d1[:] = p[1]
                    d2[:] = p[2]
                    _across(direction, i - 1, j, d, square)
                for k in range(nz):
                    flow[k] += wx * d0[k]
            if step.size > 1:
                _steps(step, i, j, steps)
            source, target = image[i, j], t[i, j]
            for k in range(nz):
                flow[k] = source[k] - steps[k] * flow[k]
            if mode == MOVE:
                for k in range(nz):
                    old = target[k]
                    new = max(floor, old + share * (flow[k] - old))
                    target[k] = new
                    u[k] = new + ahead * (new - old)
            else:
                for k in range(nz):
                    u[k] = max(floor, flow[k])
            if mode == FINISH:
                target[:] = u
            elif i == first:
                start[j] = u
            else:
                north = plane[min(j + 1, image.shape[1] - 1)]
                totals[i - 1] += _act(
                    mode, plane[j], north, u, words, step, weights, direction, numbers, ball, i - 1, j, rows
                )
            plane[j] = u


@_compile
def close(mode, step, weights, direction, numbers, ball, i, words, plane, east, rows):
    """What `sweep` leaves undone: the dual of its last plane i, from this `plane` and the one to the `east`."""
    total, ny = 0.0, plane.shape[0]
    for j in range(ny):
        _unpack(words, i, j, rows[3:6])
        north = plane[min(j + 1, ny - 1)]
        total += _act(mode, plane[j], north, east[j], words, step, weights, direction, numbers, ball, i, j, rows)
    return total
