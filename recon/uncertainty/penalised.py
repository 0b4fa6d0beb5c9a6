"""The image that minimises a likelihood and a prior: its covariance, and its response to a point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.linalg

from emrecon.projectors.core.arrays import Array, add_up, array_namespace, as_real, is_torch, require_array, to_numpy

from ..engines.loop import require_smooth, taken_apart
from ..likelihoods.protocol import Likelihood, image_shape, require_likelihood, seen_like
from ..priors.prior import Objective, SmoothPrior
from .information import Information, unit_images
from .linearised import LinearisedEstimate, inner_products
from .preconditioner import FourierPreconditioner, noise_diagonal
from .solving import conjugate_gradients

_LOW = 1e-3  # of the largest voxel: above that, an image is not taken to be held at 0
_MOST = 1000  # iterations of conjugate gradients
_DENSE_UP_TO = 4096  # free voxels; matrices of 128 MiB
_SEED = 20  # of the noise that the preconditioner is made from


@dataclass(frozen=True, eq=False, init=False)
class PenalisedEstimate(LinearisedEstimate):
    """The image x that minimises f(x) + U(x) over x >= 0, linearised in the noise of the data::

        dx = H^-1 g,        Cov(x) = H^-1 F H^-1,        H = F + R

    g is the noise of the gradient of f, F its covariance (the Fisher information of the data, see `Information`) and R
    the Hessian of the prior, at the image. (`observed` takes the Hessian of f with the counts as measured in place of F
    in H.) No matrix is formed: H^-1 is applied by conjugate gradients with a preconditioner of Fourier transforms.

    Args:
        likelihood : f, of any class, or a list of likelihoods that add up to it; or an `Objective`, f + U.
        prior : U, smooth, times its weight; None for maximum likelihood, which must then be well determined.
        image : (..., x, y, z), the minimiser, at least nearly; torch tensors get no gradient.
        n_averaged : R is the mean of the Hessians at so many drawings of the image's noise (statistical
            linearisation): curvatures of edge-preserving priors change within the noise, and at the image alone
            deviations come out some per cent too small. 0 takes the image alone, as quadratic priors always do.
        solver_tolerance : of conjugate gradients, on the residual; deviations are then right to some 0.2 %, since their
            error is of second order in that of the solution.

    Voxels that the constraint x >= 0 holds at 0 do not move: those that nothing sees, those at 0, and those below a
    thousandth of the largest voxel which a Newton step of their own would take to 0. All others are `free`, as if they
    could also become negative; in voxels whose deviation exceeds their value the true one is smaller.

    Raises TypeError for what is not a likelihood and for priors without a gradient, ValueError for images that do not
    fit or hold negative, NaN or infinite values, and RuntimeError (in use) where conjugate gradients do not converge.

    Source: Fessler 1996, eq. 15; Qi & Leahy 2000 (positivity).
    """

    image: Array
    prior: SmoothPrior | None
    information: Information
    observed: bool
    solver_tolerance: float
    _around: tuple[Array, ...] = field(repr=False)
    _free: Array = field(repr=False)
    _precondition: FourierPreconditioner = field(repr=False)

    def __init__(
        self,
        likelihood: Likelihood | Objective | Sequence[Likelihood],
        prior: SmoothPrior | None,
        image: Array,
        *,
        observed: bool = False,
        n_averaged: int = 8,
        solver_tolerance: float = 0.01,
    ) -> None:
        f, prior = taken_apart(likelihood, prior)
        require_smooth(prior)
        parts = list(f) if isinstance(f, Sequence) else [f]
        if not parts:
            raise ValueError("got an empty list of likelihoods")
        for part in parts:
            require_likelihood(part, "the uncertainty of an image")
        if not 0 < solver_tolerance < 1:
            raise ValueError(f"solver_tolerance must be between 0 and 1, got {solver_tolerance}")
        information = Information.of(parts, _checked(image, parts))
        for name, value in (
            ("image", information.image),
            ("prior", prior),
            ("information", information),
            ("observed", observed),
            ("solver_tolerance", solver_tolerance),
            ("_around", (information.image,)),
        ):
            object.__setattr__(self, name, value)
        data, prior_diagonal = self._diagonals()
        object.__setattr__(self, "_free", _free_voxels(parts, prior, self.image, data, prior_diagonal))
        given = None if prior is None else self._prior_product
        made = FourierPreconditioner.made(self.image, self._free, self._curvature, data, given, prior_diagonal)
        object.__setattr__(self, "_precondition", made)
        if prior is not None and n_averaged > 0 and information.draws and not self._is_quadratic(prior):
            self._average(n_averaged)

    @property
    def free(self) -> Array:
        """Which voxels move with the noise."""
        return self._free

    @property
    def bins(self) -> int:
        return self.information.bins

    @property
    def draws(self) -> bool:
        return self.information.draws

    @property
    def forms_matrices(self) -> bool:
        return int(to_numpy(self._free).reshape(-1, *self.image.shape[-3:]).any(0).sum()) <= _DENSE_UP_TO

    def hessian_vector(self, v: Array) -> Array:
        """Return H v on the free voxels, 0 on the others; v of (K, ``*the shape of the image``)."""
        v = self._only_free(v)
        product = self._curvature(v)
        if self.prior is not None:
            product = product + self._prior_product(v)
        return self._only_free(product)

    def solve(self, b: Array) -> Array:
        """Return u with H u = b on the free voxels, 0 on the others."""
        b = self._only_free(b)
        return conjugate_gradients(self.hessian_vector, b, self._precondition, self.solver_tolerance, _MOST).image

    def covariance_vector(self, v: Array) -> Array:
        """Return H^-1 F H^-1 v."""
        return self.solve(self.information.product(self.solve(v)))

    def response_vector(self, v: Array) -> Array:
        """Return H^-1 F v: what the image of an object that is changed by v is changed by, in the mean."""
        return self.solve(self.information.product(v))

    def inner_products(self, v: Array) -> Array:
        u = self.solve(v)
        return inner_products(u, self.information.product(u))

    def samples(self, n: int, generator: np.random.Generator) -> Array:
        """Return n drawings of H^-1 g."""
        return self.solve(self.information.noise(n, generator))

    def covariance_matrices(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return, for each item of the batch, the free voxels (N,), by their place in memory, and Cov(x) (N, N).

        The matrices F and R are formed, a product for every voxel, and H is inverted: for small images.
        """
        free = to_numpy(self._free).reshape(-1, int(np.prod(self.image.shape[-3:])))
        used = np.flatnonzero(free.any(0))
        places = np.stack(np.unravel_index(used, self.image.shape[-3:]), 1)
        curvature, data = self._dense(places, used, self.hessian_vector), self._dense(places, used, self._data_on_free)
        found = []
        for item, own in enumerate(free):
            kept = own[used]
            H, F = (matrix[:, item][np.ix_(kept, kept)] for matrix in (curvature, data))
            inverse = _inverse((H + H.T) / 2)
            found.append((used[kept], inverse @ F @ inverse))
        return found

    def _data_on_free(self, v: Array) -> Array:
        return self._only_free(self.information.product(self._only_free(v)))

    def _dense(self, places: np.ndarray, used: np.ndarray, product: Callable[[Array], Array]) -> np.ndarray:
        """The matrix of a product on the voxels that are used, (N, items, N)."""
        rows = []
        for first in range(0, len(places), self.at_once):
            some = unit_images([tuple(map(int, place)) for place in places[first : first + self.at_once]], self.image)
            whole = to_numpy(product(some))
            rows.append(whole.reshape(len(whole), -1, int(np.prod(whole.shape[-3:])))[..., used])
        return np.concatenate(rows).astype(float)

    def _curvature(self, v: Array) -> Array:
        return self.information.hessian(v) if self.observed else self.information.product(v)

    def _prior_product(self, v: Array) -> Array:
        assert self.prior is not None
        xp = array_namespace(v)
        found = [self.prior.hessian_vector(_whole(xp.broadcast_to(x, tuple(v.shape))), v) for x in self._around]
        return found[0] if len(found) == 1 else add_up(found) / len(found)

    def _is_quadratic(self, prior: SmoothPrior) -> bool:
        """Whether the Hessian of the prior is the same at another image."""
        v, other = _alternating(self.image), 1.5 * self.image * (1 + 0.3 * _alternating(self.image))
        here, there = (to_numpy(prior.hessian_vector(x, v)) for x in (self.image, other))
        return bool(np.abs(here - there).max() <= 1e-4 * np.abs(here).max())

    def _average(self, n: int) -> None:
        """Take the mean of the prior's Hessians around the image from here on."""
        xp, generator = array_namespace(self.image), np.random.default_rng((_SEED, 1))
        moved = self.image + self.samples(n, generator)
        kept = xp.where(moved > 0, moved, xp.zeros_like(moved))
        object.__setattr__(self, "_around", tuple(kept[i, ...] for i in range(n)))

    def _only_free(self, v: Array) -> Array:
        xp = array_namespace(v)
        kept: Array = xp.where(self._free, v, xp.zeros_like(v))
        return kept

    def _diagonals(self) -> tuple[Array, Array | None]:
        """The diagonals of F, nearly, and of R."""
        x, information = self.image, self.information
        xp = array_namespace(x)
        seen = xp.broadcast_to(seen_like(information.parts, x), tuple(x.shape))
        if information.draws:
            generator = np.random.default_rng(_SEED)
            data = noise_diagonal(lambda n: information.noise(n, generator), seen)
        else:  # rows' sums are like it up to a factor
            data = xp.where(seen, xp.abs(information.product(xp.ones_like(x))), xp.zeros_like(x))
        if self.prior is None:
            return data, None
        try:
            own = self.prior.hessian_diagonal(x)
        except NotImplementedError:
            own = xp.abs(self._prior_product(_alternating(x))) / 2
        return data, own


