"""Small SPECT systems that between them use every branch of the projector."""

import numpy as np

from emrecon.projectors import ImageGrid, LinearResponse, MeasuredResponse, SPECTGeometry, SPECTProjector


def measured_response():
    """Kernels with tails of septal penetration, not symmetric."""
    u, z = np.arange(-4, 5)[:, None], np.arange(-3, 4)[None]
    kernels = np.stack([np.exp(-(u**2 + z**2) / (2 * (1 + i))) + 0.02 * (u == 0) for i in range(3)])
    kernels[:, 6, 2] += 0.1
    return MeasuredResponse(np.array([0, 50, 150]), kernels, (4.0, 4.0))


def irregular_geometry(n_bins, pixel_size):
    """Uneven angles, a body contour, a shifted centre of rotation, rows off centre."""
    return SPECTGeometry(
        np.array([0, 37.0, 90, 123, 200, 289]),
        np.array([60, 60, 50, 65, 60, 60]),
        n_bins,
        pixel_size,
        shift=np.array([0, 1.0, -2, 0, 0.5, 3]),
        axial_shift=1.5,
    )


SHAPES = {
    "planar": (1, 1, 4.0, 4.0),
    "thin": (3, 3, 4.0, 4.0),
    "resampled": (3, 5, (3.0, 5.0), 4.0),
    "anisotropic": (4, 3, (6.0, 3.0), (4.0, 3.0, 2.5)),
    "deep": (17, 16, 4.0, 4.0),
}

OPTIONS = {
    "perfect": {},
    "gaussian": {"response": LinearResponse(0.03, 3.0)},
    "narrow": {"response": LinearResponse(0.01, 0.2)},
    "flat": {"response": LinearResponse(0.0, 5.0)},
    "direct": {"response": LinearResponse(0.03, 3.0), "blur": "direct"},
    "measured": {"response": measured_response()},
    "rays": {"sampling": "rays"},
    "rays-gaussian": {"sampling": "rays", "response": LinearResponse(0.03, 3.0)},
    "rays-measured": {"sampling": "rays", "response": measured_response()},
}


def projector(shape="thin", options="gaussian", attenuation="shared", nx=7, ny=6):
    """Build a small projector; attenuation "none", "shared" or "per item" (3 items)."""
    slices, rows, pixel, voxel = SHAPES[shape]
    grid = ImageGrid((nx, ny, slices), voxel, origin=(-10, -17, -4))
    mu = None
    if attenuation != "none":
        mu = np.random.default_rng(3).random((3, *grid.shape) if attenuation == "per item" else grid.shape) * 0.5
    return SPECTProjector(grid, irregular_geometry((9, rows), pixel), mu, **OPTIONS[options])
