"""Total variation with rounded corners: smooth priors on the length of the gradient, with or without a guide."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from emrecon.projectors.core.arrays import (
    Array,
    PlanCache,
    array_namespace,
    from_host,
    read_only,
)

from . import variation_kernels as kernels
from .image_gradient import (
    _CUBES,
    _SLAB,
    ImageGradient,
    _along,
    _has_next,
    _host_rows,
    _in_slabs,
    _moved_on,
    _on_host,
    _three_sizes,
    _weights,
)
from .prior import SmoothPrior
from .total_variation import (
    _across,
    _cached_direction,
    _check_epsilon,
    _check_guide,
    _kernel_arguments,
    _sum_of_lengths,
)


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
    """Total variation with a round bottom, U(x) = sum over voxels of sqrt(``|D x|^2`` + epsilon^2) - epsilon.

    Args:
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
    """Directional total variation with a round bottom, U(x) = sum sqrt(``|(I - xi xi') D x|^2`` + epsilon^2) - epsilon.

    Args:
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
    """Asymmetric parallel level sets, U(x) = sum sqrt(``|D x|^2`` - <xi, D x>^2 + epsilon^2) - epsilon::

        xi = D v / sqrt(|D v|^2 + eta^2),  so that the root is, where eta and epsilon are small,
        sqrt(|D x|^2 |D v|^2 - <D x, D v>^2) / |D v|: |D x| times the sine of the angle between both gradients

    Args:
        guide, eta, epsilon, voxel_size : as in `SmoothedDirectionalTotalVariation`, of which this is a milder relative:
            it is larger where the guide has weak edges, ``|xi|`` < 1.

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
