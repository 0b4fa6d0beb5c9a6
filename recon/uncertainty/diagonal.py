"""The diagonal of a matrix that is known by its products alone: voxel by voxel, by probing, or from drawings."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from emrecon.projectors.core.arrays import Array, array_namespace, device, dtype_name, like, to_numpy
from emrecon.projectors.core.progress import tracked

from .information import unit_images

Product = Callable[[Array], Array]
Draw = Callable[[int, np.random.Generator], Array]

METHODS = ("auto", "exact", "probing", "sampling")
_N_PILOTS = 16  # voxels whose whole column of the matrix is looked at
_N_ROUGH = 24  # drawings for a first idea of the diagonal
_DENSE_FROM = 32  # voxels; fewer are found one by one

_LOG = logging.getLogger("emrecon")


@dataclass(frozen=True, eq=False)
class Diagonal:
    """The diagonal of a matrix, as an image, and how it was found.

    Args:
        values : (..., x, y, z), NaN where it was not asked for.
        method : "exact", "probing" or "sampling".
        n_products : products with the matrix, or drawings.
        error : the relative error of the square root that is expected, as a root mean square over voxels; 0 for exact.
        seen_error : that which was met in the voxels whose columns are known; None where none are.
    """

    values: Array
    method: str
    n_products: int
    error: float
    seen_error: float | None = None


@dataclass(frozen=True)
class Lattice:
    """Voxels that are probed together: every px-th, py-th and pz-th, with random signs, in `draws` drawings."""

    spacing: tuple[int, int, int]
    draws: int
    error: float

    @property
    def n_products(self) -> int:
        """How many products a map takes."""
        return math.prod(self.spacing) * self.draws


@dataclass(frozen=True, eq=False)
class DiagonalEstimator:
    """How the diagonal of a matrix C is found from v -> C v.

    Args:
        product : C v for images (K, ``*x``).
        image : an image x, (..., x, y, z), whose library, precision and batch count.
        inside : the voxels (..., x, y, z) that are wanted, booleans.
        draw : n drawings with mean 0 and covariance C, each at half the cost of a product; None where there are none.
        dense : the whole diagonal by way of the matrix, where that is faster than a product for every voxel.
        at_once : how many images a product takes.
        seed : of the random numbers.
    """

    product: Product
    image: Array
    inside: Array
    draw: Draw | None
    dense: Callable[[], np.ndarray] | None
    at_once: int
    seed: int

    def estimate(self, method: str, tolerance: float) -> Diagonal:
        """Return the diagonal by a method of `METHODS`, its square root within a relative error, rms over voxels::

            exact      (C e_j)_j of every voxel, or by way of the matrix where few move
            probing    z_j (C z)_j / z_j^2, z = +-1 / s on a lattice of voxels and 0 elsewhere, for every place of the
                       lattice, s^2 a rough idea of the diagonal; its relative error is the sum of +-C_jk / (s_j s_k)
                       over the other voxels of the lattice
            sampling   the mean square of drawings; relative error 1 / sqrt(2 n) of n

        auto takes the cheapest that reaches the tolerance. The columns of 16 voxels, chosen at random, say which
        spacing that needs, and how well the map agrees with them.

        Source: Bekas, Kokiopoulou & Saad 2007; Tang & Saad 2012 (probing).
        """
        voxels = np.argwhere(to_numpy(self.inside).reshape(-1, *self.image.shape[-3:]).any(0))
        if not len(voxels):
            return Diagonal(self._within(array_namespace(self.image).zeros_like(self.image)), "exact", 0, 0.0)
        n_drawn = math.ceil(1 / (2 * tolerance**2))
        if self.dense is not None and method in ("auto", "exact") and len(voxels) > _DENSE_FROM:
            return Diagonal(self._within(like(self.dense(), self.image)), "exact", len(voxels), 0.0)
        if method == "exact" or (method != "sampling" and len(voxels) <= 2 * _N_PILOTS):
            return self._exact(voxels)
        if method == "sampling":
            return self._sampled(n_drawn)
        pilots = voxels[np.random.default_rng(self.seed).choice(len(voxels), _N_PILOTS, replace=False)]
        columns = np.concatenate([to_numpy(self.product(unit)) for unit in self._units(pilots)])
        rough = self._rough()
        lattice = choose_lattice(columns * rough, pilots, to_numpy(self.inside), tolerance)
        costs = {"exact": float(len(voxels)), "probing": float(lattice.n_products)}
        if self.draw is not None:
            costs["sampling"] = n_drawn / 2
        best = min(costs, key=lambda name: costs[name]) if method == "auto" else "probing"
        if best == "exact":
            return self._exact(voxels)
        found = self._sampled(n_drawn) if best == "sampling" else self._probed(lattice, rough)
        return self._compared(found, pilots, columns)

    def _exact(self, voxels: np.ndarray) -> Diagonal:
        total = self._zeros()
        for unit in self._units(voxels):
            total = total + self._summed(unit * self.product(unit))
        return Diagonal(self._within(total), "exact", len(voxels), 0.0)

    def _rough(self) -> np.ndarray:
        """1 / s, s^2 a rough idea of the diagonal; 1 where there is none."""
        if self.draw is None:
            return np.ones(self.image.shape, dtype_name(self.image))
        drawn = [self.draw(n, np.random.default_rng((self.seed, 3, n))) for n in self._portions(_N_ROUGH)]
        squares = np.mean(np.concatenate([to_numpy(part) for part in drawn]) ** 2, 0)
        inverse: np.ndarray = np.where(squares > 0, 1 / np.sqrt(np.where(squares > 0, squares, 1)), 0)
        return inverse.astype(dtype_name(self.image))

    def _portions(self, n: int) -> list[int]:
        return [min(self.at_once, n - first) for first in range(0, n, self.at_once)]

    def _probed(self, lattice: Lattice, rough: np.ndarray) -> Diagonal:
        total, generator = self._zeros(), np.random.default_rng((self.seed, 1))
        scale = like(np.where(rough > 0, rough, 1), self.image)
        for _ in range(lattice.draws):
            for probe in self._probes(lattice.spacing, generator):
                total = total + self._summed(probe * self.product(probe * scale) / scale)
        return self._repaired(Diagonal(total / lattice.draws, "probing", lattice.n_products, lattice.error))

    def _sampled(self, n: int) -> Diagonal:
        if self.draw is None:
            raise ValueError("sampling needs a likelihood whose noise is known bin by bin; use probing")
        total, generator = self._zeros(), np.random.default_rng((self.seed, 2))
        portions = self._portions(n)
        for part in tracked(portions, "drawing noise", len(portions)):
            total = total + self._summed(self.draw(part, generator) ** 2)
        return Diagonal(self._within(total / n), "sampling", n, 1 / math.sqrt(2 * n))

    def _repaired(self, found: Diagonal) -> Diagonal:
        """Find what probing leaves at 0 or below voxel by voxel: a quiet voxel far below its neighbours."""
        xp = array_namespace(found.values)
        lost = self.inside & ~(found.values > 0)
        voxels = np.argwhere(to_numpy(lost).reshape(-1, *self.image.shape[-3:]).any(0))
        values, n = found.values, found.n_products
        if len(voxels):
            values = xp.where(lost, self._exact(voxels).values, values)
            n += len(voxels)
        return Diagonal(self._within(values), found.method, n, found.error)

    def _compared(self, found: Diagonal, pilots: np.ndarray, columns: np.ndarray) -> Diagonal:
        """Put the voxels that are known into the map, after the look at how far it was off."""
        known = np.stack([column[(..., *voxel)] for column, voxel in zip(columns, pilots)])
        got = np.stack([to_numpy(found.values)[(..., *voxel)] for voxel in pilots])
        use = (known > 0) & (got > 0)
        off = np.sqrt(got[use] / known[use]) - 1
        seen = float(np.sqrt(np.mean(off**2))) if off.size else None
        return Diagonal(found.values, found.method, found.n_products + len(pilots), found.error, seen)

    def _units(self, voxels: np.ndarray) -> Iterator[Array]:
        for first in tracked(range(0, len(voxels), self.at_once), "voxels", math.ceil(len(voxels) / self.at_once)):
            yield unit_images([tuple(map(int, v)) for v in voxels[first : first + self.at_once]], self.image)

    def _probes(self, spacing: tuple[int, int, int], generator: np.random.Generator) -> Iterator[Array]:
        """Signs on a lattice and 0 elsewhere, for every place of the lattice; voxels that are not wanted are 0."""
        xp, shape = array_namespace(self.image), tuple(self.image.shape[-3:])
        signs = generator.choice([-1.0, 1.0], shape).astype(dtype_name(self.image))
        wanted = to_numpy(self.inside)
        colours = colours_of(shape, spacing)
        used = [c for c in range(math.prod(spacing)) if wanted[..., colours == c].any()]
        for first in tracked(range(0, len(used), self.at_once), "probes", math.ceil(len(used) / self.at_once)):
            host = np.stack([np.where((colours == c) & wanted, signs, 0) for c in used[first : first + self.at_once]])
            yield xp.asarray(host.astype(signs.dtype), device=device(self.image))

    def _zeros(self) -> Array:
        xp = array_namespace(self.image)
        zeros: Array = xp.zeros_like(self.image)
        return zeros

    def _summed(self, values: Array) -> Array:
        total: Array = array_namespace(values).sum(values, axis=0)
        return total

    def _within(self, values: Array) -> Array:
        xp = array_namespace(values)
        kept: Array = xp.where(self.inside, values, xp.full_like(values, math.nan))
        return kept


def colours_of(shape: Sequence[int], spacing: Sequence[int]) -> np.ndarray:
    """Return the place of every voxel in a lattice of the spacing, whole numbers from 0."""
    x, y, z = np.indices(tuple(shape))
    px, py, pz = spacing
    colours: np.ndarray = (x % px * py + y % py) * pz + z % pz
    return colours


def choose_lattice(columns: np.ndarray, voxels: np.ndarray, inside: np.ndarray, tolerance: float) -> Lattice:
    """Return the lattice with the fewest products whose relative error of a square root is within the tolerance::

        error = sqrt( mean over j of  sum over k of C_jk^2 / C_jj^2 ) / 2,      k on the lattice of j, without j

    over the root of the number of drawings.

    Args:
        columns : C e_j (over s), (n, ..., x, y, z).  voxels : the voxels j, (n, 3).
        inside : the voxels that carry probes, (..., x, y, z).
    """
    shape = columns.shape[-3:]
    own = np.stack([column[(..., *voxel)] for column, voxel in zip(columns, voxels)])
    shares = inside * columns**2 / np.where(own > 0, own, np.inf)[..., None, None, None] ** 2
    shares = shares.reshape(len(voxels), -1, *shape)
    known = (own > 0).reshape(len(voxels), -1)
    best: Lattice | None = None
    for spacing in _spacings(shape):
        if best is not None and math.prod(spacing) >= best.n_products:
            continue
        found = []
        for share, voxel, use in zip(shares, voxels, known):
            part = tuple(slice(int(v) % p, None, p) for v, p in zip(voxel, spacing))
            sums = share[(slice(None), *part)].sum((1, 2, 3)) - 1
            found.extend(np.maximum(sums[use], 0.0))
        squared = float(np.mean(found)) / 4 if found else 0.0
        draws = max(1, math.ceil(squared / tolerance**2))
        candidate = Lattice(spacing, draws, math.sqrt(squared / draws))
        if best is None or candidate.n_products < best.n_products:
            best = candidate
    assert best is not None
    return best


def _spacings(shape: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """The spacings that are tried, the same along x and y where both are long enough; coarse first in no order."""
    nx, ny, nz = shape
    along_z = range(1, min(nz, 24) + 1)
    return [(min(p, nx), min(p, ny), q) for p in range(1, min(max(nx, ny), 32) + 1) for q in along_z]
