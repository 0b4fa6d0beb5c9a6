"""The SPECT projector: parallel-hole views of an activity image, with attenuation and depth-dependent response."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Self

import numpy as np

from ..core.arrays import (
    Array,
    PlanCache,
    dtype_name,
    from_host,
    is_cuda,
    is_torch,
    like,
    read_only,
    require_array,
    to_host,
    to_numpy,
)
from ..core.grid import ImageGrid
from ..core.lanes import fold, items_together, map_lanes
from ..core.operator import BatchProjector
from ..core.threads import share, thread_count
from ..physics.attenuation_maps import check_attenuation
from . import blur_kernels, kernels, launches
from .camera import SPECTGeometry
from .collimation import MeasuredResponse, Response
from .direct_blur import DirectBlur, is_gaussian, reach_of
from .plan import MadePlan, SPECTPlan, farthest, make_plan

_IMAGES_BYTES = 1 << 30  # for the partial images of a back projection


class SPECTProjector(BatchProjector):
    """Expected counts in every bin of a parallel-hole camera from the activity in every voxel::

        y[v, u, z] = sum over voxels of  x * survival(voxel, v) * response(u, z; distance(voxel, v))

    Args:
        grid : the image, (nx, ny, nz).
        geometry : the camera; projections are (views, bins, rows).
        attenuation : linear attenuation coefficients in 1/cm at the emission energy, (nx, ny, nz), or (B, nx, ny, nz)
            for a batch in which each item has its own.  Rays run straight to the detector; half of the own voxel is
            counted. A torch tensor with `requires_grad` gets gradients, on the CPU; `with_attenuation` takes the next.
        response : `LinearResponse`, `CollimatorResponse` (from `collimator(name).response(keV)`), anything with
            `sigma(distance_mm) -> mm`, or a `MeasuredResponse`; None for perfect resolution.
        sampling : "splat" gives every voxel's activity to the detector's lattice with weights that sum to one: nothing
            is lost and a point has exactly the response's width wherever that is at least one pixel (with no response
            it is spread by half a pixel). "rays" integrates along lines instead: sharper without a response, but a
            point's total then varies with its position by some ten percent.
        blur : "planes" lets planes share their blur (fast, Gaussian responses); "direct" convolves each plane with its
            own kernel (reference; what a MeasuredResponse always uses).
        aperture : a bin counts what arrives anywhere in it, so that a point is seen with the variance
            sigma^2 + p^2 / 12 for bins of size p. False samples the response at the centres of bins: sigma^2.

    A voxel of 1 adds 1 to the total of each view without attenuation, as long as it is in the field of view; counts per
    decay, time and sensitivity belong in `AcquisitionModel`. Activity behind the collimator face counts as at its face.
    An image of one slice seen by one row of bins is two-dimensional: it does not blur along z. Elsewhere, where the
    camera's rows end with the image or before it, the body is taken to go on, mirrored at the end of the image, so that
    even activity gives even views up to the last row; where the camera sees past the image, there is nothing.
    No entry is negative: what is nowhere negative gives views that are nowhere negative.

    Runs on NumPy arrays and CPU tensors (numba, all cores, SIMD along z or along a batch of thin images) and on CuPy
    arrays and CUDA tensors. float64 where the input is float64, otherwise float32. The adjoint is the exact transpose.

    Raises ValueError for mismatched shapes, negative, infinite or implausible attenuation.

    Source: Zeng & Gullberg 1992, IEEE Trans Nucl Sci 39:1444 (a response for each depth, as blur="direct" has it); the
    levels of blur are explained in docs/spect.md.
    """

    def __init__(
        self,
        grid: ImageGrid,
        geometry: SPECTGeometry,
        attenuation: Array | None = None,
        response: Response | None = None,
        *,
        sampling: str = "splat",
        blur: str = "planes",
        aperture: bool = True,
    ) -> None:
        if sampling not in ("splat", "rays"):
            raise ValueError(f'sampling must be "splat" or "rays", got {sampling!r}')
        if blur not in ("planes", "direct"):
            raise ValueError(f'blur must be "planes" or "direct", got {blur!r}')
        if response is not None and not (is_gaussian(response) or isinstance(response, MeasuredResponse)):
            raise TypeError(
                f"response needs a method sigma(distance_mm) or must be a MeasuredResponse, got {response!r}"
            )
        self.grid, self.geometry, self.response, self.sampling = grid, geometry, response, sampling
        self.in_shape, self.out_shape = grid.shape, geometry.shape
        self.blur = "direct" if isinstance(response, MeasuredResponse) else blur
        self.aperture = bool(aperture)
        self.attenuation = None if attenuation is None else _checked_attenuation(attenuation, grid, repr(self))
        self._map = _differentiated(attenuation)
        self._whole, self._views = geometry, np.arange(geometry.n_views)
        self._absorbed = PlanCache()
        self._casts = PlanCache()
        self._device_plans = PlanCache()

    def subset(self, k: int, n: int) -> Self:
        """Return the projector of views k, k + n, ...; the attenuation and the response's tables are shared."""
        part: Self = object.__new__(type(self))
        geometry = self.geometry.subset(k, n)
        own = {
            "_views": self._views[k::n],
            "_casts": PlanCache(),
            "_device_plans": PlanCache(),
            "_map": self._map,
        }
        shared = {"_made": self._made, "_direct": self._direct}
        part.__dict__.update(self.__getstate__(), geometry=geometry, out_shape=geometry.shape, **own, **shared)
        return part

    def with_attenuation(self, attenuation: Array | None) -> Self:
        """Return the same projector for another map, or one for each item of a batch; the tables are shared.

        Args:
            attenuation : as for a new projector.
        """
        other: Self = object.__new__(type(self))
        checked = None if attenuation is None else _checked_attenuation(attenuation, self.grid, repr(self))
        own = {
            "attenuation": checked,
            "_absorbed": PlanCache(),
            "_device_plans": PlanCache(),
            "_map": _differentiated(attenuation),
        }
        shared = {"_made": self._made, "_direct": self._direct, "_plan": self._plan, "_casts": self._casts}
        other.__dict__.update(self.__getstate__(), **own, **shared)
        return other

    @cached_property
    def _made(self) -> MadePlan:
        """The plan of the whole camera: subsets take their views from it, so that they equal the whole bit for bit."""
        rays = self.sampling == "rays"
        if self.blur == "planes" and is_gaussian(self.response):
            return make_plan(self.grid, self._whole, self.response, ray_driven=rays, aperture=self.aperture)
        distances = np.linspace(0, farthest(self.grid, self._whole), 64)
        reach = None if self.response is None else float(max(reach_of(self.response, distances)))
        return make_plan(self.grid, self._whole, None, ray_driven=rays, aperture=self.aperture, elsewhere=reach)

    @cached_property
    def _plan(self) -> SPECTPlan:
        return self._made.plan.take(self._views)

    @cached_property
    def _direct(self) -> DirectBlur | None:
        """The blur that planes do not share, None where they do."""
        if self.blur == "planes" or self.response is None:
            return None
        return DirectBlur(self.response, self._made, self.grid.shape[2], self.aperture)

    @property
    def _cuda_plan(self) -> launches.CudaPlan:
        return launches.CudaPlan(
            self._plan, self._direct, self.in_shape, self.out_shape, self._device_plans, self._absorbed_like
        )

    def _absorbed_like(self, x: Array) -> Array | None:
        """Return 1 - exp(-mu h / 2) in the library, device and precision of x; None without attenuation."""
        return None if self.attenuation is None else self._absorbed.get(x, lambda: self._make_absorbed(x))

    def _forward_batch(self, x: Array) -> Array:
        self._check_batch(x.shape[0])
        if is_cuda(x):
            return launches.forward(self._cuda_plan, x)
        return from_host(self._forward_host(to_host(x, self)), x)

    def _adjoint_batch(self, y: Array) -> Array:
        self._check_batch(y.shape[0])
        if is_cuda(y):
            return launches.adjoint(self._cuda_plan, y)
        return from_host(self._adjoint_host(to_host(y, self)), y)

    # ---- gradients by the attenuation -------------------------------------------------------------------------------

    @property
    def has_parameters(self) -> bool:
        """Whether the attenuation map is a tensor that gets gradients."""
        return self._map is not None

    def _differentiable(self, x: Array) -> Array:
        return self._attenuated(x, False) if self.has_parameters else super()._differentiable(x)

    def _differentiable_transpose(self, y: Array) -> Array:
        return self._attenuated(y, True) if self.has_parameters else super()._differentiable_transpose(y)

    def _attenuated(self, x: Array, transposed: bool) -> Array:
        from .autograd import apply_attenuated

        assert self._map is not None, "it has_parameters"
        mu, version = self._map
        if getattr(mu, "_version", version) != version:
            raise RuntimeError(
                f"the attenuation map of {self!r} was changed after the projector was made, which has a copy of it; "
                "make another, A.with_attenuation(mu)"
            )
        return apply_attenuated(x, mu, self, transposed)

    def _attenuation_gradient(self, image: Array, views: Array) -> Array:
        """Return the gradient of <views, A image> by mu, of the map's shape, for images and views with batch axes."""
        if is_cuda(image):
            raise NotImplementedError(
                f"{self!r}: gradients by the attenuation map are worked out on the CPU; move image and map there"
            )
        images = to_host(image, self).reshape(-1, *self.in_shape)
        projections = to_host(views, self).reshape(-1, *self.out_shape)
        absorbed = np.asarray(self._absorbed.get(images, lambda: self._make_absorbed(images)))
        per_item = absorbed.ndim == 4
        total = np.zeros(absorbed.shape, absorbed.dtype)
        for i, (x, y) in enumerate(zip(images, projections)):
            own, out = (absorbed[i], total[i]) if per_item else (absorbed, total)
            out += self._absorption_gradient(x, y, read_only(own))
        half = min(self.grid.voxel_size[:2]) / 20  # cm
        return from_host(total * (half * np.exp(-half * np.asarray(self.attenuation, absorbed.dtype))), image)

    def _absorption_gradient(self, image: np.ndarray, views: np.ndarray, absorbed: np.ndarray) -> np.ndarray:
        plan, direct = self._cast(image), self._direct
        image, views = read_only(np.ascontiguousarray(image)), read_only(np.ascontiguousarray(views))

        def work(first: int, n: int) -> np.ndarray:
            out, scratch = np.zeros(image.shape, image.dtype), kernels.make_scratch(plan, image.shape, 1, absorbed)
            frame = np.zeros((plan.n_planes, plan.n_columns, image.shape[2]), image.dtype)
            cotangent = np.zeros_like(frame)
            for v in range(first, views.shape[0], n):
                kernels.rotate(image, absorbed, plan, scratch, v, frame)
                cotangent = self._unblurred(views, plan, scratch, v, 1, cotangent, direct)
                kernels.attenuation_adjoint(frame, cotangent, absorbed, plan, scratch, v, out)
            return out

        return _added(share(work, views.shape[0], _at_most(image.shape, image.dtype)))

    @property
    def n_items(self) -> int | None:
        """The number of attenuation maps where each item of a batch has its own, else None."""
        return self.attenuation.shape[0] if self.attenuation is not None and self.attenuation.ndim == 4 else None

    def _check_batch(self, n: int) -> None:
        if self.n_items not in (None, n):
            raise ValueError(f"{self!r} has {self.n_items} attenuation maps, one per item, but the batch has {n} items")

    # ---- CPU --------------------------------------------------------------------------------------------------------

    def _forward_host(self, x: np.ndarray) -> np.ndarray:
        def apply(image: np.ndarray, items: slice, out: np.ndarray) -> None:
            self._project(image, self._absorbed_lanes(items, x), items.stop - items.start, out)

        return map_lanes(apply, x, self.out_shape, self._together)

    def _adjoint_host(self, y: np.ndarray) -> np.ndarray:
        def apply(projections: np.ndarray, items: slice, out: np.ndarray) -> None:
            out[...] = self._backproject(projections, self._absorbed_lanes(items, y), items.stop - items.start)

        return map_lanes(apply, y, self.in_shape, self._together)

    @property
    def _together(self) -> int:
        return items_together(self.in_shape[2]) if self._direct is None else 1

    def _absorbed_lanes(self, items: slice, x: np.ndarray) -> np.ndarray:
        """Return 1 - exp(-mu h / 2) for a group of items; empty without attenuation."""
        if self.attenuation is None:
            return read_only(np.empty((0, 0, 0), x.dtype))
        absorbed = np.asarray(self._absorbed.get(x, lambda: self._make_absorbed(x)))
        n = items.stop - items.start
        if absorbed.ndim == 4:
            return fold(absorbed[items])
        return read_only(absorbed if n == 1 else np.repeat(absorbed, n, axis=2))

    def _make_absorbed(self, x: Array) -> Array:
        mu = np.asarray(self.attenuation, np.float64)
        pitch_cm = min(self.grid.voxel_size[:2]) / 10
        # Something always passes: interpolated values of exactly one could round to more, and survival to less than 0.
        most = 1 - 8 * np.finfo(dtype_name(x)).eps
        return like(np.minimum(-np.expm1(-mu * pitch_cm / 2), most), x)

    def _project(self, image: np.ndarray, absorbed: np.ndarray, stride: int, out: np.ndarray) -> None:
        plan, n_views, direct = self._cast(image), out.shape[0], self._direct

        def fused(first: int, n: int) -> None:
            scratch = kernels.make_scratch(plan, image.shape, stride, absorbed)
            kernels.forward(image, absorbed, plan, scratch, stride, first, n, out)

        def staged(first: int, n: int) -> None:
            scratch = kernels.make_scratch(plan, image.shape, stride, absorbed)
            frame = np.empty((plan.n_planes, plan.n_columns, image.shape[2]), image.dtype)
            for v in range(first, n_views, n):
                kernels.rotate(image, absorbed, plan, scratch, v, frame)
                if direct is None:
                    kernels.collapse(frame, plan, scratch, v, stride, out)
                    continue
                plane = scratch.low
                plane[2:-2, : plan.n_slices] = direct.collapse(frame, plan.view_class[v])
                out[v] = 0
                blur_kernels.detect(plane, plan, v, 0, stride, scratch, out)

        share(fused if self._fused else staged, n_views)

    def _backproject(self, projections: np.ndarray, absorbed: np.ndarray, stride: int) -> np.ndarray:
        plan, n_views, direct = self._cast(projections), projections.shape[0], self._direct
        shape = (*self.in_shape[:2], self.in_shape[2] * stride)

        def fused(first: int, n: int) -> np.ndarray:
            image, scratch = np.zeros(shape, absorbed.dtype), kernels.make_scratch(plan, shape, stride, absorbed)
            kernels.adjoint(projections, absorbed, plan, scratch, stride, first, n, image)
            return image

        def staged(first: int, n: int) -> np.ndarray:
            image, scratch = np.zeros(shape, absorbed.dtype), kernels.make_scratch(plan, shape, stride, absorbed)
            frame = np.zeros((plan.n_planes, plan.n_columns, shape[2]), absorbed.dtype)
            for v in range(first, n_views, n):
                frame = self._unblurred(projections, plan, scratch, v, stride, frame, direct)
                kernels.rotate_adjoint(frame, absorbed, plan, scratch, v, image)
            return image

        return _added(share(fused if self._fused else staged, n_views, _at_most(shape, absorbed.dtype)))

    def _unblurred(
        self,
        projections: np.ndarray,
        plan: SPECTPlan,
        scratch: kernels.Scratch,
        v: int,
        stride: int,
        frame: np.ndarray,
        direct: DirectBlur | None,
    ) -> np.ndarray:
        """Return the transpose of blur and detection for view v, (planes, columns, lanes), in `frame` or anew."""
        if direct is None:
            kernels.collapse_adjoint(projections, plan, scratch, v, stride, frame)
            return frame
        blur_kernels.detect_adjoint(projections, plan, v, 0, stride, scratch, scratch.low)
        plane = np.ascontiguousarray(scratch.low[2:-2, : plan.n_slices])
        return np.ascontiguousarray(direct.expand(plane, plan.view_class[v]))

    @property
    def _fused(self) -> bool:
        return self.sampling == "splat" and self._direct is None

    def _cast(self, x: Array) -> SPECTPlan:
        plan: SPECTPlan = self._casts.get(x, lambda: self._plan.cast(dtype_name(x)))
        return plan

    def __str__(self) -> str:
        attenuation = "none" if self.attenuation is None else f"up to {self.attenuation.max():.3g} /cm"
        response = "measured kernels" if isinstance(self.response, MeasuredResponse) else self.response
        return "\n".join(
            [
                repr(self),
                f"  image        {self.grid}",
                f"  camera       {self.geometry}",
                f"  attenuation  {attenuation}",
                f"  response     {response}{'' if self.aperture else ' (bins sample it at their centres)'}",
                f"  sampling     {self.sampling}, blur {self.blur}",
                f"  kernels      numba on {thread_count()} threads; CUDA for CuPy arrays and CUDA tensors",
            ]
        )

    def __getstate__(self) -> dict[str, object]:
        derived = ("_made", "_plan", "_direct")
        kept = {name: value for name, value in super().__getstate__().items() if name not in derived}
        return kept | {"_map": None}  # copies have the values, not the tensor that gets a gradient


def _checked_attenuation(attenuation: Array, grid: ImageGrid, who: str) -> np.ndarray:
    """Return a copy on the host that nobody can change afterwards."""
    require_array(attenuation, f"the attenuation of {who}")
    values = np.array(to_numpy(attenuation))
    if values.shape[-3:] != grid.shape or values.ndim not in (3, 4):
        raise ValueError(f"{who} expects attenuation {grid.shape} (or one per item in front), got {values.shape}")
    check_attenuation(values, who)
    values.flags.writeable = False
    return values


def _differentiated(attenuation: Array | None) -> tuple[Array, int] | None:
    """Return the map and its version, where it is a tensor that gets gradients."""
    return (attenuation, attenuation._version) if is_torch(attenuation) and attenuation.requires_grad else None


def _at_most(shape: tuple[int, ...], dtype: np.dtype) -> int:
    """How many threads may have an image of their own: on a machine of many cores, memory decides how many work."""
    return max(1, _IMAGES_BYTES // (math.prod(shape) * np.dtype(dtype).itemsize))


def _added(images: list[np.ndarray]) -> np.ndarray:
    total, *others = images
    for other in others:
        total += other
    return total
