"""The CUDA side of the priors on pairs: one launch for what every voxel gathers, one for the values of columns."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from emrecon.projectors._arrays import Array, dtype_name
from emrecon.projectors._gpu import Engine, on_device, returned_like

from . import _pairs_cpu as kernels
from .priors import Bowsher, PairPrior, anatomy_arrays, pair_steps

_THREADS = 128
_KINDS = (kernels.Quadratic, kernels.LogCosh, kernels.Huber, kernels.Hyperbolic, kernels.RelativeDifference)
_WANTED = (kernels.Slope, kernels.Product, kernels.Diagonal, kernels.Above, kernels.Bend)


def gather(prior: PairPrior, wanted: Any, x: Array, v: Array, keep: bool) -> tuple[Array, Array]:
    """Return the values (B,) and, to keep, what is wanted of every voxel, of images (B, x, y, z) on a CUDA device."""
    with on_device(x) as (engine, images):
        directions = images if v is x else on_engine(engine, v)
        values, out = gather_with(prior, wanted, images, directions, keep, engine)
        return returned_like(values, x), returned_like(out, x)


def on_engine(engine: Engine, v: Array) -> Array:
    """Return an array of the device as the engine's."""
    xp = engine.xp
    return xp.ascontiguousarray(xp.from_dlpack(v.detach().contiguous()) if hasattr(v, "detach") else v)


def gather_with(prior: PairPrior, wanted: Any, x: Array, v: Array, keep: bool, engine: Engine) -> tuple[Array, Array]:
    """`gather` on the arrays of an engine."""
    xp, (items, nx, ny, nz) = engine.xp, x.shape
    if not items:
        return xp.zeros(0, np.float64), xp.zeros(x.shape, x.dtype)
    real = "float" if dtype_name(x) == "float32" else "double"
    steps, weights, *anatomy = prior._plans.get(x, lambda: _device_plan(prior, np.dtype(dtype_name(x)), xp))
    potential = prior._potential(x.dtype.type)
    once = isinstance(prior.anatomy, Bowsher) and prior.anatomy.symmetric
    numbers = (_KINDS.index(type(potential)), _WANTED.index(wanted), len(steps), int(once))
    flags = tuple(int(values.size > 1) for values in anatomy)
    sizes = tuple(np.int32(n) for n in (*numbers, *flags, nx, ny, nz))
    parameters = tuple(x.dtype.type(p) for p in potential[:2])
    arrays = (steps, weights, *anatomy)
    out, sums = xp.zeros(x.shape if keep else (0,), x.dtype), xp.zeros((items, nx, nz), np.float64)
    if keep:
        grid = (math.ceil(nx * ny * nz / _THREADS), 1, items)
        args = (x, v, *arrays, out, *parameters, *sizes)
        engine.launch("emrecon.recon/pairs.cu", "gather_pairs", real, grid, (_THREADS, 1, 1), args)
    if wanted is kernels.Slope and not keep:
        grid = (math.ceil(nx * nz / _THREADS), 1, items)
        args = (x, v, *arrays, sums, *parameters, *sizes)
        engine.launch("emrecon.recon/pairs.cu", "sum_pairs", real, grid, (_THREADS, 1, 1), args)
    return sums.sum(axis=(1, 2)), out


def _device_plan(prior: PairPrior, real: np.dtype, xp: Any) -> tuple[Array, ...]:
    """Steps, weights, kappa, guide and choices on the device; what is absent is one number that nobody reads."""
    steps, weights = pair_steps(prior)
    arrays = (values if values.size else np.zeros(1, values.dtype) for values in anatomy_arrays(prior, real))
    return tuple(xp.asarray(values) for values in (steps.astype(np.int32), weights.astype(real), *arrays))
