"""From PET sinograms and list-mode events to a problem: attenuation, normalisation, randoms, scatter, resolution."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from emrecon.projectors import (
    AcquisitionModel,
    AttenuationMap,
    GaussianBlur,
    ImageGrid,
    Normalisation,
    PETProjector,
    PETSinogram,
    Scan,
    ScanSeries,
    attenuation_factors,
)
from emrecon.projectors.core.arrays import Array, to_numpy
from emrecon.projectors.core.progress import tracked
from emrecon.projectors.physics.compton import ELECTRON_MASS

from ..likelihoods.poisson import PoissonLikelihood
from ..likelihoods.unexplained import say_once
from ..ranks import ALONE, RankGroup, of_share, shard
from .attenuation import Attenuation, attenuation_of
from .batches import batch_of, in_batch, scan_contents
from .grids import checked_grid, cubes
from .pet_corrections import Corrections, crystals_of, profile_of, require_factors
from .pet_events import Listmode, events_problem
from .pet_scatter import PETScatter, Simulated, SingleScatter, named_scatter, with_single_scatter
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
from .subsets import counts_by_view, filled_subsets


def pet_problem(
    scan_or_events: Scan | ScanSeries | Listmode,
    *,
    mu: Array | AttenuationMap | None = None,
    mu_grid: ImageGrid | None = None,
    norm: Normalisation | None = None,
    randoms: Array | float | None = None,
    scatter: PETScatter = None,
    psf: GaussianBlur | float | tuple[float, float, float] | None = None,
    grid: ImageGrid | None = None,
    subsets: int = 8,
    max_ring_difference: int | None = None,
    ranks: RankGroup = ALONE,
    scratch: str | os.PathLike[str] | None = None,
) -> Problem:
    """Return the problem of reconstructing a PET sinogram or list-mode events, for `reconstruct` or any engine::

        ybar = factors * normalisation * attenuation * A(x) + randoms + scatter,      attenuation = exp(-integral of mu)

    A is a `PETProjector`, or for events a `ListmodeProjector`, after a blur of width `psf`.

    Args:
        scan_or_events : a `Scan` of a `PETSinogram`, counts (..., views, radial, [TOF,] planes), or list-mode data as
            `formats.read_petlink` opens them: anything with `sinogram` and `read()`, whose prompts and delays are (n,
            2) crystal numbers. A `DynamicScan` or a `GatedScan` of sinograms is a batch: the image is (frames, x, y,
            z), in counts/s, and of frames corrected for decay to their reference time.
        mu : attenuation map on the grid, (x, y, z), in 1/cm at 511 keV (default: none), or what `formats.read_mu`
            makes of a CT. Its unit is judged by the value that most of the body has.
        mu_grid : where mu is, when that is not the grid of the image; it is resampled.
        norm : efficiencies of crystal pairs, such as `formats.read_siemens_norm` returns (default: a scan's own
            factors, and without them the number of real crystal pairs of every bin).
        randoms : expected random counts, a number or an array that broadcasts to the counts (for events: one for each
            prompt that `read()` returns). Default: the scan's own background; for events an estimate from their delays,
            by `crystal_rates`.
        scatter : "sss", single scatter simulated from the image, scaled to the tails and iterated with the image, which
            needs mu ("sss:plane", "sss:segment", "sss:all" and "sss:none" say which bins share a scale), or a
            `SingleScatter`; or expected counts, in the same way as randoms, to which they are added (default: none).
        psf : resolution in the image, FWHM in mm (one number or (x, y, z)) or a `GaussianBlur` (default: none). A body
            goes on beyond the first and the last slice, unless it is `GaussianBlur(grid, fwhm, ends="empty")`.
        grid : of the image (default: `pet_grid(scan_or_events)`).
        subsets : how many ordered subsets the views are divided into, k, k + n, ...; events go with their views. Where
            the counts are too few for so many, fewer are made, and a note says so.
        max_ring_difference : events only: leave out those of more oblique planes (default: none are left out).
        ranks : of `join_ranks`: the views of each subset are dealt out to them, and list-mode files are read in as many
            parts. All ranks give the same arguments, and run the engine together.
        scratch : events only: a folder on a disk with room for 16 bytes per event, where they are kept instead of in
            memory; in several ranks each keeps its share. The files have no name, and are gone with the process.

    Raises TypeError for data that are not of PET and corrections of another type, ArgumentError (a ValueError; its
    `argument` is the name) for corrections that do not fit, more subsets than views, and a norm for a scan
    whose factors hold one, ValueError for implausible attenuation and files without prompts.
    """
    data, scatter = scan_or_events, named_scatter(scatter)
    sinogram = _bins(data, max_ring_difference)
    check_subsets(subsets, sinogram.n_views)
    items = batch_of(data) if isinstance(data, (Scan, ScanSeries)) else 1
    grid = checked_grid(grid, pet_grid(data, max_ring_difference), subsets, items)
    if scratch is not None and isinstance(data, (Scan, ScanSeries)):
        raise ArgumentError("scratch", "scratch is for list-mode, and these are sinograms")
    if scratch is not None and not Path(scratch).is_dir():
        raise ArgumentError("scratch", f"{scratch} is not a folder")
    found = attenuation_of(mu, mu_grid, grid, ELECTRON_MASS)
    corrections = Corrections(grid, found, _normalisation(norm, sinogram), _blur(psf, grid))
    if isinstance(data, (Scan, ScanSeries)):
        simulated = scatter if isinstance(scatter, SingleScatter) else None
        own = None if isinstance(scatter, SingleScatter) else scatter
        return _of_sinogram(_with_background(data, randoms, own), sinogram, corrections, subsets, simulated, ranks)
    if isinstance(scatter, SingleScatter):
        raise ArgumentError("scatter", "sss is for sinograms; histogram the events, formats.histogram_petlink")
    return events_problem(
        data, sinogram, corrections, subsets, (randoms, scatter), ranks, None if scratch is None else Path(scratch)
    )


def pet_grid(scan_or_events: Scan | ScanSeries | Listmode, max_ring_difference: int | None = None) -> ImageGrid:
    """Return the grid that `pet_problem` takes unless told.

    That is the default grid of a scan; for events cubes of twice the size of the bins, as list-mode scans are short
    more often than not.

    Raises TypeError for data that are neither, ArgumentError for a ring difference that the data do not have.
    """
    grid = _bins(scan_or_events, max_ring_difference).default_grid()
    return grid if isinstance(scan_or_events, (Scan, ScanSeries)) else cubes(grid, 2 * grid.voxel_size[0])


def _of_sinogram(
    scan: Scan | ScanSeries,
    sinogram: PETSinogram,
    corrections: Corrections,
    subsets: int,
    scatter: SingleScatter | None = None,
    ranks: RankGroup = ALONE,
) -> Problem:
    """One likelihood for each subset of views."""
    require_factors(sinogram)
    by_view = counts_by_view(to_numpy(scan.counts), len(sinogram.shape))
    subsets, few = filled_subsets(subsets, by_view, corrections.grid)
    # factors of the scan hold crystal pairs and normalisation already, unless they are one number for each frame
    known = math.prod(np.shape(to_numpy(scan.factors))[-len(sinogram.shape) :]) > 1
    if known and corrections.norm is not None:
        raise ArgumentError("norm", "norm is given, and the scan has factors of its own, which hold the normalisation")
    numbers = tracked(range(subsets), "factors of subsets")
    alone = ALONE if scatter is not None else ranks  # the scatter of all views is scaled to the tails of all
    parts: tuple[Any, ...] = tuple(_share_of_views(scan.subset(k, subsets), corrections, known, alone) for k in numbers)
    said, unsettled = "", tuple[str, ...]()
    if scatter is not None:
        found = _simulated(scan, parts, corrections, known, scatter, ranks)
        scan = replace(scan, background=found.background)
        parts = tuple(
            PoissonLikelihood(part.data, replace(part.model, background=scan.subset(k, subsets).background))
            for k, part in enumerate(parts)
        )
        parts = tuple(shard(parts, ranks))
        said, unsettled = f"\n{found.said}", found.notes
    say_once(parts)
    projector = PETProjector(corrections.grid, sinogram)
    content = digest(*scan_contents(scan), *corrections.components(), *crystals_of(sinogram))
    signature = f"{projector!r}, {sinogram}, {sinogram.tof}, {subsets} subsets, contents {content}"
    ranks.require_same(signature, "these have another problem; are files or options not the same?")
    start = start_like(seen_start(parts), scan.counts, len(sinogram.shape))
    summary = f"{projector}\n{corrections}{said}\n  emission {emission(scan, ELECTRON_MASS)}"
    summary += in_batch(scan, corrections.grid, subsets)
    above = np.asarray(to_numpy(scan.counts) - to_numpy(scan.background))
    profile = profile_of(sinogram, above.reshape(-1, above.shape[-1]).sum(0), corrections.grid)
    notes = (*corrections.notes(profile), *unsettled, *few)
    return Problem(parts, corrections.grid, start, "PET", summary, signature, notes, corrections.attenuation.mu)


def _simulated(
    scan: Scan | ScanSeries,
    parts: tuple[PoissonLikelihood, ...],
    corrections: Corrections,
    known: bool,
    scatter: SingleScatter,
    ranks: RankGroup,
) -> Simulated:
    """The background of a scan with the scatter of its image."""
    if not isinstance(scan, Scan):
        raise ArgumentError("scatter", "sss computes the scatter of one image: reconstruct frames or gates one by one")
    if corrections.mu is None:
        raise ArgumentError("scatter", "sss needs an attenuation map: mu=, on the command line --mu")
    sinogram: PETSinogram = scan.geometry  # type: ignore[assignment]
    plain = sinogram.without_tof()
    survival = to_numpy(attenuation_factors(PETProjector(corrections.grid, plain), corrections.mu))
    own = replace(corrections, attenuation=Attenuation(None)).factors(sinogram, known=known)
    own = own if sinogram.tof is None else own[:, :, None]
    per_unit = np.asarray(to_numpy(scan.factors) * own, np.float32)
    return with_single_scatter(scan, parts, (corrections.mu, corrections.grid), (per_unit, survival), scatter, ranks)


def _share_of_views(scan: Scan | ScanSeries, corrections: Corrections, known: bool, ranks: RankGroup) -> Any:
    """The likelihood of some views, whose factors every rank works out for its share."""
    n_views = int(scan.geometry.shape[0])
    if ranks.size == 1 or n_views < ranks.size:  # a share may be empty
        return shard(_of_views(scan, corrections, known), ranks)
    return of_share(_of_views(scan.subset(ranks.rank, ranks.size), corrections, known), ranks, n_views)


def _of_views(scan: Scan | ScanSeries, corrections: Corrections, known: bool) -> PoissonLikelihood:
    sinogram: PETSinogram = scan.geometry  # type: ignore[assignment]
    own = corrections.factors(sinogram, known=known)
    own = own if sinogram.tof is None else own[:, :, None]  # the same in all TOF bins
    factors = (to_numpy(scan.factors) if known else scan.factors) * own
    if isinstance(scan, ScanSeries):  # whose model has the time and the decay of each frame
        return PoissonLikelihood(scan, replace(scan, factors=factors).model(corrections.system(sinogram)))
    return PoissonLikelihood(scan, AcquisitionModel(corrections.system(sinogram), factors, scan.background))


def _with_background(
    scan: Scan | ScanSeries, randoms: Array | float | None, scatter: Array | float | None
) -> Scan | ScanSeries:
    """The scan whose background is randoms + scatter; its own takes the place of randoms that are not given."""
    shape = tuple(scan.counts.shape)
    own = scan.background if randoms is None else expected_counts("randoms", randoms, shape)
    more = None if scatter is None else expected_counts("scatter", scatter, shape)
    return scan if randoms is None and more is None else replace(scan, background=added(own, more))


def _bins(data: Scan | ScanSeries | Listmode, max_ring_difference: int | None) -> PETSinogram:
    """The bins of a sinogram; for events those they fall into, without compression."""
    if isinstance(data, (Scan, ScanSeries)):
        if not isinstance(data.geometry, PETSinogram):
            raise TypeError(f"pet_problem takes PET data, got {data.geometry}; use spect_problem?")
        if max_ring_difference is not None:
            raise ArgumentError("max_ring_difference", "max_ring_difference is for list-mode only")
        return data.geometry
    if not (hasattr(data, "sinogram") and hasattr(data, "read")):
        raise TypeError(
            "pet_problem takes a Scan (formats.read_scan) or list-mode events (formats.read_petlink), got "
            f"{type(data).__name__}"
        )
    whole = data.sinogram
    most = whole.max_ring_difference
    if max_ring_difference is not None and not 0 <= max_ring_difference <= most:
        message = f"max_ring_difference must be 0 to {most}, those of the data, got {max_ring_difference}"
        raise ArgumentError("max_ring_difference", message)
    difference = most if max_ring_difference is None else max_ring_difference
    return PETSinogram(whole.scanner, difference, n_radial=whole.n_radial)


def _normalisation(norm: Normalisation | None, sinogram: PETSinogram) -> Normalisation | None:
    if norm is not None and not isinstance(norm, Normalisation):
        raise TypeError(
            f"norm must be a Normalisation, got {type(norm).__name__}; read its file with formats.read_siemens_norm, "
            "and put factors of bins into the scan's factors"
        )
    if norm is not None and not norm.scanner.is_same_as(sinogram.scanner):
        raise ArgumentError("norm", f"norm belongs to {norm.scanner}, and the data to {sinogram.scanner}")
    return norm


def _blur(psf: GaussianBlur | float | tuple[float, float, float] | None, grid: ImageGrid) -> GaussianBlur | None:
    if isinstance(psf, GaussianBlur):
        if psf.in_shape != grid.shape:
            raise ArgumentError("psf", f"psf blurs images of {psf.in_shape}, and the grid has {grid.shape}")
        return psf
    if psf is None:
        return None
    extent = max(n * size for n, size in zip(grid.shape, grid.voxel_size))
    try:
        if np.max(psf) > extent:
            raise ValueError(f"{np.max(psf):.4g} mm is wider than the image, {extent:.4g} mm")
        return GaussianBlur(grid, psf)
    except (ValueError, TypeError) as error:
        raise ArgumentError("psf", f"psf must be the FWHM in mm, or a GaussianBlur: {error}") from error
