"""The CUDA side of the priors on pairs: one launch for what every voxel gathers, one for the values of columns."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from emrecon.projectors.core.arrays import Array, PlanCache, dtype_name
from emrecon.projectors.core.cuda import Engine, on_device, returned_like

from . import pair_kernels as kernels

_THREADS = 128
_KINDS = (kernels.Quadratic, kernels.LogCosh, kernels.Huber, kernels.Hyperbolic, kernels.RelativeDifference)
_WANTED = (kernels.Slope, kernels.Product, kernels.Diagonal, kernels.Above, kernels.Bend)


class CudaPlan(NamedTuple):
    """What the launches know of a prior.

    Args:
        potential : returns psi with numbers of a type.
        tables : keeps the arrays on each device.
        arrays : returns steps (S, 3), weights (S,), kappa, guide and choices in a precision, the last three empty
            without.
        once : whether a pair that either voxel chooses counts once.
    """

    potential: Callable[[type], tuple[np.floating, ...]]
    arrays: Callable[[np.dtype], tuple[np.ndarray, ...]]
    once: bool
    tables: PlanCache


def gather(plan: CudaPlan, wanted: type, x: Array, v: Array, keep: bool) -> tuple[Array, Array]:
    """Return the values (B,) and, to keep, what is wanted of every voxel, of images (B, x, y, z) on a CUDA device."""
    with on_device(x) as (engine, images):
        directions = images if v is x else on_engine(engine, v)
        values, out = gather_with(plan, wanted, images, directions, keep, engine)
        return returned_like(values, x), returned_like(out, x)


def on_engine(engine: Engine, v: Array) -> Array:
    """Return an array of the device as the engine's."""
    xp = engine.xp
    return xp.ascontiguousarray(xp.from_dlpack(v.detach().contiguous()) if hasattr(v, "detach") else v)


def gather_with(plan: CudaPlan, wanted: type, x: Array, v: Array, keep: bool, engine: Engine) -> tuple[Array, Array]:
    """`gather` on the arrays of an engine."""
    xp, (items, nx, ny, nz) = engine.xp, x.shape
    if not items:
        return xp.zeros(0, np.float64), xp.zeros(x.shape, x.dtype)
    real = "float" if dtype_name(x) == "float32" else "double"
    steps, weights, *anatomy = plan.tables.get(x, lambda: _on_device(plan, np.dtype(dtype_name(x)), xp))
    potential = plan.potential(x.dtype.type)
    numbers = (_KINDS.index(type(potential)), _WANTED.index(wanted), len(steps), int(plan.once))
    flags = tuple(int(math.prod(values.shape) > 1) for values in anatomy)
    sizes = tuple(np.int32(n) for n in (*numbers, *flags, nx, ny, nz))
    parameters = tuple(x.dtype.type(p) for p in potential[:2])
    arrays = (steps, weights, *anatomy)
    out, sums = xp.zeros(x.shape if keep else (0,), x.dtype), xp.zeros((items, nx, nz), np.float64)
    if keep:
        grid = (math.ceil(nx * ny * nz / _THREADS), 1, items)
        args = (x, v, *arrays, out, *parameters, *sizes)
        engine.launch("emrecon.recon.priors/pairs.cu", "gather_pairs", real, grid, (_THREADS, 1, 1), args)
    if wanted is kernels.Slope and not keep:
        grid = (math.ceil(nx * nz / _THREADS), 1, items)
        args = (x, v, *arrays, sums, *parameters, *sizes)
        engine.launch("emrecon.recon.priors/pairs.cu", "sum_pairs", real, grid, (_THREADS, 1, 1), args)
    return sums.sum(axis=(1, 2)), out


def _on_device(plan: CudaPlan, real: np.dtype, xp: Any) -> tuple[Array, ...]:
    """Return steps, weights, kappa, guide and choices on the device; an absent one is a single number, never read."""
    steps, weights, *anatomy = plan.arrays(real)
    arrays = (values if values.size else np.zeros(1, values.dtype) for values in anatomy)
    return tuple(xp.asarray(values) for values in (steps.astype(np.int32), weights.astype(real), *arrays))
