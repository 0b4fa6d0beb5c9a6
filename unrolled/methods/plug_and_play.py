"""Learned priors without unrolling: plug-and-play EM, denoisers and networks as priors, local linear fitting."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import nn

from emrecon.projectors.core.arrays import Array, array_namespace, is_torch, like, to_numpy
from emrecon.recon import Iterate, PoissonLikelihood, ProximablePrior, em_fuse, em_step, sequential
from emrecon.recon.engines.loop import begin, detached
from emrecon.recon.engines.schedules import Order
from emrecon.recon.likelihoods import Likelihood, sensitivity_like

_IMAGE = (-3, -2, -1)

_FAINT = 0.01  # of the counts: the least share that is taken for activity where the background explains them all


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
class PlugAndPlayEM:
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
            x = em_fuse(em_step(x, parts[k]), target, sensitivity_like(parts[k], x), rho / len(parts))
    return x


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


def _begin(likelihood: Any, start: Array | Iterate | None, n_subsets: int, iteration: int) -> tuple[Iterate, list[Any]]:
    """`recon.em.begin`, with an image of the right size where there is none, and cut off from autograd."""
    at, parts = begin(likelihood, start, n_subsets, iteration)
    if start is None:
        with torch.no_grad():
            at = at._replace(image=at.image * activity_scale(parts, at.image))
    return detached(at), parts


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
