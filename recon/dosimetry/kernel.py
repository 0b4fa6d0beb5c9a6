"""Voxel S values: the dose in every voxel around one that holds activity, from point kernels in water."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from emrecon.projectors.core.grid import FrozenArrays, positive_numbers

from .points import PointKernel, point_kernel

MGY_PER_MEV_G = 0.1602176634
"""mGy for 1 MeV in a gram at each decay of 1 MBq s."""

_SHELLS_PER_VOXEL = 24
_BLEND = 3  # voxels over which quadrature along rays hands over to points in voxels
_POINTS_AT_ONCE = 2_000_000


@dataclass(frozen=True, eq=False)
class VoxelSValues(FrozenArrays):
    """Voxel S values of a nuclide in uniform water: mGy in a voxel for each MBq s in another one.

    Args:
        nuclide : its name.
        voxel_size : (dx, dy, dz) mm.
        density : g/mL of the medium; distances are scaled by it, as all interactions are by mass.
        electrons, photons : (nx + 1, ny + 1, nz + 1) mGy/(MBq s) in the voxel that lies (i, j, k) voxels away, from
            (0, 0, 0) on; by symmetry that is all. Photons include bremsstrahlung.
        emitted : MeV per decay.

    The values of electrons and photons add up. Lengths are those of patients' images, time is in seconds.
    """

    nuclide: str
    voxel_size: tuple[float, float, float]
    density: float
    electrons: np.ndarray
    photons: np.ndarray
    emitted: float

    @property
    def half_width(self) -> tuple[int, int, int]:
        """How many voxels it reaches to each side."""
        nx, ny, nz = self.electrons.shape
        return nx - 1, ny - 1, nz - 1

    @property
    def mass(self) -> float:
        """Of a voxel, g."""
        return float(np.prod(self.voxel_size)) / 1000 * self.density

    @cached_property
    def values(self) -> np.ndarray:
        """The whole kernel, (2 nx + 1, 2 ny + 1, 2 nz + 1) mGy/(MBq s), the source in the middle."""
        return mirrored(self.electrons + self.photons)

    def at(self, place: Sequence[int]) -> float:
        """Return the S value of a voxel that lies so many voxels away, mGy/(MBq s).

        Raises ValueError outside of the kernel.
        """
        i, j, k = (abs(int(v)) for v in place)
        if any(v > n for v, n in zip((i, j, k), self.half_width)):
            raise ValueError(f"the kernel reaches {self.half_width} voxels, not {tuple(place)}")
        return float(self.electrons[i, j, k] + self.photons[i, j, k])

    @property
    def self_fraction(self) -> float:
        """The share of the emitted energy that stays in the source voxel."""
        return self.at((0, 0, 0)) * self.mass / (MGY_PER_MEV_G * self.emitted)

    @property
    def absorbed_fraction(self) -> float:
        """The share of the emitted energy that all voxels of the kernel absorb; the rest is photons that leave it."""
        return float(self.values.sum()) * self.mass / (MGY_PER_MEV_G * self.emitted)

    def __str__(self) -> str:
        size = " x ".join(f"{d:g}" for d in self.voxel_size)
        return (
            f"voxel S values of {self.nuclide} in water of {self.density:g} g/mL, voxels of {size} mm: "
            f"{self.at((0, 0, 0)):.4g} mGy/(MBq s) in the source voxel ({self.self_fraction:.1%} of {self.emitted:.4g} "
            f"MeV); {self.absorbed_fraction:.1%} stays within {self.half_width} voxels"
        )


def voxel_kernel(
    nuclide: str, voxel_size: ArrayLike, *, half_width: ArrayLike | None = None, density: float = 1.0
) -> VoxelSValues:
    """Return the voxel S values of a nuclide for voxels of any size, in uniform water::

        S(k) = 1 / m  integral k(r) T(r - r_k) d3r,     T(u) = prod_i max(1 - |u_i| / d_i, 0)

    k(r) is the point kernel, and T is how likely two points of two voxels are to lie r apart. T of all voxels adds up
    to 1, so that no energy is lost.

    Args:
        nuclide : "Lu-177", "Y-90" or "I-131", any spelling.
        voxel_size : mm, three numbers or one.
        half_width : voxels to each side, three numbers or one; by default so many that the kernel reaches as far as
            electrons and at least 5 voxels.
        density : g/mL of water to which distances are scaled; 1.04 is what tables of soft tissue use.

    Electrons and near photons are added up along rays (exact in energy), far photons at 8 points in every voxel.

    Raises ValueError for other nuclides, and sizes, widths and densities that are not positive.

    Source: Bolch et al. 1999 (MIRD pamphlet 17) for the formalism; `point_kernel` for the physics.
    """
    voxel = positive_numbers(voxel_size, 3, "voxel_size (mm)")
    if not 0.01 <= density <= 25:
        raise ValueError(f"density must be 0.01 to 25 g/mL, got {density}")
    point = point_kernel(nuclide)
    scaled = tuple(d / 10 * density for d in voxel)  # g/cm2, or cm of water
    if half_width is None:
        reach = tuple(max(5, math.ceil(point.reach / d) + 1) for d in scaled)
    else:
        given = np.broadcast_to(np.ravel(np.asarray(half_width)), (3,)) if np.size(half_width) in (1, 3) else None
        if given is None or not np.issubdtype(given.dtype, np.integer) or (given < 0).any():
            raise ValueError(f"half_width must be three whole numbers of voxels, got {half_width!r}")
        reach = tuple(int(v) for v in given)
    mass = float(np.prod(voxel)) / 1000 * density
    to_dose = MGY_PER_MEV_G / mass / 1000  # of keV
    electrons = _along_rays(scaled, reach, point.reach, point.electron_within)
    photons = _photons(scaled, reach, point)
    return VoxelSValues(
        point.emissions.nuclide,
        (voxel[0], voxel[1], voxel[2]),
        float(density),
        electrons * to_dose,
        photons * to_dose,
        point.emissions.energy / 1000,
    )


def mirrored(octant: np.ndarray) -> np.ndarray:
    """Return the whole of a kernel that is given for offsets from (0, 0, 0) on."""
    for axis in range(3):
        behind = np.flip(np.take(octant, range(1, octant.shape[axis]), axis), axis)
        octant = np.concatenate([behind, octant], axis)
    return octant


def _photons(voxel: tuple[float, ...], reach: tuple[int, ...], point: PointKernel) -> np.ndarray:
    """Energy of photons per voxel, keV: along rays near the source, at points in voxels far from it, blended."""
    near = _BLEND * max(voxel)
    far = 2 * near

    def weight(r: np.ndarray) -> np.ndarray:
        """1 near the source, 0 far from it."""
        return np.cos(np.pi / 2 * np.clip((r - near) / (far - near), 0, 1)) ** 2

    def within(r: np.ndarray) -> np.ndarray:
        inside = point.photon_within(r)
        shells = np.append(0.0, np.cumsum(np.diff(inside) * weight((r[1:] + r[:-1]) / 2)))
        return inside[:1] + shells

    return _along_rays(voxel, reach, far, within) + _at_points(voxel, reach, point, weight, near)


def _along_rays(
    voxel: tuple[float, ...], reach: tuple[int, ...], radius: float, within: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Energy per voxel of what lies within a radius: shells of rays, each point shared among its eight voxels.

    within : from increasing radii, the first one 0, to the energy inside.
    """
    fine = min(voxel) / _SHELLS_PER_VOXEL
    linear = np.linspace(0, radius, max(2, math.ceil(radius / fine) + 1))
    edges = np.union1d(linear, np.geomspace(1e-5 * radius, radius, 60))
    inside = within(edges)
    shares, middles = np.diff(inside), (edges[1:] + edges[:-1]) / 2
    shares[0] += inside[0]
    n = int(np.clip(4 * radius / min(voxel), 24, 96))
    cosine, weights = np.polynomial.legendre.leggauss(n)
    cosine, weights = (cosine + 1) / 2, weights / 2
    azimuth = (np.arange(n) + 0.5) * (math.pi / 2 / n)
    sine = np.sqrt(1 - cosine**2)
    rays = np.stack(
        [
            (sine[:, None] * np.cos(azimuth)).ravel(),
            (sine[:, None] * np.sin(azimuth)).ravel(),
            np.repeat(cosine, n),
        ]
    )
    share = np.repeat(weights / n, n) / 8
    shape = tuple(r + 2 for r in reach)  # one voxel more takes what lies beyond
    total = np.zeros(math.prod(shape))
    at_once = max(1, _POINTS_AT_ONCE // rays.shape[1])
    for start in range(0, middles.size, at_once):
        part = slice(start, start + at_once)
        amount = (shares[part, None] * share).ravel()
        places = [(middles[part, None] * ray / d).ravel() for ray, d in zip(rays, voxel)]
        total += _spread(places, amount, shape)
    octant = total.reshape(shape)[tuple(slice(0, r + 1) for r in reach)].copy()
    for axis in range(3):  # voxels on a plane of symmetry get their share from both sides
        front = [slice(None)] * 3
        front[axis] = slice(0, 1)
        octant[tuple(front)] *= 2
    return octant


def _spread(places: list[np.ndarray], amount: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Share amounts at places (in voxels) among the eight voxels around, in proportion to nearness."""
    total = np.zeros(math.prod(shape))
    floors = [np.floor(p).astype(np.int64) for p in places]
    parts = [p - f for p, f in zip(places, floors)]
    for corner in range(8):
        index, weight = np.zeros(amount.size, np.int64), amount
        for axis in range(3):
            bit = corner >> axis & 1
            index = index * shape[axis] + np.minimum(floors[axis] + bit, shape[axis] - 1)
            weight = weight * (parts[axis] if bit else 1 - parts[axis])
        total += np.bincount(index, weight, total.size)
    return total


def _at_points(
    voxel: tuple[float, ...],
    reach: tuple[int, ...],
    point: PointKernel,
    weight: Callable[[np.ndarray], np.ndarray],
    near: float,
) -> np.ndarray:
    """Energy per voxel of photons far from the source: eight points of Gauss' rule for two triangles, per voxel."""
    volume = math.prod(voxel)
    farthest = math.sqrt(sum(((r + 1) * d) ** 2 for r, d in zip(reach, voxel)))
    if farthest <= near:
        return np.zeros(tuple(r + 1 for r in reach))
    radii = np.linspace(near / 2, farthest, 4000)
    logs = np.log(point.photon_density(radii) / (4 * math.pi * radii**2))
    total = np.zeros(tuple(r + 1 for r in reach))
    step = [d / math.sqrt(6) for d in voxel]
    x, y, z = ((np.arange(r + 1) * d)[(slice(None), *[None] * (2 - i))] for i, (r, d) in enumerate(zip(reach, voxel)))
    for corner in range(8):
        sx, sy, sz = (s if corner >> i & 1 else -s for i, s in enumerate(step))
        r = np.sqrt((x + sx) ** 2 + (y + sy) ** 2 + (z + sz) ** 2)
        far = 1 - weight(r)
        total += np.where(far > 0, far * np.exp(np.interp(r, radii, logs)), 0) * (volume / 8)
    return total
