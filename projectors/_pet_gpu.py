"""The CUDA side of the PET projectors: launches of pet.cu for sinograms and events."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ._arrays import Array, dtype_name
from ._gpu import Engine, on_device, returned_like
from .pet import timing

if TYPE_CHECKING:
    from .geometry import ImageGrid
    from .listmode import ListmodeProjector
    from .pet import PETProjector
    from .tof import TimeOfFlight

_THREADS = 128
_ITEMS = 64  # of a batch in one launch


def sinogram_forward(projector: PETProjector, x: Array) -> Array:
    """Return the sinograms of a batch of images on a CUDA device."""
    with on_device(x) as (engine, images):
        return returned_like(sinogram_forward_with(projector, images, engine), x)


def sinogram_adjoint(projector: PETProjector, y: Array) -> Array:
    """Return the back projections of a batch of sinograms on a CUDA device."""
    with on_device(y) as (engine, data):
        return returned_like(sinogram_adjoint_with(projector, data, engine), y)


def events_forward(projector: ListmodeProjector, x: Array) -> Array:
    """Return the line integrals of a batch of images on a CUDA device."""
    with on_device(x) as (engine, images):
        return returned_like(events_forward_with(projector, images, engine), x)


def events_adjoint(projector: ListmodeProjector, y: Array) -> Array:
    """Return the back projections of a batch of values of events on a CUDA device."""
    with on_device(y) as (engine, data):
        return returned_like(events_adjoint_with(projector, data, engine), y)


def sinogram_forward_with(projector: PETProjector, x: Array, engine: Engine) -> Array:
    """`sinogram_forward` on the arrays of an engine."""
    grid, ends, heights = _tables(projector, x, engine)
    views, radial, tof, planes = projector._bins
    out = engine.xp.empty((x.shape[0], *projector.out_shape), x.dtype)
    lines = (ends, heights, views * radial, planes, x.shape[0])
    threads = views * radial * tof * planes
    _launch(engine, "sinogram_forward", x, threads, x.shape[0], (x, out, *lines, *grid))
    return out


def sinogram_adjoint_with(projector: PETProjector, y: Array, engine: Engine) -> Array:
    """`sinogram_adjoint` on the arrays of an engine."""
    grid, ends, heights = _tables(projector, y, engine)
    views, radial, _, planes = projector._bins
    sums, scale = _accumulator(y, projector.in_shape, _most_lines(projector) * _longest_step(projector), engine)
    lines = (ends, heights, views * radial, planes, y.shape[0])
    threads = views * radial * planes
    _launch(engine, "sinogram_adjoint", y, threads, y.shape[0], (y, sums, scale, *lines, *grid))
    return _images(sums, scale, y, projector.in_shape, engine)


def events_forward_with(projector: ListmodeProjector, x: Array, engine: Engine) -> Array:
    """`events_forward` on the arrays of an engine."""
    grid = _grid(projector.grid, projector.tof, x, engine)
    crystals = engine.xp.asarray(np.ascontiguousarray(projector.scanner.positions))
    parts = []
    for _, events in projector.chunks():
        out = engine.xp.empty((x.shape[0], len(events)), x.dtype)
        lines = (engine.xp.asarray(events), events.shape[1], crystals, len(events), x.shape[0], _axial(projector))
        _launch(engine, "events_forward", x, len(events), 1, (x, out, *lines, *grid))
        parts.append(out)
    return engine.xp.concatenate(parts, 1) if parts else engine.xp.empty((x.shape[0], 0), x.dtype)


def events_adjoint_with(projector: ListmodeProjector, y: Array, engine: Engine) -> Array:
    """`events_adjoint` on the arrays of an engine."""
    grid = _grid(projector.grid, projector.tof, y, engine)
    crystals = engine.xp.asarray(np.ascontiguousarray(projector.scanner.positions))
    most = max(1, y.shape[1]) * math.sqrt(3) * max(projector.grid.voxel_size)
    sums, scale = _accumulator(y, projector.in_shape, most, engine)
    for part, events in projector.chunks():
        data = engine.xp.ascontiguousarray(y[:, part])
        lines = (engine.xp.asarray(events), events.shape[1], crystals, len(events), y.shape[0], _axial(projector))
        _launch(engine, "events_adjoint", y, len(events), 1, (data, sums, scale, *lines, *grid))
    return _images(sums, scale, y, projector.in_shape, engine)


def _axial(projector: ListmodeProjector) -> int:
    """Whether lines may be followed along the axis, as a number."""
    return int(not projector.scanner.is_cylinder)


def _tables(projector: PETProjector, x: Array, engine: Engine) -> tuple[tuple[Any, ...], Array, Array]:
    """Return the grid's arguments, the ends of transaxial lines and the heights of planes; kept on the device."""

    def build() -> tuple[tuple[Any, ...], Array, Array]:
        sinogram, xp = projector.sinogram, engine.xp
        ends, heights = (np.ascontiguousarray(a, float) for a in (sinogram.transaxial_ends, sinogram.plane_ends))
        return _grid(projector.grid, sinogram.tof, x, engine), xp.asarray(ends), xp.asarray(heights)

    tables: tuple[tuple[Any, ...], Array, Array] = projector._device_plans.get(x, build)
    return tables


