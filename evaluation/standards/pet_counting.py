"""NEMA NU 2 without images: sensitivity, scatter fraction, count rates, accuracy of corrections, timing, of photons."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emrecon.projectors import ArcCorrection, ImageGrid, PETProjector, PETSinogram, attenuation_factors
from emrecon.recon import (
    ALUMINIUM_SLEEVES,
    LineSourceCounts,
    LineSourceRates,
    correction_errors,
    count_rates,
    fbp,
    peak_width,
    scatter_and_randoms,
    sleeve_sensitivity,
)
from emrecon.sims import uniform_cylinder

from .photon_kernels import LIGHT
from .photons import Detector, Pairs, Source, photon_pairs, vision

POSITRONS = 0.967  # of a decay of F-18
PHANTOM = (101.5, 700.0)  # mm, radius and length of the polyethylene cylinder
VOLUME = 22.0  # L, that of the cylinder with its hole
LINE = 45.0  # mm of the line source below the cylinder's axis
BIN = 2.0  # mm of the arc-corrected sinograms
_MASHING = 7


@dataclass(frozen=True)
class Electronics:
    """What a scanner loses and adds at high rates.

    Args:
        coincidence_window : s, the whole of it.
        blocks : that are dead by themselves; dead_time : s of one, paralysable, after any hit.
        hits_per_single : photons that a block sees for one within the energy window.

    The corrections take the blocks for not paralysable, as an error of their model that shows.
    """

    coincidence_window: float = 4.73e-9
    blocks: int = 304
    dead_time: float = 4.5e-7
    hits_per_single: float = 2.0

    def load(self, singles: float) -> float:
        """Return hits of a block within its dead time, from the singles of the whole scanner in counts/s."""
        return singles * self.hits_per_single / self.blocks * self.dead_time


def rebinned(detector: Detector, n_radial: int | None = None, mashing: int = 1) -> PETSinogram:
    """Return the sinogram that single-slice rebinning fills: direct and cross planes."""
    return PETSinogram(detector.scanner, 1, 3, n_radial=n_radial or detector.scanner.n_radial, mashing=mashing)  # type: ignore[arg-type]


def rebin(pairs: Pairs, sinogram: PETSinogram, chosen: np.ndarray | None = None) -> np.ndarray:
    """Return counts (views, radial, planes): every event in the plane midway between its rings."""
    events = pairs.crystals if chosen is None else pairs.crystals[chosen]
    n = sinogram.scanner.n_crystals
    rings, crystals = np.divmod(events.astype(np.int64), n)
    total = rings.sum(1)
    near = np.stack([total // 2, total - total // 2], 1)
    return sinogram.histogram(near * n + crystals)


def sensitivity(folder: Path, *, n: int, seed: int = 10, detector: Detector | None = None) -> dict[str, Any]:
    """Measure the sensitivity with a line of 70 cm in five sleeves, at 0 and 10 cm, and without any metal."""
    scanner = detector or vision()
    sinogram = rebinned(scanner, mashing=_MASHING)
    found: dict[str, Any] = {}
    for place in (0.0, 100.0):
        rates = []
        for k, wall in enumerate((0.0, *ALUMINIUM_SLEEVES)):
            pairs = photon_pairs(scanner, Source(y=place, length=700.0, radius=0.5, metal=wall), n, seed + k)
            counts = rebin(pairs, sinogram).sum((0, 1)) / pairs.n_decays
            rates.append(1000 * POSITRONS * counts[np.argsort(sinogram.plane_ends.mean(1))])
        result = sleeve_sensitivity(np.array(rates[1:]), 1.0)
        found[f"{place:g}"] = {
            "system": result.system,
            "attenuation": result.attenuation,
            "without_metal": float(rates[0].sum()),
            "sleeves": [float(rate.sum()) for rate in rates[1:]],
            "slices": result.slices.tolist(),
        }
    return {"unit": "counts/s/kBq", "places": found, "pairs": n}


def counting(
    folder: Path, *, n: int, seed: int = 20, detector: Detector | None = None, electronics: Electronics | None = None
) -> dict[str, Any]:
    """Measure scatter fraction, count rates, accuracy of corrections and timing with the line in the cylinder."""
    scanner, behind = detector or vision(), electronics or Electronics()
    pairs = photon_pairs(scanner, Source(y=LINE, length=700.0, radius=1.6), n, seed, cylinder=PHANTOM)
    sinogram = rebinned(scanner, n_radial=2 * int(130 / scanner.scanner.radial_spacing) + 1, mashing=_MASHING)
    arc = ArcCorrection(sinogram, BIN, 2 * int(122 / BIN) + 1)
    trues, scatter = (rebin(pairs, sinogram, chosen) / pairs.n_decays for chosen in (~pairs.scattered, pairs.scattered))
    randoms = _shape_of_randoms(sinogram)
    levels = np.array([2.0, 20.0, 60.0, 110, 170, 240, 320, 420, 540, 680, 840, 1020, 1220, 1450, 1750])  # MBq
    rows = [_expected(level, trues, scatter, pairs.singles, randoms, sinogram, behind) for level in levels]
    rng = np.random.default_rng(seed)
    seconds = np.array([5e6 / row["rates"].sum() for row in rows])
    prompts = [rng.poisson(sum(row["parts"]) * t) for row, t in zip(rows, seconds)]
    delayed = [rng.poisson(row["parts"][2] * t) for row, t in zip(rows, seconds)]
    counts = _lines(prompts, arc)
    estimated = np.stack([_within(np.asarray(arc(d.astype(float)))) for d in delayed])
    activity = levels * 1000 / (VOLUME * 1000)  # kBq/mL
    plain = count_rates(counts, activity, seconds)
    known = count_rates(counts, activity, seconds, delayed=estimated)
    truth = np.array([_truth(row, arc) for row in rows])
    errors = _errors(prompts, delayed, rows, seconds, activity, arc, behind)
    timing = timing_resolution(scanner, pairs)
    np.savez(folder / "rates.npz", activity=activity, truth=truth, errors=errors, timing=timing["histogram"])
    peak, trues_peak = known.peak, known.trues_peak
    low = activity <= peak[1]
    return {
        "pairs": n,
        "coincidences": len(pairs.crystals),
        "activity": activity.tolist(),
        "by_scatter_fraction": _rates(plain),
        "by_delayed": _rates(known),
        "true": {name: column.tolist() for name, column in zip(("trues", "scatter", "randoms"), truth.T)},
        "true_scatter_fraction": float(truth[0, 1] / (truth[0, 0] + truth[0, 1])),
        "peak": {"rate": peak[0], "activity": peak[1]},
        "trues_peak": {"rate": trues_peak[0], "activity": trues_peak[1]},
        "errors": {
            "highest": errors.max(1).tolist(),
            "lowest": errors.min(1).tolist(),
            "mean": errors.mean(1).tolist(),
            "largest_to_the_peak": float(np.abs(errors[low].mean(1)).max()),
        },
        "timing": {key: value for key, value in timing.items() if key != "histogram"},
    }


def timing_resolution(detector: Detector, pairs: Pairs, line: float = LINE) -> dict[str, Any]:
    """Return the FWHM of the timing error of coincidences that pass within 20 mm of a line source along z.

    The error is the measured difference less that of the point of the pair's line that is nearest to the source. What
    lines of 20 to 40 mm hold, per mm, is taken for scatter and randoms, and subtracted.
    """
    ends = detector.scanner.positions[pairs.crystals].astype(float)
    first, second = ends[:, 0], ends[:, 1]
    along = second - first
    across = along[:, :2]
    length = np.maximum(np.hypot(*across.T), 1e-9)
    beside = np.abs(across[:, 0] * (line - first[:, 1]) + across[:, 1] * first[:, 0]) / length
    t = ((line - first[:, 1]) * across[:, 1] - first[:, 0] * across[:, 0]) / length**2
    whole = np.linalg.norm(along, axis=1)
    error = pairs.difference - whole * (1 - 2 * t) / LIGHT
    edges = np.arange(-1507.5, 1508, 15.0)
    near, far = (np.histogram(error[part], edges)[0] for part in (beside < 20, (beside >= 20) & (beside < 40)))
    histogram = near - far.astype(float)
    width = peak_width(histogram, 15.0, -1500.0)
    return {"fwhm": width.fwhm, "fwtm": width.fwtm, "given": detector.timing_fwhm,
            "events": int(near.sum()), "histogram": histogram}  # fmt: skip


def _shape_of_randoms(sinogram: PETSinogram) -> np.ndarray:
    """Return how many crystal pairs each bin of a rebinned sinogram stands for, oblique ones included."""
    rings = sinogram.scanner.n_rings
    sums = np.array([pairs.reshape(-1, 2)[0].sum() for pairs in sinogram.ring_pairs])
    n_pairs = rings - np.abs(sums - (rings - 1))
    inside = np.asarray(sinogram.multiplicity())
    direct = np.array([len(pairs.reshape(-1, 2)) for pairs in sinogram.ring_pairs])
    # both orders of two rings of a cross plane are held already
    return np.asarray(inside / direct * n_pairs)


def _expected(
    level: float,
    trues: np.ndarray,
    scatter: np.ndarray,
    singles: float,
    pairs: np.ndarray,
    sinogram: PETSinogram,
    behind: Electronics,
) -> dict[str, Any]:
    """Return counts/s in every bin: trues, scatter, randoms, and the part of the pairs that is counted."""
    positrons = 1e6 * level * POSITRONS
    load = behind.load(positrons * singles)
    live = math.exp(-load)
    crystals = float(np.sum(~sinogram.scanner.virtual))
    each = positrons * singles * live / crystals
    parts = (positrons * live**2 * trues, positrons * live**2 * scatter, pairs * behind.coincidence_window * each**2)
    return {
        "parts": parts,
        "rates": np.array([part.sum() for part in parts]),
        "live": live,
        "corrected_by": 1 / (1 + load),
    }


def _lines(prompts: list[np.ndarray], arc: ArcCorrection) -> LineSourceCounts:
    found = [scatter_and_randoms(np.asarray(arc(p.astype(float))), BIN) for p in prompts]
    return LineSourceCounts(np.stack([f.total for f in found]), np.stack([f.beside for f in found]))


def _within(sinogram: np.ndarray) -> np.ndarray:
    """Return the counts within 12 cm of the axis, plane by plane."""
    place = (np.arange(sinogram.shape[1]) - (sinogram.shape[1] - 1) / 2) * BIN
    return np.asarray(sinogram[:, np.abs(place) <= 120].sum((0, 1)))


def _truth(row: Mapping[str, Any], arc: ArcCorrection) -> list[float]:
    return [float(_within(np.asarray(arc(part.astype(float)))).sum()) for part in row["parts"]]


def _rates(found: LineSourceRates) -> dict[str, Any]:
    names = ("total", "trues", "scatter", "randoms", "noise_equivalent")
    return {
        **{name: getattr(found, name).tolist() for name in names},
        "scatter_fraction": found.scatter_fraction,
        "scatter_fractions": found.scatter_fractions().tolist(),
    }


def _errors(
    prompts: list[np.ndarray],
    delayed: list[np.ndarray],
    rows: list[dict[str, Any]],
    seconds: np.ndarray,
    activity: np.ndarray,
    arc: ArcCorrection,
    behind: Electronics,
) -> np.ndarray:
    """Return the errors (acquisitions, slices) of count rates in 180 mm of corrected images, central 80 % of slices."""
    geometry = arc.geometry
    planes = geometry.n_planes
    size = float(geometry.plane_size or 1.0)
    z = float(geometry.axial_shift or 0.0) - size * (planes - 1) / 2
    grid = ImageGrid((93, 93, planes), (2.0, 2.0, size), (-92.0, -92.0, z))
    fine = ImageGrid((61, 61, planes), (4.0, 4.0, size), (-120.0, -120.0, z))
    mu = uniform_cylinder(PHANTOM[0], PHANTOM[1]).attenuation(fine, 511.0) * (0.0945 / 0.0958)
    factors = attenuation_factors(PETProjector(fine, arc.sinogram), mu)
    x, y, _ = grid.coordinates()
    region = (np.hypot(x, y) <= 90)[..., 0]
    kept = slice(planes // 10, planes - planes // 10)
    rates = []
    for counts, late, row, time in zip(prompts, delayed, rows, seconds):
        # scatter is known; randoms are the delayed ones smoothed over views and bins, as they vary slowly
        smooth = np.broadcast_to(late.mean((0, 1)), late.shape) * np.where(row["parts"][2] > 0, 1.0, 0.0)
        smooth = smooth * (late.sum() / max(1.0, smooth.sum()))
        clean = (counts - smooth - row["parts"][1] * time) / (factors * row["corrected_by"] ** 2 * time)
        image = np.asarray(fbp(np.asarray(arc(clean)), geometry, grid))
        rates.append(image[region].sum(0)[kept])
    return correction_errors(np.array(rates), activity)
