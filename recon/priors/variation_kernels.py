"""The CPU kernels of total variation: differences of an image, what is made of them voxel by voxel, and the transpose.

Images are (x, y, z), differences (3, x, y, z); z is contiguous. Every kernel works row by row along z in a few rows of
its own, so that all loops are SIMD loops over cached memory, and writes only the slabs x = first, first + n, ...
A direction field of size 0 stands for none.
"""

from __future__ import annotations

import numpy as np

from emrecon.projectors.core.compiling import inline_kernel as _inline
from emrecon.projectors.core.compiling import kernel as _compile

SHORT, LONG = 2**20 - 1, 2**31 - 1  # what 1 is in a dual of 21 bits, and of 32
BITS = 21
_MIDDLE, _MASK = 2 ** (BITS - 1), 2**BITS - 1
_FROM_SHORT, _FROM_LONG = np.float32(1 / SHORT), 1 / LONG
_SHORT, _ROUND = np.float32(SHORT), np.float32(_MIDDLE + 0.5)

N_ROWS = 15  # of scratch for `sweep`, whose helpers say what is in which
MOVE, MEASURE, FINISH = 0, 1, 2


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
def _unpack(words, i, j, rows, first):
    """Three rows from `first` on = the dual of row (i, j): three integers of 32 bits, or one with 21 bits for each."""
    p0, p1, p2 = rows[first], rows[first + 1], rows[first + 2]
    if words.shape[0] == 3:
        a, b, c = words[0, i, j], words[1, i, j], words[2, i, j]
        for k in range(p0.size):
            p0[k], p1[k], p2[k] = a[k] * _FROM_LONG, b[k] * _FROM_LONG, c[k] * _FROM_LONG
        return
    word = words[0, i, j]
    for k in range(p0.size):
        p0[k] = np.float32(np.int32((word[k] & _MASK) - _MIDDLE)) * _FROM_SHORT
    for k in range(p0.size):
        p1[k] = np.float32(np.int32(((word[k] >> BITS) & _MASK) - _MIDDLE)) * _FROM_SHORT
    for k in range(p0.size):
        p2[k] = np.float32(np.int32((word[k] >> (2 * BITS)) - _MIDDLE)) * _FROM_SHORT


@_inline
def _pack(words, i, j, rows):
    """The inverse of `_unpack` for rows 3, 4, 5, rounding to the nearest."""
    p0, p1, p2 = rows[3], rows[4], rows[5]
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
def _rates(step, speed, least, i, j, shape, rows):
    """rows[13] = speed / (step + the largest step of the next voxels), at most speed / least."""
    rate, highest, other, n = rows[13], rows[6], rows[7], rows.shape[1]
    _steps(step, i, j, rate)
    for k in range(n):
        highest[k] = max(rate[k], rate[min(k + 1, n - 1)])
    _steps(step, min(i + 1, shape[0] - 1), j, other)
    for k in range(n):
        highest[k] = max(highest[k], other[k])
    _steps(step, i, min(j + 1, shape[1] - 1), other)
    for k in range(n):
        rate[k] = speed / max(rate[k] + max(highest[k], other[k]), least)


@_inline
def _row_differences(plane, j, east, weights, direction, i, rows):
    """rows[6:9] = K t in row (i, j), where t is a plane and, in the next one, the row `east`."""
    here, north = plane[j], plane[min(j + 1, plane.shape[0] - 1)]
    d0, d1, d2, last = rows[6], rows[7], rows[8], rows.shape[1] - 1
    wx, wy, wz = weights[0], weights[1], weights[2]
    for k in range(last + 1):
        d0[k] = wx * (east[k] - here[k])
    for k in range(last + 1):
        d1[k] = wy * (north[k] - here[k])
    for k in range(last):
        d2[k] = wz * (here[k + 1] - here[k])
    d2[last] = 0
    if direction.size > 0:
        _across(direction, i, j, rows[6:10], rows[10])


@_inline
def _ascend(ball, rows):
    """p <- project(p + rate K t), with p in rows 3 to 5, K t in 6 to 8 and the rates in 13."""
    p0, p1, p2, d0, d1, d2, rate = rows[3], rows[4], rows[5], rows[6], rows[7], rows[8], rows[13]
    n, one = rate.size, rows.dtype.type(1)
    for k in range(n):
        p0[k] += rate[k] * d0[k]
    for k in range(n):
        p1[k] += rate[k] * d1[k]
    for k in range(n):
        p2[k] += rate[k] * d2[k]
    if ball:
        for k in range(n):
            d0[k] = one / max(one, np.sqrt(p0[k] * p0[k] + p1[k] * p1[k] + p2[k] * p2[k]))
        for k in range(n):
            p0[k] *= d0[k]
            p1[k] *= d0[k]
            p2[k] *= d0[k]
    else:
        for k in range(n):
            p0[k] = min(max(p0[k], -one), one)
            p1[k] = min(max(p1[k], -one), one)
            p2[k] = min(max(p2[k], -one), one)


