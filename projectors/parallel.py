"""Ideal parallel beams: where their lines are, and the integrals of an image along them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np

from . import _parallel_cpu
from ._arrays import Array, PlanCache, from_host, is_cuda, read_only, to_host
from ._threads import share, thread_count
from .geometry import FrozenArrays, ImageGrid, SPECTGeometry, _finite, _integers, _positive, check_subset
from .operator import BatchProjector, Shape

_LANES = 256  # items of thin images are projected together until so many lanes are filled


@dataclass(frozen=True, eq=False)
class ParallelBeamGeometry(FrozenArrays):
    """Stacked two-dimensional parallel beams: views at any angles, evenly spaced bins, planes along z.

    The line of the angle phi at s is {(x, y) : x cos phi + y sin phi = s}, in the axes of the image (LPS).
    The bins of a view lie at s = (i - (n_bins - 1) / 2) * bin_size + shift.

    angles : (views,) degrees, any list.  n_bins, bin_size : bins per view, and their distance in mm.
    n_planes : the image's slices, one plane for each.
    plane_size : mm; None for whatever the image's slices have.
    shift : mm, one number or (views,).
    axial_shift : z of the middle of the planes in mm; None for wherever the image is.
    Raises ValueError where lengths differ or values are not finite and positive.
    """

    angles: np.ndarray
    n_bins: int
    bin_size: float
    n_planes: int = 1
    plane_size: float | None = None
    shift: np.ndarray = field(default_factory=lambda: np.zeros(1))
    axial_shift: float | None = None

    def __post_init__(self) -> None:
        who = "ParallelBeamGeometry"
        angles = _finite(self.angles, None, f"{who} angles (degrees)")
        if angles.size == 0:
            raise ValueError(f"{who} needs at least one view")
        values: dict[str, Any] = {
            "angles": angles,
            "n_bins": _integers(self.n_bins, 1, f"{who} n_bins")[0],
            "bin_size": _positive(self.bin_size, 1, f"{who} bin_size (mm)")[0],
            "n_planes": _integers(self.n_planes, 1, f"{who} n_planes")[0],
            "shift": _finite(self.shift, angles.size, f"{who} shift (mm)"),
        }
        if self.plane_size is not None:
            values["plane_size"] = _positive(self.plane_size, 1, f"{who} plane_size (mm)")[0]
        if self.axial_shift is not None:
            values["axial_shift"] = float(_finite(self.axial_shift, 1, f"{who} axial_shift (mm)")[0])
        self.__setstate__(values)

    @classmethod
    def equally_spaced(
        cls,
        n_views: int,
        n_bins: int,
        bin_size: float,
        n_planes: int = 1,
        *,
        start: float = 0.0,
        extent: float = 180.0,
        **more: Any,
    ) -> Self:
        """Return n_views views from `start` over `extent` degrees; more keywords go to `ParallelBeamGeometry`."""
        if n_views < 1 or n_views % 1:
            raise ValueError(f"n_views must be a whole number, at least 1, got {n_views}")
        return cls(start + extent / n_views * np.arange(n_views), n_bins, bin_size, n_planes, **more)

    @classmethod
    def from_spect(cls, geometry: SPECTGeometry) -> Self:
        """Return the lines that a SPECT camera without blur looks along: phi = 180 degrees minus the gantry angle."""
        (n_bins, n_planes), (bin_size, plane_size) = geometry.n_bins, geometry.pixel_size
        angles = 180 - geometry.angles
        return cls(angles, n_bins, bin_size, n_planes, plane_size, geometry.shift, geometry.axial_shift)

    @property
    def n_views(self) -> int:
        """The number of views."""
        return int(self.angles.size)

    @property
    def shape(self) -> Shape:
        """The shape of the data, (views, bins, planes)."""
        return (self.n_views, self.n_bins, self.n_planes)

    def subset(self, k: int, n: int) -> ParallelBeamGeometry:
        """Return the views k, k + n, k + 2n, ..."""
        check_subset(k, n, self.n_views)
        return replace(self, angles=self.angles[k::n], shift=self.shift[k::n])

    def bin_centres(self) -> np.ndarray:
        """Return s of every bin in mm, (views, bins)."""
        return (np.arange(self.n_bins) - (self.n_bins - 1) / 2) * self.bin_size + self.shift[:, None]

    def rays(self, z: Any = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Return a point of every line and its unit direction, in mm: (views, bins, planes, 3) and (views, 1, 1, 3).

        z : of each plane in mm, for instance the z coordinates of an `ImageGrid`.
        """
        phi, s, z = np.deg2rad(self.angles)[:, None, None], self.bin_centres()[..., None], np.ravel(z)
        points = np.stack(np.broadcast_arrays(s * np.cos(phi), s * np.sin(phi), z), -1)
        return points, np.stack([-np.sin(phi), np.cos(phi), np.zeros_like(phi)], -1)

    def __str__(self) -> str:
        return f"{self.n_views} views of {self.n_bins} bins of {self.bin_size:g} mm, {self.n_planes} planes"


