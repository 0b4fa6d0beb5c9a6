"""Ideal parallel beams: the integrals of an image along them."""

from __future__ import annotations

from functools import cached_property
from typing import Self

import numpy as np

from ..core.arrays import Array, PlanCache, from_host, is_cuda, to_host
from ..core.grid import ImageGrid
from ..core.lanes import items_together, map_lanes
from ..core.operator import BatchProjector
from ..core.threads import share, thread_count
from . import kernels, launches
from .geometry import ParallelBeamGeometry
from .plan import LinePlan, make_plan


class ParallelBeamProjector(BatchProjector):
    """The integrals in mm of an image along the lines of a `ParallelBeamGeometry`, slice by slice::

        y[v, i, k] = integral of x(., ., z_k) along the line of the angle of view v at the position of bin i

    Args:
        grid : the image, (nx, ny, nz).
        geometry : the lines; data are (views, bins, planes), and nz planes.
        sampling : "rays" steps along each line from column to column of voxels and interpolates linearly between the
            two nearest, as far as the interpolation reaches beyond the grid, so that an image of ones gives the length
            of the line in it. "splat" shares out every voxel to the two nearest bins instead: the sum of each view
            times the bin size is exactly the image's sum times the voxel's area, and the transpose interpolates
            linearly between bins. Bins should then be no finer than voxels, or some stay empty.

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

    def on_grid(self, grid: ImageGrid) -> Self:
        """Return the same projector of another image."""
        return type(self)(grid, self.geometry, sampling=self.sampling)

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

    @property
    def _cuda_plan(self) -> launches.CudaPlan:
        return launches.CudaPlan(self._plan, self.in_shape, self.out_shape, self._device_plans)

    def _forward_batch(self, x: Array) -> Array:
        if is_cuda(x):
            return launches.forward(self._cuda_plan, x)
        return from_host(map_lanes(self._integrate, to_host(x, self), self.out_shape, self._together), x)

    def _adjoint_batch(self, y: Array) -> Array:
        if is_cuda(y):
            return launches.adjoint(self._cuda_plan, y)
        return from_host(map_lanes(self._backproject, to_host(y, self), self.in_shape, self._together), y)

    @property
    def _together(self) -> int:
        return items_together(self.in_shape[2])

    def _integrate(self, image: np.ndarray, _: slice, out: np.ndarray) -> None:
        """Write the integrals (views, bins, lanes) of an image (nx, ny, lanes)."""
        (along_x, lines), steps = self._plan, max(image.shape[:2])
        most = steps * int(2 * lines[:, 4].max() + 2)

        def work(first: int, n: int) -> None:
            taps = kernels.make_taps(most, image.dtype)
            kernels.forward(image, along_x, lines, taps, first, n, out)

        share(work, out.shape[0])

    def _backproject(self, projections: np.ndarray, _: slice, out: np.ndarray) -> None:
        """Write the back projection (nx, ny, lanes) of (views, bins, lanes)."""
        along_x, lines = self._plan
        most = int(np.sum(2 * lines[:, 4] * np.abs(lines[:, 3]) + 2))

        def work(first: int, n: int) -> None:
            taps = kernels.make_taps(most, projections.dtype)
            kernels.adjoint(projections, along_x, lines, taps, first, n, out)

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

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in super().__getstate__().items() if name not in ("_made", "_plan")}


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
