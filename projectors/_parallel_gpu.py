"""The CUDA side of the parallel-beam projector: two launches, one for each direction."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ._arrays import Array, dtype_name
from ._gpu import Engine, on_device, returned_like

if TYPE_CHECKING:
    from .parallel import ParallelBeamProjector

_ITEMS = 1024  # items of a batch in one launch
_LANES_PER_THREAD = 4  # as in parallel.cu
_THREADS = 128


def forward(projector: ParallelBeamProjector, x: Array) -> Array:
    """Return the line integrals of a batch on a CUDA device, (B, nx, ny, nz) to (B, views, bins, planes)."""
    with on_device(x) as (engine, images):
        return returned_like(forward_with(projector, images, engine), x)


def adjoint(projector: ParallelBeamProjector, y: Array) -> Array:
    """Return the back projections of a batch on a CUDA device, (B, views, bins, planes) to (B, nx, ny, nz)."""
    with on_device(y) as (engine, projections):
        return returned_like(adjoint_with(projector, projections, engine), y)


def forward_with(projector: ParallelBeamProjector, x: Array, engine: Engine) -> Array:
    """`forward` on the arrays of an engine."""
    return _in_parts(projector, x, engine, "integrate", projector.out_shape)


def adjoint_with(projector: ParallelBeamProjector, y: Array, engine: Engine) -> Array:
    """`adjoint` on the arrays of an engine."""
    return _in_parts(projector, y, engine, "backproject", projector.in_shape)


def _in_parts(projector: ParallelBeamProjector, x: Array, engine: Engine, kernel: str, shape: tuple[int, ...]) -> Array:
    parts = [x[i : i + _ITEMS] for i in range(0, x.shape[0], _ITEMS)]
    done = [_one_part(projector, part, engine, kernel, shape) for part in parts]
    return done[0] if len(done) == 1 else engine.xp.concatenate(done)


def _one_part(projector: ParallelBeamProjector, x: Array, engine: Engine, kernel: str, shape: tuple[int, ...]) -> Array:
    """Launch over items as they are, or over thin ones side by side as lanes."""
    xp, items = engine.xp, x.shape[0]
    if shape[2] >= 16 or items == 1:
        out = xp.empty((items, *shape), x.dtype)
        _launch(projector, xp.ascontiguousarray(x), out, engine, kernel)
        return out
    out = xp.empty((1, *shape[:2], shape[2] * items), x.dtype)
    lanes = xp.ascontiguousarray(xp.moveaxis(x, 0, -1)).reshape(1, *x.shape[1:3], -1)
    _launch(projector, lanes, out, engine, kernel)
    return xp.ascontiguousarray(xp.moveaxis(out.reshape(*shape, items), -1, 0))


def _launch(projector: ParallelBeamProjector, x: Array, out: Array, engine: Engine, kernel: str) -> None:
    """Fill out (items, a, b, lanes): a thread for each of a x b columns and few lanes."""
    plan = projector._device_plans.get(x, lambda: tuple(engine.xp.asarray(values) for values in projector._plan))
    items, a, b, lanes = out.shape
    sizes = (*projector.in_shape[:2], lanes, *projector.out_shape[:2])
    across = min(32, 1 << max(0, math.ceil(math.log2(lanes / _LANES_PER_THREAD))))
    block = (across, _THREADS // across, 1)
    grid = (math.ceil(a * b / block[1]), math.ceil(lanes / (across * _LANES_PER_THREAD)), items)
    args: tuple[Any, ...] = (x, *plan, out, *(np.int32(n) for n in sizes))
    real = "float" if dtype_name(x) == "float32" else "double"
    engine.launch("parallel.cu", kernel, real, grid, block, args)
