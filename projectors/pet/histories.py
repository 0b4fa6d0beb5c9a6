"""PET by photon histories: true, singly and multiply scattered coincidences, in the unit of line integrals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter

from ..core.arrays import Array, to_numpy
from ..core.grid import ImageGrid
from ..core.progress import tracked
from ..physics.compton import ELECTRON_MASS, accepted_fraction, klein_nishina_total
from .history_kernels import follow
from .sinogram import PETSinogram

_CHUNK = 1 << 20  # decays at a time
_ACCEPTED = 1e-4  # energies that are accepted less often than this are not followed
_N_ENERGIES = 512


@dataclass(frozen=True, eq=False)
class Histories:
    """Coincidences that a Monte Carlo has counted, in mm x activity: the unit of `single_scatter`.

    Args:
        trues, single, multiple : of the sinogram's shape, float32: no photon scattered, one of them once, and more.
        n_decays : that were followed.
        n_detected : of each of the three, before the energy window.
        sinogram : their bins.
    """

    trues: np.ndarray
    single: np.ndarray
    multiple: np.ndarray
    n_decays: int
    n_detected: tuple[int, int, int]
    sinogram: PETSinogram

    @property
    def scatter(self) -> np.ndarray:
        """single + multiple."""
        return self.single + self.multiple

    def smoothed(self, views: float = 4.0, radial: float = 4.0, planes: float = 1.0) -> Histories:
        """Return the scatter smoothed by Gaussians of so many bins (sigma), segment by segment; trues as they are.

        Scatter is smooth, and few histories make its noise: this is for labels of networks, not for resolution.
        """
        single, multiple = (
            _smooth(part, self.sinogram, (views, radial, planes)) for part in (self.single, self.multiple)
        )
        return Histories(self.trues, single, multiple, self.n_decays, self.n_detected, self.sinogram)


def photon_histories(
    activity: Array,
    mu: Array,
    grid: ImageGrid,
    sinogram: PETSinogram,
    n_decays: int,
    seed: int = 0,
    *,
    energy_window: tuple[float, float] = (430.0, 610.0),
    energy_resolution: float | None = None,
) -> Histories:
    """Return the coincidences of `n_decays` simulated annihilations, scattered any number of times.

    Args:
        activity, mu : (nx, ny, nz) on `grid`; mu is attenuation at 511 keV in 1/cm.
        sinogram : the bins, with or without time of flight, of a scanner of two rings or more.
        seed : of the random numbers; one seed has one result.
        energy_window : lower and upper threshold in keV.
        energy_resolution : FWHM at 511 keV as a fraction (default: the scanner's).

    Pairs of photons of 511 keV fly apart from where the activity is, through voxels of constant mu (Woodcock tracking),
    are scattered by free electrons (Kahn's sampling of the Klein-Nishina formula; all of mu is taken as Compton
    scattering, and its energy dependence as that of the total cross section, as in `single_scatter`), and end on the
    cylinder of the crystals. Detectors are areas on it, and each photon counts with the probability that the energy
    window accepts it over that of 511 keV. Scatter is so in the unit of the trues exp(-A mu) A(activity), and
    `histories.single` is `single_scatter` up to noise.

    Not modelled: scatter in crystals, shields and the bed, coherent scatter, positron range and non-collinearity.

    Raises ValueError where shapes do not fit, values are negative, nothing is active, the window excludes 511 keV, the
    resolution is unknown, and for one ring.

    Source: Woodcock et al. 1965; Kahn 1956 (as in the literature on Monte Carlo of photons).
    """
    resolution = sinogram.scanner.energy_resolution if energy_resolution is None else energy_resolution
    low, high = energy_window
    if not 0 <= low < ELECTRON_MASS < high:
        raise ValueError(f"energy_window must contain the 511 keV of annihilation photons, got {low:g} to {high:g} keV")
    if resolution is None:
        raise ValueError(f"{sinogram.scanner} has no energy resolution; give energy_resolution, the FWHM at 511 keV")
    if n_decays < 1:
        raise ValueError(f"photon_histories n_decays must be at least 1, got {n_decays}")
    if sinogram.scanner.n_rings < 2:
        raise ValueError("photon_histories needs a scanner of two rings or more, whose distance is their width")
    activity, mu = (_checked(values, name, grid) for values, name in ((activity, "activity"), (mu, "mu")))
    if not activity.any():
        raise ValueError("photon_histories: the activity is 0 everywhere")
    detectors, least = _detectors(sinogram), _least_energy(energy_window, resolution)
    cumulated = np.cumsum(activity.ravel())
    about = (
        cumulated / cumulated[-1],
        mu / 10,
        np.array(grid.origin, float),
        np.array(grid.voxel_size, float),
        _softness(),
        np.array([detectors.radius, detectors.edges[0], detectors.edges[-1], least]),
    )
    sums = np.zeros((3, *sinogram.shape))
    detected = np.zeros(3, int)
    random, n_chunks = np.random.default_rng(seed), -(-n_decays // _CHUNK)
    for k in tracked(range(n_chunks), "photon histories", n_chunks):
        n = min(_CHUNK, n_decays - k * _CHUNK)
        scattered, values = np.empty((n, 2), np.int64), np.empty((n, 8))
        found = follow(n, *about, random, scattered, values)
        window = (*energy_window, resolution)
        _add(scattered[:found].sum(1), values[:found], window, detectors, sinogram, random, sums, detected)
    total = activity.sum() * math.prod(grid.voxel_size)  # mm^3 x activity
    unit = np.divide(total / n_decays, detectors.lines, out=np.zeros_like(detectors.lines), where=detectors.lines > 0)
    unit = unit if sinogram.tof is None else unit[:, :, None]
    trues, single, multiple = (np.asarray(part * unit, np.float32) for part in sums)
    return Histories(trues, single, multiple, n_decays, tuple(int(n) for n in detected), sinogram)  # type: ignore[arg-type]


class _Detectors(NamedTuple):
    """The crystals as areas on a cylinder, and what lines the bins of a sinogram hold.

    Args:
        radius : mm.
        order, borders : crystals by rising angle, and the angles between them.
        rings, edges : rings by rising z, and the heights between and around them.
        lines : (views, radial, planes) lines per volume that a bin holds, a cos(A) b cos(B) / (2 pi |AB|^2) of its
            pairs, in mm^2.
    """

    radius: float
    order: np.ndarray
    borders: np.ndarray
    rings: np.ndarray
    edges: np.ndarray
    lines: np.ndarray


def _detectors(sinogram: PETSinogram) -> _Detectors:
    xy, z = sinogram.scanner.crystals[0, :, :2], sinogram.scanner.rings
    radius = float(np.hypot(*xy.T).mean())
    angle = np.arctan2(xy[:, 0], -xy[:, 1])
    order = np.argsort(angle)
    rising = angle[order]
    borders = (rising[1:] + rising[:-1]) / 2
    rings = np.argsort(z)
    middle = (z[rings][1:] + z[rings][:-1]) / 2
    edges = np.concatenate([[2 * z[rings][0] - middle[0]], middle, [2 * z[rings][-1] - middle[-1]]])
    area = 2 * math.pi * radius / len(xy) * float(np.ptp(z)) / (len(z) - 1)
    x1, y1, x2, y2 = np.moveaxis(sinogram.transaxial_ends, -1, 0)
    across = np.hypot(x1 - x2, y1 - y2)
    rise = np.diff(sinogram.plane_ends, axis=1)[:, 0]
    length2 = across[..., None] ** 2 + rise**2
    facing = np.abs(x1 * (x1 - x2) + y1 * (y1 - y2)) / np.hypot(x1, y1)
    facing = facing * np.abs(x2 * (x2 - x1) + y2 * (y2 - y1)) / np.hypot(x2, y2)
    lines = area**2 * facing[..., None] / length2**2 / (2 * math.pi) * sinogram.multiplicity()
    return _Detectors(radius, order, borders, rings, edges, lines)


def _add(
    scattered: np.ndarray,
    values: np.ndarray,
    window: tuple[float, float, float],
    detectors: _Detectors,
    sinogram: PETSinogram,
    random: np.random.Generator,
    sums: np.ndarray,
    detected: np.ndarray,
) -> None:
    """Sort events into the bins of the three kinds, with the weights of the energy window."""
    scanner, n = sinogram.scanner, sinogram.scanner.n_crystals
    ends, accepted = [], []
    low, high, resolution = window
    at_511 = accepted_fraction(ELECTRON_MASS, (low, high), resolution)
    for first in (0, 4):
        # beyond the last border comes the first crystal again
        crystal = detectors.order[np.searchsorted(detectors.borders, values[:, first]) % n]
        ring = detectors.rings[
            np.clip(np.searchsorted(detectors.edges, values[:, first + 1]) - 1, 0, scanner.n_rings - 1)
        ]
        ends.append(ring * n + crystal)
        real = ~scanner.virtual[ring, crystal]
        accepted.append(real * accepted_fraction(values[:, first + 2], (low, high), resolution) / at_511)
    events = np.stack(ends, 1)
    if sinogram.tof is not None:
        events = np.concatenate([events, _tof_bins(values, sinogram, random)[:, None]], 1)
    bins = sinogram.bins_of(events)
    kind = np.minimum(scattered, 2)
    seen = bins[:, 0] >= 0
    flat = np.ravel_multi_index(tuple(bins[seen].T), sinogram.shape)
    weight = (accepted[0] * accepted[1])[seen]
    size = int(np.prod(sinogram.shape))
    for k in range(3):
        own = kind[seen] == k
        detected[k] += int(own.sum())
        sums[k] += np.bincount(flat[own], weight[own], size).reshape(sinogram.shape)


def _tof_bins(values: np.ndarray, sinogram: PETSinogram, random: np.random.Generator) -> np.ndarray:
    """The TOF bin of every event: towards the second end where its photon arrives first."""
    tof = sinogram.tof
    assert tof is not None
    s = (values[:, 3] - values[:, 7]) / 2
    u = random.normal(size=len(s))
    s = s + tof.sigma * np.clip(u, -3, 3)
    return np.floor((s - tof.edges[0]) / tof.bin_width).astype(np.int64)


def _least_energy(energy_window: tuple[float, float], resolution: float) -> float:
    energies = np.linspace(50.0, ELECTRON_MASS, 2000)
    seen = accepted_fraction(energies, energy_window, resolution) > _ACCEPTED
    return float(energies[max(int(np.argmax(seen)) - 1, 0)])


def _softness() -> np.ndarray:
    """Attenuation over that at 511 keV for energies from 0 (as 1 keV) to 511 keV."""
    energies = np.maximum(np.linspace(0, ELECTRON_MASS, _N_ENERGIES), 1.0)
    return np.asarray(klein_nishina_total(energies) / klein_nishina_total(ELECTRON_MASS))


def _checked(image: Array, name: str, grid: ImageGrid) -> np.ndarray:
    values = np.asarray(to_numpy(image), float)
    if values.shape != grid.shape:
        raise ValueError(f"photon_histories: {name} has shape {values.shape}, but the grid has {grid.shape}")
    if not (np.isfinite(values).all() and values.min() >= 0):
        raise ValueError(f"photon_histories: {name} must be finite and not negative")
    if name == "mu" and values.max() > 1:
        raise ValueError(f"mu reaches {values.max():g} /cm, but no tissue does; is it in 1/m, or in Hounsfield units?")
    return values


def _smooth(values: np.ndarray, sinogram: PETSinogram, sigmas: tuple[float, float, float]) -> np.ndarray:
    out = np.empty_like(values)
    views, radial, planes = sigmas
    between = () if sinogram.tof is None else (0.0,)
    for segment in np.unique(sinogram.segments):
        own = sinogram.segments == segment
        # a view later than the last is the first one with its bins in reverse order
        part = values[..., own]
        pad = min(math.ceil(3 * views), len(part))
        turned = part[:, ::-1] if sinogram.tof is None else part[:, ::-1, ::-1]
        whole = np.concatenate([turned[-pad:], part, turned[:pad]]) if pad else part
        smooth = gaussian_filter(whole, (views, radial, *between, planes), mode="nearest")
        out[..., own] = smooth[pad : pad + len(part)]
    return out
