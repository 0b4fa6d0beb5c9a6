"""The CUDA side of the PET projectors: launches of pet.cu for sinograms and events."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from ..core.arrays import Array, PlanCache, dtype_name
from ..core.cuda import Arguments, Engine, on_device, returned_like
from ..core.grid import ImageGrid
from ..core.operator import Shape
from .plan import timing
from .scanner import PETScanner
from .sinogram import PETSinogram
from .tof import TimeOfFlight

_THREADS = 128
_ITEMS = 64  # of a batch in one launch
_KEPT = 1 << 32  # bytes of events that stay on the device; more are copied there at every projection


class SinogramPlan(NamedTuple):
    """What the launches know of a sinogram's projector; `tables` keeps its lines on each device."""

    grid: ImageGrid
    sinogram: PETSinogram
    tables: PlanCache

    @property
    def bins(self) -> tuple[int, int, int, int]:
        """(views, radial, TOF bins, planes), with one TOF bin where there are none."""
        views, radial, *tof, planes = self.sinogram.shape
        return views, radial, (tof or [1])[0], planes


class EventsPlan(NamedTuple):
    """What the launches know of a list-mode projector.

    Args:
        chunks : reads and checks its events part by part.
        n_bytes : what they take as 32-bit integers.
        tables : keeps the crystals on each device, and the events of up to `_KEPT` bytes.
    """

    grid: ImageGrid
    scanner: PETScanner
    tof: TimeOfFlight | None
    chunks: Callable[[], Iterator[tuple[slice, np.ndarray]]]
    n_bytes: int
    tables: PlanCache


def sinogram_forward(plan: SinogramPlan, x: Array) -> Array:
    """Return the sinograms of a batch of images on a CUDA device."""
    with on_device(x) as (engine, images):
        return returned_like(sinogram_forward_with(plan, images, engine), x)


def sinogram_adjoint(plan: SinogramPlan, y: Array) -> Array:
    """Return the back projections of a batch of sinograms on a CUDA device."""
    with on_device(y) as (engine, data):
        return returned_like(sinogram_adjoint_with(plan, data, engine), y)


def events_forward(plan: EventsPlan, x: Array) -> Array:
    """Return the line integrals of a batch of images on a CUDA device."""
    with on_device(x) as (engine, images):
        return returned_like(events_forward_with(plan, images, engine), x)


def events_adjoint(plan: EventsPlan, y: Array) -> Array:
    """Return the back projections of a batch of values of events on a CUDA device."""
    with on_device(y) as (engine, data):
        return returned_like(events_adjoint_with(plan, data, engine), y)


def sinogram_forward_with(plan: SinogramPlan, x: Array, engine: Engine) -> Array:
    """`sinogram_forward` on the arrays of an engine."""
    grid, ends, heights = _tables(plan, x, engine)
    views, radial, tof, planes = plan.bins
    out = engine.xp.empty((x.shape[0], *plan.sinogram.shape), x.dtype)
    lines = (ends, heights, views * radial, planes, x.shape[0])
    threads = views * radial * tof * planes
    _launch(engine, "sinogram_forward", x, threads, x.shape[0], (x, out, *lines, *grid))
    return out


def sinogram_adjoint_with(plan: SinogramPlan, y: Array, engine: Engine) -> Array:
    """`sinogram_adjoint` on the arrays of an engine."""
    grid, ends, heights = _tables(plan, y, engine)
    views, radial, _, planes = plan.bins
    sums, scale = _accumulator(y, plan.grid.shape, _most_lines(plan) * _longest_step(plan), engine)
    lines = (ends, heights, views * radial, planes, y.shape[0])
    threads = views * radial * planes
    _launch(engine, "sinogram_adjoint", y, threads, y.shape[0], (y, sums, scale, *lines, *grid))
    return _images(sums, scale, y, plan.grid.shape, engine)


def events_forward_with(plan: EventsPlan, x: Array, engine: Engine) -> Array:
    """`events_forward` on the arrays of an engine."""
    grid, crystals, events_of = _event_tables(plan, x, engine)
    parts = []
    for _, events in events_of():
        out = engine.xp.empty((x.shape[0], len(events)), x.dtype)
        lines = (events, events.shape[1], crystals, len(events), x.shape[0], _axial(plan))
        _launch(engine, "events_forward", x, len(events), 1, (x, out, *lines, *grid))
        parts.append(out)
    return engine.xp.concatenate(parts, 1) if parts else engine.xp.empty((x.shape[0], 0), x.dtype)


def events_adjoint_with(plan: EventsPlan, y: Array, engine: Engine) -> Array:
    """`events_adjoint` on the arrays of an engine."""
    grid, crystals, events_of = _event_tables(plan, y, engine)
    most = max(1, y.shape[1]) * math.sqrt(3) * max(plan.grid.voxel_size)
    sums, scale = _accumulator(y, plan.grid.shape, most, engine)
    for part, events in events_of():
        data = engine.xp.ascontiguousarray(y[:, part])
        lines = (events, events.shape[1], crystals, len(events), y.shape[0], _axial(plan))
        _launch(engine, "events_adjoint", y, len(events), 1, (data, sums, scale, *lines, *grid))
    return _images(sums, scale, y, plan.grid.shape, engine)


