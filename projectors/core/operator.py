"""Linear maps between arrays: call `A(x)`, transpose `A.T`, compose `A @ B`, add, scale and differentiate."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import cached_property
from typing import Self

import numpy as np

from .arrays import (
    Array,
    PlanCache,
    array_namespace,
    as_real,
    dtype_name,
    is_cuda,
    is_torch,
    like,
    require_array,
    require_constant,
)
from .html import html_table
from .memory import require_memory

Shape = tuple[int, ...]

_LARGE = 2**28  # bytes; below, nobody asks how much memory there is


class LinearOperator(ABC):
    """A linear map A from arrays of shape `in_shape` to arrays of shape `out_shape`.

    A subclass sets the two shapes and writes `_forward` and `_adjoint`, which act on one item. This class adds
    leading batch axes, autograd for torch tensors (reverse, forward and double), shape errors and algebra::

        A(x)        A.T(y)        A @ B        A + B        2 * A        -A

    A(x) : x of shape (..., ``*in_shape``) gives (..., ``*out_shape``), float64 for float64 input and float32 otherwise.
    A.T(y) : the exact transpose; `A.T.T is A`.

    Raises ValueError where trailing axes do not match, TypeError where x is not an array, MemoryError where the result
    is larger than the memory that is free.
    """

    in_shape: Shape
    out_shape: Shape
    __array_ufunc__ = None  # numpy_scalar * A is ours, and A @ numpy_array is an error rather than a loop over A

    @abstractmethod
    def _forward(self, x: Array) -> Array:
        """Apply the map to one item of shape `in_shape`."""

    @abstractmethod
    def _adjoint(self, y: Array) -> Array:
        """Apply the transpose to one item of shape `out_shape`."""

    def _forward_batch(self, x: Array) -> Array:
        """Apply the map to (B, ``*in_shape``); a kernel that batches by itself overrides this."""
        return array_namespace(x).stack([self._forward(x[i, ...]) for i in range(x.shape[0])])

    def _adjoint_batch(self, y: Array) -> Array:
        """Apply the transpose to (B, ``*out_shape``)."""
        return array_namespace(y).stack([self._adjoint(y[i, ...]) for i in range(y.shape[0])])

    def __call__(self, x: Array) -> Array:
        require_array(x, repr(self))
        self._check_shape(tuple(x.shape))
        x = as_real(x)
        self._require_room(x)
        return self._differentiable(x) if is_torch(x) else self._apply(x)

    @cached_property
    def T(self) -> LinearOperator:
        """The transpose A'."""
        return _Transposed(self)

    def before(self, projector: Projector) -> tuple[Projector, LinearOperator]:
        """Return what `projector @ self` is made of: these two, or for a blur, ones with room around the image."""
        return projector, self

    @property
    def n_items(self) -> int | None:
        """How many items a batch must have, where each has physics of its own; None where any number will do."""
        return None

    @property
    def has_parameters(self) -> bool:
        """Whether something besides x gets a gradient, such as the attenuation map of a `SPECTProjector`."""
        return False

    def _differentiable(self, x: Array) -> Array:
        """Apply the map to a tensor so that torch can differentiate it."""
        from .autograd import apply_linear

        return apply_linear(x, self)

    def _differentiable_transpose(self, y: Array) -> Array:
        """Apply the transpose to a tensor so that torch can differentiate it."""
        from .autograd import apply_linear

        return apply_linear(y, self.T)

    def _apply(self, x: Array) -> Array:
        """Apply the map over any leading axes, without autograd."""
        batch = tuple(x.shape[: x.ndim - len(self.in_shape)])
        if not batch:
            return self._forward(x)
        xp = array_namespace(x)
        if math.prod(batch) == 0:
            return xp.zeros((*batch, *self.out_shape), dtype=x.dtype, device=x.device)
        y = self._forward_batch(xp.reshape(x, (math.prod(batch), *self.in_shape)))
        return xp.reshape(y, (*batch, *self.out_shape))

    def _require_room(self, x: Array) -> None:
        """Raise MemoryError where the result is larger than the memory that is free."""
        n_bytes = (4 if dtype_name(x) == "float32" else 8) * math.prod(
            (*x.shape[: x.ndim - len(self.in_shape)], *self.out_shape)
        )
        if n_bytes > _LARGE and not is_cuda(x):
            require_memory(n_bytes, f"the result of {self!r}")

    def _check_shape(self, shape: Shape) -> None:
        n = len(self.in_shape)
        if len(shape) >= n and shape[len(shape) - n :] == self.in_shape:
            return
        advice = ""
        if len(shape) == n - 1 and shape == self.in_shape[:-1]:
            advice = "; add the last axis?"
        elif sorted(shape[-n:]) == sorted(self.in_shape):
            advice = "; are the axes in another order?"
        elif shape[-len(self.out_shape) :] == self.out_shape:
            advice = "; is this meant for the transpose, A.T?"
        raise ValueError(f"{self!r} expects (..., {str(self.in_shape)[1:-1].rstrip(',')}), got {shape}{advice}")

    def _repr_html_(self) -> str:
        known = {name: getattr(self, name, None) for name in ("grid", "geometry", "sinogram", "response", "fwhm")}
        attenuated = {"attenuation": self.attenuation is not None} if hasattr(self, "attenuation") else {}
        ends = {"from": compact(self.in_shape), "to": compact(self.out_shape)}
        rows = {**ends, **known, **attenuated, **self._html_rows()}
        geometry = known["geometry"]
        drawing = geometry.orbit_svg() if geometry is not None and hasattr(geometry, "orbit_svg") else ""
        return html_table(type(self).__name__.lstrip("_"), rows, drawing)

    def _html_rows(self) -> dict[str, object]:
        """What a notebook shows of this operator besides its shapes, grid and geometry."""
        return {}

    def __matmul__(self, other: LinearOperator) -> LinearOperator:
        if not isinstance(other, LinearOperator):
            return NotImplemented
        if isinstance(self, Projector):
            return _ComposedProjector(*other.before(self))
        return _Composed(self, other)

    def __add__(self, other: LinearOperator) -> LinearOperator:
        if not isinstance(other, LinearOperator):
            return NotImplemented
        both = isinstance(self, Projector) and isinstance(other, Projector)
        return (_SumProjector if both else _Sum)(self, other)

    def __sub__(self, other: LinearOperator) -> LinearOperator:
        return self + (-1.0) * other

    def __mul__(self, scale: float) -> LinearOperator:
        if not isinstance(scale, (int, float, np.integer, np.floating)):
            return NotImplemented
        return (_ScaledProjector if isinstance(self, Projector) else _Scaled)(float(scale), self)

    __rmul__ = __mul__

    def __neg__(self) -> LinearOperator:
        return (-1.0) * self

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {compact(self.in_shape)} -> {compact(self.out_shape)}>"

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "T"}