def _inverse(H: np.ndarray) -> np.ndarray:
    if not len(H):
        return H
    try:
        factor = scipy.linalg.cho_factor(H)
    except np.linalg.LinAlgError as error:
        raise RuntimeError(
            "the Hessian of the objective is not positive at this image: is the prior too weak, is there none, or is "
            "the image far from the minimiser?"
        ) from error
    inverse: np.ndarray = scipy.linalg.cho_solve(factor, np.eye(len(H)))
    return inverse


def _checked(image: Array, parts: Sequence[Any]) -> Array:
    require_array(image, "image")
    x = as_real(image.detach() if is_torch(image) else image)
    shape = image_shape(parts[0])
    if tuple(x.shape[-len(shape) :]) != shape:
        raise ValueError(f"an image of shape {tuple(x.shape)} does not fit likelihoods of images {shape}")
    host = to_numpy(x)
    if not (host >= 0).all() or not (host < np.inf).all():
        raise ValueError("the image must be finite and not negative: it minimises the objective over x >= 0")
    return x


def _free_voxels(parts: Sequence[Any], prior: SmoothPrior | None, x: Array, data: Array, own: Array | None) -> Array:
    """What the constraint does not hold at 0."""
    xp = array_namespace(x)
    slope = add_up(part.gradient(x) for part in parts)
    bend = data
    if prior is not None and own is not None:
        slope, bend = slope + prior.gradient(x), bend + own
    low = x <= _LOW * xp.max(x, axis=(-3, -2, -1), keepdims=True)
    held = (x <= 0) | (low & (x * bend <= slope))
    return xp.broadcast_to(seen_like(parts, x), tuple(x.shape)) & ~held


def _alternating(x: Array) -> Array:
    """+1 and -1 in turn along every axis."""
    xp = array_namespace(x)
    signs = np.indices(tuple(x.shape[-3:])).sum(0) % 2 * 2.0 - 1
    return xp.ones_like(x) * xp.asarray(signs, dtype=x.dtype, device=x.device)


def _whole(x: Array) -> Array:
    """An array of its own, where broadcasting made a view."""
    xp = array_namespace(x)
    return xp.asarray(x, copy=True)
