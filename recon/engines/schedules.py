"""Small rules that engines ask: which subset comes next, how long a step is, and what scales the gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from emrecon.projectors.core.arrays import Array, array_namespace, clipped, divide_where

from ..priors.prior import SmoothPrior


class Order(Protocol):
    """In which order the n subsets are visited in the pass number `iteration` (from 0)."""

    def __call__(self, iteration: int, n: int) -> Sequence[int]: ...


def sequential(iteration: int, n: int) -> Sequence[int]:
    """0, 1, 2, ... in every pass."""
    return range(n)


def herman_meyer(iteration: int, n: int) -> Sequence[int]:
    """Staggered: each subset is far from those just visited; digits of k in the prime factors of n are turned round.

    Source: Herman & Meyer 1993.
    """
    factors, order = _prime_factors(n), []
    for k in range(n):
        place, stride, rest = 0, n, k
        for p in factors:
            stride //= p
            place += rest % p * stride
            rest //= p
        order.append(place)
    return order


def cofactor(iteration: int, n: int) -> Sequence[int]:
    """0, c, 2 c, ... modulo n, with another c in every pass: those without a common divisor with n, near 0.3 n first.

    Neighbours in time are far apart in angle, and (of three subsets or more) no two passes in a row are alike.
    """
    coprime = [c for c in range(1, n + 1) if math.gcd(c, n) == 1]
    coprime.sort(key=lambda c: min(abs(c - 0.3 * n), abs(c - 0.7 * n)))
    c = coprime[iteration % len(coprime)]
    return [c * k % n for k in range(n)]


@dataclass(frozen=True)
class RandomOrder:
    """A random permutation in every pass; it depends on the seed and on the number of the pass only."""

    seed: int = 0

    def __call__(self, iteration: int, n: int) -> Sequence[int]:
        order: list[int] = np.random.default_rng((self.seed, iteration)).permutation(n).tolist()
        return order


class StepSize(Protocol):
    """How long a step is after `passes` over the data (a fraction within a pass)."""

    def __call__(self, passes: float) -> float: ...


def as_step(step: StepSize | float) -> StepSize:
    """Return a rule for steps; a number is the same step always."""
    if isinstance(step, (int, float)):
        return Constant(float(step))
    if not callable(step):
        raise TypeError(f"step must be a number or a rule such as StepDown(), got {type(step).__name__}")
    return step


@dataclass(frozen=True)
class Constant:
    """The same step always."""

    size: float = 1.0

    def __post_init__(self) -> None:
        _check_positive(self, "size")

    def __call__(self, passes: float) -> float:
        return self.size


@dataclass(frozen=True)
class Relaxation:
    """first / (decay * passes + 1): slow enough that their sum has no bound, fast enough that noise dies out."""

    first: float = 1.0
    decay: float = 0.1

    def __post_init__(self) -> None:
        _check_positive(self, "first", "decay")

    def __call__(self, passes: float) -> float:
        return self.first / (self.decay * passes + 1)


@dataclass(frozen=True)
class StepDown:
    """From `first` to `last` by equal factors over `over` passes, and `last` from then on.

    Long first steps cross the distance, short ones do not swing.
    """

    first: float = 2.0
    last: float = 1.0
    over: float = 8.0

    def __post_init__(self) -> None:
        _check_positive(self, "first", "last", "over")

    def __call__(self, passes: float) -> float:
        return self.first * (self.last / self.first) ** min(passes / self.over, 1.0)


@dataclass(frozen=True)
class BarzilaiBorwein:
    """Steps from the curvature met between the last two anchors of `svrg`, in the metric of the preconditioner D::

        step = <dx, dg> / <dg, D dg>,  dx and dg the changes of image and gradient

    Args:
        first : the step until there are two anchors.
        lowest, highest : bounds for the rule.

    Source: Barzilai & Borwein 1988; Tan et al. 2016 (with SVRG).
    """

    first: float = 1.0
    lowest: float = 0.1
    highest: float = 2.0

    def __post_init__(self) -> None:
        _check_positive(self, "first", "lowest", "highest")
        if self.lowest > self.highest:
            raise ValueError(f"BarzilaiBorwein lowest {self.lowest} is above highest {self.highest}")

    def __call__(self, passes: float) -> float:
        return self.first

    def between(self, change: Array, slope: Array, diagonal: Array) -> Array:
        """Return the step of each item, (..., 1, 1, 1), from the changes of image and gradient."""
        xp, axes = array_namespace(change), (-3, -2, -1)
        met = xp.sum(change * slope, axis=axes, keepdims=True)
        norm = xp.sum(diagonal * slope**2, axis=axes, keepdims=True)
        known = (met > 0) & (norm > 0)
        step = met / xp.where(known, norm, xp.ones_like(norm))
        return xp.where(known, clipped(step, self.lowest, self.highest), self.first * xp.ones_like(step))


class Preconditioner(Protocol):
    """Return D, positive numbers of the shape of x, by which the gradient is multiplied."""

    def __call__(self, x: Array, sensitivity: Array, prior: SmoothPrior | None) -> Array: ...


@dataclass(frozen=True)
class EMPreconditioner:
    """D = x / s: with a step of 1 and no prior, the gradient step is an EM update.

    Args:
        floor : x counts as at least this part of its maximum, so that voxels at 0 can move.
    """

    floor: float = 1e-6

    def __call__(self, x: Array, sensitivity: Array, prior: SmoothPrior | None) -> Array:
        return _scaled(_floored(x, self.floor), sensitivity)


@dataclass(frozen=True)
class PriorAware:
    """D = x / (s + weight * diag(H_U(x)) x), H_U the Hessian of the prior: where the prior is steep, steps are short.

    Args:
        weight : what the Hessian's other entries add.
        floor : as in `EMPreconditioner`.

    Source: the recipe of the winners of the PETRIC challenge 2024.
    """

    weight: float = 1.5
    floor: float = 1e-6

    def __post_init__(self) -> None:
        _check_positive(self, "weight")

    def __call__(self, x: Array, sensitivity: Array, prior: SmoothPrior | None) -> Array:
        x = _floored(x, self.floor)
        if prior is None:
            return _scaled(x, sensitivity)
        return _scaled(x, sensitivity + self.weight * prior.hessian_diagonal(x) * x)


def _floored(x: Array, floor: float) -> Array:
    xp = array_namespace(x)
    return xp.maximum(x, floor * xp.max(x, axis=(-3, -2, -1), keepdims=True))


def _scaled(x: Array, scale: Array) -> Array:
    """x / scale, 0 where nothing is seen."""
    return divide_where(x, scale, 0.0)


def _prime_factors(n: int) -> list[int]:
    factors, p = [], 2
    while n > 1:
        while n % p == 0:
            factors.append(p)
            n //= p
        p += 1
    return factors


def _check_positive(rule: object, *names: str) -> None:
    for name in names:
        if not 0 < getattr(rule, name) < math.inf:
            raise ValueError(f"{type(rule).__name__} {name} must be positive and finite, got {getattr(rule, name)}")