_Parts = Iterable[tuple[slice, Array]]


def _event_tables(plan: EventsPlan, x: Array, engine: Engine) -> tuple[Arguments, Array, Callable[[], _Parts]]:
    """Return the grid's arguments, the crystals, and what gives (which events, the events on the device) in parts."""
    xp = engine.xp

    def build() -> tuple[Arguments, Array, list[tuple[slice, Array]] | None]:
        crystals = xp.asarray(np.ascontiguousarray(plan.scanner.positions))
        kept = [(part, xp.asarray(events)) for part, events in plan.chunks()] if plan.n_bytes <= _KEPT else None
        return _grid(plan.grid, plan.tof, x, engine), crystals, kept

    grid, crystals, kept = plan.tables.get(x, build)
    if kept is not None:
        return grid, crystals, lambda: kept
    return grid, crystals, lambda: ((part, xp.asarray(events)) for part, events in plan.chunks())


def _axial(plan: EventsPlan) -> int:
    """Whether lines may be followed along the axis, as a number."""
    return int(not plan.scanner.is_cylinder)


def _tables(plan: SinogramPlan, x: Array, engine: Engine) -> tuple[Arguments, Array, Array]:
    """Return the grid's arguments, the ends of transaxial lines and the heights of planes; kept on the device."""

    def build() -> tuple[Arguments, Array, Array]:
        sinogram, xp = plan.sinogram, engine.xp
        ends, heights = (np.ascontiguousarray(a, float) for a in (sinogram.transaxial_ends, sinogram.plane_ends))
        return _grid(plan.grid, sinogram.tof, x, engine), xp.asarray(ends), xp.asarray(heights)

    return plan.tables.get(x, build)


def _grid(grid: ImageGrid, tof: TimeOfFlight | None, x: Array, engine: Engine) -> Arguments:
    """The last arguments of every kernel, in the order of GRID in the source."""
    tables = timing(tof, dtype_name(x))
    edges, kernel = (engine.xp.asarray(tables[name]) for name in ("edges", "kernel"))
    places = (*map(float, grid.origin), *map(float, grid.voxel_size))
    return (*places, *grid.shape, edges, kernel, float(tables["per_mm"][0]), len(tables["edges"]))


def _accumulator(y: Array, shape: Shape, most: float, engine: Engine) -> tuple[Array, Array]:
    """Return integer images of zeros, and for each item the power of two that one unit of its data stands for.

    Args:
        most : no voxel gets more than this times the largest value of the data. Nothing waits for the device.
    """
    xp = engine.xp
    flat = xp.abs(y.reshape((y.shape[0], -1))) if math.prod(y.shape) else xp.zeros((y.shape[0], 1), y.dtype)
    largest = flat.max(axis=1).astype(np.float64)
    usable = xp.isfinite(largest) & (largest > 0)
    exponent = xp.floor(xp.log2(2.0**62 / most / xp.where(usable, largest, 1.0)))
    # Infinite data leave NaN behind, as sums of them would.
    scale = xp.where(xp.isfinite(largest), xp.exp2(exponent), xp.nan)
    return xp.zeros((y.shape[0], *shape), np.uint64), scale


def _images(sums: Array, scale: Array, y: Array, shape: Shape, engine: Engine) -> Array:
    out = engine.xp.empty((y.shape[0], *shape), y.dtype)
    per_item = math.prod(shape)
    _launch(engine, "from_fixed", y, per_item * y.shape[0], 1, (sums, scale, out, np.int64(per_item), y.shape[0]))
    return out


def _most_lines(plan: SinogramPlan) -> int:
    """A bound for the lines through the neighbourhood of one voxel: planes x lines of every view within reach."""
    reach = 2 * math.hypot(*plan.grid.voxel_size[:2])
    positions = np.sort(plan.sinogram.radial_positions, axis=1)
    most = sum(int((np.searchsorted(row, row + 2 * reach) - np.arange(row.size)).max()) for row in positions)
    return most * plan.bins[-1]


def _longest_step(plan: SinogramPlan) -> float:
    """The length in mm of a step along the steepest line."""
    x1, y1, x2, y2 = np.moveaxis(plan.sinogram.transaxial_ends, -1, 0)
    shortest, rise = np.hypot(x2 - x1, y2 - y1).min(), np.ptp(plan.sinogram.plane_ends, axis=1).max()
    return max(plan.grid.voxel_size) * math.sqrt(2) * math.hypot(1, rise / shortest)


def _launch(engine: Engine, kernel: str, like: Array, threads: int, items: int, args: Arguments) -> None:
    """Launch a kernel on so many threads for each group of items; a plain int is passed as int32."""
    if threads * items == 0:
        return
    real = "float" if dtype_name(like) == "float32" else "double"
    converted = tuple(np.int32(a) if type(a) is int else a for a in args)
    grid = (math.ceil(threads / _THREADS), 1, min(items, _ITEMS))
    engine.launch("emrecon.projectors.pet/pet.cu", kernel, real, grid, (_THREADS, 1, 1), converted)
