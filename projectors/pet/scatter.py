"""PET scatter: the Klein-Nishina formula, single scatter simulation, and its scale from the tails of the data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array

from ..core.arrays import Array, to_numpy
from ..core.grid import ImageGrid
from ..core.progress import tracked
from ..core.threads import share
from ..physics.compton import ELECTRON_MASS, accepted_fraction, klein_nishina, klein_nishina_total, scattered_energy
from .scatter_kernels import N_FIELDS, Images, Lattice, Timing, add_pairs, fill, find_legs
from .sinogram import PETSinogram
from .tof import TimeOfFlight

_CHUNK_BYTES = 1 << 24  # of legs at a time: what is used again and again stays in the cache

_ACCEPTED = 1e-6  # scattering angles that are accepted less often than this are left out

_N_ANGLES = 4096

_SAMPLES_PER_SIGMA = 3  # of the timing kernel


@dataclass(frozen=True)
class ScatterSampling:
    """How finely scatter is simulated; all lengths in mm.

    Args:
        spacing : between scatter points. Voxels are joined to cells of this size; a cell keeps all of its electrons.
        crystal_spacing : between detectors around the ring; interpolated between with cubics.
        ring_spacing : between rings of detectors; interpolated between linearly.
        voxel_size : of the coarsened images through which lines are integrated, in steps of half a voxel.
        threshold : voxels with mu up to this, in 1/cm, do not scatter (they still attenuate).
        seed : None for scatter points at their cells' centres of mass, or a number: at random places in the cells, more
            often where mu is large. That turns artefacts of the regular grid into noise, the same for the same seed.

    Raises ValueError for lengths that are not positive.
    """

    spacing: float = 20.0
    crystal_spacing: float = 35.0
    ring_spacing: float = 25.0
    voxel_size: float = 8.0
    threshold: float = 0.01
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in ("spacing", "crystal_spacing", "ring_spacing", "voxel_size"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise ValueError(f"ScatterSampling {name} must be positive mm, got {value}")
        if not (np.isfinite(self.threshold) and self.threshold >= 0):
            raise ValueError(f"ScatterSampling threshold must be 1/cm and not negative, got {self.threshold}")


def single_scatter(
    activity: Array,
    mu: Array,
    grid: ImageGrid,
    sinogram: PETSinogram,
    *,
    energy_window: tuple[float, float] = (430.0, 610.0),
    energy_resolution: float | None = None,
    sampling: ScatterSampling | None = None,
) -> np.ndarray:
    """Return the expected single scatter in every bin, float32 of `sinogram.shape`, in mm x activity.

    Args:
        activity, mu : (nx, ny, nz) on `grid`; mu is attenuation at 511 keV in 1/cm.
        sinogram : the bins, with or without time of flight. A subset gives the same values as the whole.
        energy_window : lower and upper threshold in keV.
        energy_resolution : FWHM at 511 keV as a fraction (default: the scanner's).
        sampling : a `ScatterSampling`.

    The unit is that of the true coincidences exp(-A mu) A(activity), A a `PETProjector` with the same sinogram: add the
    two, and multiply the sum by the same factors (time, calibration, normalisation, multiplicity).

    Derivation. Take detectors A and B of small areas a and b, with normals towards the scanner's axis. Every decay has
    one line of flight, so decays of density f have f / (2 pi) lines per volume and solid angle of unoriented lines.
    The lines that A and B share are a cos(A) b cos(B) / ``|AB|^2``, so trues are::

        T = eps(511)^2 g exp(-M(A, B)) F(A, B),       g = a cos(A) b cos(B) / (2 pi |AB|^2)

    F and M are the integrals of activity and mu along a line. A scatter point S of volume V holds mu V / sigma(511)
    electrons (all of mu is taken as Compton scattering). Decays between A and S send one photon to A and the other to S
    on a cos(A, S) / (2 pi ``|AS|^2``) F(A, S) lines per area at S; the latter scatters through theta into B with::

        mu V / sigma(511) dsigma/dOmega(theta) b cos(B, S) / |SB|^2 eps(E'),    cos theta = (S-A).(B-S) / (|AS| |SB|)

    and is attenuated on its way by mu sigma(E') / sigma(511). Decays between S and B add the mirrored term. The areas,
    2 pi and eps(511)^2 are shared with trues, so that in the unit where trues are exp(-M) F the scatter is::

        Y = |AB|^2 / (cos(A) cos(B))  sum over S of  mu V / sigma(511) dsigma/dOmega(theta) eps(E') / eps(511)
            x cos(A, S) cos(B, S) / (|AS|^2 |BS|^2)
            x (exp(-M(A, S) - q M(S, B)) F(A, S) + exp(-q M(A, S) - M(S, B)) F(S, B)),     q = sigma(E') / sigma(511)

    with eps from `accepted_fraction`. With TOF the arrival times place a decay at distance t from S at the position::

        (|AS| - |BS|) / 2 - t  on the leg to A (the first end),      (|AS| - |BS|) / 2 + t  on the leg to B

    from the middle of the line, so F becomes the activity times the TOF weights of that position.

    Not modelled: multiple scatter, scatter in the patient's bed where it is not in mu, coherent scatter, shields at the
    ends, how the crystals' efficiency depends on angle and energy. `scale_to_tails` makes up for most of it.
    Activity much smaller than the scatter points' spacing (a point source in a large body) needs a smaller spacing.

    Memory: the result, and the sums for the coarse pairs of detectors, which is much less.

    Raises ValueError where shapes do not fit, values are negative or mu is not in 1/cm, activity or mu reach the
    crystals, nothing attenuates more than the threshold, the window excludes 511 keV, or the resolution is unknown.

    Source: Watson 2000; Ollinger 1996; with time of flight Watson 2007.
    """
    if not isinstance(sinogram, PETSinogram):
        raise TypeError(f"single_scatter expects a PETSinogram, got {type(sinogram).__name__}")
    sampling = sampling or ScatterSampling()
    resolution = sinogram.scanner.energy_resolution if energy_resolution is None else energy_resolution
    response = _response(energy_window, resolution, sinogram)
    activity, mu = (_checked(x, name, grid, sinogram) for x, name in ((activity, "activity"), (mu, "mu")))
    _check_attenuation(mu, sampling)
    if not (mu.any() and activity.any()):
        return np.zeros(sinogram.shape, np.float32)
    points, weights = _scatter_points(mu, grid, sampling)
    images = _coarse_images(activity, mu, grid, sampling.voxel_size)
    return _simulate(images, points, weights, sinogram, response, sampling)


def _simulate(
    images: Images,
    points: np.ndarray,
    weights: np.ndarray,
    sinogram: PETSinogram,
    response: np.ndarray,
    sampling: ScatterSampling,
) -> np.ndarray:
    """Return the scatter of points (S, 3) with weights mu x volume in mm^2."""
    timing, nodes = _timing(images, sinogram.tof), _nodes(sinogram, sampling)
    sums = np.zeros((len(nodes.crystals), timing.n_bins, len(nodes.rings)))
    chunk = max(1, _CHUNK_BYTES // (8 * len(nodes.detectors) * (N_FIELDS + timing.n_table)))
    for begin in tracked(range(0, len(points), chunk), "scatter points"):
        some = slice(begin, begin + chunk)
        _add_points(points[some], weights[some], images, timing, nodes, response, sums)
    out = np.empty(sinogram.shape, np.float32)
    bins = out.reshape(sinogram.n_views, sinogram.n_radial, timing.n_bins, sinogram.n_planes)
    pairs, ends = np.ascontiguousarray(sinogram.crystal_pairs), np.ascontiguousarray(sinogram.transaxial_ends)
    share(lambda first, n: fill(sums, nodes.lattice, pairs, ends, first, n, bins), sinogram.n_views)
    return out


def _add_points(
    points: np.ndarray,
    weights: np.ndarray,
    images: Images,
    timing: Timing,
    nodes: _Nodes,
    response: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Add some points' scatter to the sums over pairs of detectors."""
    legs = np.empty((len(nodes.detectors), len(points), N_FIELDS))
    table = np.empty((*legs.shape[:2], timing.n_table))
    seen = weights, legs, table, nodes.crystals, nodes.rings, nodes.lattice.slot.shape[0], response, timing
    share(lambda t, n: find_legs(points, nodes.detectors, images, timing, t, n, legs, table), len(legs))
    share(lambda t, n: add_pairs(*seen, t, n, sums), len(nodes.crystals))


def _scatter_points(mu: np.ndarray, grid: ImageGrid, sampling: ScatterSampling) -> tuple[np.ndarray, np.ndarray]:
    """Return positions in mm and mu x volume in mm^2 of the cells that scatter."""
    index = np.stack(np.nonzero(mu > sampling.threshold))
    values = mu[tuple(index)]
    _, cell = np.unique(_cell_numbers(index, _factors(grid, sampling.spacing), grid), return_inverse=True)
    mass = np.bincount(cell, values)
    if sampling.seed is None:
        position = np.stack([np.bincount(cell, values * i) for i in index]) / mass
    else:
        rng = np.random.default_rng(sampling.seed)
        # Exponential clocks with rates mu: a voxel's clock is the first of its cell with a probability as its mu.
        order = np.lexsort((rng.exponential(size=values.size) / values, cell))
        first = order[np.unique(cell[order], return_index=True)[1]]
        position = index[:, first] + rng.uniform(-0.5, 0.5, (3, mass.size))
    points = np.ascontiguousarray(np.asarray(grid.origin) + position.T * grid.voxel_size)
    return points, mass / 10 * np.prod(grid.voxel_size)


def _cell_numbers(index: np.ndarray, factors: np.ndarray, grid: ImageGrid) -> np.ndarray:
    return np.ravel_multi_index(tuple(index // factors[:, None]), grid.shape)


def _factors(grid: ImageGrid, size: float) -> np.ndarray:
    """How many voxels along each axis make up a cell of about `size` mm."""
    return np.maximum(np.rint(size / np.asarray(grid.voxel_size)).astype(int), 1)


def _coarse_images(activity: np.ndarray, mu: np.ndarray, grid: ImageGrid, voxel_size: float) -> Images:
    """Return both images cropped, averaged over cells, and with an empty cell all around; mu in 1/mm."""
    index = np.nonzero((activity != 0) | (mu != 0))
    low, high = np.array([(i.min(), i.max() + 1) for i in index]).T
    factors = _factors(grid, voxel_size)
    n = -(-(high - low) // factors)
    values = np.zeros((*(n + 2), 2))
    inner = values[1:-1, 1:-1, 1:-1]
    for k, (image, unit) in enumerate(((activity, 1.0), (mu, 0.1))):
        box = np.zeros(n * factors)
        box[tuple(slice(0, s) for s in high - low)] = image[tuple(slice(a, b) for a, b in zip(low, high))]
        cells = box.reshape(n[0], factors[0], n[1], factors[1], n[2], factors[2])
        inner[..., k] = unit * cells.mean((1, 3, 5))
    size = np.asarray(grid.voxel_size)
    first = np.asarray(grid.origin) + (low + (factors - 1) / 2 - factors) * size
    return Images(values, first, factors * size)


def _timing(images: Images, tof: TimeOfFlight | None) -> Timing:
    step = float(images.voxel.min() / 2)
    if tof is None:
        return Timing(step, np.zeros(0), 0, 0, 0.0, 1.0, 1)
    step = min(step, tof.sigma / _SAMPLES_PER_SIGMA)
    zero = math.ceil(tof.half_width / step)
    taps = np.diff(tof.cumulated(step * (np.arange(2 * zero + 3) - zero - 1.5)))
    longest = math.hypot(*(images.voxel * images.values.shape[:3]))
    n_table = math.ceil(longest / step) + 2 * zero + 2
    return Timing(step, taps, zero, n_table, float(tof.edges[0] / step), tof.bin_width / step, tof.n_bins)


def _response(energy_window: tuple[float, float], energy_resolution: float | None, sinogram: PETSinogram) -> np.ndarray:
    """Return a table over cos theta, see `add_pairs`."""
    low, high = energy_window
    if not 0 <= low < ELECTRON_MASS < high:
        raise ValueError(f"energy_window must contain the 511 keV of annihilation photons, got {low:g} to {high:g} keV")
    if energy_resolution is None:
        raise ValueError(
            f"{sinogram.scanner} has no energy resolution; give energy_resolution, the FWHM at 511 keV as a fraction"
        )
    if not 0 < energy_resolution < 1:
        raise ValueError(f"energy_resolution must be a fraction between 0 and 1, got {energy_resolution:g}")

    def accepted(cos_theta: np.ndarray) -> np.ndarray:
        fraction: np.ndarray = accepted_fraction(
            scattered_energy(cos_theta, ELECTRON_MASS), energy_window, energy_resolution
        )
        return fraction / accepted_fraction(ELECTRON_MASS, energy_window, energy_resolution)

    angles = np.linspace(-1, 1, _N_ANGLES)
    first = max(int(np.argmax(accepted(angles) > _ACCEPTED)) - 1, 0)
    c = np.linspace(angles[first], 1, _N_ANGLES)
    total = klein_nishina_total(ELECTRON_MASS)
    softer = klein_nishina_total(scattered_energy(c, ELECTRON_MASS)) / total - 1
    return np.stack([c, klein_nishina(c, ELECTRON_MASS) / total * accepted(c), softer])


def _checked(image: Array, name: str, grid: ImageGrid, sinogram: PETSinogram) -> np.ndarray:
    """Return an image in float64 that fits its grid, is not negative, and ends before the crystals."""
    if tuple(np.shape(image)) != grid.shape:
        raise ValueError(f"single_scatter: {name} has shape {tuple(np.shape(image))}, but the grid has {grid.shape}")
    values = np.asarray(to_numpy(image), float)
    if not np.isfinite(values).all():
        raise ValueError(f"single_scatter: {name} holds NaN or infinite values")
    if values.min() < 0:
        raise ValueError(f"single_scatter: {name} is negative (down to {values.min():g}); clip it at 0?")
    x, y, _ = grid.coordinates()
    crystals = np.hypot(*sinogram.scanner.crystals[0, :, :2].T).min()
    if values[np.hypot(x, y)[..., 0] >= crystals].any():
        raise ValueError(
            f"single_scatter: {name} is not 0 as far from the axis as the crystals ({crystals:g} mm); is the grid's "
            "origin right? Otherwise cut the image off before"
        )
    return values


def _check_attenuation(mu: np.ndarray, sampling: ScatterSampling) -> None:
    if mu.max() > 1:
        raise ValueError(f"mu reaches {mu.max():g} /cm, but no tissue does; is it in 1/m, or in Hounsfield units?")
    if 0 < mu.max() <= sampling.threshold:
        raise ValueError(
            f"no voxel attenuates: mu reaches only {mu.max():g} /cm and the threshold is {sampling.threshold:g} /cm; "
            "is mu in 1/mm?"
        )


class _Nodes(NamedTuple):
    """The detectors between which scatter is simulated, and the pairs of them that bins need.

    Args:
        detectors : (ring nodes x crystal nodes, 3) mm.
        crystals : (C, 2) nodes around a ring.
        rings : (P, 2) nodes along z
    """

    detectors: np.ndarray
    crystals: np.ndarray
    rings: np.ndarray
    lattice: Lattice


def _nodes(sinogram: PETSinogram, sampling: ScatterSampling) -> _Nodes:
    scanner = sinogram.scanner
    xy, base, weight = _crystal_nodes(scanner.crystals[0, :, :2], sampling.crystal_spacing)
    z, below, fraction = _ring_nodes(scanner.rings, sampling.ring_spacing)
    planes, rings = _plane_matrix(sinogram, below, fraction, z.size)
    slot, crystals = _slots(sinogram, base, weight, len(xy))
    detectors = np.concatenate([np.tile(xy, (z.size, 1)), np.repeat(z, len(xy))[:, None]], 1)
    rise2 = np.diff(sinogram.plane_ends, axis=1)[:, 0] ** 2
    return _Nodes(detectors, crystals, rings, Lattice(slot, base, weight, *planes, rise2))


def _crystal_nodes(xy: np.ndarray, spacing: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return nodes (n, 2), evenly spaced in crystal numbers, and the first of four nodes around every crystal."""
    around = np.linalg.norm(np.diff(xy, axis=0, append=xy[:1]), axis=1).sum()
    n = min(len(xy), max(4, math.ceil(around / spacing)))
    at = np.arange(n) * len(xy) / n
    nodes = np.stack([np.interp(at, np.arange(len(xy) + 1), np.append(c, c[0])) for c in xy.T], 1)
    place = np.arange(len(xy)) * n / len(xy)
    below = np.floor(place + 1e-9).astype(int)
    f = np.maximum(place - below, 0)
    return nodes, (below - 1) % n, _cubic(f)


def _cubic(f: np.ndarray) -> np.ndarray:
    """Return the weights (n, 4) of cubic convolution for positions f between the second and the third of four nodes.

    Source: Keys 1981.
    """
    before = -0.5 * f + f**2 - 0.5 * f**3
    after = -0.5 * f**2 + 0.5 * f**3
    here = 1 - 2.5 * f**2 + 1.5 * f**3
    return np.stack([before, here, 0.5 * f + 2 * f**2 - 1.5 * f**3, after], 1)


def _ring_nodes(rings: np.ndarray, spacing: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the heights of nodes, and for every ring the node below and how far it is towards the next."""
    n = min(rings.size, math.ceil(np.ptp(rings) / spacing) + 1)
    z = np.interp(np.linspace(0, rings.size - 1, n), np.arange(rings.size), np.sort(rings))
    below = np.clip(np.searchsorted(z, rings, side="right") - 1, 0, max(n - 2, 0))
    fraction = (rings - z[below]) / (z[below + 1] - z[below]) if n > 1 else np.zeros(rings.size)
    return z, below, fraction


def _plane_matrix(
    sinogram: PETSinogram, below: np.ndarray, fraction: np.ndarray, n: int
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
    """Return the rows (start, column, value) of the matrix from pairs of ring nodes to planes, and those pairs."""
    sizes = [len(pairs) for pairs in sinogram.ring_pairs]
    first, second = np.concatenate(sinogram.ring_pairs).T
    plane = np.repeat(np.arange(len(sizes)), sizes)
    rows, columns, values = [], [], []
    for a, b in np.ndindex(2, 2):
        w1, w2 = (fraction[r] if up else 1 - fraction[r] for r, up in ((first, a), (second, b)))
        used = np.flatnonzero(w1 * w2)
        rows.append(plane[used])
        columns.append((below[first[used]] + a) * n + below[second[used]] + b)
        values.append((w1 * w2 / np.repeat(sizes, sizes))[used])
    used, column = np.unique(np.concatenate(columns), return_inverse=True)
    matrix = coo_array((np.concatenate(values), (np.concatenate(rows), column)), (len(sizes), used.size)).tocsr()
    parts = matrix.indptr.astype(int), matrix.indices.astype(int), matrix.data
    return parts, np.stack(np.divmod(used, n), 1)


def _slots(sinogram: PETSinogram, base: np.ndarray, weight: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of every pair of crystal nodes that some bin needs, -1 for others, and those pairs."""
    needed = np.zeros((n, n), bool)
    first, second = np.unique(sinogram.crystal_pairs.reshape(-1, 2), axis=0).T
    for a, b in np.ndindex(4, 4):
        used = (weight[first, a] != 0) & (weight[second, b] != 0)
        needed[(base[first[used]] + a) % n, (base[second[used]] + b) % n] = True
    slot = np.where(needed, np.cumsum(needed).reshape(n, n) - 1, -1)
    return slot, np.argwhere(needed)