@_inline
def _gap(ball, slack, rows):
    """The sum of ``|K t|`` - <p, K t> over a row, with p in rows 3 to 5 and K t in 6 to 8.

    In float64, and with p on the sphere where its rounding alone, at most `slack`, keeps it off: no term is negative.
    """
    p0, p1, p2, d0, d1, d2, one = rows[3], rows[4], rows[5], rows[6], rows[7], rows[8], np.float64(1)
    total = 0.0
    for k in range(p0.size):
        a, b, c = np.float64(d0[k]), np.float64(d1[k]), np.float64(d2[k])
        e, f, g = np.float64(p0[k]), np.float64(p1[k]), np.float64(p2[k])
        inner = e * a + f * b + g * c
        if ball:
            to_sphere = one / np.sqrt(max(e * e + f * f + g * g, 1e-30))
            total += np.sqrt(a * a + b * b + c * c) - inner * min(to_sphere, one + slack)
        else:
            total += abs(a) + abs(b) + abs(c) - inner
    return total


@_inline
def _image(mode, source, target, pull, ahead, floor, rows):
    """rows[0] = what p ascends at, or u, from K'p in rows[11] and the steps in rows[14]; t moves or becomes u."""
    u, flow, steps = rows[0], rows[11], rows[14]
    for k in range(u.size):
        flow[k] = source[k] - steps[k] * flow[k]
    if mode == MOVE:
        for k in range(u.size):
            old = target[k]
            new = max(floor, old + pull * (flow[k] - old))
            target[k] = new
            u[k] = new + ahead * (new - old)
    else:
        for k in range(u.size):
            u[k] = max(floor, flow[k])
    if mode == FINISH:
        target[:] = u


@_inline
def _flow(words, weights, direction, i, j, rows):
    """rows[11] = K'p in row (i, j), and rows 3 to 5 = p of row (i - 1, j); rows[12] is the flux along y before it."""
    p0, p1, p2, q0, d0, flow, before = rows[0], rows[1], rows[2], rows[3], rows[6], rows[11], rows[12]
    wx, wy, wz, n = weights[0], weights[1], weights[2], rows.shape[1]
    _unpack(words, i, j, rows, 0)
    if direction.size > 0:
        _copy_across(direction, i, j, 0, rows)
        for k in range(n):
            p0[k], p1[k], p2[k] = rows[6, k], rows[7, k], rows[8, k]
    for k in range(n):
        flow[k] = wy * (before[k] - p1[k]) - wx * p0[k] - wz * p2[k]
    for k in range(1, n):
        flow[k] += wz * p2[k - 1]
    for k in range(n):
        before[k] = p1[k]
    if i > 0:
        _unpack(words, i - 1, j, rows, 3)
        if direction.size > 0:
            _copy_across(direction, i - 1, j, 3, rows)
            for k in range(n):
                flow[k] += wx * d0[k]
        else:
            for k in range(n):
                flow[k] += wx * q0[k]


@_compile
def _copy_across(direction, i, j, first, rows):
    """rows[6:9] = (I - d d') of the three rows from `first` on, for the direction d of each voxel."""
    for a in range(3):
        source, target = rows[first + a], rows[6 + a]
        for k in range(target.size):
            target[k] = source[k]
    _across(direction, i, j, rows[6:10], rows[10])


@_inline
def _act(mode, plane, east, words, step, weights, direction, numbers, ball, i, j, rows):
    """Move the dual of row (i, j), which is in rows 3 to 5, or return its share of the gap."""
    if mode == MOVE and step.size > 1:
        _rates(step, numbers[2], numbers[3], i, j, words.shape[1:], rows)
    _row_differences(plane, j, east, weights, direction, i, rows)
    if mode == MEASURE:
        return _gap(ball, 2.0 / SHORT if words.shape[0] == 1 else 2.0 / LONG, rows)
    _ascend(ball, rows)
    _pack(words, i, j, rows)
    return 0.0


@_compile
def sweep(
    mode, image, step, weights, direction, numbers, ball, first, last, words, t, floor, start, plane, rows, totals
):
    """One pass over the planes first ... last - 1, with the dual of all of them but the last.

    With u = max(floor, image - step K'p) for the dual p in `words`, and (pull, ahead, speed, least) in `numbers`::

        MOVE : t moves by `pull` towards u without the floor, and p ascends at t + `ahead` times the move;
        MEASURE : totals[x] = the sum of |K u| - <p, K u>, the duality gap at u, by planes;   FINISH : t <- u.

    Args:
        start, plane : get what p ascends at in the first and in the last plane, for `close`.
        rows : scratch.
    """
    if step.size == 1:
        rows[14] = step[0, 0, 0]
        rows[13] = numbers[2] / max(rows[14, 0] + rows[14, 0], numbers[3])
    u = rows[0]
    for i in range(first, last):
        rows[12] = 0
        for j in range(image.shape[1]):
            _flow(words, weights, direction, i, j, rows)
            if step.size > 1:
                _steps(step, i, j, rows[14])
            _image(mode, image[i, j], t[i, j], numbers[0], numbers[1], floor, rows)
            if i == first:
                start[j] = u
            elif mode != FINISH:
                totals[i - 1] += _act(mode, plane, u, words, step, weights, direction, numbers, ball, i - 1, j, rows)
            plane[j] = u


@_compile
def close(mode, step, weights, direction, numbers, ball, i, words, plane, east, rows):
    """What `sweep` leaves undone: the dual of its last plane i, from this `plane` and the one to the `east`."""
    total = 0.0
    for j in range(plane.shape[0]):
        _unpack(words, i, j, rows, 3)
        total += _act(mode, plane, east[j], words, step, weights, direction, numbers, ball, i, j, rows)
    return total
