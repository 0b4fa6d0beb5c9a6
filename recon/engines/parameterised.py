"""Reconstruction of a latent, x = P(latent): EM proposes an image, the parameterisation comes as near as it can."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol, Self

from emrecon.projectors import LinearOperator
from emrecon.projectors.core.arrays import Array, array_namespace, as_real, divide_where, is_torch, like

from ..likelihoods.protocol import Likelihood, only_seen, sensitivity_like
from .em import em_step
from .kernel_em import _check_coefficients
from .loop import Iterate, begin, repeat
from .schedules import sequential
from .watch import hand_out, may_rise, total


class Parameterisation(Protocol):
    """Images x = P(latent) that a latent can make: a kernel's coefficients, a network's weights or its input."""

    def image(self) -> Array:
        """Return x, of the shape of the images (..., x, y, z), not negative."""

    def fit(self, target: Array, weight: Array, steps: int) -> Self:
        """Return the parameterisation after `steps` steps that lower `surrogate(self.image(), target, weight)`.

        Args:
            target : like the image, >= 0.
            weight : >= 0, broadcasts to it.

        They start at the latent as it is. A frozen value returns another one, a network may return itself.
        """


class ParameterisedIterate(NamedTuple):
    """Where the loop stands: the number of passes over the data, the image, and the parameterisation that made it."""

    iteration: int
    image: Array
    parameterisation: Parameterisation


def surrogate(image: Array, target: Array, weight: Array) -> Array:
    """Return sum over voxels of weight * (x - target * log x), which is lowest at x = target; torch differentiates it.

    Args:
        image : (..., x, y, z) >= 0, and > 0 wherever weight and target are.
        target, weight : broadcast to it.
    """
    xp = array_namespace(image)
    counted = (target * weight) > 0
    logs = xp.log(xp.where(counted, image, xp.ones_like(image)))
    return xp.sum(weight * (image - target * logs))


def parameterised_em(
    likelihood: Likelihood | Sequence[Likelihood],
    parameterisation: Parameterisation,
    n_subsets: int = 1,
    *,
    steps: int = 1,
    iteration: int = 0,
) -> Iterator[ParameterisedIterate]:
    """Yield a `ParameterisedIterate` after each pass over `n_subsets` subsets of the views, for ever.

    Optimisation transfer, with x = P(latent) and s = A'1::

        x_EM = x / s * A'(y / ybar)
        latent <- lower sum_j s_j (x_j - x_EM,j log x_j) in x = P(latent), by `steps` steps from the latent as it is

    The sum lies above the negative log-likelihood and touches it at x, up to a constant. So with one subset the
    likelihood never gets worse if a fit does not raise the sum; it need not find the lowest value. With
    `KernelCoefficients` and one step this is `kem`.
    n_subsets, or a list of likelihoods : as in `osem`.

    Where passes of EM may rise (fewer than five views in a subset) no image is handed out that lies above the lowest
    likelihood met in this call by more than 1 % of the fall since its start: the one before is, and the
    parameterisation, which the iterate holds as it is, goes on.

    Args:
        iteration : how many passes the parameterisation has behind it already, when resuming.

    Raises ValueError for an image of another shape than the projector's, more subsets than views, and steps < 1.

    Source: De Pierro 1995, IEEE Trans Med Imaging 14:132 (the sum); Wang & Qi 2015, IEEE Trans Med Imaging 34:61
    (kernels); Li et al. 2023, IEEE Trans Med Imaging 42:785 (networks).
    """
    if steps < 1:
        raise ValueError(f"parameterised_em steps must be at least 1, got {steps}")
    _, parts = begin(likelihood, parameterisation.image(), n_subsets)

    def step(latent: Parameterisation, part: Likelihood) -> Parameterisation:
        x = _detached(latent.image())
        return latent.fit(em_step(x, part), sensitivity_like(part, x), steps)

    def show(n: int, latent: Parameterisation) -> ParameterisedIterate:
        return ParameterisedIterate(n, only_seen(_detached(latent.image()), parts), latent)

    iterates = repeat((iteration, parameterisation), parts, sequential, step, show)
    return _kept_back(iterates, parts, show(iteration, parameterisation)) if may_rise(parts) else iterates


def _kept_back(
    iterates: Iterator[ParameterisedIterate], parts: Sequence[Likelihood], start: ParameterisedIterate
) -> Iterator[ParameterisedIterate]:
    """Hand out the image before in place of a worse one; the parameterisation goes on as it is."""
    before = Iterate(start.iteration, start.image)
    for n, image, parameterisation in iterates:
        before = hand_out(Iterate(n, image), before, partial(total, parts, None))
        yield ParameterisedIterate(n, before.image, parameterisation)


def _detached(x: Array) -> Array:
    """The step of EM is a constant of the fit."""
    return x.detach() if is_torch(x) else x


@dataclass(frozen=True, eq=False)
class KernelCoefficients:
    """The parameterisation x = K alpha of kernel EM.

    Args:
        kernel : K, an operator of images.
        coefficients : alpha >= 0, (..., ``*kernel.in_shape``).

    Raises ValueError for coefficients that do not fit, or are negative or not finite.
    """

    kernel: LinearOperator
    coefficients: Array

    def __post_init__(self) -> None:
        object.__setattr__(self, "coefficients", as_real(self.coefficients))
        _check_coefficients(self.coefficients, self.kernel)

    def image(self) -> Array:
        """Return K alpha."""
        return self.kernel(self.coefficients)

    def fit(self, target: Array, weight: Array, steps: int) -> KernelCoefficients:
        """Return the coefficients after EM steps for the target, alpha <- alpha / (K's) * K'(s target / (K alpha)).

        One step from the coefficients of x, with target x_EM, is a step of `kem`; more steps come nearer to x_EM.
        """
        alpha, kernel = self.coefficients, self.kernel
        xp = array_namespace(alpha)
        weight = xp.broadcast_to(like(weight, alpha), tuple(target.shape))
        sensitivity = kernel.T(weight)
        for _ in range(steps):
            image = kernel(alpha)
            ratio = divide_where(weight * target, image)
            alpha = alpha * divide_where(kernel.T(ratio), sensitivity, 1.0)
        return KernelCoefficients(kernel, alpha)
