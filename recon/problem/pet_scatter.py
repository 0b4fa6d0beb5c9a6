"""Single scatter of PET in a problem: simulated from the image, scaled to the tails, and iterated with the image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from emrecon.projectors import ImageGrid, PETSinogram, Scan, ScatterSampling, scale_to_tails, single_scatter, tail_mask
from emrecon.projectors.core.arrays import Array, array_namespace, device, to_numpy
from emrecon.projectors.core.progress import stage, tracked

from ..engines.em import osem
from ..likelihoods.poisson import PoissonLikelihood
from ..ranks import ALONE, RankGroup, shard
from .problem import ArgumentError, seen_start, start_like

FITS = ("auto", "plane", "segment", "all", "none")
"""Which bins of the tails share a scale; "auto" takes the first of plane, segment and all that has tails."""

_WINDOW = (430.0, 610.0)  # keV
_LIMITS = (0.2, 5.0)
_UPDATES = 12  # of the image between two simulations, at least
_SETTLED = 0.05


@dataclass(frozen=True)
class SingleScatter:
    """Scatter of PET that `single_scatter` computes from the image, scaled to the counts beside the object.

    Args:
        energy_window : (lower, upper) keV (default: the scan's, or 430 to 610).
        energy_resolution : FWHM at 511 keV as a fraction (default: the scanner's).
        fit : which bins of the tails share a scale, "plane", "segment" or "all"; "none" takes the simulation as it is,
            which has the right size for the single scatter of what lies in the image; "auto" the first that has tails.
        updates : how often the image and the scatter of it are computed in turn.
        sampling : how finely it is simulated.

    Needs an attenuation map, which tells the tails, too: bins whose lines and three neighbours on either side miss it.

    Raises ValueError for numbers out of range and an unknown fit.

    Source: Watson 2000; Ollinger 1996.
    """

    energy_window: tuple[float, float] | None = None
    energy_resolution: float | None = None
    fit: str = "auto"
    updates: int = 3
    sampling: ScatterSampling | None = None

    def __post_init__(self) -> None:
        if self.fit not in FITS:
            raise ValueError(f"unknown fit {self.fit!r} of scatter to the tails; choose from {', '.join(FITS)}")
        if self.updates < 1 or self.updates % 1:
            raise ValueError(f"SingleScatter updates must be a whole number of at least 1, got {self.updates}")
        if self.energy_resolution is not None and not 0 < self.energy_resolution < 1:
            raise ValueError(f"SingleScatter energy_resolution must be a fraction, got {self.energy_resolution}")


PETScatter = Array | float | str | SingleScatter | None


def named_scatter(scatter: PETScatter) -> Array | float | SingleScatter | None:
    """Return what a text names: "sss", "sss:FIT" or "none".

    Raises ArgumentError for other names, and by name for methods of SPECT.
    """
    if not isinstance(scatter, str):
        return scatter
    name, _, fit = scatter.lower().partition(":")
    if name.strip() in ("tew", "dew", "esse"):
        raise ArgumentError(
            "scatter", f"{name.strip()} is a method of SPECT; PET has sss, or an estimate of your own for every bin"
        )
    if name.strip() == "none" and not fit:
        return None
    if name.strip() != "sss":
        raise ArgumentError("scatter", f"unknown scatter method {scatter!r}; choose from sss, none")
    try:
        return SingleScatter(fit=fit.strip() or "auto")
    except ValueError as error:
        raise ArgumentError("scatter", str(error)) from None


@dataclass(frozen=True, eq=False)
class Simulated:
    """The background of a scan with its scatter, a line for the summary, and notes."""

    background: Array
    said: str
    notes: tuple[str, ...] = ()


def with_single_scatter(
    scan: Scan,
    parts: Sequence[PoissonLikelihood],
    body: tuple[np.ndarray, ImageGrid],
    factors: tuple[np.ndarray, np.ndarray],
    wanted: SingleScatter,
    ranks: RankGroup = ALONE,
) -> Simulated:
    """Return the background with the scatter of the image; image and scatter are computed in turn.

    Args:
        parts : the likelihoods of subsets k, k + n, ... of the views, without scatter.
        body : mu in 1/cm on the grid of the image, and that grid.
        factors : (counts per unit of line integrals without attenuation, with TOF axis; attenuation without it).

    Raises ArgumentError where scatter cannot be simulated or scaled.
    """
    sinogram: PETSinogram = scan.geometry  # type: ignore[assignment]  # checked by the caller
    if tuple(scan.counts.shape) != sinogram.shape:
        raise ArgumentError("scatter", "sss computes the scatter of one image; reconstruct the items one by one")
    (mu, grid), (per_unit, survival) = body, factors
    window = wanted.energy_window or scan.energy_window or _WINDOW
    notes = [] if wanted.energy_window or scan.energy_window else [f"the energy window is taken as {_keV(window)}"]
    counts, own = to_numpy(scan.counts), np.asarray(to_numpy(scan.background), np.float32)
    try:
        mask = tail_mask(survival)
    except ValueError as error:
        raise ArgumentError("scatter", f"sss: {error}") from None
    image: Array | None = None
    estimate, change = np.zeros((), np.float32), math.inf
    scales, fit = np.ones(sinogram.n_planes), wanted.fit
    passes = max(2, math.ceil(_UPDATES / len(parts)))
    for _ in tracked(range(wanted.updates), "scatter and image in turn"):
        image = _image(scan, parts, own + estimate, image, passes, ranks)
        try:
            with stage("scatter of the image"):
                simulated = single_scatter(
                    _before_crystals(image, grid, sinogram),
                    mu,
                    grid,
                    sinogram,
                    energy_window=window,
                    energy_resolution=wanted.energy_resolution,
                    sampling=wanted.sampling,
                )
            simulated, scales, fit = _scaled(simulated, counts, own, mask, sinogram, per_unit, wanted.fit)
        except ValueError as error:
            raise ArgumentError("scatter", f"sss: {error}") from None
        found = per_unit * simulated
        change = float(np.abs(found - estimate).sum() / max(found.sum(), 1e-30))
        estimate = found
    fraction = float(estimate.sum(dtype=float)) / max(float((counts - own).sum(dtype=float)), 1e-30)
    about = (
        "not scaled" if fit == "none" else f"scaled to the tails by {scales.min():.3g} to {scales.max():.3g} ({fit})"
    )
    said = f"  scatter  sss, {_keV(window)}, {wanted.updates} updates, {about}: scatter fraction {100 * fraction:.1f} %"
    limits = int(((scales <= _LIMITS[0]) | (scales >= _LIMITS[1])).sum()) if fit != "none" else 0
    if limits:
        notes.append(f"the scale of the scatter is at its limit, {_LIMITS[0]:g} or {_LIMITS[1]:g}, in {limits} planes")
    if wanted.fit == "auto" and fit != "plane":
        notes.append(f"some planes have no tails: scatter is scaled by {fit}")
    if wanted.updates > 1 and change > _SETTLED:
        notes.append(f"the scatter still changed by {100 * change:.0f} % in its last update; use more updates")
    return Simulated(_like(own + estimate, scan.counts), said, tuple(notes))


def _image(
    scan: Scan,
    parts: Sequence[PoissonLikelihood],
    background: np.ndarray,
    image: Array | None,
    passes: int,
    ranks: RankGroup,
) -> Array:
    """The image after some passes over subsets with another background, by all ranks together."""
    n = len(parts)
    subsets = [replace(scan, background=background).subset(k, n) for k in range(n)]
    changed = [
        PoissonLikelihood(part.data, replace(part.model, background=subset.background))
        for part, subset in zip(parts, subsets)
    ]
    changed = shard(changed, ranks)
    if image is None:
        image = start_like(seen_start(tuple(changed)), scan.counts, len(scan.geometry.shape))
    return next(at.image for at in osem(changed, image) if at.iteration == passes)


def _before_crystals(image: Array, grid: ImageGrid, sinogram: PETSinogram) -> np.ndarray:
    """The activity without the corners of the grid behind the crystals, where there can be none."""
    x, y, _ = grid.coordinates()
    inside = np.hypot(x, y) < np.hypot(*sinogram.scanner.crystals[0, :, :2].T).min()
    return np.asarray(np.where(inside, to_numpy(image), 0))


def _scaled(
    scatter: np.ndarray,
    counts: np.ndarray,
    randoms: np.ndarray,
    mask: np.ndarray,
    sinogram: PETSinogram,
    per_unit: np.ndarray,
    fit: str,
) -> tuple[np.ndarray, np.ndarray, str]:
    """The scatter scaled to the tails, the scale of every plane, and which bins shared one."""
    if fit == "none":
        return scatter, np.ones(sinogram.n_planes), fit
    tries = ("plane", "segment", "all") if fit == "auto" else (fit,)
    for per in tries:
        try:
            found, scales = scale_to_tails(
                scatter, counts, randoms, mask, sinogram, factors=per_unit, per=per, limits=_LIMITS
            )
            return found, scales, per
        except ValueError as error:
            last = error
    raise ValueError(f"{last}; fit none (sss:none) takes the simulation without a scale")


def _like(values: np.ndarray, counts: Array) -> Array:
    if isinstance(counts, np.ndarray):
        return values.astype(np.float32)
    return array_namespace(counts).asarray(values.astype(np.float32), device=device(counts))


def _keV(window: tuple[float, float]) -> str:
    return f"{window[0]:g} to {window[1]:g} keV"
