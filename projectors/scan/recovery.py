"""Recovery coefficients: what share of its activity a small object shows, by its size."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class RecoveryTable:
    """Recovery coefficients of spheres by diameter: the share of its excess over the background that an object shows::

        RC = (measured - background) / (true - background)

    Args:
        diameters : mm, increasing, at least two.
        coefficients : as many, positive.

    Between diameters they are interpolated by monotone cubics (PCHIP): no overshoots, so they rise where the table
    does.

    Raises ValueError for lengths that differ, and values that are not positive or do not increase.

    Source: Fritsch & Carlson 1980 (monotone cubics).
    """

    diameters: tuple[float, ...]
    coefficients: tuple[float, ...]

    def __post_init__(self) -> None:
        diameters, coefficients = (np.ravel(np.asarray(v, float)) for v in (self.diameters, self.coefficients))
        if diameters.size != coefficients.size or diameters.size < 2:
            raise ValueError(
                f"RecoveryTable needs two or more diameters and as many coefficients, got {diameters.size} and "
                f"{coefficients.size}"
            )
        if not (np.isfinite(diameters).all() and diameters[0] > 0 and (np.diff(diameters) > 0).all()):
            raise ValueError(f"RecoveryTable diameters must be positive mm and increase, got {diameters.tolist()}")
        if not (np.isfinite(coefficients).all() and (coefficients > 0).all()):
            raise ValueError(
                f"RecoveryTable coefficients must be positive, got {coefficients.tolist()}; is the background too high?"
            )
        object.__setattr__(self, "diameters", tuple(diameters.tolist()))
        object.__setattr__(self, "coefficients", tuple(coefficients.tolist()))

    @classmethod
    def from_spheres(
        cls, diameters: Sequence[float], means: Sequence[float], true: float, background: float = 0.0
    ) -> RecoveryTable:
        """Return the table of a phantom whose spheres all hold `true` and show `means`.

        Args:
            background : what the image has around them. Spheres of one diameter (several scans) are averaged; any
                order.

        Raises ValueError where true equals the background.
        """
        sizes, values = np.ravel(np.asarray(diameters, float)), np.ravel(np.asarray(means, float))
        if sizes.size != values.size:
            raise ValueError(
                f"RecoveryTable.from_spheres needs one mean per diameter, got {sizes.size} diameters and "
                f"{values.size} means"
            )
        if not math.isfinite(true - background) or true == background:
            raise ValueError(
                f"RecoveryTable.from_spheres: true and background must differ, got {true} and {background}"
            )
        different, index = np.unique(sizes, return_inverse=True)
        shares = (values - background) / (true - background)
        return cls(tuple(different), tuple(np.bincount(index, shares) / np.bincount(index)))

    @classmethod
    def from_volumes(cls, volumes: Sequence[float], coefficients: Sequence[float]) -> RecoveryTable:
        """Return the table of spheres that are known by their volumes in mL, in increasing order."""
        return cls(tuple(sphere_diameter(volumes)), tuple(coefficients))

    @property
    def volumes(self) -> tuple[float, ...]:
        """Of the spheres, mL."""
        return tuple(sphere_volume(self.diameters).tolist())

    def coefficient(self, diameter: ArrayLike) -> float | np.ndarray:
        """Return the coefficient of one diameter or an array of them; raises ValueError outside of the table."""
        wanted = np.asarray(diameter, float)
        low, high = self.diameters[0], self.diameters[-1]
        if not ((wanted >= low) & (wanted <= high)).all():
            raise ValueError(f"RecoveryTable covers {low:g} to {high:g} mm, got {diameter!r}; nothing is extrapolated")
        found = scipy.interpolate.PchipInterpolator(self.diameters, self.coefficients)(wanted)
        return found if wanted.ndim else float(found)

    def correct(self, mean: float | np.ndarray, diameter: ArrayLike, background: float = 0.0) -> float | np.ndarray:
        """Return the true value of a sphere with a mean, background + (mean - background) / RC(diameter)."""
        return background + (mean - background) / self.coefficient(diameter)

    def coefficient_of_volume(self, volume: ArrayLike) -> float | np.ndarray:
        """Return the coefficient of a sphere of a volume in mL, or of an array of them; raises as `coefficient`."""
        return self.coefficient(sphere_diameter(volume))

    def correct_volume(
        self, mean: float | np.ndarray, volume: ArrayLike, background: float = 0.0
    ) -> float | np.ndarray:
        """Return the true value of a sphere of a volume in mL, as `correct` does by diameter."""
        return background + (mean - background) / self.coefficient_of_volume(volume)

    def fitted(self, plateau: float | None = 1.0) -> RecoveryCurve:
        """Return the logistic curve in the logarithm of volume that is nearest to the table, by least squares.

        Args:
            plateau : that large volumes reach; None fits it, too, and needs three spheres or more.

        Raises ValueError where there are fewer spheres than parameters, or no curve is found.
        """
        return _fitted(np.array(self.volumes), np.array(self.coefficients), plateau)

    def __str__(self) -> str:
        rows = [f"{d:11.4g}  {v:10.4g}  {c:11.4f}" for d, v, c in zip(self.diameters, self.volumes, self.coefficients)]
        return "\n".join(["diameter mm   volume mL  coefficient", *rows])


@dataclass(frozen=True)
class RecoveryCurve:
    """Recovery coefficients of spheres by volume, as a logistic curve in its logarithm::

        RC(V) = plateau / (1 + (V_half / V)^exponent)

    Args:
        half_volume : V_half in mL, where half of the plateau is reached.
        exponent : how steep it is.
        plateau : of large volumes.
        measured : (smallest, largest) volume in mL that it was fitted to.
        uncertainties : one standard deviation of half volume, exponent and plateau (0 where it was given), None where
            there are as many spheres as parameters.

    Raises ValueError for numbers that are not positive.

    Source: Tran-Gia & Lassmann 2019, with a plateau of 1.
    """

    half_volume: float
    exponent: float
    plateau: float = 1.0
    measured: tuple[float, float] = (0.0, math.inf)
    uncertainties: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        for name in ("half_volume", "exponent", "plateau"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"RecoveryCurve {name} must be positive, got {value}")

    def coefficient(self, volume: ArrayLike, *, extrapolate: bool = False) -> float | np.ndarray:
        """Return the coefficient of a volume in mL or an array of them.

        Args:
            extrapolate : whether volumes beyond those measured are allowed; large ones tend to the plateau.

        Raises ValueError for volumes that are not positive, and for others than were measured.
        """
        wanted = np.asarray(volume, float)
        if not (np.isfinite(wanted).all() and (wanted > 0).all()):
            raise ValueError(f"volumes must be positive mL, got {volume!r}")
        low, high = self.measured
        if not extrapolate and not ((wanted >= low * (1 - 1e-9)) & (wanted <= high * (1 + 1e-9))).all():
            raise ValueError(
                f"RecoveryCurve was measured from {low:.4g} to {high:.4g} mL, got {volume!r}; allow it with "
                "extrapolate=True"
            )
        found = self.plateau / (1 + (self.half_volume / wanted) ** self.exponent)
        return found if wanted.ndim else float(found)

    def correct(
        self, mean: float | np.ndarray, volume: ArrayLike, background: float = 0.0, *, extrapolate: bool = False
    ) -> float | np.ndarray:
        """Return the true value of a sphere with a mean, background + (mean - background) / RC(volume)."""
        return background + (mean - background) / self.coefficient(volume, extrapolate=extrapolate)


def sphere_volume(diameter: ArrayLike) -> np.ndarray:
    """Return the volume in mL of spheres of diameters in mm."""
    return np.asarray(math.pi / 6 * np.asarray(diameter, float) ** 3 / 1000)


def sphere_diameter(volume: ArrayLike) -> np.ndarray:
    """Return the diameter in mm of spheres of volumes in mL."""
    return np.asarray(np.cbrt(6 * np.asarray(volume, float) * 1000 / math.pi))


def _fitted(volumes: np.ndarray, coefficients: np.ndarray, plateau: float | None) -> RecoveryCurve:
    n = 2 if plateau is not None else 3
    if volumes.size < n:
        raise ValueError(f"a curve of {n} parameters needs as many spheres, got {volumes.size}")

    def curve(log_volume: np.ndarray, log_half: float, log_exponent: float, top: float = plateau or 1.0) -> np.ndarray:
        return top / (1 + np.exp((log_half - log_volume) * math.exp(log_exponent)))

    top = plateau or float(coefficients.max())
    middle = float(np.interp(top / 2, np.sort(coefficients), np.log(volumes)))
    start = [middle, 0.0] if plateau is not None else [middle, 0.0, top]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scipy.optimize.OptimizeWarning)  # as many spheres as parameters: no covariance
        try:
            found, covariance = scipy.optimize.curve_fit(curve, np.log(volumes), coefficients, start, maxfev=5000)
        except RuntimeError:
            raise ValueError("no logistic curve fits; do the recovery coefficients rise with the volume?") from None
    half, exponent = float(np.exp(found[0])), float(np.exp(found[1]))
    spread = np.sqrt(np.diag(covariance)) if volumes.size > n and np.isfinite(covariance).all() else None
    sure = None
    if spread is not None:
        sure = (half * float(spread[0]), exponent * float(spread[1]), float(spread[2]) if plateau is None else 0.0)
    reached = float(found[2]) if plateau is None else plateau
    return RecoveryCurve(half, exponent, reached, (float(volumes[0]), float(volumes[-1])), sure)
