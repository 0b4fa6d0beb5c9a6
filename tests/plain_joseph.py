"""A plain Joseph projector, one line at a time: the reference for tests and the baseline of the speed benchmark."""

import math

import numpy as np
from numba import njit, prange


@njit(fastmath=True, inline="always")
def _tap(image, along_x, i, j, k):
    nx, ny, nz = image.shape
    if k < 0 or k >= nz or j < 0 or j >= (ny if along_x else nx):
        return image.dtype.type(0)
    return image[i, j, k] if along_x else image[j, i, k]


@njit(parallel=True, fastmath=True, cache=True)
def _project(image, starts, ends, origin, voxel, out):
    real = image.dtype.type
    for e in prange(starts.shape[0]):
        ax, ay, az = starts[e]
        dx, dy, dz = ends[e, 0] - ax, ends[e, 1] - ay, ends[e, 2] - az
        along_x = abs(dx) >= abs(dy)
        n = image.shape[0] if along_x else image.shape[1]
        total = real(0)
        for i in range(n):
            t = (origin[0] + i * voxel[0] - ax) / dx if along_x else (origin[1] + i * voxel[1] - ay) / dy
            if t < 0 or t > 1:
                continue
            c = (ay + t * dy - origin[1]) / voxel[1] if along_x else (ax + t * dx - origin[0]) / voxel[0]
            z = (az + t * dz - origin[2]) / voxel[2]
            j, k = math.floor(c), math.floor(z)
            v, w = real(c - j), real(z - k)
            low = (real(1) - v) * _tap(image, along_x, i, j, k) + v * _tap(image, along_x, i, j + 1, k)
            high = (real(1) - v) * _tap(image, along_x, i, j, k + 1) + v * _tap(image, along_x, i, j + 1, k + 1)
            total += (real(1) - w) * low + w * high
        length = math.sqrt(dx * dx + dy * dy + dz * dz)
        out[e] = total * real(voxel[0] * length / abs(dx) if along_x else voxel[1] * length / abs(dy))


def plain_joseph(image, grid, starts, ends):
    """Line integrals in mm of an image (nx, ny, nz) from starts to ends, (..., 3) in mm, with the whole tent.

    Lines are followed along x or y, whichever they run along more.
    """
    out = np.empty(int(np.prod(starts.shape[:-1])), image.dtype)
    flat = [np.ascontiguousarray(np.reshape(points, (-1, 3)), np.float64) for points in (starts, ends)]
    _project(np.ascontiguousarray(image), *flat, np.asarray(grid.origin), np.asarray(grid.voxel_size), out)
    return out.reshape(starts.shape[:-1])
