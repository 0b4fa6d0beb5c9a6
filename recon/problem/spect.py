"""From SPECT projections to a problem: attenuation, collimator response and scatter around a camera's counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from emrecon.projectors import (
    AttenuationMap,
    BedScan,
    ImageGrid,
    Scan,
    ScanSeries,
    SPECTGeometry,
    SPECTProjector,
    WindowedScan,
    WindowedSeries,
)
from emrecon.projectors.core.arrays import Array, to_numpy
from emrecon.projectors.scan.window_choice import Peak
from emrecon.projectors.spect.collimation import Response

from ..likelihoods.poisson import PoissonLikelihood
from ..ranks import ALONE, RankGroup, shard
from .attenuation import attenuation_of, counts_by_slice
from .batches import batch_of, in_batch, scan_contents
from .grids import checked_grid
from .problem import (
    ArgumentError,
    Problem,
    added,
    check_subsets,
    digest,
    emission,
    expected_counts,
    seen_start,
    start_like,
)
from .scatter import EffectiveScatter, Scatter, separated, with_effective_scatter
from .subsets import counts_by_view, filled_subsets

_SAME_LINE = 0.02  # of the energy; lines this near have the same response
_LEAST_ROOM = 0.15  # radius over the width of the detector; a body would have to be thinner than a third of it
_DESIGNED_PENETRATION = 0.05  # of the septa, Anger 1964


def spect_problem(
    scan: Scan | WindowedScan | ScanSeries | WindowedSeries,
    *,
    mu: Array | AttenuationMap | None = None,
    mu_grid: ImageGrid | None = None,
    response: Response | None = None,
    scatter: Scatter = None,
    background: Array | float = 0.0,
    peak: Peak | None = None,
    grid: ImageGrid | None = None,
    subsets: int = 8,
    ranks: RankGroup = ALONE,
) -> Problem:
    """Return the problem of reconstructing SPECT projections, for `reconstruct` or any engine::

        ybar = factors * A(x) + background + scatter,      f(x) = sum(ybar - y log ybar)

    A is a `SPECTProjector` with attenuation and response; counts y, factors and background are the scan's.

    Args:
        scan : counts (..., views, bins, rows) with their `SPECTGeometry`; leading axes are a batch. Of a `WindowedScan`
            the photopeak is reconstructed: the window that holds the radionuclide's strongest line in any window. A
            `DynamicScan`, a `GatedScan` or a `WindowedSeries` is a batch, too: the image is (frames, x, y, z), in
            counts/s, and of frames corrected for decay to their reference time.
        mu : attenuation map on the grid, (x, y, z) or (B, x, y, z), in 1/cm at the emission energy (default: none), or
            what `formats.read_mu` makes of a CT. Its unit is judged by the value that most of the body has.
        mu_grid : where mu is, when that is not the grid of the image; mu is (x, y, z) on it, and resampled.
        response : width of a point by distance, such as `collimator("siemens-lehr").response(140.5)` or
            `LinearResponse(slope, intercept)` (default: perfect resolution).
        scatter : "tew" or "dew", estimated from the windows below and above the photopeak ("tew:LOWER,UPPER" names
            them), or a `WindowScatter`; "esse", computed from the image by the effective source and iterated with it,
            which needs mu, or an `EffectiveScatter`; "none"; or the counts expected in every bin besides the scan's own
            background, a number or an array that broadcasts to the counts. Default: none, but "tew" for a
            `WindowedScan` with windows on both sides; the summary says which.
        background : counts expected in every bin besides scatter and the scan's own, such as an additive term.
        peak : of a `WindowedScan`, the photopeak: the name of a window, an energy inside, or (lower, upper) keV.
        grid : of the image (default: `scan.default_grid()`, voxels of the size of the bins).
        subsets : how many ordered subsets the views are divided into, k, k + n, ...; 1 for MLEM. Where the counts are
            too few for so many, fewer are made, and a note says so.
        ranks : of `join_ranks`: each subset's views are dealt out to them, k-th of n takes every n-th. All ranks give
            the same arguments, and run the engine together.

    Raises TypeError for a scan that is not of SPECT, ArgumentError (a ValueError; its `argument` is the name) for a map
    or scatter that does not fit and more subsets than views, ValueError for implausible attenuation.
    """
    camera = _camera_of(scan)
    check_subsets(subsets, camera.n_views)
    windows = separated(scan, scatter, peak)
    scan, scatter = windows.scan, windows.own
    grid = checked_grid(grid, scan.default_grid(), subsets, batch_of(scan))
    _check_width(response, camera)
    if not isinstance(background, (int, float)) or background != 0:
        more = expected_counts("background", background, tuple(scan.counts.shape))
        scan = replace(scan, background=added(scan.background, more))
    if scatter is not None and not isinstance(scatter, EffectiveScatter):
        scatter = expected_counts("scatter", scatter, tuple(scan.counts.shape))
        scan = replace(scan, background=added(scan.background, scatter))
    map_ = attenuation_of(mu, mu_grid, grid, _energy(scan, response), _profile(scan, camera, grid), batch=True)
    system = SPECTProjector(grid, camera, map_.mu, response)
    subsets, few = filled_subsets(subsets, counts_by_view(to_numpy(scan.counts), len(camera.shape)), grid)
    said, unsettled = windows.said, tuple[str, ...]()
    if isinstance(scatter, EffectiveScatter) and isinstance(scan, Scan):  # of frames and gates it was refused
        scan, own, unsettled = with_effective_scatter(scan, system, scatter, _energy(scan, response), subsets, ranks)
        said = "\n  ".join(filter(None, (said, own)))
    likelihood = PoissonLikelihood(scan, scan.model(system))
    parts = tuple(shard([likelihood.subset(k, subsets) for k in range(subsets)], ranks))
    start = start_like(seen_start(parts), scan.counts, len(camera.shape))
    about = "" if map_.mu is None else f"\n  mu           {map_}"
    about += f"\n  {said}" if said else ""
    summary = f"{system}{about}\n  emission     {emission(scan, _line(scan))}"
    summary += in_batch(scan, grid, subsets)
    notes = (*windows.notes, *unsettled, *_of_response(scan, response), *_of_camera(camera), *map_.notes, *few)
    signature = _signature(scan, system, subsets)
    ranks.require_same(signature, "these have another problem; are files or options not the same?")
    return Problem(parts, grid, start, "SPECT", summary, signature, notes, map_.mu)


def _camera_of(scan: Scan | WindowedScan | ScanSeries | WindowedSeries) -> SPECTGeometry:
    if not isinstance(scan, (Scan, WindowedScan, ScanSeries, WindowedSeries)):
        advice = "use beds_problem or bed_problems" if isinstance(scan, BedScan) else "or make a Scan(counts, geometry)"
        found = type(scan).__name__
        raise TypeError(
            f"spect_problem takes a Scan, a WindowedScan, a DynamicScan or a GatedScan, got {found}; {advice}"
        )
    if not isinstance(scan.geometry, SPECTGeometry):
        raise TypeError(f"spect_problem takes SPECT data, got {scan.geometry}; use pet_problem?")
    return scan.geometry


def _of_response(scan: Scan | ScanSeries, response: Response | None) -> tuple[str, ...]:
    """What does not fit together between the photons of the scan and the collimator."""
    energy, collimator = getattr(response, "energy", None), getattr(response, "collimator", None)
    if energy is None:
        return ()
    notes = []
    low, high = scan.energy_window or (0.0, np.inf)
    if not low <= energy <= high:
        notes.append(
            f"the response is of {energy:.4g} keV, and the energy window of {low:g} to {high:g} keV excludes it"
        )
    elif scan.radionuclide is not None:
        own = _line(scan)
        if own is None or abs(own - energy) > _SAME_LINE * energy:
            line = "no photon line in the window" if own is None else f"its photons in the window at {own:.4g} keV"
            notes.append(f"the response is of {energy:.4g} keV, and {scan.radionuclide} has {line}")
    if collimator is not None and collimator.penetration(energy) > _DESIGNED_PENETRATION:
        notes.append(
            f"the septa of {collimator.name or 'the collimator'} let {100 * collimator.penetration(energy):.0f} % of "
            f"photons of {energy:.4g} keV through; this is not modelled, and a measured response would hold it"
        )
    return tuple(notes)


def _check_width(response: Any, camera: SPECTGeometry) -> None:
    """Refuse a response that spreads a point on the axis over more than the detector: it is in other units."""
    if not hasattr(response, "sigma"):  # none, a measured one, or what the projector refuses
        return
    radius, width = float(camera.radius.max()), camera.n_bins[0] * camera.pixel_size[0]
    sigma = float(np.max(response.sigma(radius)))
    if sigma > width:
        raise ArgumentError(
            "response",
            f"a point {radius:.4g} mm from the collimator would be {sigma:.3g} mm wide (sigma), and the detector is "
            f"{width:.4g} mm wide; are the response and the radius in mm?",
        )


def _of_camera(camera: SPECTGeometry) -> tuple[str, ...]:
    """A radius that leaves no room for the field of view is most often one in cm."""
    width = camera.n_bins[0] * camera.pixel_size[0]
    radius = float(camera.radius.max())
    if radius >= _LEAST_ROOM * width:
        return ()
    return (
        f"the collimator is {radius:.3g} mm from the axis and the detector {width:.0f} mm wide; is the radius in cm?",
    )


def _energy(scan: Scan | ScanSeries, response: Response | None) -> float | None:
    """The energy of the photons in keV: that of the response, or of the scan, or None."""
    of_response = getattr(response, "energy", None)
    return _line(scan) if of_response is None else of_response


def _profile(scan: Scan | ScanSeries, camera: SPECTGeometry, grid: ImageGrid) -> np.ndarray:
    """Counts above the background by slice of the image."""
    counts = to_numpy(scan.counts) - to_numpy(scan.background)
    return counts_by_slice(grid, camera.bin_centres()[1], counts.reshape(-1, counts.shape[-1]).sum(0))


def _line(scan: Scan | ScanSeries) -> float | None:
    """The energy that is imaged, None where no line lies in the window."""
    try:
        return scan.photon_energy()
    except ValueError:
        return None


def _signature(scan: Scan | ScanSeries, system: SPECTProjector, subsets: int) -> str:
    """What must be the same when a run goes on: every number that shapes the image."""
    camera = system.geometry
    orbit = (camera.angles, camera.radius, camera.shift, np.array([camera.axial_shift, *camera.pixel_size]))
    content = digest(*scan_contents(scan), system.attenuation, system.grid.affine, *orbit)
    return f"{system!r}, {system.response}, {subsets} subsets, contents {content}"
