"""From PET sinograms and list-mode events to a problem: attenuation, normalisation, randoms, scatter, resolution."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol, cast

import numpy as np

from emrecon.projectors import (
    AcquisitionModel,
    AttenuationMap,
    GaussianBlur,
    ImageGrid,
    ListmodeProjector,
    Normalisation,
    PETProjector,
    PETSinogram,
    Projector,
    Scan,
    ScanSeries,
    attenuation_factors,
    crystal_rates,
    events_product,
)
from emrecon.projectors.core.arrays import Array, to_numpy
from emrecon.projectors.core.memory import require_memory
from emrecon.projectors.core.progress import stage, tracked
from emrecon.projectors.physics.compton import ELECTRON_MASS

from ..likelihoods.listmode import ListmodeLikelihood
from ..likelihoods.poisson import PoissonLikelihood
from ..likelihoods.unexplained import say_once
from .attenuation import Attenuation, attenuation_of, counts_by_slice, left_out
from .batches import batch_of, in_batch, scan_contents
from .grids import checked_grid, cubes
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


class EventLists(Protocol):
    """Coincidences in memory, (n, 2) integers each: the numbers of the crystals at both ends."""

    @property
    def prompts(self) -> np.ndarray: ...
    @property
    def delays(self) -> np.ndarray: ...


class Listmode(Protocol):
    """What `pet_problem` asks of list-mode data, such as those that `formats.read_petlink` opens.

    Args:
        sinogram : the bins that the events fall into, without compression.  read() : all events.
    """

    @property
    def sinogram(self) -> PETSinogram: ...
    def read(self) -> EventLists: ...


@dataclass(frozen=True, eq=False)
class _Corrections:
    """What is known besides the counts: attenuation, normalisation, and resolution in the image."""

    grid: ImageGrid
    attenuation: Attenuation
    norm: Normalisation | None
    psf: GaussianBlur | None

    @property
    def mu(self) -> np.ndarray | None:
        """The attenuation map, float32."""
        return None if self.attenuation.mu is None else to_numpy(self.attenuation.mu).astype(np.float32)

    def blurred(self, projector: Projector) -> Projector:
        """Return the projector with the resolution before it."""
        return projector if self.psf is None else cast(Projector, projector @ self.psf)

    def system(self, sinogram: PETSinogram) -> Projector:
        """Return A of a sinogram: resolution, then line integrals."""
        return self.blurred(PETProjector(self.grid, sinogram))

    def factors(self, sinogram: PETSinogram, *, known: bool = False) -> np.ndarray:
        """Return attenuation x normalisation of every bin, without TOF.

        Without a normalisation the factor of a bin is its number of real crystal pairs.

        Args:
            known : leave out normalisation and crystal pairs, which the scan's own factors hold.
        """
        plain = sinogram.without_tof()
        if known:
            factors = np.ones(plain.shape, np.float32)
        else:
            factors = plain.multiplicity() if self.norm is None else self.norm.factors(plain)
        if self.mu is None:
            return factors
        survival: np.ndarray = factors * attenuation_factors(PETProjector(self.grid, plain), self.mu)
        return survival

    def of_events(self, sinogram: PETSinogram, lines: ListmodeProjector) -> np.ndarray | float:
        """Return attenuation x normalisation of every event."""
        own: np.ndarray | float = 1.0 if self.norm is None else self.norm.of_events(sinogram, lines.events)
        return own if self.mu is None else own * to_numpy(attenuation_factors(lines, self.mu))

    def components(self) -> tuple[np.ndarray | None, ...]:
        """Return everything that shapes the image, for a checksum."""
        norm = self.norm
        blur = [np.zeros(1)] if self.psf is None else [np.array(self.psf.fwhm), np.array([self.psf.ends == "mirrored"])]
        parts = () if norm is None else (norm.crystal, norm.geometric, norm.interference, norm.axial, norm.dead_time)
        return (self.mu, self.grid.affine, *blur, *parts)

    def notes(self, profile: np.ndarray) -> tuple[str, ...]:
        """Return what a user should know about the map, given the counts (z,) in each slice."""
        missing = None if self.mu is None else left_out(self.mu, profile)
        return (*self.attenuation.notes, *([missing] if missing else []))

    def __str__(self) -> str:
        psf = "none" if self.psf is None else f"{' x '.join(f'{w:g}' for w in dict.fromkeys(self.psf.fwhm))} mm"
        return f"  mu       {self.attenuation}\n  norm     {'given' if self.norm else 'none'}\n  psf      {psf}"


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

    Raises TypeError for data that are not of PET and corrections of another type, ArgumentError (a ValueError; its
    `argument` is the name) for corrections that do not fit, more subsets than views, and a norm for a scan
    whose factors hold one, ValueError for implausible attenuation and files without prompts.
    """
    data, scatter = scan_or_events, named_scatter(scatter)
    sinogram = _bins(data, max_ring_difference)
    check_subsets(subsets, sinogram.n_views)
    items = batch_of(data) if isinstance(data, (Scan, ScanSeries)) else 1
    grid = checked_grid(grid, pet_grid(data, max_ring_difference), subsets, items)
    found = attenuation_of(mu, mu_grid, grid, ELECTRON_MASS)
    corrections = _Corrections(grid, found, _normalisation(norm, sinogram), _blur(psf, grid))
    if isinstance(data, (Scan, ScanSeries)):
        simulated = scatter if isinstance(scatter, SingleScatter) else None
        own = None if isinstance(scatter, SingleScatter) else scatter
        return _of_sinogram(_with_background(data, randoms, own), sinogram, corrections, subsets, simulated)
    if isinstance(scatter, SingleScatter):
        raise ArgumentError("scatter", "sss is for sinograms; histogram the events, formats.histogram_petlink")
    return _of_events(data, sinogram, corrections, subsets, (randoms, scatter))


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
    corrections: _Corrections,
    subsets: int,
    scatter: SingleScatter | None = None,
) -> Problem:
    """One likelihood for each subset of views."""
    _require_factors(sinogram)
    by_view = counts_by_view(to_numpy(scan.counts), len(sinogram.shape))
    subsets, few = filled_subsets(subsets, by_view, corrections.grid)
    # factors of the scan hold crystal pairs and normalisation already, unless they are one number for each frame
    known = math.prod(np.shape(to_numpy(scan.factors))[-len(sinogram.shape) :]) > 1
    if known and corrections.norm is not None:
        raise ArgumentError("norm", "norm is given, and the scan has factors of its own, which hold the normalisation")
    numbers = tracked(range(subsets), "factors of subsets")
    parts = tuple(_of_views(scan.subset(k, subsets), corrections, known) for k in numbers)
    said, unsettled = "", tuple[str, ...]()
    if scatter is not None:
        found = _simulated(scan, parts, corrections, known, scatter)
        scan = replace(scan, background=found.background)
        parts = tuple(
            PoissonLikelihood(part.data, replace(part.model, background=scan.subset(k, subsets).background))
            for k, part in enumerate(parts)
        )
        said, unsettled = f"\n{found.said}", found.notes
    say_once(parts)
    projector = PETProjector(corrections.grid, sinogram)
    content = digest(*scan_contents(scan), *corrections.components(), *_crystals(sinogram))
    signature = f"{projector!r}, {sinogram}, {sinogram.tof}, {subsets} subsets, contents {content}"
    start = start_like(seen_start(parts), scan.counts, len(sinogram.shape))
    summary = f"{projector}\n{corrections}{said}\n  emission {emission(scan, ELECTRON_MASS)}"
    summary += in_batch(scan, corrections.grid, subsets)
    above = np.asarray(to_numpy(scan.counts) - to_numpy(scan.background))
    profile = _profile(sinogram, above.reshape(-1, above.shape[-1]).sum(0), corrections.grid)
    notes = (*corrections.notes(profile), *unsettled, *few)
    return Problem(parts, corrections.grid, start, "PET", summary, signature, notes, corrections.attenuation.mu)


