"""Lines of sinograms after arc correction: equally spaced in every view, no longer crystal pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .scanner import PETScanner


@dataclass(frozen=True)
class EquallySpacedLines:
    """The lines of an arc-corrected sinogram: n_views directions over 180 degrees, bins `bin_size` mm apart.

    Args:
        n_views : of the whole sinogram, in any relation to the scanner's crystals.
        bin_size : mm.

    View v is at the angle 180 v / n_views, or where it joins views of the crystals at the middle of these, as in files
    of STIR. Bin k lies k bin_size from the axis.

    Raises ValueError for numbers that are not positive.
    """

    n_views: int
    bin_size: float

    def __post_init__(self) -> None:
        if self.n_views != int(self.n_views) or self.n_views < 1:
            raise ValueError(f"EquallySpacedLines n_views must be a positive integer, got {self.n_views}")
        if not (math.isfinite(self.bin_size) and self.bin_size > 0):
            raise ValueError(f"EquallySpacedLines bin_size must be positive mm, got {self.bin_size}")
        object.__setattr__(self, "n_views", int(self.n_views))
        object.__setattr__(self, "bin_size", float(self.bin_size))

    def angles(self, views: np.ndarray, n_crystals: int) -> np.ndarray:
        """Return the angle of views in degrees, before a turn of the scanner."""
        joined, rest = divmod(n_crystals // 2, self.n_views)
        middle = 0.0 if rest else (joined - 1) / 2 * 360 / n_crystals
        return 180 / self.n_views * views + middle

    def ends(self, scanner: PETScanner, views: np.ndarray, radial: np.ndarray) -> np.ndarray:
        """Return both ends (x, y, x, y) in mm on the scanner's circle of lines (views, radial); (views, radial, 4)."""
        sense = sense_of(scanner)
        phi = np.deg2rad(sense * self.angles(views, scanner.n_crystals) + turn_of(scanner))[:, None]
        s = (sense * radial * self.bin_size)[None]
        half = np.sqrt(scanner.radius**2 - s**2)
        x, y = s * np.cos(phi), s * np.sin(phi)
        dx, dy = half * np.sin(phi), -half * np.cos(phi)
        return np.stack([x + dx, y + dy, x - dx, y - dy], -1)


def sense_of(scanner: PETScanner) -> int:
    """Return 1 where the crystals of a ring are numbered from the front (-y) towards the left (+x), else -1."""
    x, y = scanner.crystals[0, :, :2].T
    return 1 if (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() >= 0 else -1


def turn_of(scanner: PETScanner) -> float:
    """Return by how many degrees crystal 0 of a scanner is turned from the front (-y) towards the left (+x)."""
    number = np.flatnonzero(~scanner.virtual.all(0))
    x, y = scanner.crystals[0, number, :2].T
    ahead = (-y + 1j * x) * np.exp(-2j * np.pi / scanner.n_crystals * sense_of(scanner) * number)
    return round(float(np.rad2deg(np.angle(ahead.mean()))), 9) + 0.0