class Projector(LinearOperator):
    """A linear operator from an image to the views of a scan; axis 0 of `out_shape` counts the views."""

    @abstractmethod
    def subset(self, k: int, n: int) -> Self:
        """Return the projector of the views k, k + n, k + 2n, ...; caches are shared with its parent."""

    def ones_image(self, like: Array | None = None) -> Array:
        """Return an image of ones, float32 NumPy or of the library, device and dtype of the array `like`."""
        if like is None:
            require_memory(4.0 * math.prod(self.in_shape), f"an image of {self!r}")
            return np.ones(self.in_shape, np.float32)
        return array_namespace(like).ones(self.in_shape, dtype=like.dtype, device=like.device)


class BatchOperator(LinearOperator):
    """An operator that takes whole batches: one item is a batch of one."""

    @abstractmethod
    def _forward_batch(self, x: Array) -> Array:
        """Apply the map to (B, ``*in_shape``)."""

    @abstractmethod
    def _adjoint_batch(self, y: Array) -> Array:
        """Apply the transpose to (B, ``*out_shape``)."""

    def _forward(self, x: Array) -> Array:
        return self._forward_batch(x[None, ...])[0, ...]

    def _adjoint(self, y: Array) -> Array:
        return self._adjoint_batch(y[None, ...])[0, ...]


class BatchProjector(BatchOperator, Projector):
    """A projector whose kernels take whole batches."""


class Diagonal(LinearOperator):
    """Multiplication by `weights`, element by element: y = w x.

    Args:
        weights : array whose shape broadcasts to `shape`; a constant, also for autograd.
        shape : that of the operator's items (default: of weights).
    """

    def __init__(self, weights: Array, shape: Shape | None = None) -> None:
        require_constant(weights, "Diagonal weights")
        self.weights = weights
        self.in_shape = self.out_shape = tuple(weights.shape) if shape is None else tuple(shape)
        if not broadcasts_to(tuple(weights.shape), self.in_shape):
            raise ValueError(f"Diagonal weights of shape {tuple(weights.shape)} do not broadcast to {self.in_shape}")
        self._plans = PlanCache()

    def _forward(self, x: Array) -> Array:
        return self._plans.get(x, lambda: like(self.weights, x)) * x

    def _adjoint(self, y: Array) -> Array:
        return self._forward(y)

    def _forward_batch(self, x: Array) -> Array:
        return self._forward(x)

    def _adjoint_batch(self, y: Array) -> Array:
        return self._forward(y)


