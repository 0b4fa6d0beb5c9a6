"""What a prior is: U(x) with its gradient, curvature and Hessian, or with a proximal map; weighted and added up."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from emrecon.projectors.core.arrays import Array, as_real, is_torch, like, require_array


class SmoothPrior(ABC):
    """A differentiable penalty U(x) on images (..., x, y, z); leading axes are a batch.

    A subclass writes `_value`, `_gradient` and `_hessian_vector`, and, where it has them, `_curvature` and
    `_hessian_diagonal`; all of them act on a whole batch (B, x, y, z) of float32 or float64. This class adds shape
    checks, single images, autograd for torch tensors (reverse, forward and double) and algebra::

        beta * prior        prior + other        likelihood + prior
    """

    __array_ufunc__ = None  # numpy_scalar * prior is ours, and array * prior is an error

    @abstractmethod
    def _value(self, x: Array) -> Array:
        """Return U of each image, (B,) in float64."""

    @abstractmethod
    def _gradient(self, x: Array) -> Array:
        """Return the gradient of U."""

    @abstractmethod
    def _hessian_vector(self, x: Array, v: Array) -> Array:
        """Return the Hessian of U at x applied to v."""

    def _curvature(self, x: Array) -> Array:
        """Return the second derivatives of separable parabolas that touch U at x and lie above it."""
        raise NotImplementedError(f"{self!r} has no separable parabolas above it; use bsrem, svrg or saga")

    def _hessian_diagonal(self, x: Array) -> Array:
        """Return the diagonal of the Hessian of U at x."""
        raise NotImplementedError(f"{self!r} has no Hessian diagonal")

    def _curvature_transposed(self, x: Array, v: Array) -> Array:
        """Return the transposed derivative of the curvature at x applied to v."""
        raise NotImplementedError(f"gradients do not flow through the curvature of {self!r}; detach the image for it")

    def value(self, x: Array) -> Array:
        """Return U(x), summed in float64: one number for each item of a batch."""
        x = self._checked(x)
        if is_torch(x):
            from .autograd import prior_value

            return prior_value(x, self)
        return self._at_batch(self._value, x)

    def gradient(self, x: Array) -> Array:
        """Return the gradient of U at x, of the shape of x."""
        x = self._checked(x)
        if is_torch(x):
            from .autograd import prior_gradient

            return prior_gradient(x, self)
        return self._at_batch(self._gradient, x)

    def hessian_vector(self, x: Array, v: Array) -> Array:
        """Return the Hessian of U at x applied to v, of the shape of x."""
        x, v = self._checked(x), self._checked(v)
        if tuple(x.shape) != tuple(v.shape):
            raise ValueError(f"{self!r}: x of shape {tuple(x.shape)} and v of {tuple(v.shape)} differ")
        v = like(v, x)
        if is_torch(x):
            from .autograd import prior_hessian_vector

            return prior_hessian_vector(x, v, self)
        return self._at_batch(self._hessian_vector, x, v)

    def curvature(self, x: Array) -> Array:
        """Return c, of the shape of x: for all images t, U(t) <= U(x) + <gradient, t - x> + 1/2 sum c (t - x)^2.

        Raises NotImplementedError where no such parabolas are known.
        """
        x = self._checked(x)
        if is_torch(x):
            from .autograd import prior_curvature

            return prior_curvature(x, self)
        return self._at_batch(self._curvature, x)

    def hessian_diagonal(self, x: Array) -> Array:
        """Return the diagonal of the Hessian of U at x, of the shape of x; a constant for autograd."""
        return self._at_batch(self._hessian_diagonal, _plain(self._checked(x)))

    def __mul__(self, beta: float) -> SmoothPrior:
        return _Scaled(_weight(beta, self), self) if isinstance(beta, _NUMBERS) else NotImplemented

    __rmul__ = __mul__

    def __add__(self, other: object) -> SmoothPrior:
        return _Sum(self, other) if isinstance(other, SmoothPrior) else NotImplemented

    def __radd__(self, other: object) -> Objective:
        return Objective(other, self) if _is_likelihood(other) else NotImplemented

    def _shape(self) -> tuple[int, ...] | None:
        """The shape of the images where it is fixed, by weights or by a guide."""
        return None

    def _checked(self, x: Array) -> Array:
        require_array(x, repr(self))
        shape = self._shape()
        if x.ndim < 3 or (shape is not None and tuple(x.shape[-3:]) != shape):
            expected = "x, y, z" if shape is None else ", ".join(map(str, shape))
            raise ValueError(f"{self!r} expects images (..., {expected}), got {tuple(x.shape)}")
        return as_real(x)

    @staticmethod
    def _at_batch(function: Callable[..., Array], *images: Array) -> Array:
        """Apply a function of batches to images with any leading axes."""
        batch, image = tuple(images[0].shape[:-3]), tuple(images[0].shape[-3:])
        y = function(*(x.reshape(math.prod(batch), *image) for x in images))
        return y.reshape(batch + tuple(y.shape[1:]))[()]


class ProximablePrior(ABC):
    """A penalty U(x) that need not be differentiable, with its proximal map; `beta * prior` is one too."""

    __array_ufunc__ = None

    @abstractmethod
    def value(self, x: Array) -> Array:
        """Return U(x), summed in float64: one number for each item of a batch."""

    @abstractmethod
    def prox(self, x: Array, step: Array | float) -> Array:
        """Return the image t that minimises U(t) + sum (t - x)^2 / (2 step); step is a number or an array like x."""

    def __mul__(self, beta: float) -> ProximablePrior:
        return ScaledProximable(_weight(beta, self), self) if isinstance(beta, _NUMBERS) else NotImplemented

    __rmul__ = __mul__

    def __radd__(self, other: object) -> Objective:
        return Objective(other, self) if _is_likelihood(other) else NotImplemented


@dataclass(frozen=True, eq=False)
class Objective:
    """What an engine minimises, f(x) + U(x): a likelihood and a prior; `likelihood + prior` makes one.

    Every engine with a prior takes one in place of the two. Gradients need a smooth prior.
    """

    likelihood: Any
    prior: Any

    def value(self, x: Array) -> Array:
        """Return f(x) + U(x): one number for each item of a batch."""
        return self.likelihood.value(x) + self.prior.value(x)

    def gradient(self, x: Array) -> Array:
        """Return the gradient at x, of the shape of x."""
        return self.likelihood.gradient(x) + self.prior.gradient(x)

    def hessian_vector(self, x: Array, v: Array) -> Array:
        """Return the Hessian at x applied to v."""
        return self.likelihood.hessian_vector(x, v) + self.prior.hessian_vector(x, v)

    def __add__(self, other: object) -> Objective:
        return Objective(self.likelihood, self.prior + other) if isinstance(other, SmoothPrior) else NotImplemented


class _Scaled(SmoothPrior):
    def __init__(self, beta: float, prior: SmoothPrior) -> None:
        self.beta, self.prior = beta, prior

    def _value(self, x: Array) -> Array:
        return self.beta * self.prior._value(x)

    def _gradient(self, x: Array) -> Array:
        return self.beta * self.prior._gradient(x)

    def _hessian_vector(self, x: Array, v: Array) -> Array:
        return self.beta * self.prior._hessian_vector(x, v)

    def _curvature(self, x: Array) -> Array:
        return self.beta * self.prior._curvature(x)

    def _hessian_diagonal(self, x: Array) -> Array:
        return self.beta * self.prior._hessian_diagonal(x)

    def _curvature_transposed(self, x: Array, v: Array) -> Array:
        return self.beta * self.prior._curvature_transposed(x, v)

    def _shape(self) -> tuple[int, ...] | None:
        return self.prior._shape()

    def __repr__(self) -> str:
        return f"{self.beta:g} * {self.prior!r}"


class _Sum(SmoothPrior):
    def __init__(self, first: SmoothPrior, second: SmoothPrior) -> None:
        self.first, self.second = first, second
        shapes = {prior._shape() for prior in (first, second)} - {None}
        if len(shapes) > 1:
            raise ValueError(f"cannot add {first!r} and {second!r}: they are for images of different shapes")

    def _value(self, x: Array) -> Array:
        return self.first._value(x) + self.second._value(x)

    def _gradient(self, x: Array) -> Array:
        return self.first._gradient(x) + self.second._gradient(x)

    def _hessian_vector(self, x: Array, v: Array) -> Array:
        return self.first._hessian_vector(x, v) + self.second._hessian_vector(x, v)

    def _curvature(self, x: Array) -> Array:
        return self.first._curvature(x) + self.second._curvature(x)

    def _hessian_diagonal(self, x: Array) -> Array:
        return self.first._hessian_diagonal(x) + self.second._hessian_diagonal(x)

    def _curvature_transposed(self, x: Array, v: Array) -> Array:
        return self.first._curvature_transposed(x, v) + self.second._curvature_transposed(x, v)

    def _shape(self) -> tuple[int, ...] | None:
        return self.first._shape() or self.second._shape()

    def __repr__(self) -> str:
        return f"{self.first!r} + {self.second!r}"


class ScaledProximable(ProximablePrior):
    def __init__(self, beta: float, prior: ProximablePrior) -> None:
        self.beta, self.prior = beta, prior

    def value(self, x: Array) -> Array:
        return self.beta * self.prior.value(x)

    def prox(self, x: Array, step: Array | float) -> Array:
        return self.prior.prox(x, self.beta * step)

    def __repr__(self) -> str:
        return f"{self.beta:g} * {self.prior!r}"


_NUMBERS = (int, float, np.integer, np.floating)


def _weight(beta: float, prior: object) -> float:
    if not 0 <= beta < math.inf:
        raise ValueError(f"the weight of {prior!r} must be finite and not negative, got {beta}")
    return float(beta)


def _is_likelihood(other: object) -> bool:
    return hasattr(other, "value") and hasattr(other, "gradient")


def _plain(x: Array) -> Array:
    return x.detach() if is_torch(x) else x
