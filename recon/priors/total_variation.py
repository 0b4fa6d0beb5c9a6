"""Priors on the gradient of an image: total variation, directional total variation and parallel level sets."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from emrecon.projectors.core.arrays import (
    Array,
    PlanCache,
    array_namespace,
    as_real,
    clipped,
    device,
    divide_where,
    from_host,
    is_torch,
    like,
    read_only,
    require_array,
    require_constant,
    to_host,
    to_numpy,
)
from emrecon.projectors.core.operator import BatchOperator
from emrecon.projectors.core.threads import thread_count

from . import variation_kernels as kernels
from .image_gradient import (
    _CUBES,
    ImageGradient,
    _each_part,
    _host,
    _host_rows,
    _in_slabs,
    _moved_on,
    _no_direction,
    _on_host,
    _slabs,
    _three_sizes,
    _typed,
    _weights,
)
from .prior import ProximablePrior

_CHECK_EVERY = 10  # steps of the dual method between two looks at the duality gap, and more later

_MIDDLE = 2 ** (kernels.BITS - 1)

_STEP, _CONVEXITY = 1.0, 0.15  # of the dual method: its first step, and what its acceleration counts on (at most 1)


class DualBallPrior(ProximablePrior):
    """A penalty U(x) = the largest <p, K x> over a ball of p: what primal-dual algorithms treat without inner loops.

    `operator(shape)` is K for images of that shape, with a `norm_bound`; `project(p, radius)` is the projection onto
    the ball of beta U, whose radius is beta.
    """

    @abstractmethod
    def operator(self, shape: tuple[int, ...]) -> Any:
        """Return K, a `LinearOperator` from images (x, y, z) with a `norm_bound`."""

    @abstractmethod
    def project(self, p: Array, radius: Array | float = 1.0) -> Array:
        """Return the point of the ball nearest to p, (..., ``*K.out_shape``)."""


class _GradientBall(DualBallPrior):
    """U(x) = sum ``|K x|`` with K = (I - xi xi') D, and its prox by an accelerated primal-dual method."""

    voxel_size: tuple[float, float, float]
    nonnegative: bool
    tolerance: float
    max_iterations: int
    isotropic: bool = True

    def value(self, x: Array) -> Array:
        return _at_batch(self._value, self._checked(x))

    def _value(self, x: Array) -> Array:
        return _sum_of_lengths(self, x, None)

    def project(self, p: Array, radius: Array | float = 1.0) -> Array:
        xp = array_namespace(p)
        if not self.isotropic:
            return clipped(p, -radius, radius)
        length = xp.sqrt(xp.sum(p * p, axis=-4, keepdims=True))
        return p / xp.maximum(length / radius, xp.ones_like(length)) if _positive(radius) else xp.zeros_like(p)

    def prox(self, x: Array, step: Array | float) -> Array:
        """Return the image t that minimises U(t) + sum (t - x)^2 / (2 step), within `tolerance`; no autograd.

        Args:
            x : (..., x, y, z).
            step : not negative; a number, or an array that broadcasts to x.

        Holds 3 images in float32, the result included, and 2.5 in float64; copies are made of an array of steps of
        another precision than x, and of an image that is not contiguous.

        Source: Chambolle & Pock 2011, J Math Imaging Vis 40:120, algorithm 2.
        """
        x = self._checked(x)
        x = x.detach() if is_torch(x) else x
        xp = array_namespace(x)
        steps, batch = _steps_like(step, x), tuple(x.shape[:-3])
        out = xp.zeros(tuple(x.shape), dtype=x.dtype, device=device(x))
        for index in np.ndindex(batch):
            of_item = tuple(min(i, n - 1) for i, n in zip(index, steps.shape))
            self._prox(x[(*index, ...)], steps[(*of_item, ...)], out[(*index, ...)])
        return out

    def _prox(self, x: Array, step: Array, t: Array) -> None:
        """Chambolle & Pock's algorithm 2 in the metric 1 / step, where the problem is 1-strongly convex.

        The gap bounds the distance, ``|t - best|^2`` <= 2 step gap.
        """
        for part in _slabs(x.shape[0]):
            t[part, ...] = self._clipped(x[part, ...])
        largest = float(array_namespace(step).max(step))
        if largest == 0:
            return
        enough, tau, check = self._enough(x, step), _STEP, _CHECK_EVERY
        dual = (_HostDual if _on_host(x) else _ArrayDual)(self, x, step, t, 1e-6 * largest)
        for iteration in range(1, self.max_iterations + 1):
            ahead = 1 / math.sqrt(1 + 2 * _CONVEXITY * tau)
            dual.sweep(kernels.MOVE, tau / (1 + tau), ahead, 1 / (tau * ahead))
            tau *= ahead
            if iteration >= check:
                if dual.sweep(kernels.MEASURE) <= enough:
                    break
                check += max(_CHECK_EVERY, iteration // 10)
        dual.sweep(kernels.FINISH)

    def _enough(self, x: Array, step: Array) -> float:
        def share_of(part: slice) -> float:
            steps = _part(step, part)
            return _total(x[part, ...] ** 2 / (steps + like(steps == 0, x)))

        return self.tolerance**2 / 2 * sum(map(share_of, _slabs(x.shape[0])))

    def _clipped(self, t: Array) -> Array:
        return clipped(t, low=0) if self.nonnegative else t

    def _direction_like(self, x: Array) -> Array | None:
        return None

    def _shape(self) -> tuple[int, ...] | None:
        return None

    def _checked(self, x: Array) -> Array:
        require_array(x, repr(self))
        shape = self._shape()
        if x.ndim < 3 or (shape is not None and tuple(x.shape[-3:]) != shape):
            expected = "x, y, z" if shape is None else ", ".join(map(str, shape))
            raise ValueError(f"{self!r} expects images (..., {expected}), got {tuple(x.shape)}")
        return as_real(x)


@dataclass(frozen=True, eq=False, repr=False)
class TotalVariation(_GradientBall):
    """Total variation, U(x) = sum over voxels of ``|D x|``, with D the `ImageGradient`.

    Args:
        voxel_size : (x, y, z) mm; only the ratios matter.
        isotropic : Euclidean length of the three differences; False for the sum of their absolute values.
        nonnegative : the proximal map looks among images without negative values only.
        tolerance, max_iterations : of the proximal map, which stops when the duality gap proves that it is within
            tolerance * ``|x|`` of the exact one (distances in voxels weighted with 1 / step), and at the latest after
            so many steps. It starts afresh at each call, so it is a function of its arguments. It holds 3 images, the
            result included; 2.5 in float64.

    Images (..., x, y, z); leading axes are a batch. NumPy, CuPy and torch, without autograd.

    Source: Rudin, Osher & Fatemi 1992; prox: Chambolle & Pock 2011, J Math Imaging Vis 40:120.
    """

    voxel_size: tuple[float, float, float] = _CUBES
    isotropic: bool = True
    nonnegative: bool = False
    tolerance: float = 1e-4
    max_iterations: int = 1000

    def __post_init__(self) -> None:
        object.__setattr__(self, "voxel_size", _three_sizes(self.voxel_size, "TotalVariation"))
        _check_inner_loop(self)

    def operator(self, shape: tuple[int, ...]) -> ImageGradient:
        """Return the `ImageGradient` of images of a shape."""
        return ImageGradient(shape, self.voxel_size)

    def __repr__(self) -> str:
        return "TotalVariation()" if self.isotropic else "TotalVariation(isotropic=False)"


@dataclass(frozen=True, eq=False, repr=False)
class DirectionalTotalVariation(_GradientBall):
    """Directional total variation, U(x) = sum ``|(I - xi xi') D x|``: edges where a guide v has them cost little::

        xi = D v / sqrt(|D v|^2 + eta^2)

    Args:
        guide : v, (x, y, z), such as an MR or CT image on the grid of the reconstruction; only its edges' directions
            count.
        eta : differences of the guide much smaller than this count for nothing; in the guide's unit (default: 1 % of
            its largest ``|D v|``).

    The other arguments are those of `TotalVariation`. xi is kept: 3 images for each library and precision met.

    Raises ValueError for a guide that is not 3-D or not finite, and for eta that is not positive.

    Source: Ehrhardt & Betcke 2016, SIAM J Imaging Sci 9:1084.
    """

    guide: Array
    eta: float | None = None
    voxel_size: tuple[float, float, float] = _CUBES
    nonnegative: bool = False
    tolerance: float = 1e-4
    max_iterations: int = 1000
    _plans: PlanCache = field(default_factory=PlanCache, init=False, repr=False)

    def __post_init__(self) -> None:
        _check_guide(self)
        _check_inner_loop(self)

    def operator(self, shape: tuple[int, ...]) -> DirectionalGradient:
        """Return the `DirectionalGradient` of the guide."""
        if tuple(shape) != self._shape():
            raise ValueError(f"{self!r} is for images of {self._shape()}, not {tuple(shape)}")
        return DirectionalGradient(self)

    def _value(self, x: Array) -> Array:
        xp, d = array_namespace(x), DirectionalGradient(self)._forward_batch(x)
        return xp.sum(xp.sqrt(xp.sum(d * d, axis=1)), axis=(1, 2, 3), dtype=xp.float64)

    def _direction_like(self, x: Array) -> Array:
        return _cached_direction(self, x, lambda xi, square: xi)

    def _shape(self) -> tuple[int, ...]:
        return tuple(self.guide.shape)

    def __repr__(self) -> str:
        return f"DirectionalTotalVariation(guide {self._shape()})"


class DirectionalGradient(BatchOperator):
    """The differences across the edges of a guide, K = (I - xi xi') D, (x, y, z) -> (3, x, y, z).

    Args:
        prior : the `DirectionalTotalVariation` whose xi this is.
    """

    def __init__(self, prior: DirectionalTotalVariation) -> None:
        self.prior, self.gradient = prior, ImageGradient(prior._shape(), prior.voxel_size)
        self.in_shape, self.out_shape = self.gradient.in_shape, self.gradient.out_shape

    @property
    def norm_bound(self) -> float:
        """An upper bound of ``|K x| / |x|``."""
        return self.gradient.norm_bound

    def _forward_batch(self, x: Array) -> Array:
        return self._across(self.gradient._forward_batch(x))

    def _adjoint_batch(self, y: Array) -> Array:
        return self.gradient._adjoint_batch(self._across(y))

    def _across(self, p: Array) -> Array:
        xi = self.prior._direction_like(p)
        return p - xi * array_namespace(p).sum(xi * p, axis=-4, keepdims=True)


class _HostDual:
    """The dual of a proximal map in compiled kernels, of some adjoining planes for each thread.

    t and the packed dual are all it holds, 3 images in float32 and 2.5 in float64. Every sweep treats all voxels
    alike, so that the number of threads changes nothing.
    """

    def __init__(self, prior: _GradientBall, x: Array, step: Array, t: Array, least: float) -> None:
        flat = x.shape[2] == 1  # kernels run along the last axis
        self.image, self.t, self.step = (
            values.reshape(values.shape[0], 1, values.shape[1]) if flat else values
            for values in (_host(x, prior), to_host(t, prior), _host(step, prior))
        )
        weights, self.direction, _ = _kernel_arguments(prior, x[None, ...], prior._direction_like(x), 0.0)
        self.weights, self.ball = weights, prior.isotropic
        self.least, self.half_bound = least, _half_bound(weights, self.image.shape)
        self.floor = self.image.dtype.type(0 if prior.nonnegative else -np.inf)
        nx, *plane = self.image.shape
        n = min(thread_count(), nx)
        self.ends = [nx * part // n for part in range(n + 1)]
        self.words = _packed_zeros(self.image)
        self.starts, self.planes = np.empty((2, n, *plane), self.image.dtype)
        self.rows = np.empty((n, kernels.N_ROWS, plane[1]), self.image.dtype)

    def sweep(self, mode: int, pull: float = 0.0, ahead: float = 0.0, speed: float = 0.0) -> float:
        """Run kernels.sweep, which has the formulas; the dual of the last plane of each part waits for all parts."""
        numbers = _typed((pull, ahead, speed / self.half_bound, self.least), self.image)
        fixed, n = (self.step, self.weights, self.direction, numbers), len(self.ends) - 1
        totals = np.zeros((2, self.image.shape[0]))

        def inner(part: int) -> None:
            between, own = self.ends[part : part + 2], (self.starts[part], self.planes[part], self.rows[part])
            kernels.sweep(
                mode, self.image, *fixed, self.ball, *between, self.words, self.t, self.floor, *own, totals[0]
            )

        def last(part: int) -> None:
            i, plane = self.ends[part + 1] - 1, self.planes[part]
            east = self.starts[part + 1] if part < n - 1 else plane
            totals[1, i] = kernels.close(mode, *fixed, self.ball, i, self.words, plane, east, self.rows[part])

        _each_part(inner, n)
        if mode != kernels.FINISH:
            _each_part(last, n)
        return float(totals.sum(0).sum())


class _ArrayDual:
    """The same in array code, a few planes at a time, for arrays that are not on the host."""

    def __init__(self, prior: _GradientBall, x: Array, step: Array, t: Array, least: float) -> None:
        self.prior, self.x, self.step, self.t, self.least = prior, x, step, t, least
        self.xi, weights = prior._direction_like(x), np.asarray(_weights(prior.voxel_size))
        self.half_bound = _half_bound(weights, x.shape)
        self.words = _packed_zeros(x)

    def sweep(self, mode: int, pull: float = 0.0, ahead: float = 0.0, speed: float = 0.0) -> float:
        """Do what kernels.sweep says, with the dual one plane behind t."""
        xp, total, plane = array_namespace(self.x), 0.0, None
        for part in _slabs(self.x.shape[0]):
            u = self._image(part)
            if mode == kernels.MOVE:
                old = self.t[part, ...]
                new = self.prior._clipped(old + pull * (u - old))
                u, self.t[part, ...] = new + ahead * (new - old), new
            else:
                u = self.prior._clipped(u)
            if mode == kernels.FINISH:
                self.t[part, ...] = u
                continue
            low = part.start if plane is None else part.start - 1
            high = part.stop if part.stop == self.x.shape[0] else part.stop - 1
            ascent = u if plane is None else xp.concat([plane, u], axis=0)
            plane = u[-1:, ...]
            total += self._act(mode, ascent, slice(low, high), speed)
        return total

    def _image(self, part: slice) -> Array:
        """x - step K'p of some planes: the plane before, and one of zeros after, complete the transpose."""
        xp, low = array_namespace(self.x), max(part.start - 1, 0)
        p = self._across(_unpacked(self.words[:, low : part.stop, ...], self.x), slice(low, part.stop))
        p = xp.concat([p, xp.zeros_like(p[:, :1, ...])], axis=1)
        flow = self._gradient(p[0, ...])._adjoint(p)[part.start - low : -1, ...]
        return self.x[part, ...] - _part(self.step, part) * flow

    def _act(self, mode: int, t: Array, part: slice, speed: float) -> float:
        xp, n = array_namespace(t), part.stop - part.start
        if n == 0:
            return 0.0
        p = _unpacked(self.words[:, part, ...], t)
        d = self._across(self._gradient(t)._forward(t)[:, :n, ...], part)
        if mode == kernels.MEASURE:
            return self._gap(xp.astype(p, xp.float64), xp.astype(d, xp.float64), self.words.shape[0] == 1)
        steps = xp.broadcast_to(_part(self.step, slice(part.start, part.start + t.shape[0])), tuple(t.shape))
        rate = speed / self.half_bound / clipped(steps + _highest(steps), low=self.least)
        self.words[:, part, ...] = _packed(self.prior.project(p + rate[:n, ...] * d))
        return 0.0

    def _gap(self, p: Array, d: Array, short: bool) -> float:
        """The sum of ``|d|`` - <p, d>, with p on the sphere where its rounding alone keeps it off."""
        xp = array_namespace(d)
        if not self.prior.isotropic:
            return _total(xp.abs(d) - p * d)
        square = clipped(xp.sum(p * p, axis=0), low=1e-30)
        to_sphere = clipped(1 / xp.sqrt(square), high=1 + 2 / (kernels.SHORT if short else kernels.LONG))
        return _total(xp.sqrt(xp.sum(d * d, axis=0)) - xp.sum(p * d, axis=0) * to_sphere)

    def _gradient(self, t: Array) -> ImageGradient:
        return ImageGradient(tuple(t.shape), self.prior.voxel_size)

    def _across(self, p: Array, part: slice) -> Array:
        if self.xi is None:
            return p
        xi = self.xi[:, part, ...]
        return p - xi * array_namespace(p).sum(xi * p, axis=0, keepdims=True)


def _sum_of_lengths(prior: Any, x: Array, direction: Array | None, epsilon: float = 0.0) -> Array:
    """The sum of the lengths of each image of a batch, (B,) in float64."""
    xp = array_namespace(x)
    if not getattr(prior, "isotropic", True):
        d = ImageGradient(tuple(x.shape[1:]), prior.voxel_size)._forward_batch(x)
        return xp.sum(xp.abs(d), axis=(1, 2, 3, 4), dtype=xp.float64)
    if not _on_host(x):
        _, square = _across(ImageGradient(tuple(x.shape[1:]), prior.voxel_size)._forward_batch(x), direction)
        root = xp.sqrt(square + epsilon**2) + epsilon  # the difference of roots without cancellation
        return xp.sum(divide_where(square, root), axis=(1, 2, 3, 4), dtype=xp.float64)
    host = _host_rows(x, prior)
    fixed, sums = _kernel_arguments(prior, x, direction, epsilon), np.empty(host.shape[:2])
    for image, out in zip(host, sums):
        _in_slabs(len(image), kernels.lengths, image, *fixed, out=out)
    return from_host(sums.sum(1), x)


def _across(d: Array, direction: Array | None) -> tuple[Array, Array]:
    """M d and d' M d, with M = I - direction direction'."""
    xp = array_namespace(d)
    square = xp.sum(d * d, axis=1, keepdims=True)
    if direction is None:
        return d, square
    along = xp.sum(direction * d, axis=1, keepdims=True)
    return d - direction * along, clipped(square - along**2, low=0)


def _steps_like(step: Any, x: Array) -> Array:
    """The steps as an array like x with as many axes, each of the size of x or 1."""
    xp = array_namespace(x)
    if not hasattr(step, "shape"):
        if not 0 <= step < math.inf:
            raise ValueError(f"the step of a proximal map must be finite and not negative, got {step}")
        return xp.full((1,) * x.ndim, step, dtype=x.dtype, device=device(x))
    steps = like(step.detach() if is_torch(step) else step, x)
    xp.broadcast_to(steps, tuple(x.shape))  # or it raises
    steps = xp.reshape(steps, ((1,) * (x.ndim - steps.ndim) + tuple(steps.shape)))
    if not bool(xp.all((steps >= 0) & (steps < math.inf))):
        raise ValueError("the steps of a proximal map must be finite and not negative")
    return steps


def _highest(step: Array) -> Array:
    """The largest step of a voxel and its next ones."""
    xp, highest = array_namespace(step), step
    for axis in range(3):
        highest = xp.maximum(highest, xp.flip(_moved_on(xp.flip(step, axis=axis), axis), axis=axis))
    return highest


def _half_bound(weights: Sequence[float] | np.ndarray, shape: tuple[int, ...]) -> float:
    """Half a bound of ``|D|^2``: the differences of a voxel, squared, are at most twice those of either of its ends."""
    return 2 * max(sum(float(w) ** 2 for w, n in zip(weights, shape) if n > 1), 1e-30)


def _packed_zeros(x: Array) -> Array:
    """A dual of 0 for an image: one integer with 21 bits for each difference in float32, else three of 32 bits."""
    xp, shape = array_namespace(x), tuple(x.shape)
    if x.dtype != xp.float32:
        return xp.zeros((3, *shape), dtype=xp.int32, device=device(x))
    return xp.full((1, *shape), sum(_MIDDLE << kernels.BITS * a for a in range(3)), dtype=xp.int64, device=device(x))


def _packed(p: Array) -> Array:
    """A dual (3, x, y, z) as integers, rounded to the nearest."""
    xp = array_namespace(p)
    if p.dtype != xp.float32:
        return xp.astype(xp.round(p * kernels.LONG), xp.int32)
    digits = xp.astype(xp.floor(p * kernels.SHORT + (_MIDDLE + 0.5)), xp.int64)
    return sum(digits[a : a + 1, ...] << kernels.BITS * a for a in range(3))


def _unpacked(words: Array, x: Array) -> Array:
    """The dual (3, x, y, z) of its integers, in the precision of x."""
    xp = array_namespace(x)
    if x.dtype != xp.float32:
        return xp.astype(words, x.dtype) / kernels.LONG
    digits = [((words[0, ...] >> kernels.BITS * a) & (2 * _MIDDLE - 1)) - _MIDDLE for a in range(3)]
    return xp.astype(xp.stack(digits), x.dtype) / kernels.SHORT


def _part(step: Array, part: slice) -> Array:
    return step if step.shape[0] == 1 else step[part, ...]


def _cached_direction(prior: Any, x: Array, of: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Array:
    def make() -> Array:
        gradient = to_numpy(ImageGradient(prior._shape(), prior.voxel_size)(to_numpy(prior.guide).astype(float)))
        square = (gradient**2).sum(0)
        eta = 0.01 * math.sqrt(square.max()) if prior.eta is None else prior.eta
        square += eta**2
        gradient /= np.sqrt(np.where(square > 0, square, 1))
        return like(of(gradient, (gradient**2).sum(0)), x)

    return prior._plans.get(x, make)


def _kernel_arguments(prior: Any, x: Array, direction: Array | None, epsilon: float) -> tuple[Any, ...]:
    """Weights, direction and epsilon for the kernels, with y and z exchanged where `_host_rows` exchanges them."""
    real = to_numpy(x).dtype.type
    weights = np.asarray(_weights(prior.voxel_size), real)
    field = _no_direction(real) if direction is None else _host(direction, prior)
    if x.shape[3] == 1:
        weights = weights[[0, 2, 1]]
        field = field if direction is None else read_only(field[[0, 2, 1]].reshape(3, x.shape[1], 1, x.shape[2]))
    return weights, field, real(epsilon)


def _at_batch(function: Callable[[Array], Array], x: Array) -> Array:
    xp, batch = array_namespace(x), tuple(x.shape[:-3])
    x = xp.reshape(x.detach() if is_torch(x) else x, (math.prod(batch), *x.shape[-3:]))
    return xp.reshape(function(x), batch)[()]


def _total(x: Array) -> float:
    xp = array_namespace(x)
    return float(xp.sum(x, dtype=xp.float64))


def _positive(radius: Array | float) -> bool:
    return hasattr(radius, "shape") or radius > 0


def _check_guide(prior: Any) -> None:
    who = type(prior).__name__
    object.__setattr__(prior, "voxel_size", _three_sizes(prior.voxel_size, who))
    require_array(prior.guide, f"{who} guide")
    require_constant(prior.guide, f"{who} guide")
    if prior.guide.ndim != 3 or not np.isfinite(to_numpy(prior.guide)).all():
        raise ValueError(f"{who} guide must be a finite image (x, y, z), got the shape {tuple(prior.guide.shape)}")
    if prior.eta is not None and not 0 < prior.eta < math.inf:
        raise ValueError(f"{who} eta must be positive and finite, got {prior.eta}")


def _check_epsilon(prior: Any) -> None:
    if not 0 < prior.epsilon < math.inf:
        raise ValueError(
            f"{type(prior).__name__} epsilon must be positive and finite, got {prior.epsilon}; for none at all use the "
            "version without smoothing and spdhg"
        )


def _check_inner_loop(prior: Any) -> None:
    if not prior.tolerance > 0 or prior.max_iterations < 1:
        raise ValueError(f"{prior!r}: tolerance must be positive, and max_iterations at least 1")
