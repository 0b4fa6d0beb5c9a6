"""The gradient of an image as an operator, and the differences it is made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import EllipsisType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from emrecon.projectors.core.arrays import (
    Array,
    add_up,
    array_namespace,
    from_host,
    is_cuda,
    read_only,
    to_host,
)
from emrecon.projectors.core.operator import BatchOperator
from emrecon.projectors.core.threads import share

from . import variation_kernels as kernels

_SLAB = 8  # planes at a time, where many arrays are needed

_CUBES = (1.0, 1.0, 1.0)


class ImageGradient(BatchOperator):
    """Forward differences of an image, (x, y, z) -> (3, x, y, z)::

        (D x)[a, i] = w_a (x[i + e_a] - x[i]),  w_a = smallest voxel size / voxel size along a

    and 0 at the far border of axis a. An image in steps of one smallest voxel thus has the differences of its values.

    Args:
        shape : of the image.
        voxel_size : (x, y, z) mm; only the ratios matter.

    `norm_bound` is a number that ``|D x| / |x|`` never exceeds, 2 sqrt(sum w^2). The transpose is exact.

    Raises ValueError unless there are three axes and three positive sizes.
    """

    def __init__(self, shape: tuple[int, ...], voxel_size: tuple[float, float, float] = _CUBES) -> None:
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"ImageGradient needs the three sizes of an image (x, y, z), got {tuple(shape)}")
        self.voxel_size = _three_sizes(voxel_size, "ImageGradient")
        self.in_shape, self.out_shape = tuple(shape), (3, *shape)

    @property
    def norm_bound(self) -> float:
        """An upper bound of ``|D x| / |x|``."""
        return 2 * math.hypot(*_weights(self.voxel_size))

    def _forward_batch(self, x: Array) -> Array:
        weights = _weights(self.voxel_size)
        if not _on_host(x):
            return array_namespace(x).stack([_difference(x, a, weights[a]) for a in range(3)], axis=1)
        return _each(x, self.out_shape, lambda image, *part: kernels.differences(image, _typed(weights, image), *part))

    def _adjoint_batch(self, y: Array) -> Array:
        weights = _weights(self.voxel_size)
        if not _on_host(y):
            return add_up(_difference_transpose(y[:, a, ...], a, weights[a]) for a in range(3))
        return _each(y, self.in_shape, lambda flux, *part: kernels.transpose(flux, _typed(weights, flux), *part))


def _along(axis: int, part: slice) -> tuple[slice | EllipsisType, ...]:
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


def _each_part(work: Callable[[int], None], n_parts: int) -> None:
    def some(thread: int, n: int) -> None:
        for part in range(thread, n_parts, n):
            work(part)

    share(some, n_parts)


def _slabs(n_planes: int) -> list[slice]:
    return [slice(first, min(first + _SLAB, n_planes)) for first in range(0, n_planes, _SLAB)]


def _on_host(x: Array) -> bool:
    return not is_cuda(x)


def _host(x: Array, who: object) -> np.ndarray:
    return read_only(np.ascontiguousarray(to_host(x, who)))


def _host_rows(x: Array, who: object) -> np.ndarray:
    """Images on the host; a flat (B, x, y, 1) as (B, x, 1, y), since kernels run along the last axis."""
    host = _host(x, who)
    return host.reshape(*host.shape[:2], 1, host.shape[2]) if host.shape[3] == 1 else host


def _each(x: Array, out_shape: tuple[int, ...], kernel: Callable[..., None]) -> Array:
    """Fill the arrays of a batch slab by slab: kernel(item, first, n, out)."""
    host = _host(x, "ImageGradient")
    out = np.empty((len(host), *out_shape), host.dtype)
    for item, target in zip(host, out):
        _in_slabs(out_shape[-3], kernel, item, out=target)
    return from_host(out, x)


def _in_slabs(n_slabs: int, kernel: Callable[..., None], *arguments: Any, out: np.ndarray) -> None:
    share(lambda thread, n: kernel(*arguments, thread, n, out), n_slabs)


def _weights(voxel_size: tuple[float, float, float]) -> tuple[float, ...]:
    return tuple(min(voxel_size) / size for size in voxel_size)


def _typed(weights: tuple[float, ...], x: np.ndarray) -> np.ndarray:
    return np.asarray(weights, x.dtype)


def _no_direction(dtype: DTypeLike) -> np.ndarray:
    return read_only(np.empty((3, 0, 0, 0), dtype))


def _three_sizes(voxel_size: Sequence[float], who: str) -> tuple[float, float, float]:
    sizes = tuple(map(float, voxel_size)) if np.ndim(voxel_size) == 1 else ()
    if len(sizes) != 3 or not all(0 < size < math.inf for size in sizes):
        raise ValueError(f"{who} voxel_size must be three positive numbers (mm), got {voxel_size}")
    return sizes[0], sizes[1], sizes[2]