class DenseOperator(LinearOperator):
    """The map given by a matrix of shape (prod(out_shape), prod(in_shape)); for small problems and references."""

    def __init__(self, matrix: Array, in_shape: Shape, out_shape: Shape) -> None:
        require_constant(matrix, "DenseOperator matrix")
        self.matrix, self.in_shape, self.out_shape = matrix, tuple(in_shape), tuple(out_shape)
        expected = (math.prod(self.out_shape), math.prod(self.in_shape))
        if tuple(matrix.shape) != expected:
            raise ValueError(f"DenseOperator {in_shape} -> {out_shape} expects a matrix {expected}, got {matrix.shape}")
        self._plans = PlanCache()

    def _forward(self, x: Array) -> Array:
        xp = array_namespace(x)
        return xp.reshape(self._matrix_like(x) @ xp.reshape(x, (-1,)), self.out_shape)

    def _adjoint(self, y: Array) -> Array:
        xp = array_namespace(y)
        return xp.reshape(self._matrix_like(y).T @ xp.reshape(y, (-1,)), self.in_shape)

    def _matrix_like(self, x: Array) -> Array:
        return self._plans.get(x, lambda: like(self.matrix, x))


class _Transposed(LinearOperator):
    def __init__(self, operator: LinearOperator) -> None:
        self.operator, self.in_shape, self.out_shape = operator, operator.out_shape, operator.in_shape

    def _forward(self, x: Array) -> Array:
        return self.operator._adjoint(x)

    def _adjoint(self, y: Array) -> Array:
        return self.operator._forward(y)

    def _forward_batch(self, x: Array) -> Array:
        return self.operator._adjoint_batch(x)

    def _adjoint_batch(self, y: Array) -> Array:
        return self.operator._forward_batch(y)

    @property
    def T(self) -> LinearOperator:
        return self.operator

    @property
    def has_parameters(self) -> bool:
        return self.operator.has_parameters

    def _differentiable(self, x: Array) -> Array:
        return self.operator._differentiable_transpose(x)

    def _differentiable_transpose(self, y: Array) -> Array:
        return self.operator._differentiable(y)

    def _html_rows(self) -> dict[str, object]:
        return {"transpose of": repr(self.operator)}

    def __repr__(self) -> str:
        return f"<{type(self.operator).__name__}.T {compact(self.in_shape)} -> {compact(self.out_shape)}>"


class _Composed(LinearOperator):
    def __init__(self, outer: LinearOperator, inner: LinearOperator) -> None:
        if inner.out_shape != outer.in_shape:
            raise ValueError(f"cannot compose {outer!r} @ {inner!r}: {inner.out_shape} is not {outer.in_shape}")
        self.outer, self.inner = outer, inner
        self.in_shape, self.out_shape = inner.in_shape, outer.out_shape

    def _forward(self, x: Array) -> Array:
        return self.outer._forward(self.inner._forward(x))

    def _adjoint(self, y: Array) -> Array:
        return self.inner._adjoint(self.outer._adjoint(y))

    def _forward_batch(self, x: Array) -> Array:
        return self.outer._forward_batch(self.inner._forward_batch(x))

    def _adjoint_batch(self, y: Array) -> Array:
        return self.inner._adjoint_batch(self.outer._adjoint_batch(y))

    @property
    def has_parameters(self) -> bool:
        return self.outer.has_parameters or self.inner.has_parameters

    def _differentiable(self, x: Array) -> Array:
        return self.outer(self.inner(x)) if self.has_parameters else super()._differentiable(x)

    def _differentiable_transpose(self, y: Array) -> Array:
        return self.inner.T(self.outer.T(y)) if self.has_parameters else super()._differentiable_transpose(y)

    def _html_rows(self) -> dict[str, object]:
        return {"first": repr(self.inner), "then": repr(self.outer)}

    def __repr__(self) -> str:
        return f"<{self.outer!r} @ {self.inner!r}>"


