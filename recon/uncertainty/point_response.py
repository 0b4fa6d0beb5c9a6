"""What becomes of a point: the local response of a penalised-likelihood image, its widths, and what it recovers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy

from emrecon.projectors import LinearOperator
from emrecon.projectors.core.arrays import Array, array_namespace, require_array, to_numpy

from ..likelihoods.protocol import Likelihood
from ..priors.prior import Objective, SmoothPrior
from .diagonal import DiagonalEstimator
from .information import unit_images
from .penalised import PenalisedEstimate

_TOLERANCE = 1e-3  # of conjugate gradients: responses are wrong by as much, not by its square
_FINE = 16  # points per voxel between which maxima and crossings are looked for


def local_point_response(
    likelihood: Likelihood | Objective | Sequence[Likelihood],
    prior: SmoothPrior | None,
    image: Array,
    voxel: Sequence[int] | Sequence[Sequence[int]],
    *,
    filter: LinearOperator | None = None,
) -> Array:
    """Return what a small change of the object in one voxel changes in the mean of the image that minimises f + U::

        l = H^-1 F e_j,        H = F + R

    with F the Fisher information of the data and R the Hessian of the prior, both at the image. Its value in the voxel
    is the contrast that a voxel recovers, its sum what a wide region does, and `response_widths` gives its resolution.

    Args:
        likelihood, prior, image : as in `recon.standard_deviation_map`.
        voxel : (x, y, z), or a list of voxels, whose responses then lead: (n, ..., x, y, z).
        filter : a linear filter that the image gets afterwards.

    Raises ValueError for voxels outside of the image and where one is held at 0 (its response is not linear).

    Source: Fessler & Rogers 1996, IEEE Trans Image Process 5:1346, eq. 12.
    """
    estimate = PenalisedEstimate(likelihood, prior, image, solver_tolerance=_TOLERANCE)
    several = np.ndim(voxel) == 2
    voxels = _checked(np.atleast_2d(np.asarray(voxel)), estimate)
    found = []
    for first in range(0, len(voxels), estimate.at_once):
        part = estimate.response_vector(unit_images(voxels[first : first + estimate.at_once], estimate.image))
        found.append(part if filter is None else filter(part))
    whole = array_namespace(estimate.image).concat(found, axis=0)
    return whole if several else whole[0, ...]


def contrast_recovery_map(
    likelihood: Likelihood | Objective | Sequence[Likelihood],
    prior: SmoothPrior | None,
    image: Array,
    *,
    method: str = "auto",
    tolerance: float = 0.025,
    seed: int = 0,
    at_once: int | None = None,
) -> Array:
    """Return the contrast that every voxel recovers, (H^-1 F)_jj: the peak of its `local_point_response`.

    Args:
        likelihood, prior, image, tolerance, seed, at_once : as in `recon.standard_deviation_map`.
        method : "exact", "probing" or "auto".

    Voxels that the constraint x >= 0 holds at 0 have 0.

    Source: Fessler & Rogers 1996; Qi & Leahy 2000.
    """
    if method not in ("auto", "exact", "probing"):
        raise ValueError(f"unknown method {method!r}; choose from auto, exact, probing")
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance must be between 0 and 1, got {tolerance}")
    estimate = PenalisedEstimate(likelihood, prior, image, solver_tolerance=_TOLERANCE)
    xp, free = array_namespace(estimate.image), estimate.free
    at_once = estimate.at_once if at_once is None else at_once
    estimator = DiagonalEstimator(estimate.response_vector, estimate.image, free, None, None, at_once, seed)
    found = estimator.estimate(method, tolerance / 2)  # the estimator's is that of the square root
    return xp.where(free, found.values, xp.zeros_like(found.values))


class Widths(NamedTuple):
    """Full widths of a response along x, y and z, in mm; NaN along an axis where it does not fall far enough."""

    x: float
    y: float
    z: float


def response_widths(
    response: Array,
    voxel_size: Sequence[float],
    voxel: Sequence[int] | None = None,
    *,
    fraction: float = 0.5,
) -> Widths:
    """Return the full width of a point response at a fraction of its maximum, along the three axes through a voxel.

    A profile is continued between the voxels by its Fourier series, which is exact for responses without frequencies
    beyond those of the grid (a voxel that comes back as it was has a width of 1.21 voxels); maximum and crossings are
    those of the curve.

    Args:
        response : (x, y, z).
        voxel_size : mm, (x, y, z).
        voxel : through which the profiles go (default: the largest).
        fraction : 0.5 for the FWHM, 0.1 for the FWTM.

    Raises ValueError for responses that are not 3-D, not finite or nowhere positive, and fractions that are not between
    0 and 1.
    """
    require_array(response, "response_widths")
    host = np.asarray(to_numpy(response), float)
    if host.ndim != 3 or not np.isfinite(host).all() or not host.max() > 0:
        raise ValueError(f"response_widths needs a finite response (x, y, z) with a peak, got shape {host.shape}")
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must be between 0 and 1, got {fraction}")
    at = np.unravel_index(int(host.argmax()), host.shape) if voxel is None else tuple(map(int, voxel))
    found = []
    for axis, size in enumerate(voxel_size):
        place = tuple(slice(None) if i == axis else at[i] for i in range(3))
        found.append(float(size) * _width(host[place], int(at[axis]), fraction))
    return Widths(*found)


def _width(profile: np.ndarray, middle: int, fraction: float) -> float:
    """The width in voxels at a fraction of the maximum near a place."""
    n = len(profile)
    if n < 3 or not profile[middle] > 0:
        return math.nan
    empty = np.pad(profile, n)  # zeros around it: a periodic series must not let the ends meet
    curve = _Series(empty)
    grid = np.arange((n - 0.5) * _FINE, (2 * n - 0.5) * _FINE + 1) / _FINE
    values = curve(grid)
    start = int(np.argmin(abs(grid - (n + middle))))
    near = slice(max(0, start - _FINE), start + _FINE + 1)
    top = near.start + int(np.argmax(values[near]))
    low, high = grid[max(top - 1, 0)], grid[min(top + 1, len(grid) - 1)]
    finer = np.linspace(low, high, 65)
    half = fraction * float(curve(finer).max())
    below = values < half
    left, right = np.flatnonzero(below[:top]), np.flatnonzero(below[top:])
    if not left.size or not right.size:
        return math.nan
    sides = (left[-1], left[-1] + 1), (top + right[0] - 1, top + right[0])
    ends = [scipy.optimize.brentq(lambda t: float(curve(np.array([t]))[0]) - half, grid[a], grid[b]) for a, b in sides]
    return ends[1] - ends[0]


class _Series:
    """The trigonometric interpolation of values at 0, 1, 2, ..."""

    def __init__(self, values: np.ndarray) -> None:
        self.n, self.coefficients = len(values), np.fft.rfft(values)
        self.weights = np.full(len(self.coefficients), 2.0)
        self.weights[0] = 1
        if self.n % 2 == 0:
            self.weights[-1] = 1

    def __call__(self, t: np.ndarray) -> np.ndarray:
        waves = np.exp(2j * np.pi * np.outer(t, np.arange(len(self.coefficients))) / self.n)
        values: np.ndarray = (waves @ (self.weights * self.coefficients)).real / self.n
        return values


def _checked(voxels: np.ndarray, estimate: PenalisedEstimate) -> list[tuple[int, ...]]:
    shape = estimate.image.shape[-3:]
    if voxels.dtype.kind not in "iu" or voxels.shape[1:] != (3,):
        raise ValueError(f"voxel must be three whole numbers (x, y, z), or a list of such, got {voxels.tolist()}")
    free, found = to_numpy(estimate.free), [tuple(map(int, voxel)) for voxel in voxels]
    for voxel in found:
        if not all(0 <= v < n for v, n in zip(voxel, shape)):
            raise ValueError(f"voxel {voxel} is outside of the image of {tuple(shape)}")
        if not free.reshape(-1, *shape)[:, voxel[0], voxel[1], voxel[2]].all():
            raise ValueError(
                f"voxel {voxel} is held at 0 by the constraint x >= 0, or nothing sees it: it has no linear response"
            )
    return found
