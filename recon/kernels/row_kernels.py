"""The kernel matrix's CPU kernels: rows of a sparse matrix times lanes, and the search for similar neighbours.

A row is always gathered, never scattered, also for the transpose, whose rows are listed too: threads share no memory
and the result does not depend on how many there are.
"""

from __future__ import annotations

import math

import numpy as np

from emrecon.projectors.core.compiling import inline_kernel as _inline
from emrecon.projectors.core.compiling import kernel as _compile

BLOCK = 4096
"""Rows that a thread does before it takes the next ones."""


@_compile
def gather(start, index, weight, x, first, n, out):
    """out[r] = sum of weight * x[index] over the entries start[r] to start[r + 1], for the blocks of rows first::n.

    Args:
        x, out : (rows, lanes).
    """
    rows, lanes = out.shape
    for block in range(first, -(-rows // BLOCK), n):
        for r in range(block * BLOCK, min((block + 1) * BLOCK, rows)):
            if lanes == 1:
                total = out.dtype.type(0)
                for c in range(start[r], start[r + 1]):
                    total += weight[c] * x[index[c], 0]
                out[r, 0] = total
                continue
            for k in range(lanes):
                out[r, k] = 0
            for c in range(start[r], start[r + 1]):
                w, i = weight[c], index[c]
                for k in range(lanes):
                    out[r, k] += w * x[i, k]


@_compile
def count_neighbours(inside, offsets, most, first, n, out):
    """out[r] = how many neighbours a voxel gets, those in the window and the mask but not more than `most`.

    Args:
        inside : (nx, ny, nz) booleans; a voxel outside the mask has only itself.
        offsets : (window, 3).
    """
    nx, ny, nz = inside.shape
    for line in range(first, nx * ny, n):
        x, y = line // ny, line % ny
        for z in range(nz):
            found = 0
            for m in range(offsets.shape[0] if inside[x, y, z] else 0):
                i, j, k = x + offsets[m, 0], y + offsets[m, 1], z + offsets[m, 2]
                if 0 <= i < nx and 0 <= j < ny and 0 <= k < nz and inside[i, j, k]:
                    found += 1
                    if found == most:
                        break
            out[line * nz + z] = max(found, 1)


@_compile
def find_neighbours(features, inside, offsets, penalty, start, first, n, index, weight):
    """List the neighbours with the largest weights exp(-d / 2) / sum, d = penalty + ``|difference of features|^2``.

    Args:
        features : (voxels, F), scaled.
        offsets : (window, 3), the nearest first, which win where weights are equal.
        penalty : (window,) what the distance in space adds to d.
        start : where the entries of a voxel begin.
        index, weight : the entries, written here.
    """
    nx, ny, nz = inside.shape
    room = offsets.shape[0]
    distance, place, where = np.empty(room, np.float32), np.empty(room, np.int32), np.empty(room, np.int32)
    for line in range(first, nx * ny, n):
        x, y = line // ny, line % ny
        for z in range(nz):
            r = line * nz + z
            begin, most = start[r], start[r + 1] - start[r]
            if most == 1:
                index[begin], weight[begin] = r, 1
                continue
            found = 0
            for m in range(room):
                i, j, k = x + offsets[m, 0], y + offsets[m, 1], z + offsets[m, 2]
                if not (0 <= i < nx and 0 <= j < ny and 0 <= k < nz and inside[i, j, k]):
                    continue
                q = (i * ny + j) * nz + k
                d = penalty[m]
                for f in range(features.shape[1]):
                    step = features[r, f] - features[q, f]
                    d += step * step
                if found < most:
                    distance[found], place[found], where[found] = d, m, q
                    found += 1
                    if found == most:
                        for parent in range(most // 2 - 1, -1, -1):
                            _sift(distance, place, where, parent, most)
                elif d < distance[0]:
                    distance[0], place[0], where[0] = d, m, q
                    _sift(distance, place, where, 0, most)
            total = 0.0
            for c in range(found):
                distance[c] = math.exp(-distance[c] / 2)
                total += distance[c]
            for c in range(found):
                index[begin + c], weight[begin + c] = where[c], distance[c] / total


@_inline
def _sift(distance, place, where, parent, size):
    """Restore the heap below `parent`: on top is the most distant, and of equal ones the last in the list."""
    d, p, w = distance[parent], place[parent], where[parent]
    while True:
        child = 2 * parent + 1
        if child >= size:
            break
        other = child + 1
        if other < size and (
            distance[other] > distance[child] or (distance[other] == distance[child] and place[other] > place[child])
        ):
            child = other
        if d > distance[child] or (d == distance[child] and p > place[child]):
            break
        distance[parent], place[parent], where[parent] = distance[child], place[child], where[child]
        parent = child
    distance[parent], place[parent], where[parent] = d, p, w


@_compile
def reweigh(start, index, weight, features, first, n, out):
    """out = weight * exp(-``|difference of features|^2`` / 2), rows scaled to a sum of one, for the blocks first::n.

    Args:
        features : (voxels, F), scaled.
    """
    rows = start.size - 1
    for block in range(first, -(-rows // BLOCK), n):
        for r in range(block * BLOCK, min((block + 1) * BLOCK, rows)):
            total = 0.0
            for c in range(start[r], start[r + 1]):
                d = out.dtype.type(0)
                for f in range(features.shape[1]):
                    step = features[r, f] - features[index[c], f]
                    d += step * step
                value = weight[c] * math.exp(-d / 2)
                out[c] = value
                total += value
            for c in range(start[r], start[r + 1]):
                out[c] /= total
