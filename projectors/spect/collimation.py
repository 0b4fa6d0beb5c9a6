"""Collimators and detector responses: how wide a point source looks at a distance from the collimator face."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from ..core.arrays import require_constant
from ..core.tables import read_table
from ..physics.attenuation import linear_attenuation

FWHM_TO_SIGMA = 1 / (2 * math.sqrt(2 * math.log(2)))
_EFFICIENCY_CONSTANT = {"hexagonal": 0.26, "round": 0.24, "square": 0.28}


@runtime_checkable
class GaussianResponse(Protocol):
    """A response that is a Gaussian at each distance."""

    def sigma(self, distance: ArrayLike) -> np.ndarray:
        """Return the standard deviation in mm at `distance` mm from the collimator face."""
        ...


@dataclass(frozen=True)
class LinearResponse:
    """A Gaussian response whose width is linear: sigma(d) = slope d + intercept.

    Args:
        slope : mm per mm.
        intercept : mm.

    Raises ValueError for negative values.
    """

    slope: float
    intercept: float

    def __post_init__(self) -> None:
        if not (self.slope >= 0 and self.intercept >= 0 and math.isfinite(self.slope + self.intercept)):
            raise ValueError(f"LinearResponse needs slope >= 0 (mm per mm) and intercept >= 0 (mm), got {self}")

    def sigma(self, distance: ArrayLike) -> np.ndarray:
        """Return slope d + intercept in mm."""
        return self.slope * np.asarray(distance, float) + self.intercept


@dataclass(frozen=True)
class CollimatorResponse:
    """Geometric and intrinsic resolution in quadrature: sigma(d) = sqrt((a d + b)^2 + c^2).

    Args:
        a : mm per mm.
        b, c : mm (c is the intrinsic resolution of the detector).
        energy : keV that it holds for, None where unknown.
        collimator : that it comes from, None where unknown.
    """

    a: float
    b: float
    c: float
    energy: float | None = field(default=None, repr=False, compare=False)
    collimator: ParallelHoleCollimator | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not (min(self.a, self.b, self.c) >= 0 and math.isfinite(self.a + self.b + self.c)):
            raise ValueError(f"CollimatorResponse needs finite a, b, c >= 0, got {self}")

    def sigma(self, distance: ArrayLike) -> np.ndarray:
        """Return the standard deviation in mm at `distance` mm."""
        return np.hypot(self.a * np.asarray(distance, float) + self.b, self.c)


@dataclass(frozen=True, eq=False)
class MeasuredResponse:
    """Point spread functions measured or simulated at several distances, of any shape (septal penetration, scatter).

    Args:
        distances : (k,) mm from the collimator face, increasing.
        kernels : (k, nu, nz) with odd nu and nz, centred, not negative: counts in pixels, as a camera records a point;
            they are scaled to sum to one (efficiency belongs in factors).
        pixel_size : (du, dz) mm of the kernels' pixels, or one number. A camera with bins of another size integrates
            over those.

    Between distances the kernels are interpolated linearly, outside them the nearest is used.
    """

    distances: np.ndarray
    kernels: np.ndarray
    pixel_size: tuple[float, float]

    def __post_init__(self) -> None:
        require_constant(self.kernels, "MeasuredResponse kernels")
        distances, kernels = np.atleast_1d(np.array(self.distances, float)), np.array(self.kernels, float)
        pixel = np.ravel(np.asarray(self.pixel_size, float))
        pixel = np.full(2, pixel[0]) if pixel.size == 1 else pixel
        if kernels.ndim != 3 or kernels.shape[0] != distances.size:
            raise ValueError(f"MeasuredResponse expects kernels ({distances.size}, nu, nz), got {kernels.shape}")
        if distances.size == 0 or not np.all(np.isfinite(distances)) or np.any(np.diff(distances) <= 0):
            raise ValueError("MeasuredResponse distances must be finite and increase")
        if kernels.shape[1] % 2 == 0 or kernels.shape[2] % 2 == 0:
            raise ValueError(f"MeasuredResponse kernels need odd sizes so that they have a centre, got {kernels.shape}")
        sums = kernels.sum((1, 2))
        if np.any(kernels < 0):
            raise ValueError(
                f"MeasuredResponse kernels go down to {kernels.min():.3g}, but no point gives counts below zero; "
                "cut what a background subtraction left there, as numpy.maximum(kernels, 0) does"
            )
        if not np.all(np.isfinite(kernels)) or np.any(sums <= 0) or pixel.size != 2 or not np.all(pixel > 0):
            raise ValueError("MeasuredResponse kernels must be finite with positive sums, pixel_size positive mm")
        object.__setattr__(self, "distances", distances)
        object.__setattr__(self, "kernels", kernels / sums[:, None, None])
        object.__setattr__(self, "pixel_size", tuple(pixel.tolist()))

    def kernel(self, distance: float) -> np.ndarray:
        """Return the (nu, nz) kernel at `distance` mm; it sums to one."""
        position = float(np.interp(distance, self.distances, np.arange(self.distances.size)))
        low = min(int(position), self.distances.size - 2) if self.distances.size > 1 else 0
        weight = position - low
        high = min(low + 1, self.distances.size - 1)
        return (1 - weight) * self.kernels[low] + weight * self.kernels[high]

    @property
    def reach(self) -> tuple[float, float]:
        """How far a kernel extends from its centre along u and z, in mm."""
        _, nu, nz = self.kernels.shape
        return nu // 2 * self.pixel_size[0], nz // 2 * self.pixel_size[1]


Response = GaussianResponse | MeasuredResponse


@dataclass(frozen=True)
class ParallelHoleCollimator:
    """A parallel-hole collimator by its dimensions in mm.

    Args:
        hole_diameter : flat to flat; septal_thickness; hole_length.
        hole_shape : "hexagonal", "round" or "square".
    """

    hole_diameter: float
    septal_thickness: float
    hole_length: float
    hole_shape: str = "hexagonal"
    material: str = "lead"
    name: str = ""

    def __post_init__(self) -> None:
        if not all(0 < size < math.inf for size in (self.hole_diameter, self.septal_thickness, self.hole_length)):
            raise ValueError(f"ParallelHoleCollimator dimensions must be positive mm, got {self}")
        if self.hole_shape not in _EFFICIENCY_CONSTANT:
            raise ValueError(f"hole_shape must be one of {', '.join(_EFFICIENCY_CONSTANT)}, got {self.hole_shape!r}")

    def effective_length(self, energy_kev: float) -> float:
        """Return L - 2 / mu(E) in mm: photons pass the hole's ends through the septa (Anger 1964)."""
        length = self.hole_length - 2 * 10 / linear_attenuation(self.material, energy_kev)
        if length <= 0:
            raise ValueError(f"{self} does not collimate {energy_kev:g} keV: its effective length is {length:.1f} mm")
        return length

    def response(self, energy_kev: float, intrinsic_fwhm: float | None = None) -> CollimatorResponse:
        """Return sigma(d) at an energy: FWHM^2 = (D (L_e + d) / L_e)^2 + R_i^2.

        Args:
            intrinsic_fwhm : mm at this energy; by default 3.8 mm at 140 keV, scaled with (E / 140)^(-1/2).

        Source: Anger 1964; Cherry, Sorenson & Phelps, Physics in Nuclear Medicine, chapter on the gamma camera.
        """
        length, width = self.effective_length(energy_kev), FWHM_TO_SIGMA * self.hole_diameter
        intrinsic = 3.8 * (energy_kev / 140) ** -0.5 if intrinsic_fwhm is None else intrinsic_fwhm
        if not (intrinsic >= 0 and math.isfinite(intrinsic)):
            raise ValueError(f"the intrinsic resolution must be a FWHM in mm, not negative, got {intrinsic}")
        return CollimatorResponse(width / length, width, FWHM_TO_SIGMA * intrinsic, energy_kev, self)

    def penetration(self, energy_kev: float) -> float:
        """Return the fraction of photons that the septa let through on the shortest path: exp(-mu(E) w).

        That path through one septum is w = L T / (2 D + T); 5 % is what collimators are designed for (Anger 1964).
        """
        D, T, L = self.hole_diameter, self.septal_thickness, self.hole_length
        return math.exp(-linear_attenuation(self.material, energy_kev) / 10 * L * T / (2 * D + T))

    def efficiency(self, energy_kev: float) -> float:
        """Return the geometric efficiency, the fraction of photons that pass: (K D^2 / (L_e (D + T)))^2.

        K is 0.26 for hexagonal, 0.24 for round and 0.28 for square holes (Cherry, Sorenson & Phelps).
        """
        pitch = self.hole_diameter + self.septal_thickness
        constant = _EFFICIENCY_CONSTANT[self.hole_shape]
        return (constant * self.hole_diameter**2 / (self.effective_length(energy_kev) * pitch)) ** 2


def collimators() -> tuple[str, ...]:
    """Return the names `collimator` knows: plain names such as "siemens-lehr", then the codes of SIMIND's list."""
    rows = read_table(__package__, "collimators.csv")
    return (*(row["alias"] for row in rows if row["alias"]), *(row["name"] for row in rows))


def collimator(name: str) -> ParallelHoleCollimator:
    """Return a collimator by name, such as "siemens-lehr" or SIMIND's code "sy-lehr"; case does not matter.

    Raises ValueError for an unknown name.  Source: the collimator list distributed with SIMIND.
    """
    for row in read_table(__package__, "collimators.csv"):
        if name and name.lower() in (row["name"], row["alias"]):
            diameter, septa, length = (
                float(row[column]) for column in ("hole_diameter_mm", "septal_thickness_mm", "hole_length_mm")
            )
            return ParallelHoleCollimator(diameter, septa, length, row["hole_shape"], name=name.lower())
    plain = ", ".join(row["alias"] for row in read_table(__package__, "collimators.csv") if row["alias"])
    raise ValueError(f"unknown collimator {name!r}; choose from {plain}, or a SIMIND code such as sy-lehr")
