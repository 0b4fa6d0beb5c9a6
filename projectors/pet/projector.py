"""The PET projector: line integrals of an image along the crystal pairs of a sinogram, and its exact transpose."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Self

import numpy as np

from ..core.arrays import Array, PlanCache, dtype_name, from_host, is_cuda, to_host
from ..core.grid import ImageGrid
from ..core.lanes import items_together, map_lanes
from ..core.operator import BatchProjector
from ..core.threads import share, thread_count
from . import kernels, launches
from .kernels import PETPlan
from .plan import make_plan
from .sinogram import PETSinogram

_IMAGES_BYTES = 1 << 30  # for the partial images of a back projection


class PETProjector(BatchProjector):
    """Line integrals in mm along the lines of a PET sinogram::

        y[v, k, p] = integral of x along line (v, k, p)
        y[v, k, b, p] = the same, weighted with the probability of TOF bin b

    Args:
        grid : the image, (nx, ny, nz).
        sinogram : the bins; data are (views, radial, planes), with TOF (views, radial, TOF bins, planes). A bin that
            joins several crystal pairs is their mean line: multiply by `sinogram.multiplicity()` in
            `AcquisitionModel.factors` for their sum.

    Joseph's method with the whole support of the interpolation: an image of ones gives the length of the line in the
    image, on average, where rays that end at the faces of the outer voxels are too short. TOF weights are those of
    `TimeOfFlight` at every step, so that the bins add up to the projection without TOF.

    A resolution model composes: `PETProjector(grid, sinogram) @ GaussianBlur(grid, fwhm)`.

    Runs on NumPy arrays and CPU tensors (numba, all cores, SIMD along the planes, or along a batch of thin images) and
    on CuPy arrays and CUDA tensors. float64 where the input is float64, otherwise float32. The adjoint is the exact
    transpose, without atomic operations: results repeat to the last bit on the same number of threads.

    Source: Joseph 1982.
    """

    def __init__(self, grid: ImageGrid, sinogram: PETSinogram) -> None:
        if not isinstance(sinogram, PETSinogram):
            raise TypeError(f"PETProjector expects a PETSinogram, got {type(sinogram).__name__}")
        self.grid, self.sinogram = grid, sinogram
        self.in_shape, self.out_shape = grid.shape, sinogram.shape
        self._plans, self._device_plans = PlanCache(), PlanCache()

    def on_grid(self, grid: ImageGrid) -> Self:
        """Return the same projector of another image."""
        return type(self)(grid, self.sinogram)

    def subset(self, k: int, n: int) -> Self:
        """Return the projector of views k, k + n, ..."""
        return type(self)(self.grid, self.sinogram.subset(k, n))

    @property
    def _cuda_plan(self) -> launches.SinogramPlan:
        return launches.SinogramPlan(self.grid, self.sinogram, self._device_plans)

    def _forward_batch(self, x: Array) -> Array:
        if is_cuda(x):
            return launches.sinogram_forward(self._cuda_plan, x)
        return from_host(self._forward_host(to_host(x, self)), x)

    def _adjoint_batch(self, y: Array) -> Array:
        if is_cuda(y):
            return launches.sinogram_adjoint(self._cuda_plan, y)
        return from_host(self._adjoint_host(to_host(y, self)), y)

    # ---- CPU --------------------------------------------------------------------------------------------------------

    @property
    def _bins(self) -> tuple[int, int, int, int]:
        """(views, radial, TOF bins, planes), with one TOF bin where there are none."""
        views, radial, *tof, planes = self.out_shape
        return views, radial, (tof or [1])[0], planes

    def _forward_host(self, x: np.ndarray) -> np.ndarray:
        def apply(image: np.ndarray, items: slice, out: np.ndarray) -> None:
            self._project(image, items.stop - items.start, out)

        return map_lanes(apply, x, self._bins, self._together).reshape(x.shape[0], *self.out_shape)

    def _adjoint_host(self, y: np.ndarray) -> np.ndarray:
        def apply(sinogram: np.ndarray, items: slice, out: np.ndarray) -> None:
            out[...] = self._backproject(sinogram, items.stop - items.start)

        return map_lanes(apply, y.reshape(y.shape[0], *self._bins), self.in_shape, self._together)

    @property
    def _together(self) -> int:
        return items_together(self.out_shape[-1])

    def _project(self, image: np.ndarray, stride: int, out: np.ndarray) -> None:
        plan = self._plan(image)

        def work(first: int, n: int) -> None:
            scratch = kernels.make_scratch(plan, self.in_shape[2], stride)
            kernels.forward(image, plan, scratch, np.int64(stride), first, n, out)

        share(work, out.shape[0] * out.shape[1])

    def _backproject(self, sinogram: np.ndarray, stride: int) -> np.ndarray:
        plan = self._plan(sinogram)
        shape = (*self.in_shape[:2], self.in_shape[2] * stride)

        def work(first: int, n: int) -> np.ndarray:
            image = np.zeros(shape, sinogram.dtype)
            scratch = kernels.make_scratch(plan, self.in_shape[2], stride)
            kernels.adjoint(sinogram, plan, scratch, np.int64(stride), first, n, image)
            return image

        return summed(work, sinogram.shape[0] * sinogram.shape[1], shape, sinogram.dtype)

    def _plan(self, x: Array) -> PETPlan:
        plan: PETPlan = self._plans.get(x, lambda: make_plan(self.grid, self.sinogram, dtype_name(x)))
        return plan

    def __str__(self) -> str:
        return "\n".join(
            [
                repr(self),
                f"  image     {self.grid}",
                f"  scanner   {self.sinogram.scanner}",
                f"  sinogram  {self.sinogram}",
                f"  kernels   numba on {thread_count()} threads; CUDA for CuPy arrays and CUDA tensors",
            ]
        )


def summed(work: Callable[[int, int], np.ndarray], n_items: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return the sum of the images that threads make, `work(first, n)` of each; memory decides how many there are."""
    at_most = max(1, _IMAGES_BYTES // (math.prod(shape) * np.dtype(dtype).itemsize))
    total, *others = share(work, n_items, at_most)
    for other in others:
        total += other
    return total
