"""Priors on the gradient of an image: total variation, directional total variation and parallel level sets."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from emrecon.projectors import LinearOperator
from emrecon.projectors._arrays import (
    Array,
    PlanCache,
    array_namespace,
    as_real,
    device,
    from_host,
    is_cuda,
    is_torch,
    like,
    read_only,
    require_array,
    to_host,
    to_numpy,
)
from emrecon.projectors._threads import share, thread_count

from . import _tv_cpu as kernels
from .prior import ProximablePrior, SmoothPrior

_CHECK_EVERY = 10  # steps of the dual method between two looks at the duality gap, and more later
_MIDDLE = 2 ** (kernels.BITS - 1)
_STEP, _CONVEXITY = 1.0, 0.15  # of the dual method: its first step, and what its acceleration counts on (at most 1)
_SLAB = 8  # planes at a time, where many arrays are needed
_CUBES = (1.0, 1.0, 1.0)


class ImageGradient(LinearOperator):
    """Forward differences of an image, (x, y, z) -> (3, x, y, z).

        (D x)[a, i] = w_a (x[i + e_a] - x[i]),  w_a = smallest voxel size / voxel size along a

    and 0 at the far border of axis a. An image in steps of one smallest voxel thus has the differences of its values.
    shape : of the image.  voxel_size : (x, y, z) mm; only the ratios matter.
    `norm_bound` is a number that |D x| / |x| never exceeds, 2 sqrt(sum w^2). The transpose is exact.
    Raises ValueError unless there are three axes and three positive sizes.
    """

    def __init__(self, shape: tuple[int, ...], voxel_size: tuple[float, float, float] = _CUBES) -> None:
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"ImageGradient needs the three sizes of an image (x, y, z), got {tuple(shape)}")
        self.voxel_size = _three_sizes(voxel_size, "ImageGradient")
        self.in_shape, self.out_shape = tuple(shape), (3, *shape)

    @property
    def norm_bound(self) -> float:
        """An upper bound of |D x| / |x|."""
        return 2 * math.hypot(*_weights(self.voxel_size))

    def _forward(self, x: Array) -> Array:
        return self._forward_batch(x[None, ...])[0, ...]

    def _adjoint(self, y: Array) -> Array:
        return self._adjoint_batch(y[None, ...])[0, ...]

    def _forward_batch(self, x: Array) -> Array:
        weights = _weights(self.voxel_size)
        if not _on_host(x):
            return array_namespace(x).stack([_difference(x, a, weights[a]) for a in range(3)], axis=1)
        return _each(x, self.out_shape, lambda image, *part: kernels.differences(image, _typed(weights, image), *part))

    def _adjoint_batch(self, y: Array) -> Array:
        weights = _weights(self.voxel_size)
        if not _on_host(y):
            return sum(_difference_transpose(y[:, a, ...], a, weights[a]) for a in range(3))
        return _each(y, self.in_shape, lambda flux, *part: kernels.transpose(flux, _typed(weights, flux), *part))


class DualBallPrior(ProximablePrior):
    """A penalty U(x) = the largest <p, K x> over a ball of p: what primal-dual algorithms treat without inner loops.

    `operator(shape)` is K for images of that shape, with a `norm_bound`; `project(p, radius)` is the projection onto
    the ball of beta U, whose radius is beta.
    """

    @abstractmethod
    def operator(self, shape: tuple[int, ...]) -> Any:
        """Return K, a `LinearOperator` from images (x, y, z) with a `norm_bound`."""

    @abstractmethod
    def project(self, p: Array, radius: Any = 1.0) -> Array:
        """Return the point of the ball nearest to p, (..., *K.out_shape)."""


class _GradientBall(DualBallPrior):
    """U(x) = sum |K x| with K = (I - xi xi') D, and its prox by an accelerated primal-dual method."""

    voxel_size: tuple[float, float, float]
    nonnegative: bool
    tolerance: float
    max_iterations: int
    isotropic: bool = True

    def value(self, x: Array) -> Any:
        return _at_batch(self._value, self._checked(x))

    def _value(self, x: Array) -> Array:
        return _sum_of_lengths(self, x, None)

    def project(self, p: Array, radius: Any = 1.0) -> Array:
        xp = array_namespace(p)
        if not self.isotropic:
            return xp.clip(p, -radius, radius)
        length = xp.sqrt(xp.sum(p * p, axis=-4, keepdims=True))
        return p / xp.maximum(length / radius, xp.ones_like(length)) if _positive(radius) else xp.zeros_like(p)

    def prox(self, x: Array, step: Any) -> Array:
        """Return the image t that minimises U(t) + sum (t - x)^2 / (2 step), within `tolerance`; no autograd.

        x : (..., x, y, z).  step : not negative; a number, or an array that broadcasts to x.
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

        The gap bounds the distance, |t - best|^2 <= 2 step gap.
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
        return array_namespace(t).clip(t, min=0) if self.nonnegative else t

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
    """Total variation, U(x) = sum over voxels of |D x|, with D the `ImageGradient`.

    voxel_size : (x, y, z) mm; only the ratios matter.
    isotropic : Euclidean length of the three differences; False for the sum of their absolute values.
    nonnegative : the proximal map looks among images without negative values only.
    tolerance, max_iterations : of the proximal map, which stops when the duality gap proves that it is within
        tolerance * |x| of the exact one (distances in voxels weighted with 1 / step), and at the latest after so many
        steps. It starts afresh at each call, so it is a function of its arguments. It holds 3 images, the result
        included; 2.5 in float64.
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
    """Directional total variation, U(x) = sum |(I - xi xi') D x|: edges where a guide v has them cost little.

        xi = D v / sqrt(|D v|^2 + eta^2)

    guide : v, (x, y, z), such as an MR or CT image on the grid of the reconstruction; only its edges' directions count.
    eta : differences of the guide much smaller than this count for nothing; in the guide's unit (default: 1 % of its
        largest |D v|).
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


class DirectionalGradient(LinearOperator):
    """The differences across the edges of a guide, K = (I - xi xi') D, (x, y, z) -> (3, x, y, z).

    prior : the `DirectionalTotalVariation` whose xi this is.
    """

    def __init__(self, prior: DirectionalTotalVariation) -> None:
        self.prior, self.gradient = prior, ImageGradient(prior._shape(), prior.voxel_size)
        self.in_shape, self.out_shape = self.gradient.in_shape, self.gradient.out_shape

    @property
    def norm_bound(self) -> float:
        """An upper bound of |K x| / |x|."""
        return self.gradient.norm_bound

    def _forward(self, x: Array) -> Array:
        return self._forward_batch(x[None, ...])[0, ...]

    def _adjoint(self, y: Array) -> Array:
        return self._adjoint_batch(y[None, ...])[0, ...]

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
        rate = speed / self.half_bound / xp.clip(steps + _highest(steps), min=self.least)
        self.words[:, part, ...] = _packed(self.prior.project(p + rate[:n, ...] * d))
        return 0.0

    def _gap(self, p: Array, d: Array, short: bool) -> float:
        """The sum of |d| - <p, d>, with p on the sphere where its rounding alone keeps it off."""
        xp = array_namespace(d)
        if not self.prior.isotropic:
            return _total(xp.abs(d) - p * d)
        square = xp.clip(xp.sum(p * p, axis=0), min=1e-30)
        to_sphere = xp.clip(1 / xp.sqrt(square), max=1 + 2 / (kernels.SHORT if short else kernels.LONG))
        return _total(xp.sqrt(xp.sum(d * d, axis=0)) - xp.sum(p * d, axis=0) * to_sphere)

    def _gradient(self, t: Array) -> ImageGradient:
        return ImageGradient(tuple(t.shape), self.prior.voxel_size)

    def _across(self, p: Array, part: slice) -> Array:
        if self.xi is None:
            return p
        xi = self.xi[:, part, ...]
        return p - xi * array_namespace(p).sum(xi * p, axis=0, keepdims=True)


class _SmoothedLength(SmoothPrior):
    """U(x) = sum sqrt(d' M d + epsilon^2) - epsilon with d = D x and M = I - zeta zeta'."""

    epsilon: float
    voxel_size: tuple[float, float, float]

    def _direction_like(self, x: Array) -> Array | None:
        return None

    def _value(self, x: Array) -> Array:
        return _sum_of_lengths(self, x, self._direction_like(x), self.epsilon)

    def _gradient(self, x: Array) -> Array:
        if _on_host(x):
            return self._divergence_of(kernels.flux, x)
        d, _, r = self._parts(x, self._direction_like(x))
        return self._divergence(d / r)

    def _hessian_vector(self, x: Array, v: Array) -> Array:
        if _on_host(x):
            return self._divergence_of(kernels.flux_derivative, x, v)
        d, _, r = self._parts(x, self._direction_like(x))
        e = ImageGradient(tuple(x.shape[1:]), self.voxel_size)._forward_batch(v)
        inner = array_namespace(x).sum(d * e, axis=1, keepdims=True) / r**2
        return self._divergence((_across(e, self._direction_like(x))[0] - inner * d) / r)

    def _curvature(self, x: Array) -> Array:
        """The half-quadratic parabolas 1 / r of the lengths, with (a - b)^2 <= 2 (a^2 + b^2) for each difference."""
        c = array_namespace(x).zeros_like(x)
        inverse = self._inverse_lengths(x) if _on_host(x) else 1 / self._parts(x, self._direction_like(x))[2][:, 0, ...]
        for axis, weight in enumerate(_weights(self.voxel_size)):
            front, back = _along(axis, slice(None, -1)), _along(axis, slice(1, None))
            c[front] += 2 * weight**2 * inverse[front]
            c[back] += 2 * weight**2 * inverse[front]
        return c

    def _hessian_diagonal(self, x: Array) -> Array:
        """Slab by slab, with a plane more on each side: the arrays it takes are many, and so they are small."""
        out, zeta = array_namespace(x).zeros_like(x), self._direction_like(x)
        for first in range(0, x.shape[1], _SLAB):
            low, last = max(first - 1, 0), min(first + _SLAB, x.shape[1])
            planes = slice(low, min(last + 1, x.shape[1]))
            slab = self._slab_diagonal(x[:, planes, ...], None if zeta is None else zeta[:, planes, ...])
            out[:, first:last, ...] = slab[:, first - low : last - low, ...]
        return out

    def _slab_diagonal(self, x: Array, zeta: Array | None) -> Array:
        """Each voxel stands in its own three differences with -w, and with w in one of each neighbour before it."""
        xp, weights = array_namespace(x), _weights(self.voxel_size)
        d, _, r = self._parts(x, zeta)
        own = xp.stack([-w * _has_next(x, a) for a, w in enumerate(weights)], axis=1)
        square = _across(own, zeta)[1]
        total = (square / r - xp.sum(own * d, axis=1, keepdims=True) ** 2 / r**3)[:, 0, ...]
        for a, weight in enumerate(weights):
            one = 1.0 if zeta is None else 1 - zeta[a, ...] ** 2
            before = weight**2 * (one / r[:, 0, ...] - d[:, a, ...] ** 2 / r[:, 0, ...] ** 3)
            total = total + _moved_on(before, a)
        return total

    def _parts(self, x: Array, zeta: Array | None) -> tuple[Array, Array, Array]:
        """M d, d' M d and r = sqrt(d' M d + epsilon^2), of (B, 3, ...), (B, 1, ...) and (B, 1, ...)."""
        d = ImageGradient(tuple(x.shape[1:]), self.voxel_size)._forward_batch(x)
        d, square = _across(d, zeta)
        return d, square, array_namespace(x).sqrt(square + self.epsilon**2)

    def _divergence(self, flux: Array) -> Array:
        return ImageGradient(tuple(flux.shape[2:]), self.voxel_size)._adjoint_batch(flux)

    def _divergence_of(self, kernel: Any, *images: Array) -> Array:
        """D' of what a kernel makes of the differences of each image: slab by slab, with a plane more on each side."""
        hosts = [_host_rows(image, self) for image in images]
        weights, direction, *rest = _kernel_arguments(self, images[0], self._direction_like(images[0]), self.epsilon)
        out = np.empty(hosts[0].shape, hosts[0].dtype)
        for b, target in enumerate(out):
            for first in range(0, len(target), _SLAB):
                low, last = max(first - 1, 0), min(first + _SLAB, len(target))
                planes = slice(low, min(last + 1, len(target)))
                slabs = [host[b][planes] for host in hosts]
                across = read_only(np.ascontiguousarray(direction[:, planes])) if direction.size else direction
                flux, part = np.empty((3, *slabs[0].shape), out.dtype), np.empty(slabs[0].shape, out.dtype)
                _in_slabs(len(part), kernel, *slabs, weights, across, *rest, out=flux)
                _in_slabs(len(part), kernels.transpose, read_only(flux), weights, out=part)
                target[first:last] = part[first - low : last - low]
        return from_host(out.reshape(images[0].shape), images[0])

    def _inverse_lengths(self, x: Array) -> Array:
        host = _host_rows(x, self)
        fixed, out = _kernel_arguments(self, x, self._direction_like(x), self.epsilon), np.empty_like(host)
        for image, target in zip(host, out):
            _in_slabs(len(image), kernels.inverse_lengths, image, *fixed, out=target)
        return from_host(out.reshape(x.shape), x)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(epsilon={self.epsilon:g})"


@dataclass(frozen=True, eq=False, repr=False)
class SmoothedTotalVariation(_SmoothedLength):
    """Total variation with a round bottom, U(x) = sum over voxels of sqrt(|D x|^2 + epsilon^2) - epsilon.

    epsilon : differences much smaller than this are smoothed, larger ones are edges; in the unit of the image.
    voxel_size : (x, y, z) mm; only the ratios matter.
    curvature: 2 sum_a w_a^2 (1/r[i] + 1/r[i - e_a]) over the differences there are, r the
    square roots: half-quadratic parabolas (Geman & Yang 1995), parted as De Pierro 1995 does.
    Raises ValueError where epsilon is not positive.
    Source: Rudin, Osher & Fatemi 1992 with the smoothing of Vogel & Oman 1996.
    """

    epsilon: float
    voxel_size: tuple[float, float, float] = _CUBES

    def __post_init__(self) -> None:
        object.__setattr__(self, "voxel_size", _three_sizes(self.voxel_size, type(self).__name__))
        _check_epsilon(self)


@dataclass(frozen=True, eq=False, repr=False)
class SmoothedDirectionalTotalVariation(_SmoothedLength):
    """Directional total variation with a round bottom, U(x) = sum sqrt(|(I - xi xi') D x|^2 + epsilon^2) - epsilon.

    guide, eta, voxel_size : as in `DirectionalTotalVariation`, which has the formula of xi.
    epsilon : as in `SmoothedTotalVariation`, in the unit of the image.
    Raises ValueError for a guide that is not 3-D or not finite, and where epsilon or eta are not positive.
    Source: Ehrhardt & Betcke 2016, SIAM J Imaging Sci 9:1084.
    """

    guide: Array
    epsilon: float
    eta: float | None = None
    voxel_size: tuple[float, float, float] = _CUBES
    _plans: PlanCache = field(default_factory=PlanCache, init=False, repr=False)

    def __post_init__(self) -> None:
        _check_guide(self)
        _check_epsilon(self)

    def _direction_like(self, x: Array) -> Array:
        # |(I - xi xi') d|^2 = |d|^2 - <zeta, d>^2 with zeta = sqrt(2 - |xi|^2) xi
        return _cached_direction(self, x, lambda xi, square: xi * np.sqrt(2 - square))

    def _shape(self) -> tuple[int, ...]:
        return tuple(self.guide.shape)


@dataclass(frozen=True, eq=False, repr=False)
class ParallelLevelSets(_SmoothedLength):
    """Asymmetric parallel level sets, U(x) = sum sqrt(|D x|^2 - <xi, D x>^2 + epsilon^2) - epsilon.

        xi = D v / sqrt(|D v|^2 + eta^2),  so that the root is, where eta and epsilon are small,
        sqrt(|D x|^2 |D v|^2 - <D x, D v>^2) / |D v|: |D x| times the sine of the angle between both gradients

    guide, eta, epsilon, voxel_size : as in `SmoothedDirectionalTotalVariation`, of which this is a milder relative: it
    is larger where the guide has weak edges, |xi| < 1.
    Raises ValueError for a guide that is not 3-D or not finite, and where epsilon or eta are not positive.
    Source: Ehrhardt, Markiewicz, Liljeroth et al. 2016, IEEE Trans Med Imaging 35:2189.
    """

    guide: Array
    epsilon: float
    eta: float | None = None
    voxel_size: tuple[float, float, float] = _CUBES
    _plans: PlanCache = field(default_factory=PlanCache, init=False, repr=False)

    def __post_init__(self) -> None:
        _check_guide(self)
        _check_epsilon(self)

    def _direction_like(self, x: Array) -> Array:
        return _cached_direction(self, x, lambda xi, square: xi)

    def _shape(self) -> tuple[int, ...]:
        return tuple(self.guide.shape)


def _sum_of_lengths(prior: Any, x: Array, direction: Array | None, epsilon: float = 0.0) -> Array:
    """The sum of the lengths of each image of a batch, (B,) in float64."""
    xp = array_namespace(x)
    if not getattr(prior, "isotropic", True):
        d = ImageGradient(tuple(x.shape[1:]), prior.voxel_size)._forward_batch(x)
        return xp.sum(xp.abs(d), axis=(1, 2, 3, 4), dtype=xp.float64)
    if not _on_host(x):
        _, square = _across(ImageGradient(tuple(x.shape[1:]), prior.voxel_size)._forward_batch(x), direction)
        root = xp.sqrt(square + epsilon**2) + epsilon  # the difference of roots without cancellation
        return xp.sum(square / xp.where(root > 0, root, xp.ones_like(root)), axis=(1, 2, 3, 4), dtype=xp.float64)
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
    return d - direction * along, xp.clip(square - along**2, min=0)


def _along(axis: int, part: slice) -> tuple[Any, ...]:
    return (..., part, *[slice(None)] * (2 - axis))


def _difference(x: Array, axis: int, weight: float) -> Array:
    out = array_namespace(x).zeros_like(x)
    front = _along(axis, slice(None, -1))
    out[front] = weight * (x[_along(axis, slice(1, None))] - x[front])
    return out


def _difference_transpose(p: Array, axis: int, weight: float) -> Array:
    front, back = _along(axis, slice(None, -1)), _along(axis, slice(1, None))
    out = array_namespace(p).zeros_like(p)
    out[back] = weight * p[front]
    out[front] = out[front] - weight * p[front]
    return out


def _has_next(x: Array, axis: int) -> Array:
    """1 where a voxel has a next one along an axis, 0 at the far border."""
    ones = array_namespace(x).ones_like(x)
    ones[_along(axis, slice(-1, None))] = 0
    return ones


def _moved_on(values: Array, axis: int) -> Array:
    """The values of the voxels before along an axis; 0 for the first."""
    out = array_namespace(values).zeros_like(values)
    out[_along(axis, slice(1, None))] = values[_along(axis, slice(None, -1))]
    return out


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


def _half_bound(weights: Any, shape: tuple[int, ...]) -> float:
    """Half a bound of |D|^2: the differences of a voxel, squared, are at most twice those of either of its ends."""
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


def _each_part(work: Callable[[int], None], n_parts: int) -> None:
    def some(thread: int, n: int) -> None:
        for part in range(thread, n_parts, n):
            work(part)

    share(some, n_parts)


def _slabs(n_planes: int) -> list[slice]:
    return [slice(first, min(first + _SLAB, n_planes)) for first in range(0, n_planes, _SLAB)]


def _part(step: Array, part: slice) -> Array:
    return step if step.shape[0] == 1 else step[part, ...]


def _cached_direction(prior: Any, x: Array, of: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Array:
    def make() -> Array:
        gradient = ImageGradient(prior._shape(), prior.voxel_size)(to_numpy(prior.guide).astype(float))
        square = (gradient**2).sum(0)
        eta = 0.01 * math.sqrt(square.max()) if prior.eta is None else prior.eta
        square += eta**2
        gradient /= np.sqrt(np.where(square > 0, square, 1))
        return like(of(gradient, (gradient**2).sum(0)), x)

    return prior._plans.get(x, make)


def _on_host(x: Array) -> bool:
    return not is_cuda(x)


def _host(x: Array, who: Any) -> np.ndarray:
    return read_only(np.ascontiguousarray(to_host(x, who)))


def _host_rows(x: Array, who: Any) -> np.ndarray:
    """Images on the host; a flat (B, x, y, 1) as (B, x, 1, y), since kernels run along the last axis."""
    host = _host(x, who)
    return host.reshape(*host.shape[:2], 1, host.shape[2]) if host.shape[3] == 1 else host


def _kernel_arguments(prior: Any, x: Array, direction: Array | None, epsilon: float) -> tuple[Any, ...]:
    """Weights, direction and epsilon for the kernels, with y and z exchanged where `_host_rows` exchanges them."""
    real = to_numpy(x).dtype.type
    weights = np.asarray(_weights(prior.voxel_size), real)
    field = _no_direction(real) if direction is None else _host(direction, prior)
    if x.shape[3] == 1:
        weights = weights[[0, 2, 1]]
        field = field if direction is None else read_only(field[[0, 2, 1]].reshape(3, x.shape[1], 1, x.shape[2]))
    return weights, field, real(epsilon)


def _each(x: Array, out_shape: tuple[int, ...], kernel: Callable[..., None]) -> Array:
    """Fill the arrays of a batch slab by slab: kernel(item, first, n, out)."""
    host = _host(x, "ImageGradient")
    out = np.empty((len(host), *out_shape), host.dtype)
    for item, target in zip(host, out):
        _in_slabs(out_shape[-3], kernel, item, out=target)
    return from_host(out, x)


def _in_slabs(n_slabs: int, kernel: Callable[..., None], *arguments: Any, out: np.ndarray) -> None:
    share(lambda thread, n: kernel(*arguments, thread, n, out), n_slabs)


def _at_batch(function: Callable[[Array], Array], x: Array) -> Any:
    xp, batch = array_namespace(x), tuple(x.shape[:-3])
    x = xp.reshape(x.detach() if is_torch(x) else x, (math.prod(batch), *x.shape[-3:]))
    return xp.reshape(function(x), batch)[()]


def _weights(voxel_size: tuple[float, float, float]) -> tuple[float, ...]:
    return tuple(min(voxel_size) / size for size in voxel_size)


def _typed(weights: tuple[float, ...], x: np.ndarray) -> np.ndarray:
    return np.asarray(weights, x.dtype)


def _no_direction(dtype: Any) -> np.ndarray:
    return read_only(np.empty((3, 0, 0, 0), dtype))


def _total(x: Array) -> float:
    xp = array_namespace(x)
    return float(xp.sum(x, dtype=xp.float64))


def _positive(radius: Any) -> bool:
    return hasattr(radius, "shape") or radius > 0


def _three_sizes(voxel_size: Any, who: str) -> tuple[float, float, float]:
    sizes = tuple(map(float, voxel_size)) if np.ndim(voxel_size) == 1 else ()
    if len(sizes) != 3 or not all(0 < size < math.inf for size in sizes):
        raise ValueError(f"{who} voxel_size must be three positive numbers (mm), got {voxel_size}")
    return sizes[0], sizes[1], sizes[2]


def _check_guide(prior: Any) -> None:
    who = type(prior).__name__
    object.__setattr__(prior, "voxel_size", _three_sizes(prior.voxel_size, who))
    require_array(prior.guide, f"{who} guide")
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
