"""Lanes of a batch: kernels run along contiguous z, and thin items are laid side by side so that this axis is long."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np

from .arrays import Array, read_only

_LANES = 256  # thin items are projected together until so many lanes are filled
_THIN = 16  # slices from which an item fills the vector units by itself


def items_together(depth: int) -> int:
    """Return how many items of `depth` slices a kernel takes at once: one, or as many thin ones as fill the lanes."""
    return max(1, _LANES // depth) if depth < _THIN else 1


def map_lanes(
    apply: Callable[[np.ndarray, slice, np.ndarray], None], x: np.ndarray, shape: tuple[int, ...], together: int
) -> np.ndarray:
    """Return `apply` of every item of x, (B, ..., z) to (B, ``*shape``), with `together` items in each call.

    Args:
        apply : takes (..., z * n), which items of the batch these are, and (``*shape``[:-1], shape[-1] * n) to write
            into. The lane of slice z of item b is z * n + b.
    """
    out = np.empty((x.shape[0], *shape), x.dtype)
    for first in range(0, x.shape[0], together):
        items = slice(first, min(first + together, x.shape[0]))
        n = items.stop - items.start
        lanes = out[first] if n == 1 else np.empty((*shape[:-1], shape[-1] * n), x.dtype)
        apply(fold(x[items]), items, lanes)
        if n > 1:
            out[items] = np.moveaxis(lanes.reshape(*shape, n), -1, 0)
    return out


def fold(x: np.ndarray) -> np.ndarray:
    """Return (B, ..., z) as (..., z * B), contiguous and read-only; no copy for one item."""
    lanes = x[0] if x.shape[0] == 1 else np.moveaxis(x, 0, -1)
    return read_only(np.ascontiguousarray(lanes).reshape(*x.shape[1:-1], -1))


def fold_with(xp: ModuleType, x: Array) -> Array:
    """Return (B, a, b, z) as one item (1, a, b, z * B), contiguous, with the functions of an array library."""
    lanes: Array = xp.ascontiguousarray(xp.moveaxis(x, 0, -1))
    return lanes.reshape((1, *x.shape[1:3], -1))


def unfold_with(xp: ModuleType, lanes: Array, shape: tuple[int, ...], n: int) -> Array:
    """Return one item of n * shape[-1] lanes as (n, ``*shape``), contiguous: the inverse of `fold_with`."""
    items: Array = xp.ascontiguousarray(xp.moveaxis(lanes.reshape((*shape, n)), -1, 0))
    return items
