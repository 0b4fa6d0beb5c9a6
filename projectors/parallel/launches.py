"""The CUDA side of the parallel-beam projector: two launches, one for each direction."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..core.arrays import Array, PlanCache, dtype_name
from ..core.cuda import Engine, on_device, returned_like
from ..core.lanes import fold_with, unfold_with
from ..core.operator import Shape
from .plan import LinePlan

_ITEMS = 1024  # items of a batch in one launch
_LANES_PER_THREAD = 4  # as in parallel.cu
_THREADS = 128


class CudaPlan(NamedTuple):
    """What the launches know of a projector; `tables` keeps its lines on each device."""

    lines: LinePlan
    in_shape: Shape
    out_shape: Shape
    tables: PlanCache


def forward(plan: CudaPlan, x: Array) -> Array:
    """Return the line integrals of a batch on a CUDA device, (B, nx, ny, nz) to (B, views, bins, planes)."""
    with on_device(x) as (engine, images):
        return returned_like(forward_with(plan, images, engine), x)


def adjoint(plan: CudaPlan, y: Array) -> Array:
    """Return the back projections of a batch on a CUDA device, (B, views, bins, planes) to (B, nx, ny, nz)."""
    with on_device(y) as (engine, projections):
        return returned_like(adjoint_with(plan, projections, engine), y)


def forward_with(plan: CudaPlan, x: Array, engine: Engine) -> Array:
    """`forward` on the arrays of an engine."""
    return _in_parts(plan, x, engine, "integrate", plan.out_shape)


def adjoint_with(plan: CudaPlan, y: Array, engine: Engine) -> Array:
    """`adjoint` on the arrays of an engine."""
    return _in_parts(plan, y, engine, "backproject", plan.in_shape)


def _in_parts(plan: CudaPlan, x: Array, engine: Engine, kernel: str, shape: tuple[int, ...]) -> Array:
    parts = [x[i : i + _ITEMS] for i in range(0, x.shape[0], _ITEMS)]
    done = [_one_part(plan, part, engine, kernel, shape) for part in parts]
    return done[0] if len(done) == 1 else engine.xp.concatenate(done)


def _one_part(plan: CudaPlan, x: Array, engine: Engine, kernel: str, shape: tuple[int, ...]) -> Array:
    """Launch over items as they are, or over thin ones side by side as lanes."""
    xp, items = engine.xp, x.shape[0]
    if shape[2] >= 16 or items == 1:
        out = xp.empty((items, *shape), x.dtype)
        _launch(plan, xp.ascontiguousarray(x), out, engine, kernel)
        return out
    out = xp.empty((1, *shape[:2], shape[2] * items), x.dtype)
    _launch(plan, fold_with(xp, x), out, engine, kernel)
    return unfold_with(xp, out, shape, items)


def _launch(plan: CudaPlan, x: Array, out: Array, engine: Engine, kernel: str) -> None:
    """Fill out (items, a, b, lanes): a thread for each of a x b columns and few lanes."""
    lines = plan.tables.get(x, lambda: tuple(engine.xp.asarray(values) for values in plan.lines))
    items, a, b, lanes = out.shape
    sizes = (*plan.in_shape[:2], lanes, *plan.out_shape[:2])
    across = min(32, 1 << max(0, math.ceil(math.log2(lanes / _LANES_PER_THREAD))))
    block = (across, _THREADS // across, 1)
    grid = (math.ceil(a * b / block[1]), math.ceil(lanes / (across * _LANES_PER_THREAD)), items)
    args = (x, *lines, out, *(np.int32(n) for n in sizes))
    real = "float" if dtype_name(x) == "float32" else "double"
    engine.launch("emrecon.projectors.parallel/parallel.cu", kernel, real, grid, block, args)
