"""Other programs' linear operators as ours, and our lines as other programs want them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from ..core.arrays import Array, array_namespace, dtype_name, is_cuda, is_torch, like, to_numpy
from ..core.grid import check_subset
from ..core.operator import LinearOperator, Projector, Shape, compact
from .sinogram import PETSinogram
from .tof import N_SIGMAS, TimeOfFlight


class ForeignOperator(Protocol):
    """What is asked of another program's operator, besides `apply(x)` or a call."""

    @property
    def in_shape(self) -> Sequence[int]: ...
    @property
    def out_shape(self) -> Sequence[int]: ...
    def adjoint(self, y: Any, /) -> Any: ...


Subsets = Callable[[int, int], ForeignOperator]


def from_operator(
    operator: ForeignOperator, *, subset: Subsets | None = None, dtype: str | None = None
) -> LinearOperator:
    """Return another program's linear operator as one of ours, with batches, autograd and shape errors.

    Args:
        operator : anything with `in_shape`, `out_shape`, `adjoint(y)`, and `apply(x)` or a call `operator(x)`; among
            them the linear operators of parallelproj 1 and 2. It is called with one item at a time.
        subset : a function (k, n) that returns the operator of the views k, k + n, ... (of axis 0 of the data). With it
            the result is a `Projector`, for `AcquisitionModel` and `recon.osem`.
        dtype : "float32" for operators that take nothing else, as parallelproj's projectors do; default: as it comes
            in.

    Arrays: where the operator has an attribute `xp` (its array library, and perhaps `dev`, its device), arrays of other
    libraries are converted to it; otherwise it is handed what comes in. Tensors come without their gradient: that is
    our part, and uses `adjoint`. Results are converted back to the library, device and dtype of the input, so a result
    for float64 input is float64, in the precision in which the operator computed it.
    Whether `adjoint` is the transpose is not checked here; `<A x, y> = <x, A' y>` for random x and y tells::

        A = from_operator(parallelproj_projector, dtype="float32")

    Raises TypeError where a method is missing, and ValueError where a result has another shape than was promised.
    """
    return _Foreign(operator, dtype) if subset is None else _ForeignProjector(operator, dtype, subset)


def as_parallelproj_lors(sinogram: PETSinogram) -> tuple[np.ndarray, np.ndarray]:
    """Return the first and second ends of every line as parallelproj takes them: (xstart, xend), float32, in mm.

    Both are (views, radial, planes, 3), contiguous. With an `ImageGrid` the other arguments are its origin, the centre
    of voxel (0, 0, 0), and its voxel size. parallelproj 1 returns the projection, version 2 writes it into an array::

        xstart, xend = as_parallelproj_lors(sinogram)
        origin, voxel = np.array(grid.origin, np.float32), np.array(grid.voxel_size, np.float32)
        y = parallelproj.joseph3d_fwd(xstart.reshape(-1, 3), xend.reshape(-1, 3), image, origin, voxel)   # version 1
        parallelproj_core.joseph3d_fwd(xstart, xend, image, origin, voxel, y)                             # version 2

    Data with TOF have their TOF bins last there, and before the planes here: `numpy.moveaxis(y, -1, -2)`.
    """
    first, second = sinogram.line_ends()
    return np.ascontiguousarray(first, np.float32), np.ascontiguousarray(second, np.float32)


def as_parallelproj_tof(tof: TimeOfFlight) -> dict[str, float]:
    """Return the keywords of `parallelproj.TOFParameters` (version 2: in `parallelproj.tof`) for TOF bins, in mm.

    Bins grow from xstart to xend in parallelproj and from the first end to the second here: with the ends of
    `as_parallelproj_lors` they agree without a change of sign, and the offset is 0. Both programs cut the kernel off at
    3 sigma and scale it to a sum of one, but not at the same place within a bin: weights agree approximately::

        parameters = parallelproj.TOFParameters(**as_parallelproj_tof(sinogram.tof))
    """
    return {
        "num_tofbins": tof.n_bins,
        "tofbin_width": tof.bin_width,
        "sigma_tof": tof.sigma,
        "num_sigmas": N_SIGMAS,
        "tofcenter_offset": 0.0,
    }


