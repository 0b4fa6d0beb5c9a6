"""EM with a prior: the closed form of a quadratic penalty, De Pierro's MAP-EM, and one step late."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from emrecon.projectors.core.arrays import Array, array_namespace, is_torch, like, require_array

from ..likelihoods.protocol import Likelihood, seen_like, sensitivity_like
from ..priors.prior import Objective, SmoothPrior
from .em import em_step
from .loop import Iterate, begin, living, repeat, taken_apart
from .plain_steps import positive_root
from .schedules import Order, sequential
from .watch import TakenBack, taken_back

_LEAST = 0.1  # of the sensitivity: what a one-step-late denominator never falls below


class Gradient(Protocol):
    """What one-step-late asks of a prior."""

    def gradient(self, x: Array) -> Array: ...


def em_fuse(x_em: Array, z: Array, sensitivity: Array, beta: Array | float) -> Array:
    """Return the image that joins an EM image to a target z, voxel by voxel::

        argmin over x >= 0 of  s (x - x_em log x) + beta / 2 (x - z)^2

    which is the root x >= 0 of  beta x^2 + (s - beta z) x - s x_em = 0.  beta -> 0 gives x_em, beta -> infinity gives
    max(z, 0), and where s = 0 the result is max(z, 0).

    Args:
        x_em, z : (..., x, y, z).
        sensitivity : s >= 0, broadcasts to them.
        beta : > 0, a number or an array that broadcasts to them, in units of s / x.

    Keeps its digits in float32 for any ratio of beta and s. torch tensors carry gradients to all four arguments, twice.
    This is the image update of MAP-EM with a quadratic surrogate (De Pierro 1995), and of the learned methods built on
    it: IterCNN (Gong et al. 2018), DIPRecon (Gong et al. 2019), MAPEM-Net, BCD-Net (Lim et al. 2020) and FBSEM-Net
    (Mehranian & Reader 2021).
    """
    require_array(x_em, "em_fuse")
    if isinstance(beta, (int, float)) and not beta >= 0:
        raise ValueError(f"em_fuse beta must not be negative, got {beta}")
    values = (x_em, z, sensitivity, beta)
    if any(is_torch(value) for value in values):
        from .autograd import fuse

        return fuse(*values)
    return positive_root(beta, sensitivity - beta * z, sensitivity * x_em)


def map_em_step(x: Array, likelihood: Likelihood, prior: SmoothPrior, share: float = 1.0) -> Array:
    """Return one MAP-EM update: the minimiser of separable surrogates of the likelihood and of the prior::

        argmin over t >= 0 of  s (t - x_em log t) + g t + c / 2 (t - x)^2

    with g and c the prior's gradient (at x; of the linearised part) and its curvature at x, times `share` (1 / n for a
    subset of n).  x : (..., x, y, z) >= 0.  Lowers the penalised objective, or leaves it. Voxels
    that neither data nor prior know keep their value.

    Raises NotImplementedError for priors without a curvature.

    Source: De Pierro 1995.
    """
    sensitivity = sensitivity_like(likelihood, x)
    slope, curvature = share * prior.gradient(x), share * prior.curvature(x)
    root = positive_root(curvature, sensitivity + slope - curvature * x, sensitivity * em_step(x, likelihood))
    return array_namespace(x).where((sensitivity > 0) | (curvature > 0), root, x)


def osl_step(x: Array, likelihood: Likelihood, prior: Gradient, share: float = 1.0) -> Array:
    """Return one one-step-late update, x A'(y / ybar) / (s + share * grad U(x)).

    The denominator is kept above a tenth of s. Not monotone, and a large prior may make it swing.

    Source: Green 1990.
    """
    sensitivity = sensitivity_like(likelihood, x)
    xp = array_namespace(x)
    denominator = xp.maximum(sensitivity + share * prior.gradient(x), _LEAST * sensitivity)
    seen = sensitivity > 0
    weight = xp.where(seen, sensitivity / xp.where(seen, denominator, xp.ones_like(denominator)), xp.ones_like(x))
    return em_step(x, likelihood) * weight


def map_em(
    likelihood: Likelihood | Objective | Sequence[Likelihood],
    prior: SmoothPrior | None = None,
    start: Array | Iterate | None = None,
    n_subsets: int = 1,
    *,
    order: Order = sequential,
    iteration: int = 0,
) -> Iterator[Iterate]:
    """Yield an `Iterate` after each pass of De Pierro's MAP-EM, for ever; stop by leaving the loop.

    With one subset the penalised objective falls at every iteration, to its minimum. Subsets are faster at first and
    then circle around it. Images that are worse are taken back, as in `osem`.

    Args:
        likelihood, prior : f and U, U with a curvature, such as `beta * Huber(delta)`; or `f + U` alone.
        start, order, iteration : as in `osem`.

    Source: De Pierro 1995.
    """
    return _penalised(likelihood, prior, start, n_subsets, order, iteration, map_em_step)


def osl(
    likelihood: Likelihood | Objective | Sequence[Likelihood],
    prior: Gradient | None = None,
    start: Array | Iterate | None = None,
    n_subsets: int = 1,
    *,
    order: Order = sequential,
    iteration: int = 0,
) -> Iterator[Iterate]:
    """Yield an `Iterate` after each pass of the one-step-late algorithm, for ever; stop by leaving the loop.

    Args:
        likelihood, prior : f and U, U anything with a gradient, such as `beta * RelativeDifference(...)` or a median
            root prior; or `f + U` alone.
        start, order, iteration : as in `osem`. It need not converge; see `osl_step`.

    Images that are worse are taken back, as in `osem`, whatever the subsets, at half a pass more for each look. Where U
    has no value (a median root prior) there is no objective, and nothing is taken back.

    Source: Green 1990.
    """
    return _penalised(likelihood, prior, start, n_subsets, order, iteration, osl_step, always=True)


def _penalised(
    likelihood: Likelihood | Objective | Sequence[Likelihood],
    prior: Gradient | None,
    start: Array | Iterate | None,
    n_subsets: int,
    order: Order,
    iteration: int,
    step: Callable[[Array, Likelihood, Any, float], Array],
    always: bool = False,
) -> Iterator[Iterate]:
    f, prior = taken_apart(likelihood, prior)
    if not hasattr(prior, "gradient"):
        raise TypeError(f"this engine needs a prior with a gradient, and {type(prior).__name__} has none")
    at, parts = begin(f, start, n_subsets, iteration)
    share = 1 / len(parts)
    known = TakenBack.known(at)
    x = at.image if known.own is None else like(known.own, at.image)
    seen = seen_like(parts, x)

    def update(x: Array, part: Likelihood) -> Array:
        xp = array_namespace(x)
        return xp.where(seen, step(x, part, prior, share), xp.zeros_like(x))

    iterates = living(repeat((at.iteration, x), parts, order, update), parts, x)
    return taken_back(iterates, parts, at._replace(state=known), prior, always=always)
