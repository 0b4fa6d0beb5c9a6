"""The absorbed dose of an activity that is known in every voxel, by convolution with voxel S values."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.fft import irfftn, next_fast_len, rfftn

from emrecon.projectors import ImageGrid
from emrecon.projectors.core.arrays import Array, to_numpy
from emrecon.projectors.core.grid import FrozenArrays
from emrecon.projectors.physics import isotope

from .kernel import MGY_PER_MEV_G, voxel_kernel
from .points import point_kernel

_LOG = logging.getLogger("emrecon")
METHODS = ("kernel", "local")
"""Methods of `absorbed_dose` by name."""
AIR = 0.1
"""g/mL below which a voxel is air and gets no dose; lungs have 0.2 and more."""


@dataclass(frozen=True, eq=False)
class DoseMap(FrozenArrays):
    """An absorbed dose, and what it was calculated from.

    Args:
        image : (x, y, z) Gy.
        grid : of the image.
        nuclide : its name.
        activity : (x, y, z) time-integrated activity concentration, MBq h/mL.
        density : (x, y, z) g/mL, None for water of 1 g/mL everywhere.
        method : "kernel", "local", "monte-carlo", or "network".
        absorbed : the share of the emitted energy that the image's voxels absorb; photons carry the rest out of it,
            or voxels of air would have got it.
    """

    image: np.ndarray
    grid: ImageGrid
    nuclide: str
    activity: np.ndarray
    density: np.ndarray | None
    method: str
    absorbed: float

    @property
    def mass(self) -> np.ndarray:
        """Of every voxel, g; of water where no density is known."""
        density = np.ones(self.grid.shape) if self.density is None else self.density
        return density * self.grid.voxel_volume

    @property
    def total_activity(self) -> float:
        """Time-integrated activity of the whole image, MBq h."""
        return float(self.activity.sum()) * self.grid.voxel_volume

    def __str__(self) -> str:
        medium = "water of 1 g/mL" if self.density is None else "tissue, scaled by its density"
        return (
            f"absorbed dose of {self.nuclide} in {medium}, {self.grid}: up to {self.image.max():.4g} Gy, "
            f"{self.total_activity:.4g} MBq h, {self.absorbed:.1%} of the energy absorbed in the image"
        )


class DoseMethod(Protocol):
    """What makes a dose of a time-integrated activity, such as a Monte Carlo or a network with its settings."""

    def __call__(self, activity: Array, grid: ImageGrid, nuclide: str, *, density: Array | None = None) -> DoseMap:
        """Return the dose in Gy of an activity in MBq h/mL and a density in g/mL, as `absorbed_dose` does."""


def absorbed_dose(
    activity: Array, grid: ImageGrid, nuclide: str, *, density: Array | None = None, method: str = "kernel"
) -> DoseMap:
    """Return the absorbed dose of a time-integrated activity, D = rho_water / rho * (S convolved with A), in Gy.

    Args:
        activity : (x, y, z) time-integrated activity concentration, MBq h/mL.
        grid : of the activity.
        nuclide : "Lu-177", "Y-90" or "I-131", any spelling.
        density : (x, y, z) g/mL. The energy in a voxel is taken as that in water, and divided by the voxel's mass;
            below 0.1 g/mL a voxel is air and gets no dose. Without it all is water of 1 g/mL.
        method : "kernel" for voxel S values of electrons and photons; "local" leaves the energy of electrons in the
            voxel that they arise in, for images whose own resolution is coarser than the reach of electrons.

    Nothing is outside of the image: activity there gives no dose here.

    Raises ValueError for activity that is negative or not finite, other shapes, other nuclides, and densities that are
    negative or above 25 g/mL.

    Source: Bolch et al. 1999 (MIRD pamphlet 17); Dieudonne et al. 2013 (density); Ljungberg & Sjogreen Gleisner 2011
    (local absorption).
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose from {', '.join(METHODS)}")
    A = _checked("activity", activity, grid)
    rho = None if density is None else _checked("density", density, grid)
    if rho is not None and rho.max() > 25:
        raise ValueError(f"densities go up to {rho.max():.4g} g/mL; are these Hounsfield units, or kg/m3?")
    name = isotope(nuclide).name
    S = voxel_kernel(name, grid.voxel_size, half_width=tuple(n - 1 for n in grid.shape))
    electrons = S.electrons if method == "kernel" else _in_one_voxel(S.electrons, name, S.mass)
    per_voxel = A * grid.voxel_volume * 3600  # MBq s
    dose = np.maximum(convolved(per_voxel, electrons + S.photons), 0) / 1000
    reaches = A.sum() * grid.voxel_volume * 3600 * S.emitted * MGY_PER_MEV_G / 1000  # Gy g
    if rho is not None:
        air = rho < AIR
        absorbed = float(dose[~air].sum()) * S.mass
        lost = float(dose[air].sum()) * S.mass
        dose = np.where(air, 0.0, dose / np.where(air, 1.0, rho))
        if reaches > 0 and lost > 0.001 * reaches:
            _LOG.warning("%.1f %% of the energy falls into voxels of air, which get no dose", 100 * lost / reaches)
    else:
        absorbed = float(dose.sum()) * S.mass
    return DoseMap(dose, grid, name, A, rho, method, absorbed / reaches if reaches > 0 else 0.0)


def convolved(image: np.ndarray, octant: np.ndarray) -> np.ndarray:
    """Return an image convolved with a kernel that is given for offsets from (0, 0, 0) on; nothing wraps around."""
    size = [next_fast_len(2 * n - 1, real=True) for n in image.shape]
    kernel = np.zeros(size)
    kernel[tuple(slice(0, n) for n in octant.shape)] = octant
    for axis in range(3):
        behind = [slice(None)] * 3
        ahead = [slice(None)] * 3
        n = octant.shape[axis]
        if n > 1:
            behind[axis], ahead[axis] = slice(size[axis] - n + 1, None), slice(n - 1, 0, -1)
            kernel[tuple(behind)] = kernel[tuple(ahead)]
    spectrum = rfftn(image, size)
    spectrum *= rfftn(kernel)
    found: np.ndarray = irfftn(spectrum, size)[tuple(slice(0, n) for n in image.shape)]
    return found


def uniform_dose(nuclide: str, concentration: float, density: float = 1.0) -> float:
    """Return the dose in Gy in a medium without end, A E / rho, for MBq h/mL and g/mL: what large regions tend to.

    Args:
        concentration : time-integrated, MBq h/mL.
    """
    if not (math.isfinite(concentration) and concentration >= 0 and density > 0):
        raise ValueError(f"need a concentration >= 0 and a density > 0, got {concentration} and {density}")
    return concentration * 3.6 * MGY_PER_MEV_G * point_kernel(nuclide).emissions.energy / 1000 / density


def _in_one_voxel(electrons: np.ndarray, nuclide: str, mass: float) -> np.ndarray:
    """All energy of electrons in the source voxel."""
    alone = np.zeros_like(electrons)
    alone[0, 0, 0] = point_kernel(nuclide).electron_energy / 1000 * MGY_PER_MEV_G / mass
    return alone


def _checked(name: str, image: Array, grid: ImageGrid) -> np.ndarray:
    values = np.asarray(to_numpy(image), float)
    if values.shape != grid.shape:
        raise ValueError(f"{name} of shape {values.shape} does not fit a grid of {grid.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds NaN or infinite values")
    if values.min() < 0:
        raise ValueError(f"{name} goes down to {values.min():.4g}; it cannot be negative")
    return values
