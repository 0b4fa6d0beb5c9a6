"""Plug-and-play EM: EM steps that are drawn to a denoised image, and that is the prior."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from emrecon.projectors.core.arrays import Array, array_namespace, like
from emrecon.projectors.core.progress import tracked
from emrecon.recon import Iterate, ProximablePrior, em_fuse, em_step, sequential
from emrecon.recon.engines.loop import State
from emrecon.recon.engines.schedules import Order
from emrecon.recon.likelihoods import Likelihood, only_seen, sensitivity_like

from .couplings import (
    Coupling,
    Growing,
    activity_scale,
    coupling_unit,
    matched_sigma,
    require_positive,
    scaled,
    strength_at,
    value_like,
)
from .denoising import ImageMap, denoised, evaluating
from .iterations import Start, begin_at_activity, image_after, require_at_least_one, resumed

Sigma = float | Array | Callable[[float | Array], float | Array] | None
"""What a denoiser is told of the noise: nothing, a number or one for each item, or a rule that makes it from rho."""

__all__ = [
    "Growing",
    "PlugAndPlayEM",
    "ProximalDenoiser",
    "activity_scale",
    "coupling_unit",
    "denoised",
    "em_towards",
    "evaluating",
    "matched_sigma",
    "pnp_em",
]


@dataclass(frozen=True, eq=False)
class ProximalDenoiser:
    """The proximal map of a prior U as a denoiser, D(x, sigma) = argmin over t of U(t) + ``|t - x|^2`` / (2 sigma^2).

    With `matched_sigma` plug-and-play EM then converges to the minimum of f + U.

    Raises ValueError when it is called without sigma.
    """

    prior: ProximablePrior

    def __call__(self, x: Array, sigma: float | Array | None = None, *, guide: Array | None = None) -> Array:
        if sigma is None:
            raise ValueError(f"the proximal map of {self.prior!r} needs a sigma; give sigma=matched_sigma?")
        return self.prior.prox(x, sigma**2)


def pnp_em(
    likelihood: Likelihood | Sequence[Likelihood],
    denoiser: ImageMap,
    start: Start = None,
    n_subsets: int = 1,
    *,
    rho: Coupling,
    sigma: Sigma = None,
    em_steps: int = 2,
    dual: bool = True,
    order: Order = sequential,
    guide: Array | None = None,
    iteration: int = 0,
) -> Iterator[Iterate]:
    """Yield an `Iterate` after each iteration of plug-and-play EM, for ever; stop by leaving the loop::

        x  <- em_fuse(EM_k(x), z - mu, s_k, rho / n)    for every subset k of n, em_steps times
        z  <- D(x + mu, sigma)
        mu <- mu + x - z                                with `dual`; otherwise mu = 0

    With the dual variable this is ADMM, whose x-step is a few EM steps; where D is the proximal map of a prior U with
    step 1 / rho (`ProximalDenoiser`, sigma=matched_sigma) and with one subset it converges to the minimum of f + U over
    x >= 0. Without, it is half-quadratic splitting, for which rho grows. With a constant rho and no dual variable a
    fixed point has grad f(x) + rho (x - D(x)) = 0 where x > 0: that of `RegularisationByDenoising(D, rho)`.

    Args:
        denoiser : any map of images (..., x, y, z), called as D(x), with sigma as second argument and guide= by name
            where they are given. Networks are run in evaluation mode, also on images that are not tensors, and nothing
            is kept for autograd (`UnrolledEM` has gradients). It need not return positive values.
        start, n_subsets, order, iteration : as in `osem` (default of the start: `activity_scale` everywhere).
        rho : in units of s / x, a number, an array that broadcasts to images, or a schedule such as `Growing`, called
            with the number of iterations done; see `coupling_unit`.
        sigma : None, or in the unit of the image: a number (with a schedule, that of the first iteration; it falls like
            sigma / sqrt(rho)), or a rule that makes it from rho, such as `matched_sigma`.

    An iterate is x and remembers z and mu; handed back as `start` it continues exactly.

    Raises ValueError for a rho that is not positive, and for a denoiser that returns another shape, NaN or infinity.

    Source: Venkatakrishnan, Bouman & Wohlberg 2013; Chan, Wang & Elgendy 2017; image update: De Pierro 1995.
    """
    if em_steps < 1:
        raise ValueError(f"pnp_em em_steps must be at least 1, got {em_steps}")
    at, parts = begin_at_activity(likelihood, start, n_subsets, iteration)
    require_positive(rho, at.iteration)
    return _pnp(at, parts, _Splitting(denoiser, rho, sigma, em_steps, dual, order, guide))


@dataclass(frozen=True, eq=False)
class PlugAndPlayEM:
    """Plug-and-play EM as a reconstruction method, `method(likelihood, start=None, guide=None) -> image`; see `pnp_em`.

    Args:
        denoiser : any map of images.
        n_iterations : how many.
        rho : the coupling: a number, an array or a schedule such as `Growing(0.01, 1.2)`.
        sigma : what the denoiser gets: None, a number or a rule of rho.
        relative : rho is in units of `coupling_unit` and a number for sigma in units of `activity_scale`, so that
            counts and image may have any unit; otherwise they are as in `pnp_em`.
        em_steps, dual, n_subsets, order : as in `pnp_em`.

    `iterates` is the loop of it. It continues exactly from an Iterate as start, up to n_iterations in all.
    """

    denoiser: ImageMap
    n_iterations: int = 40
    rho: Coupling = 0.1
    sigma: Sigma = None
    em_steps: int = 2
    dual: bool = True
    n_subsets: int = 1
    relative: bool = True
    order: Order = sequential

    def __post_init__(self) -> None:
        require_at_least_one(self, "n_iterations", "em_steps", "n_subsets")
        require_positive(self.rho, 0)

    def __call__(
        self, likelihood: Likelihood | Sequence[Likelihood], start: Start = None, *, guide: Array | None = None
    ) -> Array:
        return image_after(self.iterates(likelihood, start, guide=guide), start, self.n_iterations)

    def iterates(
        self, likelihood: Likelihood | Sequence[Likelihood], start: Start = None, *, guide: Array | None = None
    ) -> Iterator[Iterate]:
        """Yield an `Iterate` after each iteration, for ever."""
        at, parts = begin_at_activity(likelihood, resumed(start), self.n_subsets)
        rho, sigma = self.rho, self.sigma
        if self.relative:
            scale = activity_scale(parts, at.image)
            rho = scaled(rho, coupling_unit(parts, scale, at.image))
            sigma = sigma if sigma is None or callable(sigma) else scale * value_like(sigma, at.image)
        return _pnp(at, parts, _Splitting(self.denoiser, rho, sigma, self.em_steps, self.dual, self.order, guide))


@dataclass(frozen=True, eq=False)
class _Splitting:
    """What an iteration of plug-and-play EM consists of."""

    denoiser: ImageMap
    rho: Coupling
    sigma: Sigma
    em_steps: int
    dual: bool
    order: Order
    guide: Array | None

    def strengths(self, iteration: int, x: Array) -> tuple[float | Array, float | Array | None]:
        """Return rho and sigma of an iteration."""
        rho = value_like(strength_at(self.rho, iteration), x)
        if self.sigma is None:
            return rho, None
        if callable(self.sigma):
            return rho, self.sigma(rho)
        fall = (value_like(strength_at(self.rho, 0), x) / rho) ** 0.5 if callable(self.rho) else 1.0
        return rho, value_like(self.sigma, x) * fall


@dataclass(frozen=True, eq=False)
class SplittingState(State):
    """What plug-and-play EM remembers besides x: the denoised image z and the dual variable mu."""

    z: Array
    mu: Array


def _pnp(at: Iterate, parts: list[Likelihood], method: _Splitting) -> Iterator[Iterate]:
    iteration, x = at.iteration, at.image
    known = SplittingState.of(at) or SplittingState(x, array_namespace(x).zeros_like(x))
    z, mu = like(known.z, x), like(known.mu, x)
    while True:
        with torch.no_grad():  # not around the yield: what the caller does in between is its own
            rho, sigma = method.strengths(iteration, x)
            x = em_towards(x, z - mu, parts, rho, method.em_steps, method.order(iteration, len(parts)))
            z = denoised(method.denoiser, x + mu, sigma, method.guide)
            mu = mu + x - z if method.dual else mu
        iteration += 1
        yield Iterate(iteration, x, SplittingState(z, mu))


def em_towards(
    x: Array, target: Array, parts: Sequence[Likelihood], rho: float | Array, em_steps: int, order: Sequence[int]
) -> Array:
    """Return x after EM steps that a coupling draws to a target, over all parts of the data, `em_steps` times.

    Voxels that nothing sees are 0.

    One part: each lowers f(x) + rho / 2 ``|x - target|^2``, or leaves it.
    """
    for _ in range(em_steps):
        for k in tracked(order, "subsets", len(order)):
            x = em_fuse(em_step(x, parts[k]), target, sensitivity_like(parts[k], x), rho / len(parts))
    return only_seen(x, parts)
