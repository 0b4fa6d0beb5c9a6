"""The CUDA side of the SPECT projector: launches of spect.cu for groups of items and views.

`forward_with` and `adjoint_with` take an `Engine`, which is CuPy in normal use; the tests pass one that runs the
same kernels on the host.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import NamedTuple

import numpy as np

from ..core.arrays import Array, PlanCache, dtype_name
from ..core.cuda import Arguments, Engine, on_device, returned_like
from ..core.lanes import fold_with, unfold_with
from ..core.mirror import folded
from ..core.operator import Shape
from .bands import make_bands
from .direct_blur import Convolution, DirectBlur
from .plan import SPECTPlan
from .taps import five_taps, n_passes

_ITEMS = 1024  # items of a batch in one launch
_SCRATCH = 1 << 30  # bytes of scratch memory per launch; more views than fit go in several launches


class CudaPlan(NamedTuple):
    """What the launches know of a projector.

    Args:
        tables : keeps a `DevicePlan` for each device and precision.
        absorbed_like : returns 1 - exp(-mu h / 2) like an array, (nx, ny, nz) or (B, nx, ny, nz); None without
            attenuation.
    """

    host: SPECTPlan
    direct: DirectBlur | None
    in_shape: Shape
    out_shape: Shape
    tables: PlanCache
    absorbed_like: Callable[[Array], Array | None]


class DevicePlan(NamedTuple):
    """A `SPECTPlan` on the device; bands are (first, weights) along u and z, and those of the transposes."""

    to_frame: Array
    to_image: Array
    rows: Array
    view_class: Array
    level: Array
    upper: Array
    taps: Array
    along_u: tuple[Array, Array]
    along_z: tuple[Array, Array]
    along_u_transposed: tuple[Array, Array]
    along_z_transposed: tuple[Array, Array]


def device_plan(plan: SPECTPlan, dtype: str, xp: ModuleType) -> DevicePlan:
    """Return the plan for kernels in `dtype`."""

    bins = plan.u_start.shape[-1]
    starts, weights, taps = plan.u_start.reshape(-1, bins), plan.u_weights, plan.z_taps
    weights, taps = weights.reshape(-1, *weights.shape[-2:]), taps.reshape(-1, taps.shape[-1])

    def bands(along_u: bool, transposed: bool) -> tuple[Array, Array]:
        if along_u:
            matrices = (_dense(start, weight, plan.n_columns) for start, weight in zip(starts, weights))
        else:
            matrices = (_along_z(plan, row) for row in taps)
        first, values = make_bands(matrix.T if transposed else matrix for matrix in matrices)
        return xp.asarray(first), xp.asarray(np.ascontiguousarray(values, dtype))

    maps = [xp.asarray(np.ascontiguousarray(values)) for values in (plan.to_frame, plan.to_image)]
    indices = [
        xp.asarray(np.ascontiguousarray(values, np.int32)) for values in (plan.rows, plan.view_class, plan.level)
    ]
    reals = [xp.asarray(np.ascontiguousarray(values, dtype)) for values in (plan.upper, _step_taps(plan.steps))]
    tables = (bands(along_u, transposed) for transposed in (False, True) for along_u in (True, False))
    return DevicePlan(*maps, *indices, *reals, *tables)


def _step_taps(steps: np.ndarray) -> np.ndarray:
    """Return (C, levels, 2, width): the taps of the steps, all passes of a step convolved."""
    flat = [_composed(variance, fourth) for variance, fourth in steps.reshape(-1, 2)]
    radius = max(taps.size for taps in flat) // 2
    return np.stack([np.pad(taps, radius - taps.size // 2) for taps in flat]).reshape(*steps.shape[:3], -1)


def _composed(variance: float, fourth: float) -> np.ndarray:
    taps, passes = np.ones(1), int(n_passes(np.asarray(variance)))
    for _ in range(passes):
        taps = np.convolve(taps, five_taps(variance / passes, fourth / passes))
    return taps


def _dense(start: np.ndarray, weights: np.ndarray, n: int) -> np.ndarray:
    """Return bands as matrices (..., rows, n)."""
    matrix = np.zeros((*start.shape, n))
    np.put_along_axis(matrix, start[..., None] + np.arange(weights.shape[-1]), weights, axis=-1)
    return matrix


def _along_z(plan: SPECTPlan, taps: np.ndarray) -> np.ndarray:
    """Return (rows, slices): the blur of one of the lowest levels along z, then the detector's rows."""
    resampled, radius, n = plan.z_start.size > 0, taps.size // 2, plan.n_slices
    rows = np.arange(n) if resampled else np.arange(plan.n_rows) + plan.row_offset
    tap = np.arange(-radius, n + radius) - rows[:, None] + radius
    wide = np.where((tap >= 0) & (tap < taps.size), taps[np.clip(tap, 0, taps.size - 1)], 0)
    blur = folded(wide, -radius, n, plan.mirror_low, plan.mirror_high)
    return _dense(plan.z_start, plan.z_weights, n) @ blur if resampled else blur


