"""Learned priors without unrolling: plug-and-play EM, denoisers and networks as priors, local linear fitting."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from emrecon.projectors._arrays import Array, PlanCache, array_namespace, is_torch, like, to_numpy
from emrecon.recon import Iterate, PoissonLikelihood, ProximablePrior, SmoothPrior, em_fuse, em_step, osem, sequential
from emrecon.recon.em import Likelihood, begin
from emrecon.recon.gradient import constant
from emrecon.recon.schedules import Order
from torch import nn

_IMAGE = (-3, -2, -1)
_FAINT = 0.01  # of the counts: the least share that is taken for activity where the background explains them all


# ---- plug-and-play EM ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Growing:
    """A coupling that grows: after k iterations min(first * growth^k, last); for half-quadratic splitting."""

    first: float
    growth: float = 1.2
    last: float = math.inf

    def __post_init__(self) -> None:
        if not (0 < self.first < math.inf and 1 <= self.growth < math.inf and self.last >= self.first):
            raise ValueError(f"Growing needs first > 0, growth >= 1 and last >= first, got {self}")

    def __call__(self, iteration: int) -> float:
        return min(self.first * math.exp(min(iteration * math.log(self.growth), 600.0)), self.last)


@dataclass(frozen=True, eq=False)
class ProximalDenoiser:
    """The proximal map of a prior U as a denoiser, D(x, sigma) = argmin over t of U(t) + |t - x|^2 / (2 sigma^2).

    With `matched_sigma` plug-and-play EM then converges to the minimum of f + U.
    Raises ValueError when it is called without sigma.
    """

    prior: ProximablePrior

    def __call__(self, x: Array, sigma: Any = None, *, guide: Any = None) -> Array:
        if sigma is None:
            raise ValueError(f"the proximal map of {self.prior!r} needs a sigma; give sigma=matched_sigma?")
        return self.prior.prox(x, sigma**2)


def matched_sigma(rho: Any) -> Any:
    """Return 1 / sqrt(rho): with it a proximal map is the z-step of f(x) + U(z) + rho / 2 |x - z + mu|^2."""
    return rho**-0.5


def activity_scale(likelihood: Likelihood | Sequence[Likelihood], x: Array | None = None) -> Any:
    """Return a typical activity, sum(y - background) / sum(s): a number, or one for each item, (B, 1, 1, 1).

    It doubles with counts and background. At least 1 % of the counts are taken for activity. The background of
    list-mode data is taken for activity too, since single events do not tell its sum.
    x : an image whose library, device and precision arrays shall have (default: those of the data).
    """
    parts = _list_of(likelihood)
    x = parts[0].ones_image() if x is None else x
    signal: Any = 0.0
    for part in parts:
        signal = signal + _signal(part, x)
    xp = array_namespace(x)
    sensitivity = xp.sum(_sensitivity(parts, x), axis=_IMAGE)
    return _for_items(signal / xp.where(sensitivity > 0, sensitivity, xp.ones_like(sensitivity)))


def coupling_unit(likelihood: Likelihood | Sequence[Likelihood], scale: Any = None, x: Array | None = None) -> Any:
    """Return mean(s) / scale, by which a coupling without unit becomes one in units of s / x; the mean is over s > 0.

        pnp_em(f, denoiser, rho=0.1 * coupling_unit(f))

    is then equally strong whatever the counts, their unit and the size of the voxels are.
    scale : a typical activity, a number or (B, 1, 1, 1) (default: `activity_scale`).  x : as there.
    """
    parts = _list_of(likelihood)
    x = parts[0].ones_image() if x is None else x
    s = _sensitivity(parts, x)
    xp = array_namespace(x)
    seen = xp.sum(xp.where(s > 0, xp.ones_like(s), xp.zeros_like(s)), axis=_IMAGE)
    mean = _for_items(xp.sum(s, axis=_IMAGE) / xp.where(seen > 0, seen, xp.ones_like(seen)))
    return mean / (activity_scale(parts, x) if scale is None else _value_like(scale, x))


def pnp_em(
    likelihood: Likelihood | Sequence[Likelihood],
    denoiser: Any,
    start: Array | Iterate | None = None,
    n_subsets: int = 1,
    *,
    rho: Any,
    sigma: Any = None,
    em_steps: int = 2,
    dual: bool = True,
    order: Order = sequential,
    guide: Any = None,
    iteration: int = 0,
) -> Iterator[Iterate]:
    """Yield an `Iterate` after each iteration of plug-and-play EM, for ever; stop by leaving the loop.

        x  <- em_fuse(EM_k(x), z - mu, s_k, rho / n)    for every subset k of n, em_steps times
        z  <- D(x + mu, sigma)
        mu <- mu + x - z                                with `dual`; otherwise mu = 0

    With the dual variable this is ADMM, whose x-step is a few EM steps; where D is the proximal map of a prior U with
    step 1 / rho (`ProximalDenoiser`, sigma=matched_sigma) and with one subset it converges to the minimum of f + U over
    x >= 0. Without, it is half-quadratic splitting, for which rho grows. With a constant rho and no dual variable a
    fixed point has grad f(x) + rho (x - D(x)) = 0 where x > 0: that of `RegularisationByDenoising(D, rho)`.

    denoiser : any map of images (..., x, y, z), called as D(x), with sigma as second argument and guide= by name where
        they are given. Networks are run in evaluation mode, also on images that are no tensors, and nothing is kept for
        autograd (`UnrolledEM` has gradients). It need not return positive values.
    start, n_subsets, order, iteration : as in `osem` (default of the start: `activity_scale` everywhere).
    rho : in units of s / x, a number, an array that broadcasts to images, or a schedule such as `Growing`, called with
        the number of iterations done; see `coupling_unit`.
    sigma : None, or in the unit of the image: a number (with a schedule, that of the first iteration; it falls like
        sigma / sqrt(rho)), or a rule that makes it from rho, such as `matched_sigma`.
    An iterate is x and remembers z and mu; handed back as `start` it goes on exactly.
    Raises ValueError for a rho that is not positive, and where the denoiser returns another shape or no finite image.
    Source: Venkatakrishnan, Bouman & Wohlberg 2013; Chan, Wang & Elgendy 2017; image update: De Pierro 1995.
    """
    if em_steps < 1:
        raise ValueError(f"pnp_em em_steps must be at least 1, got {em_steps}")
    at, parts = _begin(likelihood, start, n_subsets, iteration)
    _check_rho(rho, at.iteration)
    return _pnp(at, parts, _Splitting(denoiser, rho, sigma, em_steps, dual, order, guide))


@dataclass(frozen=True, eq=False)
class PnPEM:
    """Plug-and-play EM as a reconstruction method, `method(likelihood, start=None, guide=None) -> image`; see `pnp_em`.

    denoiser : any map of images.
    n_iterations : how many.
    rho : the coupling: a number, an array or a schedule such as `Growing(0.01, 1.2)`.
    sigma : what the denoiser is told: None, a number or a rule of rho.
    relative : rho is in units of `coupling_unit` and a number for sigma in units of `activity_scale`, so that counts
        and image may have any unit; otherwise they are as in `pnp_em`.
    em_steps, dual, n_subsets, order : as in `pnp_em`.
    `iterates` is the loop of it. An Iterate as start goes on exactly, up to n_iterations in all.
    """

    denoiser: Any
    n_iterations: int = 40
    rho: Any = 0.1
    sigma: Any = None
    em_steps: int = 2
    dual: bool = True
    n_subsets: int = 1
    relative: bool = True
    order: Order = sequential

    def __post_init__(self) -> None:
        _check_counts(self, "n_iterations", "em_steps", "n_subsets")
        _check_rho(self.rho, 0)

    def __call__(
        self, likelihood: Likelihood | Sequence[Likelihood], start: Array | Iterate | None = None, *, guide: Any = None
    ) -> Array:
        return _last(self.iterates(likelihood, start, guide=guide), start, self.n_iterations)

    def iterates(
        self, likelihood: Likelihood | Sequence[Likelihood], start: Array | Iterate | None = None, *, guide: Any = None
    ) -> Iterator[Iterate]:
        """Yield an `Iterate` after each iteration, for ever."""
        at, parts = _begin(likelihood, _resumed(start), self.n_subsets, 0)
        rho, sigma = self.rho, self.sigma
        if self.relative:
            scale = activity_scale(parts, at.image)
            rho = _times(coupling_unit(parts, scale, at.image), rho)
            sigma = sigma if sigma is None or callable(sigma) else scale * _value_like(sigma, at.image)
        return _pnp(at, parts, _Splitting(self.denoiser, rho, sigma, self.em_steps, self.dual, self.order, guide))


@dataclass(frozen=True, eq=False)
class _Splitting:
    """What an iteration of plug-and-play EM consists of."""

    denoiser: Any
    rho: Any
    sigma: Any
    em_steps: int
    dual: bool
    order: Order
    guide: Any

    def strengths(self, iteration: int, x: Array) -> tuple[Any, Any]:
        """Return rho and sigma of an iteration."""
        rho = _value_like(_now(self.rho, iteration), x)
        if self.sigma is None:
            return rho, None
        if callable(self.sigma):
            return rho, self.sigma(rho)
        fall = (_value_like(_now(self.rho, 0), x) / rho) ** 0.5 if callable(self.rho) else 1.0
        return rho, _value_like(self.sigma, x) * fall


def _pnp(at: Iterate, parts: list[Likelihood], method: _Splitting) -> Iterator[Iterate]:
    iteration, x = at.iteration, at.image
    z = like(at.state["z"], x) if "z" in at.state else x
    mu = like(at.state["mu"], x) if "mu" in at.state else array_namespace(x).zeros_like(x)
    while True:
        with torch.no_grad():  # not around the yield: what the caller does in between is its own
            rho, sigma = method.strengths(iteration, x)
            x = em_towards(x, z - mu, parts, rho, method.em_steps, method.order(iteration, len(parts)))
            z = denoised(method.denoiser, x + mu, sigma, method.guide)
            mu = mu + x - z if method.dual else mu
        iteration += 1
        yield Iterate(iteration, x, {"z": z, "mu": mu})


def em_towards(
    x: Array, target: Array, parts: Sequence[Likelihood], rho: Any, em_steps: int, order: Sequence[int]
) -> Array:
    """Return x after EM steps that a coupling draws to a target, over all parts of the data, `em_steps` times.

    One part: each lowers f(x) + rho / 2 |x - target|^2, or leaves it.
    """
    for _ in range(em_steps):
        for k in order:
            x = em_fuse(em_step(x, parts[k]), target, parts[k].sensitivity_like(x), rho / len(parts))
    return x


# ---- calling a denoiser --------------------------------------------------------------------------------------------


def denoised(denoiser: Any, x: Array, sigma: Any = None, guide: Any = None) -> Array:
    """Return D(x) in the library, device and precision of x.

    sigma and guide are passed on where they are given. A torch module runs in evaluation mode and in its own precision,
    on host arrays too; tensors carry gradients.
    Raises TypeError for a result that is no array, and ValueError for one of another shape or with NaN or infinity.
    """
    guides = {} if guide is None else {"guide": guide}
    given = (x,) if sigma is None else (x, sigma)
    if isinstance(denoiser, nn.Module):
        given = tuple(_entering(denoiser, value) for value in given)
        guides = {name: _entering(denoiser, value) for name, value in guides.items()}
    with evaluating(denoiser):
        z = denoiser(*given, **guides)
    if not hasattr(z, "shape") or not hasattr(z, "dtype"):
        raise TypeError(f"the denoiser {_name(denoiser)} returned no array but {type(z).__name__}")
    if tuple(z.shape) != tuple(x.shape):
        raise ValueError(
            f"the denoiser {_name(denoiser)} returned {tuple(z.shape)} for an image of {tuple(x.shape)}; images have "
            "no channel axis"
        )
    xp = array_namespace(z)
    if not bool(xp.all(xp.isfinite(z))):
        n = int((~np.isfinite(to_numpy(z))).sum())
        raise ValueError(
            f"the denoiser {_name(denoiser)} returned NaN or infinite values in {n} of {math.prod(z.shape)} voxels: "
            "was it made for images of another scale?"
        )
    return like(z, x)


@contextmanager
def evaluating(network: Any) -> Iterator[None]:
    """Hold a torch module in evaluation mode (no dropout, fixed batch statistics); afterwards it is as it was."""
    training = [m for m in network.modules() if m.training] if isinstance(network, nn.Module) else []
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _entering(network: nn.Module, value: Any) -> Any:
    """Return an image, sigma or guide in the precision of a network, and on its device where it is no tensor yet."""
    known = next((p for p in network.parameters() if p.is_floating_point()), None)
    if is_torch(value):
        return value if known is None or not value.is_floating_point() else value.to(known.dtype)
    if not hasattr(value, "shape") or not value.shape:
        return value
    tensor = torch.as_tensor(np.ascontiguousarray(to_numpy(value)))
    return tensor if known is None else tensor.to(known)


def _name(denoiser: Any) -> str:
    return getattr(denoiser, "__name__", None) or type(denoiser).__name__


def _check_weight(owner: Any, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(owner, name) < math.inf:
            raise ValueError(
                f"{type(owner).__name__} {name} must be finite and not negative, got {getattr(owner, name)}"
            )


# ---- denoisers and networks in the place of a prior ----------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class RegularisationByDenoising(SmoothPrior):
    """Regularisation by denoising (RED): images that the denoiser leaves alone.

        gradient = beta (x - D(x))

    The gradient needs no derivative of D. It is that of a function,

        U(x) = beta / 2 <x, x - D(x)>,

    only where D has a symmetric Jacobian and is homogeneous, D(c x) = c D(x): say so by `conservative`, and there are a
    `value` and, on tensors, the Hessian beta (v - J'v). Otherwise these raise NotImplementedError.

    Engines: `osl`, `bsrem` and, by the curvature, `map_em` need no value; `svrg`, `saga` and `lbfgsb` do.

    denoiser : any map of images (B, x, y, z); see `pnp_em`.
    beta : the weight, in units of s / x (`coupling_unit`).
    sigma, guide : what the denoiser is told besides.
    lipschitz : L, by which you vouch for |D(x) - D(y)| <= L |x - y|. The curvature is beta (1 + L), whose parabolas lie
        above U; with a D that is too steep `map_em` may rise. The same number stands for the diagonal of the Hessian,
        by which `bsrem` and `svrg` shorten their steps. A conservative D that is a proximal map has 0 <= J <= 1, so
        that L = 0 is right for it.
    conservative : D is homogeneous with a symmetric Jacobian.
    Source: Romano, Elad & Milanfar 2017; Reehorst & Schniter 2019 (when it is the gradient of a function).
    """

    denoiser: Any
    beta: float = 1.0
    sigma: Any = None
    guide: Any = None
    lipschitz: float = 1.0
    conservative: bool = False

    def __post_init__(self) -> None:
        _check_weight(self, "beta", "lipschitz")

    def _gradient(self, x: Array) -> Array:
        return self.beta * (x - denoised(self.denoiser, x, self.sigma, self.guide))

    def _value(self, x: Array) -> Array:
        self._require_conservative("value")
        xp = array_namespace(x)
        return xp.sum(x * self._gradient(x), axis=_IMAGE, dtype=xp.float64) / 2

    def _hessian_vector(self, x: Array, v: Array) -> Array:
        self._require_conservative("Hessian")
        return self.beta * (v - transposed_jacobian(self.denoiser, x, v, self.sigma, self.guide))

    def _curvature(self, x: Array) -> Array:
        return self.beta * (1 + self.lipschitz) * array_namespace(x).ones_like(x)

    def _curvature_transposed(self, x: Array, v: Array) -> Array:
        return 0 * v

    def _hessian_diagonal(self, x: Array) -> Array:
        return self._curvature(x)

    def _require_conservative(self, what: str) -> None:
        if not self.conservative:
            raise NotImplementedError(
                f"{self!r} has a gradient but no {what}, unless its denoiser is homogeneous with a symmetric Jacobian "
                "(conservative=True); use osl, bsrem or map_em"
            )

    def __repr__(self) -> str:
        return f"RegularisationByDenoising({_name(self.denoiser)}, beta={self.beta:g})"


@dataclass(frozen=True, eq=False)
class LearnedGradient(SmoothPrior):
    """A network in the place of a prior's gradient: gradient = beta N(x).

    Engines: `osl` needs the gradient alone; with `lipschitz` also `bsrem` (with `EMPreconditioner()` without it) and
    `map_em`; `svrg`, `saga` and `lbfgsb` need `potential` besides.

    network : any map of images (B, x, y, z), called like a denoiser.
    beta : the weight; beta N(x) has the unit of the sensitivity s.
    guide : what the network is told besides.
    lipschitz : L with |N(x) - N(y)| <= L |x - y|, in units of N / x, or None where it is not known; the curvature, and
        what stands for the diagonal of the Hessian, is beta L.
    potential : the function of which N is the gradient, images (B, x, y, z) -> (B,), where there is one.
    Source: the prior of EMnet, Gong et al. 2019 (SPIE 10948), trained apart.
    """

    network: Any
    beta: float = 1.0
    guide: Any = None
    lipschitz: float | None = None
    potential: Callable[[Array], Array] | None = None

    def __post_init__(self) -> None:
        _check_weight(self, "beta", *([] if self.lipschitz is None else ["lipschitz"]))

    def _gradient(self, x: Array) -> Array:
        return self.beta * denoised(self.network, x, None, self.guide)

    def _value(self, x: Array) -> Array:
        if self.potential is None:
            raise NotImplementedError(f"{self!r} has a gradient but no value; give its potential, or use osl or bsrem")
        xp = array_namespace(x)
        with torch.no_grad():
            values = self.beta * self.potential(x)
        return values.to(xp.float64) if is_torch(values) else xp.astype(values, xp.float64)

    def _hessian_vector(self, x: Array, v: Array) -> Array:
        if self.potential is None:
            raise NotImplementedError(f"{self!r} is not known to be the gradient of a function: it has no Hessian")
        return self.beta * transposed_jacobian(self.network, x, v, None, self.guide)

    def _curvature(self, x: Array) -> Array:
        if self.lipschitz is None:
            raise NotImplementedError(
                f"{self!r} has no curvature without a lipschitz constant; use osl, or bsrem with EMPreconditioner()"
            )
        return self.beta * self.lipschitz * array_namespace(x).ones_like(x)

    def _curvature_transposed(self, x: Array, v: Array) -> Array:
        return 0 * v

    def _hessian_diagonal(self, x: Array) -> Array:
        return self._curvature(x)

    def __repr__(self) -> str:
        return f"LearnedGradient({_name(self.network)}, beta={self.beta:g})"


def transposed_jacobian(denoiser: Any, x: Array, v: Array, sigma: Any = None, guide: Any = None) -> torch.Tensor:
    """Return J'v, J the derivative of a denoiser at x, of the shape of x; torch only.

    Raises NotImplementedError for other arrays, and ValueError where autograd does not see the denoiser.
    """
    if not is_torch(x):
        raise NotImplementedError(f"the derivative of {_name(denoiser)} needs torch tensors")
    with torch.inference_mode(False), torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        z = denoised(denoiser, leaf, sigma, guide)
        if not z.requires_grad:
            raise ValueError(f"the denoiser {_name(denoiser)} lets no gradient through: does it leave torch?")
        (product,) = torch.autograd.grad(z, leaf, v.detach().clone())
    return product


# ---- local linear fitting ------------------------------------------------------------------------------------------

Fit = Literal["slope first", "least squares"]


@dataclass(frozen=True)
class LocalLinearFitting:
    """How strongly, and how, `kim_llf` draws the image to the denoised one; both weights are relative to the data's.

    beta : of |x - q x_D - b|^2, the local linear fit.  gamma : of |x_D - f(x) - eta|^2, the network.
    alpha : times gamma, what the network adds to the denominator.
    window : voxels of the fit along each axis, odd.
    fit : "slope first", q = sum x x_D / sum x_D^2 and then b = mean x - q mean x_D (as in the authors' programme); or
        "least squares" in both, q = cov(x, x_D) / var(x_D).
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
        _check_weight(self, "beta", "gamma", "alpha", "least")
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
    likelihood: PoissonLikelihood | Sequence[PoissonLikelihood],
    denoiser: Any,
    start: Array | Iterate | None = None,
    n_subsets: int = 16,
    *,
    fitting: LocalLinearFitting = LocalLinearFitting(),
    order: Order = sequential,
    guide: Any = None,
    iteration: int = 0,
) -> Iterator[Iterate]:
    """Yield an `Iterate` after each pass of separable quadratic surrogates with a network and local linear fits.

    For every subset k, with f the denoiser, kept above 0, from q = 1 and b = eta = 0 at the start:

        x_D <- (beta q (x - b) + gamma (f(x) + eta)) / (beta q^2 + gamma)
        z   <- x + q x_D + b
        q, b <- the local linear fit of x by x_D
        x   <- max(x - (g / h + beta (2 x - z) - gamma J'(x_D - f(x) - eta)) / (1 + 2 beta + alpha gamma), 0)
        eta <- eta - (x_D - f(x))

    g = A_k'(1 - y / ybar) is the gradient of the subset and h = A_k'(A_k 1 / max(y, least)) its curvature, so that
    g / h is an image and beta and gamma have no unit. Through the fit the level and the contrast of a network may be
    wrong, locally. h is one image for each subset, kept. Subsets do not converge, they circle; nor is it monotone.
    denoiser, guide : as in `pnp_em`; the authors' DnCNN saw 5 slices.
    start, n_subsets, order, iteration : as in `osem`; begin with an OSEM image.
    An iterate remembers q ("slope"), b ("offset") and eta ("dual"); handed back as `start` it goes on exactly.
    Raises TypeError for list-mode likelihoods, and what `denoised` raises.
    Source: Kim et al. 2018, IEEE Trans Med Imaging 37:1478, and its programme.
    """
    at, parts = _begin(likelihood, start, n_subsets, iteration)
    if not all(isinstance(part, PoissonLikelihood) for part in parts):
        raise TypeError("kim_llf needs counts in bins, for the curvature of the data; list-mode has none")
    return _llf(at, parts, denoiser, fitting, order, guide)


@dataclass(frozen=True, eq=False)
class DnCNNWithLocalLinearFitting:
    """Reconstruction with a denoising network and local linear fits, as a method with settings; see `kim_llf`.

    denoiser : a network such as DnCNN, or any map of images.
    fitting : weights and window.  n_iterations, n_subsets, order : of `kim_llf`.
    initial : passes of OSEM with the same subsets where no start is given.
    `iterates` is the loop of it. An Iterate as start goes on exactly, up to n_iterations in all.
    """

    denoiser: Any
    fitting: LocalLinearFitting = LocalLinearFitting()
    n_iterations: int = 4
    n_subsets: int = 16
    initial: int = 2
    order: Order = sequential

    def __post_init__(self) -> None:
        _check_counts(self, "n_iterations", "n_subsets", "initial")

    def __call__(
        self,
        likelihood: PoissonLikelihood | Sequence[PoissonLikelihood],
        start: Array | Iterate | None = None,
        *,
        guide: Any = None,
    ) -> Array:
        return _last(self.iterates(likelihood, start, guide=guide), start, self.n_iterations)

    def iterates(
        self,
        likelihood: PoissonLikelihood | Sequence[PoissonLikelihood],
        start: Array | Iterate | None = None,
        *,
        guide: Any = None,
    ) -> Iterator[Iterate]:
        """Yield an `Iterate` after each pass, for ever."""
        at, parts = _begin(likelihood, _resumed(start), self.n_subsets, 0)
        if start is None:
            with torch.no_grad():
                at = at._replace(image=_last(osem(parts, at.image), None, self.initial))
        return kim_llf(parts, self.denoiser, at, fitting=self.fitting, order=self.order, guide=guide)


@dataclass(frozen=True, eq=False)
class _Curvatures:
    """h of each subset, made when it is first met."""

    parts: list[Any]
    least: float
    _plans: dict[int, PlanCache] = field(default_factory=dict, init=False)

    def __call__(self, k: int, x: Array) -> Array:
        return self._plans.setdefault(k, PlanCache()).get(x, lambda: self._make(self.parts[k], x))

    def _make(self, part: Any, x: Array) -> Array:
        xp, y = array_namespace(x), like(part.data, x)
        return part.model.adjoint(part.model.linear(xp.ones_like(x)) / xp.clip(y, self.least, None))


def _llf(
    at: Iterate, parts: list[Any], denoiser: Any, fitting: LocalLinearFitting, order: Order, guide: Any
) -> Iterator[Iterate]:
    iteration, x, curvature = at.iteration, at.image, _Curvatures(parts, fitting.least)
    xp = array_namespace(x)
    blank = {"slope": xp.ones_like(x), "offset": xp.zeros_like(x), "dual": xp.zeros_like(x)}
    q, b, eta = (like(at.state.get(name, value), x) for name, value in blank.items())
    while True:
        with torch.no_grad():
            for k in order(iteration, len(parts)):
                x, q, b, eta = _llf_step((x, q, b, eta), parts[k], curvature(k, x), denoiser, fitting, guide)
        iteration += 1
        yield Iterate(iteration, x, {"slope": q, "offset": b, "dual": eta})


def _llf_step(
    state: tuple[Array, Array, Array, Array],
    part: Any,
    h: Array,
    denoiser: Any,
    fitting: LocalLinearFitting,
    guide: Any,
) -> tuple[Array, Array, Array, Array]:
    x, q, b, eta = state
    beta, gamma, xp = fitting.beta, fitting.gamma, array_namespace(x)

    def network(image: Array, sigma: Any = None, *, guide: Any = None) -> Array:
        return xp.clip(denoised(denoiser, image, sigma, guide), 0.0, None)

    cleaned = network(x, guide=guide)
    drawn = (beta * q * (x - b) + gamma * (cleaned + eta)) / (beta * q * q + gamma)
    z = x + q * drawn + b
    q, b = local_linear_fit(x, drawn, fitting.window, fitting.fit)
    seen = h > 0
    step = xp.where(seen, part.gradient(x) / xp.where(seen, h, xp.ones_like(h)), xp.zeros_like(x))
    step = step + beta * (2 * x - z)
    if fitting.network_gradient:
        step = step - gamma * transposed_jacobian(network, x, drawn - cleaned - eta, None, guide)
    moved = xp.clip(x - step / (1 + 2 * beta + fitting.alpha * gamma), 0.0, None)
    return moved, q, b, eta - (drawn - cleaned)


def _box(x: Array, window: int) -> Array:
    """Return the sum over a window around each voxel, of the voxels inside the image."""
    for axis in _IMAGE:
        n, total = x.shape[axis], x + 0
        for d in range(1, min(window // 2, n - 1) + 1):
            lower = (..., slice(None, n - d), *[slice(None)] * (-axis - 1))
            upper = (..., slice(d, None), *[slice(None)] * (-axis - 1))
            total[lower] += x[upper]
            total[upper] += x[lower]
        x = total
    return x


# ---- small parts ---------------------------------------------------------------------------------------------------


def _begin(likelihood: Any, start: Array | Iterate | None, n_subsets: int, iteration: int) -> tuple[Iterate, list[Any]]:
    """`recon.em.begin`, with an image of the right size where there is none, and cut off from autograd."""
    at, parts = begin(likelihood, start, n_subsets, iteration)
    if start is None:
        with torch.no_grad():
            at = at._replace(image=at.image * activity_scale(parts, at.image))
    return constant(at), parts


def _last(iterates: Iterator[Any], start: Any, n_iterations: int) -> Array:
    """Return the image after n_iterations in all, of which an iterate has some behind it already."""
    at = _resumed(start)
    done = at.iteration if isinstance(at, Iterate) else 0
    if done >= n_iterations:
        return at.image
    *_, last = islice(iterates, n_iterations - done)
    return last.image


def _resumed(start: Any) -> Any:
    """Return an iterate of the same method as it is; that of another method is no more than its image."""
    return start.image if isinstance(start, Iterate) and not start.state else start


def _list_of(likelihood: Likelihood | Sequence[Likelihood]) -> list[Any]:
    return list(likelihood) if isinstance(likelihood, Sequence) else [likelihood]


def _sensitivity(parts: Sequence[Any], x: Array) -> Array:
    total = parts[0].sensitivity_like(x)
    for part in parts[1:]:
        total = total + part.sensitivity_like(x)
    return total.detach() if is_torch(total) else total


def _signal(part: Any, x: Array) -> Any:
    """The counts of each item that the background does not explain, but at least a few of them."""
    xp, views = array_namespace(x), tuple(range(-len(part.model.projector.out_shape), 0))
    if not isinstance(part, PoissonLikelihood):
        return xp.sum(xp.zeros_like(x), axis=_IMAGE) + part.model.projector.out_shape[0]
    y = like(part.data, x)
    counts = xp.sum(y, axis=views)
    signal = xp.maximum(xp.sum(y - part.model.background_like(y), axis=views), _FAINT * counts)
    signal = signal.detach() if is_torch(signal) else signal
    return xp.where(signal > 0, signal, xp.ones_like(signal))


def _for_items(values: Array) -> Any:
    """Return a number, or (B, 1, 1, 1) from (B,)."""
    return values[..., None, None, None] if values.ndim else float(values)


def _value_like(value: Any, x: Array) -> Any:
    """Return a number as it is (NumPy's would change the precision), and an array like x."""
    if isinstance(value, (int, float, np.integer, np.floating)):
        return float(value)
    return like(value, x)


def _now(rho: Any, iteration: int) -> Any:
    return rho(iteration) if callable(rho) else rho


def _times(unit: Any, rho: Any) -> Any:
    """Return unit * rho, for a rho that may be a schedule."""
    if callable(rho):
        return lambda iteration: unit * rho(iteration)
    return unit * rho


def _check_rho(rho: Any, iteration: int) -> None:
    value = np.asarray(to_numpy(now) if hasattr(now := _now(rho, iteration), "shape") else now, float)
    if not ((value > 0).all() and np.isfinite(value).all()):
        raise ValueError(f"rho must be positive and finite, got {rho if value.ndim == 0 else 'other values'}")


def _check_counts(method: Any, *names: str) -> None:
    for name in names:
        if getattr(method, name) < 1:
            raise ValueError(f"{type(method).__name__} {name} must be at least 1, got {getattr(method, name)}")
