"""From SPECT projections to a problem: attenuation, collimator response and scatter around a camera's counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from emrecon.projectors import ImageGrid, Scan, SPECTGeometry, SPECTProjector
from emrecon.projectors.core.arrays import Array
from emrecon.projectors.spect.collimation import Response

from ..likelihoods.poisson import PoissonLikelihood
from .problem import Problem, added, check_subsets, checked_grid, digest, expected_counts, on_grid, start_like


def spect_problem(
    scan: Scan,
    *,
    mu: Array | None = None,
    response: Response | None = None,
    scatter: Array | float | None = None,
    grid: ImageGrid | None = None,
    subsets: int = 8,
) -> Problem:
    """Return the problem of reconstructing SPECT projections, for `reconstruct` or any engine::

        ybar = factors * A(x) + background + scatter,      f(x) = sum(ybar - y log ybar)

    A is a `SPECTProjector` with attenuation and response; counts y, factors and background are the scan's.

    Args:
        scan : counts (..., views, bins, rows) with their `SPECTGeometry`; leading axes are a batch.
        mu : attenuation map on the grid, (x, y, z) or (B, x, y, z), in 1/cm at the emission energy (default: none).
        response : width of a point by distance, such as `collimator("siemens-lehr").response(140.5)` or
            `LinearResponse(slope, intercept)` (default: perfect resolution).
        scatter : counts expected in every bin besides the scan's own background, a number or an array that broadcasts
            to the counts, such as an estimate of `triple_energy_window` (default: none).
        grid : of the image (default: `scan.default_grid()`, voxels of the size of the bins).
        subsets : how many ordered subsets the views are divided into, k, k + n, ...; 1 for MLEM.

    Raises TypeError for a scan that is not of SPECT, ArgumentError (a ValueError; its `argument` is the name) for a map
    or scatter that does not fit and more subsets than views, ValueError for implausible attenuation.
    """
    camera = _camera_of(scan)
    check_subsets(subsets, camera.n_views)
    grid = checked_grid(grid, scan.default_grid())
    if scatter is not None:
        scatter = expected_counts("scatter", scatter, tuple(scan.counts.shape))
        scan = replace(scan, background=added(scan.background, scatter))
    system = SPECTProjector(grid, camera, None if mu is None else on_grid("mu", mu, grid, batch=True), response)
    likelihood = PoissonLikelihood(scan, scan.model(system))
    parts = tuple(likelihood.subset(k, subsets) for k in range(subsets))
    start = start_like(system.ones_image(), scan.counts, len(camera.shape))
    return Problem(parts, grid, start, "SPECT", str(system), _signature(scan, system, subsets))


def _camera_of(scan: Scan) -> SPECTGeometry:
    if not isinstance(scan, Scan):
        raise TypeError(
            f"spect_problem takes a Scan, got {type(scan).__name__}; take one frame, gate or energy window of it, or "
            "make one with Scan(counts, geometry)"
        )
    if not isinstance(scan.geometry, SPECTGeometry):
        raise TypeError(f"spect_problem takes SPECT data, got {scan.geometry}; use pet_problem?")
    return scan.geometry


def _signature(scan: Scan, system: SPECTProjector, subsets: int) -> str:
    """What must be the same when a run goes on: every number that shapes the image."""
    camera = system.geometry
    orbit = (camera.angles, camera.radius, camera.shift, np.array([camera.axial_shift, *camera.pixel_size]))
    content = digest(scan.counts, scan.background, scan.factors, system.attenuation, system.grid.affine, *orbit)
    return f"{system!r}, {system.response}, {subsets} subsets, contents {content}"