class _Calls:
    """The calls of a foreign operator, with arrays converted on the way in and out."""

    def __init__(self, operator: ForeignOperator, dtype: str | None) -> None:
        name = type(operator).__name__
        lacking = [what for what in ("in_shape", "out_shape", "adjoint") if not hasattr(operator, what)]
        if not (hasattr(operator, "apply") or callable(operator)):
            lacking.append("apply")
        if lacking:
            raise TypeError(f"from_operator needs in_shape, out_shape, apply and adjoint; {name} has no {lacking[0]}")
        if dtype not in (None, "float32", "float64"):
            raise ValueError(f'from_operator dtype must be "float32", "float64" or None, got {dtype!r}')
        self.operator: Any = operator  # which may have `apply`, `xp` and `dev`
        self.dtype = dtype
        self.in_shape, self.out_shape = _shape(operator.in_shape), _shape(operator.out_shape)
        self.__name__ = name

    def forward(self, x: Array) -> Array:
        return self._call(getattr(self.operator, "apply", self.operator), x, self.out_shape)

    def adjoint(self, y: Array) -> Array:
        return self._call(self.operator.adjoint, y, self.in_shape)

    def _call(self, function: Callable[[Array], Array], x: Array, shape: Shape) -> Array:
        result = function(self._handed_over(x))
        if tuple(result.shape) != shape:
            raise ValueError(f"{self.__name__} promised shape {shape} and returned {tuple(result.shape)}")
        return _converted_back(result, x)

    def _handed_over(self, x: Array) -> Array:
        own = array_namespace(x)
        xp = getattr(self.operator, "xp", None)
        x = x.detach() if is_torch(x) else x
        if self.dtype is not None and dtype_name(x) != self.dtype:
            x = own.astype(x, getattr(own, self.dtype))
        if xp is None or _library(xp) == _library(own):
            return x
        if is_cuda(x) and _library(xp) != "numpy":
            return xp.from_dlpack(x)
        place = getattr(self.operator, "dev", None)
        values = to_numpy(x)
        return xp.asarray(values) if place is None or _library(xp) == "numpy" else xp.asarray(values, device=place)


class _Foreign(LinearOperator):
    def __init__(self, operator: ForeignOperator, dtype: str | None) -> None:
        self._calls = _Calls(operator, dtype)
        self.in_shape, self.out_shape = self._calls.in_shape, self._calls.out_shape

    def _forward(self, x: Array) -> Array:
        return self._calls.forward(x)

    def _adjoint(self, y: Array) -> Array:
        return self._calls.adjoint(y)

    def __repr__(self) -> str:
        return f"<{self._calls.__name__} (foreign) {compact(self.in_shape)} -> {compact(self.out_shape)}>"


class _ForeignProjector(Projector):
    """A foreign operator whose subset (k, n) is made by a function; subsets of subsets are subsets of the whole."""

    def __init__(
        self, operator: ForeignOperator, dtype: str | None, make: Subsets, views: tuple[int, int] = (0, 1)
    ) -> None:
        self._calls, self._make, self._views = _Calls(operator, dtype), make, views
        self.in_shape, self.out_shape = self._calls.in_shape, self._calls.out_shape

    def subset(self, k: int, n: int) -> _ForeignProjector:
        check_subset(k, n, self.out_shape[0])
        first, step = self._views
        views = (first + step * k, step * n)
        part = _ForeignProjector(self._make(*views), self._calls.dtype, self._make, views)
        expected = (len(range(k, self.out_shape[0], n)), *self.out_shape[1:])
        if (part.in_shape, part.out_shape) != (self.in_shape, expected):
            raise ValueError(
                f"subset{views} of {self!r} must map {self.in_shape} to the views {k}::{n}, {expected}; got {part!r}"
            )
        return part

    def _forward(self, x: Array) -> Array:
        return self._calls.forward(x)

    def _adjoint(self, y: Array) -> Array:
        return self._calls.adjoint(y)

    def __repr__(self) -> str:
        return f"<{self._calls.__name__} (foreign) {compact(self.in_shape)} -> {compact(self.out_shape)}>"


def _converted_back(result: Array, x: Array) -> Array:
    """Return a result as an array of the library, device and dtype of `x`."""
    if is_torch(result):
        result = result.detach()
    own = array_namespace(x)
    if is_cuda(result) and is_cuda(x) and _library(array_namespace(result)) != _library(own):
        return own.astype(own.from_dlpack(result), x.dtype)
    return like(result, x)


def _library(namespace: ModuleType) -> str:
    """The name of an array library without array_api_compat's prefix: numpy, cupy or torch."""
    name: str = namespace.__name__.removeprefix("array_api_compat.")
    return name.partition(".")[0]


def _shape(shape: Sequence[int]) -> Shape:
    return tuple(int(n) for n in shape)
