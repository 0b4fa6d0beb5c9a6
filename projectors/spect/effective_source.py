"""SPECT scatter by effective source estimation: where scattered photons seem to come from, as a linear projector."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import scipy
from numpy.polynomial.legendre import legval
from numpy.typing import ArrayLike
from scipy.special import eval_legendre

from ..core.arrays import (
    Array,
    PlanCache,
    add_up,
    array_namespace,
    clipped,
    device,
    dtype_name,
    like,
    without_rounding_below_zero,
)
from ..core.blur import fft_of
from ..core.grid import ImageGrid
from ..core.operator import Projector
from ..physics.attenuation import linear_attenuation
from ..physics.compton import ELECTRON_MASS, accepted_fraction, klein_nishina, klein_nishina_total, scattered_energy
from .projector import SPECTProjector

WATER_ELECTRONS = 3.343e23
"""Electrons per cm3 of water."""

_COSINES = np.linspace(-1, 1, 401)
_SHELL = 5.0  # mm, of the table of multiple scatter
_N_SHELLS = 120
_ACCEPTED = 1e-5  # photons that are accepted less often than this, even if they kept their energy, are given up
_PAIRED = 7  # cells: up to here the variance of points in two cells matters
_BATCH_VALUES = 1 << 26  # of projections that are in memory at a time


@dataclass(frozen=True)
class EffectiveSource:
    """Scatter in water as seen from one side: a source, around each point of activity, of photons that fly to a camera.

    Args:
        energy_window : (lower, upper) keV of the photopeak window.
        energy : keV of the emission.
        energy_resolution : FWHM at that energy as a fraction; it goes as 1 / sqrt(E).
        highest_order : up to how many Compton scatters a photon may undergo; 1 for single scatter.
        degree : of the polynomial in cos(theta) that stands for the kernel's dependence on direction.
        n_photons, seed : of the simulation of second and higher orders; the same numbers give the same kernel.

    A decay at distance s from a point of water sends exp(-mu s) / (4 pi s^2) photons per area there. In a volume V they
    turn towards a camera in direction n, theta away from their own, as if V held::

        K(s, theta) V = exp(-mu s) / s^2  n_e dsigma/dOmega(theta)  eps(E') / eps(E)  V

    decays: the 4 pi of isotropic emission, the collimator's efficiency and eps(E) of a primary cancel. n_e are the
    electrons of water, eps is `accepted_fraction`, mu the attenuation of water at E. Theta is the angle between n and
    the line from the decay to V. Higher orders add to K what a Monte Carlo in infinite water gives: a photon that meets
    V in direction w with energy E adds its own cross section, averaged around the line to the decay, which multiplies
    its Legendre coefficients by P_l(cos(w, line)).

    As a function of cos(theta), s^2 exp(mu s) K is fitted by the nearest polynomial that is nowhere negative. Seen from
    cameras that turn around z, it is then a trigonometric polynomial of the same degree in the gantry angle.

    Raises ValueError for a window that excludes the energy, and for numbers that are out of range.

    Source: Frey & Tsui 1996 (effective source); Klein & Nishina 1929.
    """

    energy_window: tuple[float, float]
    energy: float = 140.511
    energy_resolution: float = 0.099
    highest_order: int = 4
    degree: int = 10
    n_photons: int = 200_000
    seed: int = 0

    def __post_init__(self) -> None:
        low, high = map(float, self.energy_window)
        if not 0 <= low < self.energy < high:
            raise ValueError(
                f"EffectiveSource energy_window {low:g} to {high:g} keV must contain the emission at {self.energy:g}; "
                "scatter is counted in units of the primaries of the same window"
            )
        if not 30 <= self.energy <= 1000:
            raise ValueError(f"EffectiveSource energy must be 30 to 1000 keV, got {self.energy}")
        if not 0 < self.energy_resolution < 1:
            raise ValueError(f"EffectiveSource energy_resolution must be a fraction, got {self.energy_resolution}")
        for name, least in (("highest_order", 1), ("degree", 1), ("n_photons", 1000)):
            value = getattr(self, name)
            if value % 1 or value < least:
                raise ValueError(f"EffectiveSource {name} must be a whole number from {least} on, got {value}")
        object.__setattr__(self, "energy_window", (low, high))

    @property
    def water(self) -> float:
        """The attenuation of water at the energy of emission, in 1/cm."""
        return linear_attenuation("water", self.energy)

    def accepted(self, energy_kev: ArrayLike) -> np.ndarray:
        """Return how often photons of an energy are counted, relative to primaries."""
        at_511 = self.energy_resolution * math.sqrt(self.energy / ELECTRON_MASS)
        own, primary = (accepted_fraction(e, self.energy_window, at_511) for e in (energy_kev, self.energy))
        return own / primary

    def kernel(self, distance: ArrayLike, cos_theta: ArrayLike) -> np.ndarray:
        """Return K in 1/mm^3 at a distance in mm (not 0) from the decay; arguments broadcast."""
        s, c = np.broadcast_arrays(np.asarray(distance, float), np.asarray(cos_theta, float))
        return self._radial(s) * legval(c, self._series(s), tensor=False)

    @cached_property
    def attenuation_ratio(self) -> float:
        """The attenuation of singly scattered photons that are counted over that of primaries, in the mean."""
        energy = scattered_energy(_COSINES, self.energy)
        mu = _water_table(energy)
        weight = klein_nishina(_COSINES, self.energy) * self.accepted(energy)
        return float((weight * mu).sum() / weight.sum() / self.water)

    @cached_property
    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """Distances (n,) in mm, and the Legendre series of s^2 exp(mu s) K at each, (n, degree + 1) in 1/mm."""
        first = _nearest_series(self._strength(self.energy), self.degree)
        if self.highest_order == 1:
            return np.zeros(1), first[None]
        edges = _SHELL * np.arange(_N_SHELLS + 1)
        middle = (edges[1:] + edges[:-1]) / 2
        scale = np.exp(self.water * middle / 10) / (4 * math.pi * _SHELL)
        shells = scale[:, None] * self._multiple(edges)
        multiple = np.stack([_nearest_series(row, self.degree) for row in shells])
        return np.concatenate([[0], middle]), first + np.concatenate([np.zeros((1, first.size)), multiple])

    def _radial(self, s: np.ndarray) -> np.ndarray:
        return np.exp(-self.water * s / 10) / s**2

    def _series(self, s: np.ndarray) -> np.ndarray:
        distances, series = self.table
        return np.stack([np.interp(s, distances, column) for column in series.T])

    def _strength(self, energy: ArrayLike) -> np.ndarray:
        """n_e dsigma/dOmega eps(E') / eps(E) in 1/mm over the cosines, of photons of an energy."""
        return (
            WATER_ELECTRONS / 10 * klein_nishina(_COSINES, energy) * self.accepted(scattered_energy(_COSINES, energy))
        )

    def _multiple(self, edges: np.ndarray) -> np.ndarray:
        """Return sums over collisions of order 2 and more in every shell, (shells, cosines), per decay and in 1."""
        energies = np.linspace(self._least_energy, self.energy, 64)
        l = np.arange(self.degree + 1)
        legendre = eval_legendre(l[:, None], _COSINES)
        strengths = np.stack([4 * math.pi * 10 * self._strength(e) / _water_table(e) for e in energies])
        moments = np.trapezoid(strengths[:, None] * legendre, _COSINES, axis=-1)  # (energies, l)
        sums = np.zeros((edges.size - 1, l.size))
        for distance, turn, energy, weight in self._collisions(energies[0]):
            shell = np.minimum(distance / _SHELL, edges.size - 1).astype(int)
            for k in l:
                score = weight * np.interp(energy, energies, moments[:, k]) * eval_legendre(k, turn)
                sums[:, k] += np.bincount(shell, score, edges.size)[:-1]
        return sums / self.n_photons @ ((2 * l[:, None] + 1) / 2 * legendre)

    def _collisions(self, least: float) -> Iterator[tuple[np.ndarray, ...]]:
        """Yield distance, cos(direction, position), energy and weight of the photons at their 2nd, 3rd, ... collision.

        The weight is the chance that all former collisions were Compton scatters.
        """
        rng = np.random.default_rng(self.seed)
        n = self.n_photons
        direction, position = np.tile([0.0, 0, 1], (n, 1)), np.zeros((n, 3))
        energy, weight = np.full(n, self.energy), np.ones(n)
        for order in range(1, self.highest_order + 1):
            mu = _water_table(energy)
            position = position + direction * (10 * rng.exponential(size=energy.size) / mu)[:, None]
            if order > 1:
                distance = np.linalg.norm(position, axis=1)
                yield distance, (position * direction).sum(1) / distance, energy, weight
            weight = weight * WATER_ELECTRONS * klein_nishina_total(energy) / mu
            cosine = _sampled_cosines(rng, energy)
            direction = _turned(direction, cosine, rng.uniform(0, 2 * math.pi, energy.size))
            energy = scattered_energy(cosine, energy)
            kept = energy > least
            position, direction, energy, weight = position[kept], direction[kept], energy[kept], weight[kept]

    @property
    def _least_energy(self) -> float:
        energies = np.linspace(20, self.energy, 2000)
        return float(energies[np.argmax(self.accepted(energies) > _ACCEPTED)])


class SPECTScatterProjector(Projector):
    """Expected scatter in every bin of a SPECT camera from the activity in every voxel, in counts like the primaries'::

        y[v] = A_v ( mu / mu_water * (K_v conv x) ),       K_v(r) = K(|r|, angle between r and the camera of view v)

    Args:
        projector : the model of the primaries, with attenuation (one map for all items).
        source : an `EffectiveSource`: energy window, energy resolution, and the kernel K.
        spacing : mm; activity and attenuation are joined to cells of about this size, because scatter is smooth. Larger
            cells are faster and blur the edges of the scatter: of a cylinder of 20 cm, 10 mm change it by 4 % rms.

    A_v projects with the response of `projector` and its attenuation times `source.attenuation_ratio`, which is that of
    scattered photons. `projector(x) + scatter(x)` are all counts; both need the same time and sensitivity factors. Or
    take scatter as a background that is updated now and then: `estimate(image)`.

    K_v is a trigonometric polynomial of `source.degree` = n in the angle of view. So 2 n + 1 convolutions with the
    kernels of evenly spread directions give all views, whatever their number: their projections, weighted with
    Dirichlet kernels, sum to those of K_v exactly. The transpose is exact too.

    Modelled: Compton scatter of all orders up to `highest_order`, in three dimensions, the energy window, attenuation
    from the last scatter to the camera through the true map, electron density by mu / mu_water at the last scatter.
    Not modelled: anything but water between the decay and the last scatter (air as well, so that second and higher
    orders are too many near surfaces); scatter that comes from activity or bodies outside of the image; the spread of
    energies in attenuation on the way out; coherent scatter; scatter and septal penetration in collimator and crystal.

    Runs on NumPy, CuPy and torch.

    Raises ValueError where there is no attenuation or one map per item, where all is air, and for images of one slice.

    Source: Frey & Tsui 1996.
    """

    def __init__(self, projector: SPECTProjector, source: EffectiveSource, *, spacing: float = 6.0) -> None:
        if not isinstance(projector, SPECTProjector):
            raise TypeError(f"SPECTScatterProjector needs a SPECTProjector, got {projector!r}")
        if not isinstance(source, EffectiveSource):
            raise TypeError(f"SPECTScatterProjector needs an EffectiveSource(energy_window), got {source!r}")
        if not (math.isfinite(spacing) and spacing > 0):
            raise ValueError(f"SPECTScatterProjector spacing must be positive mm, got {spacing}")
        if projector.has_parameters:
            raise ValueError(f"{projector!r}: scatter gives its attenuation map no gradient; give a constant map")
        mu = projector.attenuation
        if mu is None or mu.ndim != 3 or not mu.any():
            found = "none" if mu is None else "all zero" if mu.ndim == 3 else f"one per item, {mu.shape}"
            raise ValueError(f"{projector!r}: scatter needs one attenuation map, but it is {found}")
        if projector.grid.shape[2] == 1:
            raise ValueError(f"{projector!r} has one slice, but photons scatter between slices; give a volume")
        self.source, self.spacing = source, float(spacing)
        self.grid, self.geometry = projector.grid, projector.geometry
        self.in_shape, self.out_shape = projector.in_shape, projector.out_shape
        self._factors = [max(1, round(spacing / d)) for d in self.grid.voxel_size]
        self.coarse_grid = _coarse_grid(self.grid, self._factors)
        coarse = _means(mu, self._factors, self.coarse_grid.shape)
        self._density = coarse / source.water
        self._coarse = SPECTProjector(
            self.coarse_grid,
            self.geometry,
            coarse * source.attenuation_ratio,
            projector.response,
            blur=projector.blur,
            aperture=projector.aperture,
        )
        self._size = [2 * n for n in self.coarse_grid.shape]
        self._plans, self._view_plans = PlanCache(), PlanCache()

    def estimate(self, image: Array) -> Array:
        """Return the scatter of an image, nowhere below zero: a background for `AcquisitionModel`."""
        scatter = self(image)
        return clipped(scatter, low=0.0)

    def subset(self, k: int, n: int) -> Self:
        """Return the projector of views k, k + n, ...; the kernels are shared."""
        part: Self = object.__new__(type(self))
        coarse = self._coarse.subset(k, n)
        own = {
            "_coarse": coarse,
            "geometry": coarse.geometry,
            "out_shape": coarse.out_shape,
            "_view_plans": PlanCache(),
        }
        part.__dict__.update(self.__getstate__(), **own, _kernels=self._kernels)
        return part

    def _forward(self, x: Array) -> Array:
        xp, (density, spectra, sharing), weights = array_namespace(x), self._made(x), self._view_weights(x)
        cells, fft = _along_axes(x, sharing), fft_of(x)
        spectrum = fft.rfftn(cells, s=self._size, axes=(0, 1, 2))

        def part(some: slice) -> Array:
            sources = fft.irfftn(spectra[some] * spectrum, s=self._size, axes=(1, 2, 3))
            views = self._coarse._apply(xp.asarray(density * self._cropped(sources), copy=True))
            return xp.sum(weights[some] * views, axis=0)

        return without_rounding_below_zero(add_up(part(some) for some in self._batches()), x)

    def _adjoint(self, y: Array) -> Array:
        xp, (density, spectra, sharing), weights = array_namespace(y), self._made(y), self._view_weights(y)
        fft, total = fft_of(y), 0.0
        for some in self._batches():
            sources = density * self._coarse.T._apply(weights[some] * y)
            spectrum = fft.rfftn(sources, s=self._size, axes=(1, 2, 3))
            total = total + (xp.conj(spectra[some]) * spectrum).sum(0)
        cells = self._cropped(fft.irfftn(total, s=self._size, axes=(0, 1, 2)))
        return without_rounding_below_zero(_along_axes(cells, [matrix.T for matrix in sharing]), y)

    def _cropped(self, padded: Array) -> Array:
        nx, ny, nz = self.coarse_grid.shape
        return padded[..., :nx, :ny, :nz]

    def _batches(self) -> list[slice]:
        n = max(1, _BATCH_VALUES // math.prod(self.out_shape))
        return [slice(first, first + n) for first in range(0, self._directions.size, n)]

    @property
    def _directions(self) -> np.ndarray:
        n = 2 * self.source.degree + 1
        return 2 * math.pi * np.arange(n) / n

    @cached_property
    def _kernels(self) -> np.ndarray:
        """K times the cells' volume, towards every direction, with its middle at cell 0: (directions, ``*padded``)."""
        return _kernels(self.source, self.coarse_grid, self.grid.voxel_size, self._directions)

    def _made(self, x: Array) -> tuple[Array, Array, list[Array]]:
        """Relative density, the kernels' spectra, and how voxels are shared by cells along each axis."""

        def make() -> tuple[Array, Array, list[Array]]:
            fft = fft_of(self._kernels)
            name = "complex64" if dtype_name(x) == "float32" else "complex128"
            spectra = fft.rfftn(self._kernels, s=self._size, axes=(1, 2, 3)).astype(name)
            axes = zip(self.in_shape, self._factors, self.coarse_grid.shape)
            sharing = [like(_sharing(*sizes), x) for sizes in axes]
            return like(self._density, x), array_namespace(x).asarray(spectra, device=device(x)), sharing

        made: tuple[Array, Array, list[Array]] = self._plans.get(x, make)
        return made

    def _view_weights(self, x: Array) -> Array:
        """The Dirichlet kernels, (directions, views, 1, 1)."""

        def make() -> Array:
            toward, _ = self.geometry.directions
            n = self.source.degree
            turn = np.arctan2(toward[:, 1], toward[:, 0]) - self._directions[:, None]
            waves = np.cos(np.arange(1, n + 1)[:, None, None] * turn).sum(0)
            return like((1 + 2 * waves)[..., None, None] / (2 * n + 1), x)

        return self._view_plans.get(x, make)

    def __str__(self) -> str:
        low, high = self.source.energy_window
        return "\n".join(
            [
                repr(self),
                f"  window   {low:g} to {high:g} keV, emission {self.source.energy:g} keV",
                f"  orders   1 to {self.source.highest_order}",
                f"  cells    {self.coarse_grid}, {self._directions.size} directions",
            ]
        )

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in super().__getstate__().items() if name != "_kernels"}


# ---- the kernel on the grid -----------------------------------------------------------------------------------------


def _kernels(source: EffectiveSource, grid: ImageGrid, voxel_size: ArrayLike, directions: np.ndarray) -> np.ndarray:
    """Return the mean of K from points of a voxel to points of a cell, times a cell's volume, for all offsets of cells.

    The difference of such points has, along each axis, the density of box(cell) conv box(voxel) around the offset. Two
    nodes with its variance stand for it, a fine product rule between neighbours, where K is steep, and far away the
    middle alone.
    """
    size, voxel = np.asarray(grid.voxel_size), np.asarray(voxel_size)
    nx, ny, nz = grid.shape
    axes = np.fft.ifftshift(np.arange(-nx, nx)), np.fft.ifftshift(np.arange(-ny, ny)), np.arange(nz + 1)
    index = np.stack([n.ravel() for n in np.meshgrid(*axes, indexing="ij")], 1)
    offset, steps = index * size, np.abs(index).max(1)
    near, far = steps <= 1, steps > _PAIRED
    between = ~(near | far)
    out = np.empty((directions.size, near.size))
    out[:, far] = _towards(source, offset[far], directions)
    pair = np.sqrt((size**2 + voxel**2) / 12) * _product(np.array([-1, 1]))
    out[:, between] = _towards(source, offset[between][:, None] + pair, directions).mean(-1)
    nodes = (size + voxel) / 2 * _product(np.arange(-15, 16, 2) / 16)
    weight = np.minimum((size + voxel) / 2 - np.abs(nodes), np.minimum(size, voxel)).prod(1)
    out[:, near] = _towards(source, offset[near][:, None] + nodes, directions) @ (weight / weight.sum())
    half = float(size.prod()) * out.reshape(directions.size, 2 * nx, 2 * ny, nz + 1)
    return np.concatenate([half, half[..., -2:0:-1]], axis=-1)


def _towards(source: EffectiveSource, r: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Return K at r (..., 3) from the decay, seen from gantry directions (in radians from x to y), in 1/mm^3."""
    s = np.linalg.norm(r, axis=-1)
    radial, series = source._radial(s), source._series(s)
    cosines = ((math.cos(a) * r[..., 0] + math.sin(a) * r[..., 1]) / s for a in directions)
    return np.stack([radial * legval(cosine, series, tensor=False) for cosine in cosines])


def _product(nodes: np.ndarray) -> np.ndarray:
    """Return all (x, y, z) of the nodes of one axis."""
    return np.stack([n.ravel() for n in np.meshgrid(nodes, nodes, nodes)], 1)


def _nearest_series(values: np.ndarray, degree: int) -> np.ndarray:
    """Return the Legendre series nearest to values over the cosines among those that are not negative at any of them.

    In coordinates around the free fit this is least distance programming, a non-negative least squares problem.

    Source: Lawson & Hanson, Solving Least Squares Problems, chapter 23.
    """
    scale = float(np.abs(values).max())
    if scale == 0:
        return np.zeros(degree + 1)
    basis = eval_legendre(np.arange(degree + 1), _COSINES[:, None])
    q, r = np.linalg.qr(basis)
    free = q.T @ values
    constraints = np.vstack([q.T, -q @ free / scale])
    target = np.append(np.zeros(degree + 1), 1.0)
    residual = constraints @ scipy.optimize.nnls(constraints, target)[0] - target
    series: np.ndarray = np.linalg.solve(r, free - scale * residual[:-1] / residual[-1])
    return series


# ---- cells ----------------------------------------------------------------------------------------------------------


def _coarse_grid(grid: ImageGrid, factors: list[int]) -> ImageGrid:
    shape = tuple(-(-n // f) for n, f in zip(grid.shape, factors))
    size = tuple(f * d for f, d in zip(factors, grid.voxel_size))
    origin = tuple(o + (f - 1) / 2 * d for o, f, d in zip(grid.origin, factors, grid.voxel_size))
    return ImageGrid(shape, size, origin)  # type: ignore[arg-type]


def _means(mu: np.ndarray, factors: list[int], shape: tuple[int, ...]) -> np.ndarray:
    """Return means over cells of factors voxels, with air around the image."""
    full = np.zeros([n * f for n, f in zip(shape, factors)])
    full[tuple(slice(n) for n in mu.shape)] = mu
    (nx, ny, nz), (fx, fy, fz) = shape, factors
    return full.reshape(nx, fx, ny, fy, nz, fz).mean((1, 3, 5))


def _sharing(n_voxels: int, factor: int, n_cells: int) -> np.ndarray:
    """Return (cells, voxels): a voxel is shared by the nearest two cells so that its centre of mass stays."""
    position = np.clip((np.arange(n_voxels) + 0.5) / factor - 0.5, 0, n_cells - 1)
    return np.maximum(1 - np.abs(position - np.arange(n_cells)[:, None]), 0)


def _along_axes(x: Array, matrices: list[Array]) -> Array:
    """Return the image (x, y, z) with a matrix applied along each axis."""
    xp = array_namespace(x)
    for matrix in matrices:  # each turns the axes by one
        x = xp.permute_dims(xp.tensordot(matrix, x, axes=([1], [0])), (1, 2, 0))
    return xp.asarray(x, copy=True)


# ---- photons in water -----------------------------------------------------------------------------------------------


def _water_table(energy: np.ndarray) -> np.ndarray:
    """Return the attenuation of water in 1/cm at energies from 20 to 1000 keV."""
    nodes = np.geomspace(20, 1000, 120)
    mu = [linear_attenuation("water", float(e)) for e in nodes]
    return np.exp(np.interp(np.log(energy), np.log(nodes), np.log(mu)))


def _sampled_cosines(rng: np.random.Generator, energy: np.ndarray) -> np.ndarray:
    """Return cosines of Klein-Nishina scattering, by rejection below the forward cross section."""
    cosine, left = np.empty(energy.size), np.arange(energy.size)
    while left.size:
        trial = rng.uniform(-1, 1, left.size)
        accepted = rng.random(left.size) * klein_nishina(1.0, energy[left]) < klein_nishina(trial, energy[left])
        cosine[left[accepted]] = trial[accepted]
        left = left[~accepted]
    return cosine


def _turned(direction: np.ndarray, cosine: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Return unit vectors (n, 3) turned away from `direction` by the polar cosine, at an angle around it."""
    helper = np.where(np.abs(direction[:, 2:]) < 0.9, [[0.0, 0, 1]], [[1.0, 0, 0]])
    first = np.cross(direction, helper)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(direction, first)
    sine = np.sqrt(1 - cosine**2)
    sideways = np.cos(angle)[:, None] * first + np.sin(angle)[:, None] * second
    return cosine[:, None] * direction + sine[:, None] * sideways