class _ComposedProjector(_Composed, Projector):
    """A projector after an operator on images, such as a resolution model: its subsets are those of the projector."""

    outer: Projector

    @property
    def n_items(self) -> int | None:
        return _common_items(self.outer, self.inner)

    def subset(self, k: int, n: int) -> _ComposedProjector:
        return _ComposedProjector(self.outer.subset(k, n), self.inner)


class _Sum(LinearOperator):
    def __init__(self, first: LinearOperator, second: LinearOperator) -> None:
        if (first.in_shape, first.out_shape) != (second.in_shape, second.out_shape):
            raise ValueError(f"cannot add {first!r} and {second!r}: their shapes differ")
        self.first, self.second = first, second
        self.in_shape, self.out_shape = first.in_shape, first.out_shape

    def _forward(self, x: Array) -> Array:
        return self.first._forward(x) + self.second._forward(x)

    def _adjoint(self, y: Array) -> Array:
        return self.first._adjoint(y) + self.second._adjoint(y)

    def _forward_batch(self, x: Array) -> Array:
        return self.first._forward_batch(x) + self.second._forward_batch(x)

    def _adjoint_batch(self, y: Array) -> Array:
        return self.first._adjoint_batch(y) + self.second._adjoint_batch(y)

    @property
    def has_parameters(self) -> bool:
        return self.first.has_parameters or self.second.has_parameters

    def _differentiable(self, x: Array) -> Array:
        return self.first(x) + self.second(x) if self.has_parameters else super()._differentiable(x)

    def _differentiable_transpose(self, y: Array) -> Array:
        if self.has_parameters:
            return self.first.T(y) + self.second.T(y)
        return super()._differentiable_transpose(y)

    def _html_rows(self) -> dict[str, object]:
        return {"sum of": f"{self.first!r}\n{self.second!r}"}

    def __repr__(self) -> str:
        return f"<{self.first!r} + {self.second!r}>"


def _common_items(first: LinearOperator, second: LinearOperator) -> int | None:
    items = {n for n in (first.n_items, second.n_items) if n is not None}
    if len(items) > 1:
        raise ValueError(f"{first!r} and {second!r} take batches of different sizes, {sorted(items)}")
    return items.pop() if items else None


class _SumProjector(_Sum, Projector):
    """Two projectors that fill the same views, such as primary and scattered photons."""

    first: Projector
    second: Projector

    @property
    def n_items(self) -> int | None:
        return _common_items(self.first, self.second)

    def subset(self, k: int, n: int) -> _SumProjector:
        return _SumProjector(self.first.subset(k, n), self.second.subset(k, n))


class _Scaled(LinearOperator):
    def __init__(self, scale: float, operator: LinearOperator) -> None:
        self.scale, self.operator = scale, operator
        self.in_shape, self.out_shape = operator.in_shape, operator.out_shape

    def _forward(self, x: Array) -> Array:
        return self.scale * self.operator._forward(x)

    def _adjoint(self, y: Array) -> Array:
        return self.scale * self.operator._adjoint(y)

    def _forward_batch(self, x: Array) -> Array:
        return self.scale * self.operator._forward_batch(x)

    def _adjoint_batch(self, y: Array) -> Array:
        return self.scale * self.operator._adjoint_batch(y)

    @property
    def has_parameters(self) -> bool:
        return self.operator.has_parameters

    def _differentiable(self, x: Array) -> Array:
        return self.scale * self.operator(x) if self.has_parameters else super()._differentiable(x)

    def _differentiable_transpose(self, y: Array) -> Array:
        return self.scale * self.operator.T(y) if self.has_parameters else super()._differentiable_transpose(y)

    def _html_rows(self) -> dict[str, object]:
        return {"number": self.scale, "operator": repr(self.operator)}

    def __repr__(self) -> str:
        return f"<{self.scale:g} * {self.operator!r}>"


class _ScaledProjector(_Scaled, Projector):
    """A projector times a number: its subsets are those of the projector."""

    operator: Projector

    @property
    def n_items(self) -> int | None:
        return self.operator.n_items

    def subset(self, k: int, n: int) -> _ScaledProjector:
        return _ScaledProjector(self.scale, self.operator.subset(k, n))


def broadcasts_to(shape: Shape, target: Shape) -> bool:
    """Whether an array of `shape` broadcasts to `target` without making it larger."""
    return len(shape) <= len(target) and all(n in (1, m) for n, m in zip(shape[::-1], target[::-1]))


def compact(shape: Shape) -> str:
    """Return a shape as `repr` shows it, without spaces."""
    return str(shape).replace(" ", "")
