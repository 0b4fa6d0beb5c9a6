"""Local linear fitting: an image tied to a denoised one by lines in small windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple

import torch

from emrecon.projectors.core.arrays import Array, PlanCache, array_namespace, like
from emrecon.recon import CountsLikelihood, Iterate, osem, sequential
from emrecon.recon.engines.loop import State, repeat
from emrecon.recon.engines.schedules import Order
from emrecon.recon.likelihoods import Likelihood, seen_like

from ..networks.guides import IMAGE_AXES
from ..networks.scaling import of_bins
from .denoising import ImageMap, denoised, transposed_jacobian
from .iterations import Start, begin_at_activity, image_after, require_at_least_one, require_weights, resumed

Fit = Literal["slope first", "least squares"]


@dataclass(frozen=True)
class LocalLinearFitting:
    """How strongly, and how, `kim_llf` draws the image to the denoised one; both weights are relative to the data's.

    Args:
        beta : of ``|x - q x_D - b|^2``, the local linear fit.
        gamma : of ``|x_D - f(x) - eta|^2``, the network.
        alpha : times gamma, what the network adds to the denominator.
        window : voxels of the fit along each axis, odd.
        fit : "slope first", q = sum x x_D / sum x_D^2 and then b = mean x - q mean x_D (as in the authors' programme);
            or "least squares" in both, q = cov(x, x_D) / var(x_D).
        network_gradient : the term -gamma J'(x_D - f(x) - eta) of the network's derivative, which is small; torch only.
        least : counts that a bin has at least in the curvature of the data.
    """

    beta: float = 0.04
    gamma: float = 0.1
    alpha: float = 1.0
    window: int = 5
    fit: Fit = "slope first"
    network_gradient: bool = False
    least: float = 1.0

    def __post_init__(self) -> None:
        require_weights(self, "beta", "gamma", "alpha", "least")
        if not (self.gamma > 0 and self.least > 0):
            raise ValueError("LocalLinearFitting gamma and least must be positive")
        if self.window < 1 or self.window % 2 == 0:
            raise ValueError(f"LocalLinearFitting window must be odd and positive, got {self.window}")
        if self.fit not in ("slope first", "least squares"):
            raise ValueError(f'LocalLinearFitting fit must be "slope first" or "least squares", got {self.fit!r}')


def local_linear_fit(x: Array, guide: Array, window: int = 5, fit: Fit = "slope first") -> tuple[Array, Array]:
    """Return q and b, of the shape of x, with x nearly q guide + b around each voxel; see `LocalLinearFitting`.

    Where the guide does not tell the slope it is 1. At the borders the window holds the voxels inside.
    """
    xp = array_namespace(x)
    n = _box(xp.ones_like(x), window)
    mean_x, mean_p = _box(x, window) / n, _box(guide, window) / n
    both, square = _box(x * guide, window) / n, _box(guide * guide, window) / n
    if fit == "slope first":
        top, bottom, known = both, square, square > 0
    else:
        top, bottom = both - mean_x * mean_p, square - mean_p * mean_p
        known = bottom > 10 * float(xp.finfo(x.dtype).eps) * square  # below, it is rounding
    q = xp.where(known, top / xp.where(known, bottom, xp.ones_like(bottom)), xp.ones_like(x))
    return q, mean_x - q * mean_p


def kim_llf(
    likelihood: Likelihood | Sequence[Likelihood],
    denoiser: ImageMap,
    start: Start = None,
    n_subsets: int = 16,
    *,
    fitting: LocalLinearFitting = LocalLinearFitting(),
    order: Order = sequential,
    guide: Array | None = None,
    iteration: int = 0,
) -> Iterator[Iterate]:
    """Yield an `Iterate` after each pass of separable quadratic surrogates with a network and local linear fits.

    For every subset k, with f the denoiser, kept above 0, from q = 1 and b = eta = 0 at the start::

        x_D <- (beta q (x - b) + gamma (f(x) + eta)) / (beta q^2 + gamma)
        z   <- x + q x_D + b
        q, b <- the local linear fit of x by x_D
        x   <- max(x - (g / h + beta (2 x - z) - gamma J'(x_D - f(x) - eta)) / (1 + 2 beta + alpha gamma), 0)
        eta <- eta - (x_D - f(x))

    g = A_k'(1 - y / ybar) is the gradient of the subset and h = A_k'(A_k 1 / max(y, least)) its curvature, so that
    g / h is an image and beta and gamma have no unit. Through the fit the level and the contrast of a network may be
    wrong, locally. h is one image for each subset, kept. Subsets do not converge, they circle; nor is it monotone.

    Args:
        denoiser, guide : as in `pnp_em`; the authors' DnCNN saw 5 slices.
        start, n_subsets, order, iteration : as in `osem`; begin with an OSEM image.

    An iterate remembers q ("slope"), b ("offset") and eta ("dual"); handed back as `start` it continues exactly.

    Raises TypeError for likelihoods without counts in bins, such as list-mode, and what `denoised` raises.

    Source: Kim et al. 2018, IEEE Trans Med Imaging 37:1478, and its programme.
    """
    at, parts = begin_at_activity(likelihood, start, n_subsets, iteration)
    advice = "the curvature of the data comes from the counts of all bins"
    prepared = [_Part(of_bins(part, "kim_llf", advice), fitting.least) for part in parts]
    step = partial(_step, denoiser=denoiser, fitting=fitting, guide=guide, seen=seen_like(parts, at.image))
    return repeat((at.iteration, _first(at)), prepared, order, step, _iterate)


@dataclass(frozen=True, eq=False)
class DnCNNWithLocalLinearFitting:
    """Reconstruction with a denoising network and local linear fits, as a method with settings; see `kim_llf`.

    Args:
        denoiser : a network such as DnCNN, or any map of images.
        fitting : weights and window.
        n_iterations, n_subsets, order : of `kim_llf`.
        initial : passes of OSEM with the same subsets where no start is given.

    `iterates` is the loop of it. It continues exactly from an Iterate as start, up to n_iterations in all.
    """

    denoiser: ImageMap
    fitting: LocalLinearFitting = LocalLinearFitting()
    n_iterations: int = 4
    n_subsets: int = 16
    initial: int = 2
    order: Order = sequential

    def __post_init__(self) -> None:
        require_at_least_one(self, "n_iterations", "n_subsets", "initial")

    def __call__(
        self,
        likelihood: Likelihood | Sequence[Likelihood],
        start: Start = None,
        *,
        guide: Array | None = None,
    ) -> Array:
        return image_after(self.iterates(likelihood, start, guide=guide), start, self.n_iterations)

    def iterates(
        self,
        likelihood: Likelihood | Sequence[Likelihood],
        start: Start = None,
        *,
        guide: Array | None = None,
    ) -> Iterator[Iterate]:
        """Yield an `Iterate` after each pass, for ever."""
        at, parts = begin_at_activity(likelihood, resumed(start), self.n_subsets)
        if start is None:
            with torch.no_grad():
                at = at._replace(image=image_after(osem(parts, at.image), None, self.initial))
        return kim_llf(parts, self.denoiser, at, fitting=self.fitting, order=self.order, guide=guide)


@dataclass(frozen=True, eq=False)
class LinearFitState(State):
    """What `kim_llf` remembers besides x: q ("slope"), b ("offset") and eta ("dual")."""

    slope: Array
    offset: Array
    dual: Array


class _Point(NamedTuple):
    """x, q, b and eta of `kim_llf`."""

    image: Array
    slope: Array
    offset: Array
    dual: Array


@dataclass(frozen=True, eq=False)
class _Part:
    """A subset of the data, with the curvature h of it, made when it is first met."""

    likelihood: CountsLikelihood
    least: float
    _curvature: PlanCache = field(default_factory=PlanCache, init=False)

    def curvature(self, x: Array) -> Array:
        """Return h like x."""
        return self._curvature.get(x, lambda: self._made(x))

    def _made(self, x: Array) -> Array:
        xp, model = array_namespace(x), self.likelihood.model
        return model.adjoint(model.linear(xp.ones_like(x)) / xp.clip(self.likelihood.counts_like(x), self.least, None))


def _first(at: Iterate) -> _Point:
    x = at.image
    xp, known = array_namespace(x), LinearFitState.of(at)
    if known is None:
        return _Point(x, xp.ones_like(x), xp.zeros_like(x), xp.zeros_like(x))
    return _Point(x, like(known.slope, x), like(known.offset, x), like(known.dual, x))


def _iterate(iteration: int, at: _Point) -> Iterate:
    return Iterate(iteration, at.image, LinearFitState(at.slope, at.offset, at.dual))


@torch.no_grad()
def _step(
    at: _Point, part: _Part, denoiser: ImageMap, fitting: LocalLinearFitting, guide: Array | None, seen: Array
) -> _Point:
    x, q, b, eta = at
    h = part.curvature(x)
    beta, gamma, xp = fitting.beta, fitting.gamma, array_namespace(x)

    def network(image: Array, sigma: float | Array | None = None, *, guide: Array | None = None) -> Array:
        return xp.clip(denoised(denoiser, image, sigma, guide), 0.0, None)

    cleaned = network(x, guide=guide)
    drawn = (beta * q * (x - b) + gamma * (cleaned + eta)) / (beta * q * q + gamma)
    z = x + q * drawn + b
    q, b = local_linear_fit(x, drawn, fitting.window, fitting.fit)
    known = h > 0
    step = xp.where(known, part.likelihood.gradient(x) / xp.where(known, h, xp.ones_like(h)), xp.zeros_like(x))
    step = step + beta * (2 * x - z)
    if fitting.network_gradient:
        step = step - gamma * transposed_jacobian(network, x, drawn - cleaned - eta, None, guide)
    moved = xp.clip(x - step / (1 + 2 * beta + fitting.alpha * gamma), 0.0, None)
    return _Point(xp.where(seen, moved, xp.zeros_like(x)), q, b, eta - (drawn - cleaned))


def _box(x: Array, window: int) -> Array:
    """Return the sum over a window around each voxel, of the voxels inside the image."""
    for axis in IMAGE_AXES:
        n, total = x.shape[axis], x + 0
        for d in range(1, min(window // 2, n - 1) + 1):
            lower = (..., slice(None, n - d), *[slice(None)] * (-axis - 1))
            upper = (..., slice(d, None), *[slice(None)] * (-axis - 1))
            total[lower] += x[upper]
            total[upper] += x[lower]
        x = total
    return x