class LinePlan(NamedTuple):
    """The lines of every view in voxel indices.

    A line that steps along x (along_x, otherwise y) is at voxel i of that axis for its i-th step, and then at

        position = start + per_step * i + per_bin * bin

    across it. The voxel j across has the weight scale * max(0, 1 - |position - j| / reach) in that bin.

    along_x : (views,) int32.  lines : (views, 6) float64: start, per_step, per_bin, its inverse, reach, scale (mm).
    """

    along_x: np.ndarray
    lines: np.ndarray

    def take(self, views: np.ndarray) -> LinePlan:
        """Return the plan of some views."""
        return LinePlan(self.along_x[views], self.lines[views])


def make_plan(grid: ImageGrid, geometry: ParallelBeamGeometry, *, splat: bool) -> LinePlan:
    """Return where the lines of all views cross the grid."""
    cosine, sine = np.cos(np.deg2rad(geometry.angles)), np.sin(np.deg2rad(geometry.angles))
    first, (dx, dy, _), (x, y, _) = geometry.bin_centres()[:, 0], grid.voxel_size, grid.origin
    along_x = np.abs(sine) / dx >= np.abs(cosine) / dy
    # swap the axes where lines run along y: `b` is then the part of the normal along the axis across
    a, b = np.where(along_x, (cosine, sine), (sine, cosine))
    (step, across), (x, y) = np.where(along_x, [[dx], [dy]], [[dy], [dx]]), np.where(along_x, [[x], [y]], [[y], [x]])
    per_bin = geometry.bin_size / (b * across)
    reach = np.abs(per_bin) if splat else np.ones_like(per_bin)
    scale = dx * dy / geometry.bin_size * np.ones_like(b) if splat else step / np.abs(b)
    start, per_step = ((first - a * x) / b - y) / across, -a * step / (b * across)
    return LinePlan(along_x.astype(np.int32), np.stack([start, per_step, per_bin, 1 / per_bin, reach, scale], 1))


