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
    from_host,
    is_cuda,
    is_torch,
    like,
    read_only,
    require_array,
    to_host,
    to_numpy,
)
from emrecon.projectors._threads import share

from . import _tv_cpu as kernels
from .prior import ProximablePrior, SmoothPrior

_CHECK_EVERY = 10  # steps of the dual method between two looks at the duality gap
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
    """U(x) = sum |K x| with K = (I - xi xi') D, and its prox by an accelerated projected gradient of the dual."""

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
        """
        x = self._checked(x)
        x = x.detach() if is_torch(x) else x
        xp = array_namespace(x)
        shape, batch = tuple(x.shape[-3:]), tuple(x.shape[:-3])
        steps = xp.broadcast_to(like(step, x), x.shape) if hasattr(step, "shape") else None
        images = xp.reshape(x, (math.prod(batch), *shape))
        if images.shape[0] == 0:
            return x
        each = None if steps is None else xp.reshape(steps, tuple(images.shape))
        results = [self._prox(images[b, ...], step if each is None else each[b, ...]) for b in range(images.shape[0])]
        return xp.reshape(xp.stack(results), (*batch, *shape))

    def _prox(self, x: Array, step: Any) -> Array:
        """Beck & Teboulle's fast gradient projection; the gap bounds the distance: |t - best|^2 <= 2 step gap."""
        xp, K = array_namespace(x), self.operator(tuple(x.shape))
        rate = _dual_rate(step, K, x)
        p = q = xp.zeros(K.out_shape, dtype=x.dtype, device=x.device)
        if _on_host(x):
            q = from_host(to_host(p, self).copy(), p)  # the kernel writes into both
        safe = step + (step == 0) * 1.0
        enough = self.tolerance**2 / 2 * _total(x * x / safe)
        momentum = 1.0
        for iteration in range(1, self.max_iterations + 1):
            t, _ = self._image(x, step, K, q)
            faster = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
            p, q = self._ascend(t, rate, (momentum - 1) / faster, K, p, q)
            momentum = faster
            if iteration % _CHECK_EVERY == 0:
                t, flow = self._image(x, step, K, p)
                if float(self.value(t)) - _total(flow * t) <= enough:
                    return t
        return self._image(x, step, K, p)[0]

    def _image(self, x: Array, step: Any, K: LinearOperator, p: Array) -> tuple[Array, Array]:
        """The image that belongs to a dual p, x - step K'p without what is negative, and K'p."""
        flow = K.T(p)
        t = x - step * flow
        return (array_namespace(x).clip(t, min=0) if self.nonnegative else t), flow

    def _ascend(self, t: Array, rate: Any, momentum: float, K: Any, p: Array, q: Array) -> tuple[Array, Array]:
        if not _on_host(t):
            new = self.project(q + rate * K(t))
            return new, new + momentum * (new - p)
        image, real = _host(t, self), to_numpy(t).dtype.type
        fixed = (_typed(_weights(self.voxel_size), image), self._host_direction(t))
        speed = np.broadcast_to(_host(rate, self), image.shape) if hasattr(rate, "shape") else np.full((1, 1, 1), rate)
        speed = read_only(np.ascontiguousarray(speed, image.dtype))
        host_p, host_q = to_host(p, self), to_host(q, self)

        def work(thread: int, n: int) -> None:
            kernels.ascend(image, *fixed, speed, self.isotropic, real(momentum), thread, n, host_p, host_q)

        share(work, len(image))
        return p, q

    def _direction_like(self, x: Array) -> Array | None:
        return None

    def _host_direction(self, x: Array) -> np.ndarray:
        direction = self._direction_like(x)
        return _no_direction(to_numpy(x).dtype) if direction is None else _host(direction, self)

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
        steps. It starts afresh at each call, so it is a function of its arguments. It holds 12 images, 6 of them dual.
    Images (..., x, y, z); leading axes are a batch. NumPy, CuPy and torch, without autograd.
    Source: Rudin, Osher & Fatemi 1992; prox: Beck & Teboulle 2009, IEEE Trans Image Process 18:2419.
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


def _dual_rate(step: Any, K: Any, x: Array) -> Any:
    """The step of the dual ascent, 1 / (|K|^2 step); of an array at each voxel, from the steps its differences meet."""
    if not hasattr(step, "shape"):
        if not 0 <= step < math.inf:
            raise ValueError(f"the step of a proximal map must be finite and not negative, got {step}")
        return 1 / (K.norm_bound**2 * step) if step > 0 else 0.0
    xp = array_namespace(x)
    if not bool(xp.all((step >= 0) & (step < math.inf))):
        raise ValueError("the steps of a proximal map must be finite and not negative")
    highest = step
    for axis in range(3):
        ahead = xp.flip(_moved_on(xp.flip(step, axis=axis), axis), axis=axis)
        highest = xp.maximum(highest, ahead)
    total = K.norm_bound**2 / 2 * (step + highest)
    return xp.where(total > 0, 1 / xp.where(total > 0, total, xp.ones_like(total)), xp.zeros_like(total))


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
