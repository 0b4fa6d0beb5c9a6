"""Time of flight: bins along a line, and the timing kernel integrated over them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import sqrt

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import erf

MM_PER_PS = 0.299792458 / 2
"""How far the annihilation is from the middle of the line, for each picosecond between the arrivals."""

N_SIGMAS = 3.0
"""Where the timing kernel is cut off, in standard deviations; what is left is scaled to a sum of one."""

_TERMS = 9


@dataclass(frozen=True)
class TimeOfFlight:
    """TOF bins of one width, centred on the middle of every line, and the timing resolution.

    Args:
        n_bins : number of bins.
        bin_width : mm along the line.
        fwhm : the timing resolution in mm along the line.

    Bin b collects annihilations around (b - (n_bins - 1) / 2) * bin_width from the middle, counted towards the line's
    second end: the photon that reaches the second end first gives a high bin. A point at position s falls into bin b
    with the probability::

        F((upper_b - s) / sigma) - F((lower_b - s) / sigma),     F : the normal distribution cut off at 3 sigma

    so that bins add up to one wherever they cover s +- 3 sigma.

    Raises ValueError for numbers that are not positive.
    """

    n_bins: int
    bin_width: float
    fwhm: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.n_bins) and self.n_bins == int(self.n_bins) and self.n_bins >= 1):
            raise ValueError(f"TimeOfFlight n_bins must be a positive integer, got {self.n_bins}")
        object.__setattr__(self, "n_bins", int(self.n_bins))
        for name in ("bin_width", "fwhm"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise ValueError(f"TimeOfFlight {name} must be positive mm along the line, got {value}")

    @classmethod
    def from_ps(cls, n_bins: int, bin_width: float, fwhm: float) -> TimeOfFlight:
        """Return the bins for widths given in picoseconds of the difference of arrival times."""
        return cls(n_bins, bin_width * MM_PER_PS, fwhm * MM_PER_PS)

    @property
    def sigma(self) -> float:
        """The standard deviation of the timing kernel in mm."""
        return self.fwhm / (2 * sqrt(2 * np.log(2)))

    @property
    def half_width(self) -> float:
        """The distance in mm at which the kernel is cut off, 3 sigma."""
        return N_SIGMAS * self.sigma

    @property
    def edges(self) -> np.ndarray:
        """The edges of the bins in mm from the middle of the line, (n_bins + 1,)."""
        return (np.arange(self.n_bins + 1) - self.n_bins / 2) * self.bin_width

    @property
    def centres(self) -> np.ndarray:
        """The centres of the bins in mm from the middle of the line, (n_bins,)."""
        return self.edges[:-1] + self.bin_width / 2

    def cumulated(self, s: ArrayLike) -> np.ndarray:
        """Return F, the part of the cut-off kernel below `s` mm, exactly."""
        u = np.clip(np.asarray(s, float) / self.sigma, -N_SIGMAS, N_SIGMAS)
        total: np.ndarray = 0.5 + 0.5 * erf(u / sqrt(2)) / erf(N_SIGMAS / sqrt(2))
        return total

    def weights(self, s: ArrayLike) -> np.ndarray:
        """Return the probabilities (..., n_bins) of the bins for annihilations `s` mm from the middle of the line."""
        distance = self.edges - np.asarray(s, float)[..., None]
        return np.diff(self.cumulated(distance), axis=-1)

    def mashed(self, factor: int) -> TimeOfFlight:
        """Return the bins that join `factor` bins each.

        Raises ValueError unless the factor is an integer that divides the number of bins.
        """
        if factor != int(factor) or factor < 1 or self.n_bins % factor:
            raise ValueError(
                f"{self.n_bins} TOF bins cannot be joined {factor} at a time; use an integer that divides {self.n_bins}"
            )
        return TimeOfFlight(self.n_bins // int(factor), self.bin_width * factor, self.fwhm)

    @cached_property
    def polynomial(self) -> np.ndarray:
        """Coefficients c with F(half_width * u) - 1/2 = u * sum of c[k] u^(2 k) for ``|u|`` <= 1, within 1e-7.

        Kernels evaluate this instead of the error function: without branches it becomes SIMD. It is exactly 1/2 at
        u = 1, so that bins still add up to one.
        """
        u = np.cos(np.pi * (np.arange(4000) + 0.5) / 8000)
        exact = self.cumulated(self.half_width * u) - 0.5
        fit = np.polynomial.Chebyshev.fit(u**2, exact / u, _TERMS - 1, domain=[0, 1], w=u)
        coefficients: np.ndarray = fit.convert(kind=np.polynomial.Polynomial).coef
        return coefficients * (0.5 / coefficients.sum())