class ParallelBeamProjector(BatchProjector):
    """The integrals in mm of an image along the lines of a `ParallelBeamGeometry`, slice by slice.

        y[v, i, k] = integral of x(., ., z_k) along the line of the angle of view v at the position of bin i

    grid : the image, (nx, ny, nz).  geometry : the lines; data are (views, bins, planes), and nz planes.
    sampling : "rays" steps along each line from column to column of voxels and interpolates linearly between the two
        nearest, as far as the interpolation reaches beyond the grid, so that an image of ones gives the length of the
        line in it. "splat" shares out every voxel to the two nearest bins instead: the sum of each view times the bin
        size is exactly the image's sum times the voxel's area, and the transpose interpolates linearly between bins.
        Bins should then be no finer than voxels, or some stay empty.

    Runs on NumPy arrays and CPU tensors (numba, all cores, SIMD along z or along a batch of thin images) and on CuPy
    arrays and CUDA tensors. float64 where the input is float64, otherwise float32. The adjoint is the exact transpose;
    results repeat bit for bit, for any number of threads.
    Raises ValueError where the planes are not the image's slices.
    Source: Joseph 1982, IEEE Trans Med Imaging 1:192 (the interpolation of "rays").
    """

    def __init__(self, grid: ImageGrid, geometry: ParallelBeamGeometry, *, sampling: str = "rays") -> None:
        if sampling not in ("rays", "splat"):
            raise ValueError(f'sampling must be "rays" or "splat", got {sampling!r}')
        if not isinstance(geometry, ParallelBeamGeometry):
            raise TypeError(
                f"ParallelBeamProjector needs a ParallelBeamGeometry, got {type(geometry).__name__}; "
                "for a SPECTGeometry use ParallelBeamGeometry.from_spect"
            )
        _check_planes(grid, geometry)
        self.grid, self.geometry, self.sampling = grid, geometry, sampling
        self.in_shape, self.out_shape = grid.shape, geometry.shape
        self._whole, self._views = geometry, np.arange(geometry.n_views)
        self._device_plans = PlanCache()

    def subset(self, k: int, n: int) -> Self:
        """Return the projector of views k, k + n, ..."""
        part: Self = object.__new__(type(self))
        geometry = self.geometry.subset(k, n)
        own = {"_views": self._views[k::n], "_device_plans": PlanCache(), "_made": self._made}
        part.__dict__.update(self.__getstate__(), geometry=geometry, out_shape=geometry.shape, **own)
        return part

    @cached_property
    def _made(self) -> LinePlan:
        """The plan of all views: subsets take theirs from it, so that they equal the whole bit for bit."""
        return make_plan(self.grid, self._whole, splat=self.sampling == "splat")

    @cached_property
    def _plan(self) -> LinePlan:
        return self._made.take(self._views)

    def _forward_batch(self, x: Array) -> Array:
        if is_cuda(x):
            from . import _parallel_gpu

            return _parallel_gpu.forward(self, x)
        return from_host(_map_lanes(self._integrate, to_host(x, self), self.out_shape), x)

    def _adjoint_batch(self, y: Array) -> Array:
        if is_cuda(y):
            from . import _parallel_gpu

            return _parallel_gpu.adjoint(self, y)
        return from_host(_map_lanes(self._backproject, to_host(y, self), self.in_shape), y)

    def _integrate(self, image: np.ndarray, out: np.ndarray) -> None:
        """Write the integrals (views, bins, lanes) of an image (nx, ny, lanes)."""
        (along_x, lines), steps = self._plan, max(image.shape[:2])
        most = steps * int(2 * lines[:, 4].max() + 2)

        def work(first: int, n: int) -> None:
            taps = _parallel_cpu.make_taps(most, image.dtype)
            _parallel_cpu.forward(image, along_x, lines, taps, first, n, out)

        share(work, out.shape[0])

    def _backproject(self, projections: np.ndarray, out: np.ndarray) -> None:
        """Write the back projection (nx, ny, lanes) of (views, bins, lanes)."""
        along_x, lines = self._plan
        most = int(np.sum(2 * lines[:, 4] * np.abs(lines[:, 3]) + 2))

        def work(first: int, n: int) -> None:
            taps = _parallel_cpu.make_taps(most, projections.dtype)
            _parallel_cpu.adjoint(projections, along_x, lines, taps, first, n, out)

        share(work, out.shape[0])

    def __str__(self) -> str:
        return "\n".join(
            [
                repr(self),
                f"  image        {self.grid}",
                f"  lines        {self.geometry}",
                f"  sampling     {self.sampling}",
                f"  kernels      numba on {thread_count()} threads; CUDA for CuPy arrays and CUDA tensors",
            ]
        )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name not in ("_made", "_plan")}


def _map_lanes(apply: Callable[[np.ndarray, np.ndarray], None], x: np.ndarray, shape: Shape) -> np.ndarray:
    """Return `apply` of every item of x, (B, a, b, z) to (B, *shape), whose last axis is z too.

    apply : writes the result for its first argument (a, b, lanes) into its second, (*shape[:2], lanes). A lane is a
        slice; in a batch of thin images it is (slice, item).
    """
    out, depth = np.empty((x.shape[0], *shape), x.dtype), shape[2]
    together = max(1, _LANES // depth) if depth < 16 else 1
    for items in (slice(i, min(i + together, x.shape[0])) for i in range(0, x.shape[0], together)):
        n = items.stop - items.start
        lanes = np.ascontiguousarray(x[items.start] if n == 1 else np.moveaxis(x[items], 0, -1))
        result = out[items.start] if n == 1 else np.empty((*shape, n), x.dtype)
        apply(read_only(lanes.reshape(*x.shape[1:3], -1)), result.reshape(*shape[:2], -1))
        if n > 1:
            out[items] = np.moveaxis(result, -1, 0)
    return out


def _check_planes(grid: ImageGrid, geometry: ParallelBeamGeometry) -> None:
    advice = "each plane is one slice of the image; give the image the planes of the data, or resample the data along z"
    if geometry.n_planes != grid.shape[2]:
        raise ValueError(
            f"ParallelBeamProjector: {geometry.n_planes} planes do not fit an image of {grid.shape[2]} slices: {advice}"
        )
    size, middle = grid.voxel_size[2], float(grid.centre[2])
    if geometry.plane_size is not None and not np.isclose(geometry.plane_size, size, rtol=1e-4):
        raise ValueError(
            f"ParallelBeamProjector: planes of {geometry.plane_size:g} mm do not fit slices of {size:g} mm: {advice}"
        )
    if geometry.axial_shift is not None and abs(geometry.axial_shift - middle) > 1e-3 * size:
        raise ValueError(
            f"ParallelBeamProjector: the planes' middle is at z = {geometry.axial_shift:g} mm, that of the image at "
            f"{middle:g} mm: {advice}"
        )
