"""The CPU kernels of total variation: differences of an image, what is made of them voxel by voxel, and the transpose.

Images are (x, y, z), differences (3, x, y, z); z is contiguous. Every kernel works row by row along z in a few rows of
its own, so that all loops are SIMD loops over cached memory, and writes only the slabs x = first, first + n, ...
A direction field of size 0 stands for none.
"""

from __future__ import annotations

import numpy as np
from numba import njit

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


@_compile
def ascend(image, weights, direction, rate, isotropic, momentum, first, n, p, q):
    """p <- project(q + rate (I - direction direction') differences), q <- p + momentum (p - the p before).

    rate : (x, y, z) or (1, 1, 1).  The projection is onto |p| <= 1 of each voxel, or of each difference.
    """
    nz = image.shape[2]
    rows, square = np.empty((4, nz), image.dtype), np.empty(nz, image.dtype)
    speed, one = np.empty(nz, image.dtype), image.dtype.type(1)
    everywhere = rate.size == 1
    for i in range(first, image.shape[0], n):
        for j in range(image.shape[1]):
            _differences(image, weights, i, j, rows)
            _across(direction, i, j, rows, square)
            for k in range(nz):
                speed[k] = rate[0, 0, 0] if everywhere else rate[i, j, k]
            for a in range(3):
                before = q[a, i, j]
                for k in range(nz):
                    rows[a, k] = before[k] + speed[k] * rows[a, k]
            for k in range(nz):
                square[k] = rows[0, k] * rows[0, k] + rows[1, k] * rows[1, k] + rows[2, k] * rows[2, k]
            for k in range(nz):
                square[k] = one / max(one, np.sqrt(square[k]))
            for a in range(3):
                old, new = p[a, i, j], q[a, i, j]
                for k in range(nz):
                    value = rows[a, k] * square[k] if isotropic else min(max(rows[a, k], -one), one)
                    new[k] = value + momentum * (value - old[k])
                    old[k] = value