def _grid(grid: ImageGrid, tof: TimeOfFlight | None, x: Array, engine: Engine) -> tuple[Any, ...]:
    """The last arguments of every kernel, in the order of GRID in the source."""
    tables = timing(tof, dtype_name(x))
    edges, kernel = (engine.xp.asarray(tables[name]) for name in ("edges", "kernel"))
    places = (*map(float, grid.origin), *map(float, grid.voxel_size))
    return (*places, *grid.shape, edges, kernel, float(tables["per_mm"][0]), len(tables["edges"]))


def _accumulator(y: Array, shape: tuple[int, ...], most: float, engine: Engine) -> tuple[Array, Array]:
    """Return integer images of zeros, and for each item the power of two that one unit of its data stands for.

    most : no voxel gets more than this times the largest value of the data. Nothing waits for the device.
    """
    xp = engine.xp
    flat = xp.abs(y.reshape(y.shape[0], -1)) if y.size else xp.zeros((y.shape[0], 1), y.dtype)
    largest = flat.max(axis=1).astype(np.float64)
    usable = xp.isfinite(largest) & (largest > 0)
    exponent = xp.floor(xp.log2(2.0**62 / most / xp.where(usable, largest, 1.0)))
    # Infinite data leave NaN behind, as sums of them would.
    scale = xp.where(xp.isfinite(largest), xp.exp2(exponent), xp.nan)
    return xp.zeros((y.shape[0], *shape), np.uint64), scale


def _images(sums: Array, scale: Array, y: Array, shape: tuple[int, ...], engine: Engine) -> Array:
    out = engine.xp.empty((y.shape[0], *shape), y.dtype)
    per_item = math.prod(shape)
    _launch(engine, "from_fixed", y, per_item * y.shape[0], 1, (sums, scale, out, np.int64(per_item), y.shape[0]))
    return out


def _most_lines(projector: PETProjector) -> int:
    """A bound for the lines through the neighbourhood of one voxel: planes x lines of every view within reach."""
    reach = 2 * math.hypot(*projector.grid.voxel_size[:2])
    positions = np.sort(projector.sinogram.radial_positions, axis=1)
    most = sum(int((np.searchsorted(row, row + 2 * reach) - np.arange(row.size)).max()) for row in positions)
    return most * projector.out_shape[-1]


def _longest_step(projector: PETProjector) -> float:
    """The length in mm of a step along the steepest line."""
    x1, y1, x2, y2 = np.moveaxis(projector.sinogram.transaxial_ends, -1, 0)
    shortest, rise = np.hypot(x2 - x1, y2 - y1).min(), np.ptp(projector.sinogram.plane_ends, axis=1).max()
    return max(projector.grid.voxel_size) * math.sqrt(2) * math.hypot(1, rise / shortest)


def _launch(engine: Engine, kernel: str, like: Array, threads: int, items: int, args: tuple[Any, ...]) -> None:
    """Launch a kernel on so many threads for each group of items; a plain int is passed as int32."""
    if threads * items == 0:
        return
    real = "float" if dtype_name(like) == "float32" else "double"
    converted = tuple(np.int32(a) if type(a) is int else a for a in args)
    grid = (math.ceil(threads / _THREADS), 1, min(items, _ITEMS))
    engine.launch("pet.cu", kernel, real, grid, (_THREADS, 1, 1), converted)