class Launches:
    """The launches for one group of lanes: images (items, nx, ny, lanes), projections (items, views, bins, lanes)."""

    def __init__(self, plan: CudaPlan, engine: Engine, tables: DevicePlan, absorbed: Array | None, stride: int) -> None:
        self.engine, self.plan, self.absorbed, self.stride = engine, tables, absorbed, stride
        self.host, self.direct = plan.host, plan.direct
        self.n_views, self.bins, self.rows = plan.out_shape
        self.nx, self.ny, slices = plan.in_shape
        self.lanes, self.padded = slices * stride, self.host.n_slices * stride
        self.n_levels = 1 if self.direct is not None else int(self.host.steps.shape[1])
        self.used = 1 if self.direct is not None else int(self.host.u_start.shape[1])

    def forward(self, images: Array) -> Array:
        """Return the projections of `images`."""
        xp, plan = self.engine.xp, self.plan
        items, direct = images.shape[0], self.direct is not None
        out = xp.empty((items, self.n_views, self.bins, self.rows * self.stride), images.dtype)
        for first, n in self._chunks(items, images.dtype.itemsize, direct):
            sizes = self._sizes(first, n)
            levels = xp.zeros((items, n, self.n_levels, self.host.n_columns, self.padded), images.dtype)
            frame = (
                xp.empty((items, n, self.host.n_planes, self.host.n_columns, self.lanes), images.dtype)
                if direct
                else None
            )
            maps = (plan.to_frame, plan.to_image, plan.rows, plan.view_class, plan.level, plan.upper)
            self._launch("look_into", (self.lanes, self.host.n_columns, items * n), 4,
                         (images, self.absorbed, *maps, levels, frame, *sizes))  # fmt: skip
            if frame is not None and self.direct is not None:
                for item, view in np.ndindex(items, n):
                    c = int(self.host.view_class[first + view])
                    levels[item, view, 0] = self.direct.collapse(frame[item, view], c, self._convolution)
            for level in range(self.n_levels - 1, self.used - 1, -1):
                self._blur(levels, level, level - 1, level, True, items, sizes)
            bands = (*plan.along_u, *plan.along_z, plan.view_class)
            widths = (plan.along_u[1].shape[-1], plan.along_z[1].shape[-1], self.used)
            self._launch("detect", (self.rows * self.stride, self.bins, items * n), 1,
                         (levels, *bands, *widths, out, self.n_views, *sizes))  # fmt: skip
        return out

    def adjoint(self, projections: Array) -> Array:
        """Return the back projection of `projections`."""
        xp, plan = self.engine.xp, self.plan
        items = projections.shape[0]
        out = xp.zeros((items, self.nx, self.ny, self.lanes), projections.dtype)
        for first, n in self._chunks(items, projections.dtype.itemsize, True):
            sizes = self._sizes(first, n)
            levels = xp.zeros((items, n, self.n_levels, self.host.n_columns, self.padded), projections.dtype)
            frame = xp.empty((items, n, self.host.n_planes, self.host.n_columns, self.lanes), projections.dtype)
            bands = (*plan.along_u_transposed, *plan.along_z_transposed, plan.view_class)
            widths = (plan.along_u_transposed[1].shape[-1], plan.along_z_transposed[1].shape[-1], self.used)
            self._launch("detect_adjoint", (self.padded, self.host.n_columns, items * n), 1,
                         (projections, *bands, *widths, levels, self.n_views, *sizes))  # fmt: skip
            for level in range(self.used, self.n_levels):
                self._blur(levels, level - 1, level, level, False, items, sizes)
            if self.direct is not None:
                for item, view in np.ndindex(items, n):
                    c = int(self.host.view_class[first + view])
                    frame[item, view] = self.direct.expand(levels[item, view, 0], c, self._convolution)
            maps = (plan.to_image, plan.rows, plan.view_class, plan.level, plan.upper)
            self._launch("look_out", (self.lanes, self.host.n_columns, items * n), 4,
                         (levels if self.direct is None else None, self.absorbed, *maps, frame, *sizes))  # fmt: skip
            self._launch("gather", (self.lanes, self.nx * self.ny, items), 4,
                         (frame, plan.to_frame, plan.to_image, plan.rows, out, *sizes))  # fmt: skip
        return out

    @property
    def _convolution(self) -> Convolution:
        """The convolution of a direct blur on this engine."""

        def convolve(wide: Array, taps: Array, out: Array) -> None:
            numbers = (*taps.shape, out.shape[0], wide.shape[1], out.shape[1])
            arrays = tuple(self.engine.xp.ascontiguousarray(array) for array in (wide, taps))
            self._launch("convolve", (out.shape[1], out.shape[0], 1), 1, (*arrays, out, *numbers))

        return Convolution(self.engine.xp, convolve)

    def _blur(
        self, levels: Array, source: int, target: int, step: int, accumulate: bool, items: int, sizes: Arguments
    ) -> None:
        taps = self.plan.taps
        numbers = (source, target, step, taps.shape[-1] // 2, int(accumulate))
        extent = (self.padded, self.host.n_columns, items * levels.shape[1])
        self._launch("blur_level", extent, 1, (levels, taps, self.plan.view_class, *numbers, *sizes))

    def _chunks(self, items: int, itemsize: int, with_frame: bool) -> Iterator[tuple[int, int]]:
        """Yield (first view, number of views) so that scratch memory stays within bounds."""
        per_view = self.n_levels * self.host.n_columns * self.padded
        if with_frame:
            per_view += self.host.n_planes * self.host.n_columns * self.lanes
        n = max(1, min(self.n_views, _SCRATCH // (items * itemsize * per_view), 65535 // items))
        for first in range(0, self.n_views, n):
            yield first, min(n, self.n_views - first)

    def _sizes(self, first: int, n: int) -> Arguments:
        """The last arguments of every kernel, in the order of SIZES in the source."""
        image = (self.nx, self.ny, self.lanes)
        frame = (self.host.n_planes, self.host.n_columns)
        levels = (self.n_levels, self.padded, self.host.margin * self.stride)
        views = (n, first, self.bins, self.rows, self.stride)
        ends = (int(self.host.mirror_low), int(self.host.mirror_high))
        absorbed_items = 0 if self.absorbed is None else self.absorbed.shape[0]
        options = (int(self.host.ray_driven), int(absorbed_items > 0), absorbed_items, float(self.host.weight))
        return (*image, *frame, *levels, *ends, *views, *options)

    def _launch(self, kernel: str, extent: tuple[int, int, int], lanes_per_thread: int, args: Arguments) -> None:
        """Launch a kernel over (lanes, columns, items and views); a scalar int is passed as int32, None as null."""
        block = (32, 4) if extent[0] > 16 * lanes_per_thread else (8, 16)
        grid = (math.ceil(extent[0] / (block[0] * lanes_per_thread)), math.ceil(extent[1] / block[1]), extent[2])
        real = "float" if dtype_name(self.plan.upper) == "float32" else "double"
        converted = tuple(np.int32(a) if type(a) is int else np.uint64(0) if a is None else a for a in args)
        self.engine.launch("emrecon.projectors.spect/spect.cu", kernel, real, grid, (*block, 1), converted)


def forward(plan: CudaPlan, x: Array) -> Array:
    """Return the projections of a batch on a CUDA device, (B, nx, ny, nz) to (B, views, bins, rows)."""
    with on_device(x) as (engine, images):
        return returned_like(forward_with(plan, images, engine), x)


def adjoint(plan: CudaPlan, y: Array) -> Array:
    """Return the back projections of a batch on a CUDA device, (B, views, bins, rows) to (B, nx, ny, nz)."""
    with on_device(y) as (engine, projections):
        return returned_like(adjoint_with(plan, projections, engine), y)


def forward_with(plan: CudaPlan, x: Array, engine: Engine) -> Array:
    """`forward` on the arrays of an engine."""
    return _grouped(plan, x, engine, plan.out_shape, Launches.forward)


def adjoint_with(plan: CudaPlan, y: Array, engine: Engine) -> Array:
    """`adjoint` on the arrays of an engine."""
    return _grouped(plan, y, engine, plan.in_shape, Launches.adjoint)


def _grouped(
    plan: CudaPlan, x: Array, engine: Engine, shape: tuple[int, ...], apply: Callable[[Launches, Array], Array]
) -> Array:
    """Project items as they are, or thin ones side by side as lanes; large batches in parts."""
    parts = [slice(i, min(i + _ITEMS, x.shape[0])) for i in range(0, x.shape[0], _ITEMS)]
    done = [_one_group(plan, x, part, engine, shape, apply) for part in parts]
    return done[0] if len(done) == 1 else engine.xp.concatenate(done)


def _one_group(
    plan: CudaPlan,
    x: Array,
    part: slice,
    engine: Engine,
    shape: tuple[int, ...],
    apply: Callable[[Launches, Array], Array],
) -> Array:
    xp, x, slices = engine.xp, x[part], plan.in_shape[2]
    items = x.shape[0]
    tables = plan.tables.get(x, lambda: device_plan(plan.host, dtype_name(x), xp))
    absorbed = plan.absorbed_like(x)
    if absorbed is not None:
        absorbed = absorbed[part] if absorbed.ndim == 4 else absorbed[None]
    if slices >= 16 or items == 1 or plan.direct is not None:
        return apply(Launches(plan, engine, tables, absorbed, 1), x)
    if absorbed is not None:
        absorbed = fold_with(xp, xp.broadcast_to(absorbed, (items, *plan.in_shape)))
    y = apply(Launches(plan, engine, tables, absorbed, items), fold_with(xp, x))
    return unfold_with(xp, y, shape, items)