def _simulated(
    scan: Scan | ScanSeries,
    parts: tuple[PoissonLikelihood, ...],
    corrections: _Corrections,
    known: bool,
    scatter: SingleScatter,
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
    return with_single_scatter(scan, parts, (corrections.mu, corrections.grid), (per_unit, survival), scatter)


def _of_views(scan: Scan | ScanSeries, corrections: _Corrections, known: bool) -> PoissonLikelihood:
    sinogram: PETSinogram = scan.geometry  # type: ignore[assignment]
    own = corrections.factors(sinogram, known=known)
    own = own if sinogram.tof is None else own[:, :, None]  # the same in all TOF bins
    factors = (to_numpy(scan.factors) if known else scan.factors) * own
    if isinstance(scan, ScanSeries):  # whose model has the time and the decay of each frame
        return PoissonLikelihood(scan, replace(scan, factors=factors).model(corrections.system(sinogram)))
    return PoissonLikelihood(scan, AcquisitionModel(corrections.system(sinogram), factors, scan.background))


def _of_events(
    data: Listmode,
    sinogram: PETSinogram,
    corrections: _Corrections,
    subsets: int,
    given: tuple[Array | float | None, Array | float | None],
) -> Problem:
    """One likelihood for each subset of views: their events, and the sensitivity of all their bins.

    Args:
        given : randoms and scatter, or None.
    """
    _require_factors(sinogram)
    found, grid = data.read(), corrections.grid
    view = sinogram.bins_of(found.prompts)[:, 0]
    inside = view >= 0
    prompts, view = found.prompts[inside], view[inside]
    if not len(prompts):
        raise ValueError(
            f"{getattr(data, 'path', 'the list-mode data')}: no prompts within ring differences up to "
            f"{sinogram.max_ring_difference}; is the file cut off, or max_ring_difference too small?"
        )
    subsets, few = filled_subsets(subsets, np.bincount(view, minlength=sinogram.n_views), grid)
    randoms, scatter = (None if v is None else _of_prompts(n, v, inside) for n, v in zip(("randoms", "scatter"), given))
    if randoms is None:
        with stage("randoms of delays"):
            randoms = events_product(prompts, _singles(sinogram, found.delays, corrections.norm))
    background = added(randoms, scatter)

    def part(k: int) -> ListmodeLikelihood:
        mine = view % subsets == k
        lines, views = ListmodeProjector(grid, sinogram.scanner, prompts[mine]), sinogram.subset(k, subsets)
        expected = background if isinstance(background, float) else background[mine]
        model = AcquisitionModel(corrections.blurred(lines), corrections.of_events(sinogram, lines), expected)
        return ListmodeLikelihood(model, corrections.system(views).T(corrections.factors(views)))

    parts = tuple(part(k) for k in tracked(range(subsets), "sensitivity of subsets"))
    say_once(parts)
    content = digest(prompts, background, *corrections.components(), *_crystals(sinogram))
    lines = ListmodeProjector(grid, sinogram.scanner, prompts)
    summary = f"{lines}\n  delays   {len(found.delays)}\n{corrections}"
    signature = f"{sinogram}, {subsets} subsets, contents {content}"
    by_plane = np.bincount(sinogram.bins_of(prompts)[:, -1], minlength=sinogram.n_planes)
    notes = (*corrections.notes(_profile(sinogram, by_plane, grid)), *few)
    return Problem(parts, grid, seen_start(parts), "PET", summary, signature, notes, corrections.attenuation.mu)


def _require_factors(sinogram: PETSinogram) -> None:
    """Raise MemoryError where the factors of all bins, attenuation and normalisation, do not fit in memory."""
    plain = sinogram.without_tof()
    advice = "use a smaller max_ring_difference for list-mode, or a sinogram with a larger span"
    require_memory(3 * 4.0 * math.prod(plain.shape), f"the factors of {plain}", advice)


def _of_prompts(name: str, values: Array | float, inside: np.ndarray) -> np.ndarray | float:
    """Expected counts of the prompts inside the sinogram, float32, or one number for all."""
    values = expected_counts(name, values, inside.shape)
    if isinstance(values, float):
        return values
    return np.broadcast_to(to_numpy(values), inside.shape)[inside].astype(np.float32)


def _with_background(
    scan: Scan | ScanSeries, randoms: Array | float | None, scatter: Array | float | None
) -> Scan | ScanSeries:
    """The scan whose background is randoms + scatter; its own takes the place of randoms that are not given."""
    shape = tuple(scan.counts.shape)
    own = scan.background if randoms is None else expected_counts("randoms", randoms, shape)
    more = None if scatter is None else expected_counts("scatter", scatter, shape)
    return scan if randoms is None and more is None else replace(scan, background=added(own, more))


def _singles(sinogram: PETSinogram, delays: np.ndarray, norm: Normalisation | None) -> np.ndarray:
    """The square roots of the randoms of crystals; zero where there are no delays of these ring differences."""
    if not len(delays) or (sinogram.bins_of(delays)[:, 0] < 0).all():
        return np.zeros(sinogram.scanner.virtual.shape)
    return crystal_rates(sinogram, delays, None if norm is None else norm.crystal, n_iterations=30)


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


def _profile(sinogram: PETSinogram, by_plane: np.ndarray, grid: ImageGrid) -> np.ndarray:
    """Counts of the direct planes (and the nearly direct ones that share them) by slice of the image."""
    ends = sinogram.plane_ends
    direct = np.abs(ends[:, 0] - ends[:, 1]) <= np.abs(np.diff(sinogram.scanner.rings)).max(initial=0) * 1.5
    return counts_by_slice(grid, ends.mean(1)[direct], by_plane[direct])


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


def _crystals(sinogram: PETSinogram) -> tuple[np.ndarray, ...]:
    return sinogram.scanner.crystals, sinogram.scanner.virtual, sinogram.views
