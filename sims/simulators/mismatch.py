"""How a simulated scan differs from the model that its reconstruction is given."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import shift as shifted

from emrecon.projectors import ImageGrid


@dataclass(frozen=True)
class Mismatch:
    """How the scan that is simulated differs from the model that a reconstruction is given.

    Args:
        refine : the simulation's voxels (and a SPECT camera's bins) are so many times smaller along each axis.
        attenuation : the attenuation map that is given over the true one.
        shift : (x, y, z) mm by which the map that is given is displaced.
        response : the width of the true response over that which is given.
        background : the scatter and randoms that are given over the true ones.

    The defaults are a careful scan: half the voxel size, a map 2 % too low and displaced by 1 mm, a response 3 % wider
    than believed. Simulating and reconstructing with one model ("inverse crime") makes every method look better than it
    is; `Mismatch.none()` does it knowingly.

    Raises ValueError for numbers that are out of range.
    """

    refine: int = 2
    attenuation: float = 0.98
    shift: tuple[float, float, float] = (1.0, 0.0, 0.0)
    response: float = 1.03
    background: float = 1.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.refine) and self.refine == int(self.refine) and 1 <= self.refine <= 8):
            raise ValueError(f"Mismatch refine must be a whole number from 1 to 8, got {self.refine}")
        for name in ("attenuation", "response", "background"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"Mismatch {name} must be a positive ratio, 1 for none, got {value}")
        if np.shape(self.shift) != (3,) or not np.isfinite(self.shift).all():
            raise ValueError(f"Mismatch shift must be three finite numbers in mm, got {self.shift}")
        object.__setattr__(self, "shift", tuple(float(s) for s in self.shift))

    @classmethod
    def none(cls) -> Mismatch:
        """Return no mismatch at all: the same voxels, map, response and background."""
        return cls(1, 1.0, (0.0, 0.0, 0.0), 1.0, 1.0)

    def fine_grid(self, grid: ImageGrid) -> ImageGrid:
        """Return the grid of the simulation; an image of one slice stays one."""
        n = self._factors(grid)
        size = tuple(d / k for d, k in zip(grid.voxel_size, n))
        origin = tuple(o - (d - s) / 2 for o, d, s in zip(grid.origin, grid.voxel_size, size))
        return ImageGrid(tuple(a * k for a, k in zip(grid.shape, n)), size, origin)  # type: ignore[arg-type]

    def joined(self, fine: np.ndarray, grid: ImageGrid) -> np.ndarray:
        """Return the means (..., nx, ny, nz) on `grid` of images on the fine grid."""
        n = self._factors(grid)
        parts = [k for pair in zip(grid.shape, n) for k in pair]
        return np.asarray(fine.reshape(*fine.shape[:-3], *parts).mean((-5, -3, -1), dtype=np.float64), np.float32)

    def given_attenuation(self, mu: np.ndarray, grid: ImageGrid) -> np.ndarray:
        """Return the map (..., nx, ny, nz) that a reconstruction gets instead of the true one."""
        if any(self.shift):
            by = [s / d if n > 1 else 0.0 for s, d, n in zip(self.shift, grid.voxel_size, grid.shape)]
            mu = shifted(mu, [0.0] * (mu.ndim - 3) + by, order=1, mode="constant", prefilter=False)
        return np.asarray(self.attenuation * mu, np.float32)

    def _factors(self, grid: ImageGrid) -> tuple[int, int, int]:
        n = int(self.refine)
        return n, n, n if grid.shape[2] > 1 else 1
