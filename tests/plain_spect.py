"""A plain SPECT projector, one view and one plane at a time: the reference for tests, and what the kernels speed up."""

import numpy as np
from scipy.special import erf


def _tent(t):
    return np.maximum(1 - np.abs(t), 0)


def _quadratic_spline(t):
    t = np.abs(t)
    return np.where(t < 0.5, 0.75 - t**2, np.maximum(1.5 - t, 0) ** 2 / 2)


def _gaussian(distance, variance, bin_size):
    """Return a Gaussian's integrals over bins `distance` mm away; with no variance every position is read as it is."""
    if variance <= 0:
        return (np.abs(distance) < bin_size / 2).astype(float)
    lower, upper = ((distance + side * bin_size / 2) / np.sqrt(2 * variance) for side in (-1, 1))
    return (erf(upper) - erf(lower)) / 2


def plain_spect(image, grid, geometry, attenuation=None, response=None):
    """Return the views (views, bins, rows) of an image (nx, ny, nz), for bins and rows as large as the square voxels.

    Each view has planes that face the detector, the nearest first, with a column in front of every bin and beyond.
    """
    h, dz = grid.voxel_size[0], grid.voxel_size[2]
    x, y, z = (start + step * np.arange(n) for start, step, n in zip(grid.origin, grid.voxel_size, grid.shape))
    bins, rows = geometry.bin_centres()
    half = max(grid.shape[:2])  # more planes and columns than the image reaches
    out = np.zeros(geometry.shape)
    for v, (toward, along) in enumerate(zip(*geometry.directions)):
        depth = toward @ grid.centre[:2] + h * (half + (grid.shape[0] - 1) / 2 - np.arange(2 * half + grid.shape[0]))
        column = bins[v, 0] + h * np.arange(-2 * half, bins.shape[1] + 2 * half)
        # Every voxel is shared between two planes, linearly, and three columns.
        to_plane = _tent((depth[:, None, None] - (toward[0] * x[:, None] + toward[1] * y)) / h)
        to_column = _quadratic_spline((column[:, None, None] - (along[0] * x[:, None] + along[1] * y)) / h)
        frame = np.einsum("pij,cij,ijk->pck", to_plane, to_column, image, optimize=True)
        if attenuation is not None:
            # What half a plane absorbs, interpolated; a ray passes all nearer planes and half of its own.
            place = depth[:, None, None] * toward + column[:, None] * along
            weights = [_tent((place[..., axis, None] - centres) / h) for axis, centres in enumerate((x, y))]
            absorbed = -np.expm1(-attenuation * h / 20)  # 1/cm and mm
            passed = 1 - np.einsum("pci,pcj,ijk->pck", *weights, absorbed, optimize=True)
            frame *= np.cumprod(passed**2, axis=0) / passed
        for plane, distance in zip(frame, np.maximum(geometry.radius[v] - depth, 0)):
            variance = 0 if response is None else response.sigma(np.array([distance]))[0] ** 2
            # Sharing between columns has spread the activity along u by h^2 / 4 already.
            read_u = _gaussian(bins[v][:, None] - column, variance - h**2 / 4, h)
            read_z = _gaussian(rows[:, None] - z, variance, dz)
            out[v] += read_u @ plane @ read_z.T
    return out
