"""How the noise of the data becomes the noise of an image, to first order: covariances of any estimate."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from emrecon.projectors import LinearOperator
from emrecon.projectors.core.arrays import Array, array_namespace, like, require_array, to_numpy

from ..metrics.regions import RegionOfInterest, as_region, double
from .diagonal import METHODS, DiagonalEstimator

_LOG = logging.getLogger("emrecon")
_AT_ONCE = 2**25  # numbers of the data that are worked on at once


@dataclass(frozen=True, eq=False)
class DeviationMap:
    """The standard deviation of every voxel over noise realisations, and how it was found.

    Args:
        image : (..., x, y, z), in the unit of the image; 0 in voxels that do not move, NaN where it was not asked for.
        method : "exact", "probing" or "sampling".
        relative_error : that of the method, expected, as a root mean square over the voxels; 0 for exact.
        seen_error : that which was met in 16 voxels whose deviation was found exactly; None where none was.
        n_products : products with the covariance, or drawings of noise, that it took.
    """

    image: Array
    method: str
    relative_error: float
    seen_error: float | None
    n_products: int

    def __str__(self) -> str:
        met = "" if self.seen_error is None else f", {100 * self.seen_error:.1f} % met in some voxels"
        expected = "" if self.method == "exact" else f", error {100 * self.relative_error:.1f} % expected{met}"
        what = "drawings" if self.method == "sampling" else "products"
        return f"standard deviation, {self.method}: {self.n_products} {what}{expected}"


class LinearisedEstimate(ABC):
    """An image as a function of the data, to first order in their noise: dx = J dy, Cov(x) = J Cov(y) J'.

    A subclass says `covariance_vector`, `samples` and `region_covariance`; J is never formed. All of them take images
    (K, ``*the shape of image``) and work on all K at once.
    """

    image: Array
    """Where it is linearised, (..., x, y, z)."""

    @property
    @abstractmethod
    def free(self) -> Array:
        """Which voxels move with the noise, booleans of the shape of the image."""

    @abstractmethod
    def covariance_vector(self, v: Array) -> Array:
        """Return Cov(x) v."""

    @abstractmethod
    def inner_products(self, v: Array) -> Array:
        """Return v_k' Cov(x) v_l for images v of (K, ``*x``): (..., K, K) float64."""

    @abstractmethod
    def samples(self, n: int, generator: np.random.Generator) -> Array:
        """Return n drawings of dx, (n, ``*x``): normal, mean 0, with this covariance."""

    def covariance_matrices(self) -> list[tuple[np.ndarray, np.ndarray]] | None:
        """Return, for each item of the batch, the voxels that move (N,), by their place in memory, and Cov(x) (N, N).

        None where it cannot be formed faster than by a product for every voxel.
        """
        return None

    @property
    def forms_matrices(self) -> bool:
        """Whether `covariance_matrices` returns some, faster than products would."""
        return False

    @property
    def draws(self) -> bool:
        """Whether there are `samples`."""
        return True

    def dense_diagonal(self) -> np.ndarray:
        """Return the variance of every voxel by way of `covariance_matrices`, float64 on the host."""
        shape = self.image.shape
        found = np.zeros((math.prod(shape[:-3]), math.prod(shape[-3:])))
        for item, (places, matrix) in zip(found, self.covariance_matrices() or ()):
            item[places] = np.diagonal(matrix)
        return found.reshape(shape)

    @property
    def at_once(self) -> int:
        """How many images are worked on at once."""
        return max(1, min(64, _AT_ONCE // max(1, self.bins)))

    @property
    def bins(self) -> int:
        """How many numbers the data of one image have, for `at_once`."""
        return math.prod(self.image.shape)

    def standard_deviation(
        self,
        *,
        mask: RegionOfInterest | Array | None = None,
        method: str = "auto",
        tolerance: float = 0.025,
        seed: int = 0,
        at_once: int | None = None,
    ) -> DeviationMap:
        """Return the standard deviation of every voxel; see `recon.standard_deviation_map` for the options."""
        _check_options(method, tolerance, at_once)
        xp, wanted = array_namespace(self.image), self.free
        chosen = None if mask is None else _voxels_of(mask, self.image)
        if chosen is not None:
            wanted = wanted & chosen
        draw = self.samples if self.draws else None
        at_once = self.at_once if at_once is None else at_once
        dense = self.dense_diagonal if self.forms_matrices else None
        estimator = DiagonalEstimator(self.covariance_vector, self.image, wanted, draw, dense, at_once, seed)
        found = estimator.estimate(method, tolerance)
        zeros = xp.zeros_like(self.image)
        values = xp.where(wanted, xp.sqrt(xp.where(found.values > 0, found.values, zeros)), zeros)
        if chosen is not None:
            values = xp.where(chosen, values, xp.full_like(values, math.nan))
        done = DeviationMap(values, found.method, found.error, found.seen_error, found.n_products)
        _LOG.info("%s", done)
        return done

    def region_covariance(self, regions: Sequence[RegionOfInterest | Array]) -> np.ndarray:
        """Return the covariance of the means of regions over noise realisations, (..., R, R) float64 on the host."""
        if not regions:
            raise ValueError("region_covariance got no regions")
        found = [as_region(region, f"region {k}") for k, region in enumerate(regions)]
        for region in found:
            if region.shape != tuple(self.image.shape[-3:]):
                raise ValueError(f"{region} was made for images of {region.shape}, got {tuple(self.image.shape)}")
        weights = np.stack([region.weights / region.n_voxels for region in found])
        batch = self.image.ndim - 3
        weights = np.broadcast_to(
            weights.reshape(len(found), *[1] * batch, *weights.shape[1:]), (len(found), *self.image.shape)
        )
        return np.asarray(to_numpy(self.inner_products(like(np.ascontiguousarray(weights), self.image))), float)

    def region_deviation(self, regions: Sequence[RegionOfInterest | Array]) -> np.ndarray:
        """Return the standard deviation of the means of regions, (..., R)."""
        return np.sqrt(np.diagonal(self.region_covariance(regions), axis1=-2, axis2=-1))

    def filtered(self, operator: LinearOperator) -> FilteredEstimate:
        """Return the estimate after a linear filter, such as `GaussianBlur(grid, fwhm)`."""
        return FilteredEstimate(self, operator)


@dataclass(frozen=True, eq=False)
class FilteredEstimate(LinearisedEstimate):
    """An estimate after a linear filter G: Cov = G Cov(x) G'."""

    estimate: LinearisedEstimate
    operator: LinearOperator

    @property
    def image(self) -> Array:  # type: ignore[override]
        """The filtered image."""
        return self.operator(self.estimate.image)

    @property
    def free(self) -> Array:
        """What the filter makes of voxels that move."""
        free = self.estimate.free
        return self.operator(like(to_numpy(free), self.estimate.image)) > 1e-6

    def covariance_vector(self, v: Array) -> Array:
        return self.operator(self.estimate.covariance_vector(self.operator.T(v)))

    def inner_products(self, v: Array) -> Array:
        return self.estimate.inner_products(self.operator.T(v))

    def samples(self, n: int, generator: np.random.Generator) -> Array:
        return self.operator(self.estimate.samples(n, generator))

    @property
    def draws(self) -> bool:
        return self.estimate.draws

    @property
    def forms_matrices(self) -> bool:
        return self.estimate.forms_matrices

    def dense_diagonal(self) -> np.ndarray:
        """Return sum over k of (G C e_k) (G e_k)."""
        image, shape = self.estimate.image, self.estimate.image.shape[-3:]
        found = np.zeros((math.prod(self.image.shape[:-3]), *shape))
        for item, (places, matrix) in zip(found, self.estimate.covariance_matrices() or ()):
            for first in range(0, len(places), self.at_once):
                some = slice(first, first + self.at_once)
                n = len(places[some])
                columns, units = np.zeros((2, n, math.prod(shape)))
                columns[:, places] = matrix[some]
                units[np.arange(n), places[some]] = 1
                both = [to_numpy(self.operator(like(v.reshape(n, *shape), image))) for v in (columns, units)]
                item += (both[0] * both[1]).sum(0, dtype=float)
        return found.reshape(self.image.shape)

    @property
    def bins(self) -> int:
        return self.estimate.bins


def inner_products(a: Array, b: Array) -> Array:
    """Return sum over voxels of a_k b_l for (K, ..., x, y, z): (..., K, K) float64."""
    xp = array_namespace(a)
    n = a.shape[0]
    rows = [xp.sum(double(a[k, ...])[None, ...] * double(b), axis=(-3, -2, -1)) for k in range(n)]
    whole = xp.stack(rows)  # (K, K, ...)
    return xp.moveaxis(whole, (0, 1), (-2, -1))


def _voxels_of(mask: RegionOfInterest | Array, image: Array) -> Array:
    """The voxels of a mask or of a region, of which a part is inside, as booleans like the image."""
    xp, shape = array_namespace(image), tuple(image.shape[-3:])
    if isinstance(mask, RegionOfInterest):
        host = mask.weights > 0
    else:
        require_array(mask, "mask")
        host = to_numpy(mask) != 0
    if tuple(host.shape[-3:]) != shape or host.ndim > image.ndim:
        raise ValueError(f"the mask of shape {host.shape} does not fit images of {tuple(image.shape)}")
    chosen: Array = like(host.astype(np.float32), image) > 0
    return xp.broadcast_to(chosen, tuple(image.shape))


def _check_options(method: str, tolerance: float, at_once: int | None) -> None:
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose from {', '.join(METHODS)}")
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance must be between 0 and 1, the relative error of a deviation, got {tolerance}")
    if at_once is not None and at_once < 1:
        raise ValueError(f"at_once must be at least 1, got {at_once}")
