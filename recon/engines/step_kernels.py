"""The compiled loop of `kernel_steps.kernel`: a symmetric stencil of 3 x 3 x 3 voxels, in one pass over the image."""

from __future__ import annotations

import numpy as np

from emrecon.projectors.core.compiling import kernel as _compile
from emrecon.projectors.core.threads import share


def stencil(u: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """Return C u for images (..., x, y, z), float32 or float64, and the six gains of C."""
    batch = u.reshape(-1, *u.shape[-3:])
    padded = np.zeros((len(batch), *(n + 2 for n in batch.shape[1:])), u.dtype)
    padded[:, 1:-1, 1:-1, 1:-1] = batch
    out = np.empty(batch.shape, u.dtype)
    low, high = _in_plane(gains[:3]), _in_plane(gains[3:])
    same, beside = (high + (low - high) / 2).astype(u.dtype), ((low - high) / 4).astype(u.dtype)
    share(lambda t, n: _apply(padded, same, beside, t, n, out), batch.shape[1])
    return out.reshape(u.shape)


def _in_plane(gains: np.ndarray) -> np.ndarray:
    """The weights of a voxel, of its four neighbours along x and y, and of the four at the corners."""
    none, one, both = (float(g) for g in gains)
    mixed = none - 2 * one + both
    return np.array([one + mixed / 4, (one - both) / 4 + mixed / 8, mixed / 16])


@_compile
def _apply(
    u: np.ndarray, same: np.ndarray, beside: np.ndarray, t: int, n: int, out: np.ndarray
) -> None:  # pragma: no cover
    nx, ny, nz = out.shape[1:]
    row = np.empty(nz + 2, out.dtype)
    for b in range(out.shape[0]):
        for i in range(t, nx, n):
            for j in range(ny):
                for k in range(nz + 2):
                    centre = u[b, i + 1, j + 1, k]
                    edges = u[b, i, j + 1, k] + u[b, i + 2, j + 1, k] + u[b, i + 1, j, k] + u[b, i + 1, j + 2, k]
                    corners = u[b, i, j, k] + u[b, i, j + 2, k] + u[b, i + 2, j, k] + u[b, i + 2, j + 2, k]
                    row[k] = beside[0] * centre + beside[1] * edges + beside[2] * corners
                    if 0 < k <= nz:
                        out[b, i, j, k - 1] = same[0] * centre + same[1] * edges + same[2] * corners
                for k in range(nz):
                    out[b, i, j, k] += row[k] + row[k + 2]
