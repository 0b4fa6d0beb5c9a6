"""The SPECT blur done directly: each plane convolved with its own kernel, for kernels of any shape."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import NamedTuple, TypeGuard

import numpy as np
from scipy.ndimage import convolve1d

from ..core.arrays import Array, PlanCache, dtype_name
from ..core.mirror import mirrored
from . import blur_kernels
from .collimation import GaussianResponse, MeasuredResponse, Response
from .levels import checked_sigma
from .plan import MadePlan
from .taps import planes_taps

_ROUNDS = 60  # in which a measured kernel is sharpened


class Convolution(NamedTuple):
    """The convolution of two-dimensional arrays, as in `blur_kernels`, and their array library."""

    xp: ModuleType
    convolve: Callable[[Array, Array, Array], None]


ON_HOST = Convolution(np, blur_kernels.convolve)


class _Tables(NamedTuple):
    """The kernels of all views in an array library: those of a measured response, or a Gaussian's taps.

    Args:
        kernels : (distances, nu, nz), and `shares` (planes of a view class) of each; empty for a Gaussian.
        along_u, along_z : (planes, taps) of each view class; empty for a measured response.
        spread : how slices stand in a line that is wide enough for the kernels.
    """

    kernels: Array
    shares: list[Array]
    along_u: list[Array]
    along_z: list[Array]
    spread: Array


class DirectBlur:
    """Blur and add up the planes of a frame (planes, columns, slices), or the transpose of that.

    The kernels are those of the response, less what sampling adds anyway (`made.widths`). Convolution is a sum over the
    kernel, so that no result is negative by rounding: a MeasuredResponse costs one for each tabulated distance, a
    Gaussian two short ones for each plane.
    """

    def __init__(self, response: Response, made: MadePlan, n_slices: int, aperture: bool) -> None:
        plan, self.widths = made.plan, made.widths
        self._tables = PlanCache()
        self.columns, self.slices, self.margin = plan.n_columns, n_slices, plan.margin
        self.n_slices, self.ends = plan.n_slices, (plan.mirror_low, plan.mirror_high)
        self.planar = plan.n_slices == 1 and plan.n_rows == 1
        distances = np.zeros((int(plan.view_class.max()) + 1, plan.n_planes))
        distances[plan.view_class] = made.distances
        self.shares: list[np.ndarray] | None = None
        if isinstance(response, MeasuredResponse):
            self.shares = [_interpolation(response.distances, d) for d in distances]
            self.kernels = self._measured(response, aperture)
            self.along_u, self.along_z = np.zeros((0, 0, 0)), np.zeros((0, 0, 0))
            return
        self.kernels = np.zeros((0, 0, 0))
        moments = self._moments(checked_sigma(response, distances) ** 2)
        self.along_u, self.along_z = (
            planes_taps(part.reshape(-1, 2)).reshape(*distances.shape, -1) for part in moments
        )

    def collapse(self, frame: Array, view_class: int, tools: Convolution = ON_HOST) -> Array:
        """Return the blurred sum over planes, (columns, n_slices): the image's and those of its margins."""
        out, made = tools.xp.zeros((self.columns, self.n_slices), frame.dtype), self._made(frame, tools)
        if self.shares is not None:
            parts = tools.xp.tensordot(made.shares[view_class], frame, axes=1)
            for part, kernel in zip(parts, made.kernels):
                tools.convolve(part @ made.spread, kernel, out)
            return out
        for plane, u, z in zip(frame, made.along_u[view_class], made.along_z[view_class]):
            blurred = tools.xp.zeros_like(out)
            tools.convolve(plane @ made.spread, z[None], blurred)
            tools.convolve(blurred, u[:, None], out)
        return out

    def expand(self, plane: Array, view_class: int, tools: Convolution = ON_HOST) -> Array:
        """Return the transpose of `collapse`, (planes, columns, slices)."""
        made = self._made(plane, tools)
        if self.shares is not None:
            parts = tools.xp.stack([self._correlated(plane, kernel, tools) @ made.spread.T for kernel in made.kernels])
            return tools.xp.tensordot(made.shares[view_class].T, parts, axes=1)
        return tools.xp.stack(
            [
                self._correlated(self._correlated(plane, u[:, None], tools), z[None], tools) @ made.spread.T
                for u, z in zip(made.along_u[view_class], made.along_z[view_class])
            ]
        )

    def _correlated(self, plane: Array, kernel: Array, tools: Convolution) -> Array:
        """The transpose of the convolution: (columns, lanes + nz - 1) from (columns, lanes)."""
        beside = kernel.shape[1] - 1
        padded = tools.xp.pad(plane, ((0, 0), (beside, beside)))
        wide = tools.xp.zeros((self.columns, plane.shape[1] + beside), plane.dtype)
        tools.convolve(padded, tools.xp.ascontiguousarray(kernel[::-1, ::-1]), wide)
        return wide

    def _made(self, x: Array, tools: Convolution) -> _Tables:
        """The tables in the library and precision of x, put there once: a projection copies nothing to a device."""

        def like(values: np.ndarray) -> Array:
            return tools.xp.asarray(np.ascontiguousarray(values, dtype_name(x)))

        def each(parts: Iterable[np.ndarray]) -> list[Array]:
            return [like(part) for part in parts]

        def make() -> _Tables:
            taps = self.along_z if self.shares is None else self.kernels
            spread = like(self._widening(taps.shape[2]))
            return _Tables(like(self.kernels), each(self.shares or []), each(self.along_u), each(self.along_z), spread)

        return self._tables.get(x, make)

    def _widening(self, taps: int) -> np.ndarray:
        """Return (slices, n_slices + taps - 1), ones where a slice stands: in its place, and mirrored at the ends."""
        reach = taps // 2
        place = mirrored(np.arange(-reach, self.n_slices + reach), self.n_slices, *self.ends)
        return (place - self.margin == np.arange(self.slices)[:, None]) * (place >= 0.0)

    def _moments(self, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (C, planes, 2): the variance and fourth cumulant of the blur along u, and along z; in samples."""
        left = self.widths.left(variance)
        if self.planar:
            left[..., 1] = 0
        wanted = np.broadcast_to((self.widths.cumulant / self.widths.spacing**4)[:, None], left.shape)
        both = np.stack([left, wanted], -1)
        return both[..., 0, :], both[..., 1, :]

    def _measured(self, response: MeasuredResponse, aperture: bool) -> np.ndarray:
        """Return the kernels (k, nu, nz) on this lattice, sharpened by what sampling adds."""
        own, spacing = np.asarray(response.pixel_size), self.widths.spacing
        added = self.widths.fixed[0] - (self.widths.aperture**2 - own**2) / 12 * aperture
        kernels = [_on_lattice(kernel, own, spacing, added, self.planar) for kernel in response.kernels]
        size = np.max([kernel.shape for kernel in kernels], axis=0)
        return np.stack([np.pad(k, [((n - m) // 2,) * 2 for n, m in zip(size, k.shape)]) for k in kernels])


def reach_of(response: Response, distances: np.ndarray) -> np.ndarray:
    """Return how far the widest kernel extends to each side, mm along u and z."""
    if isinstance(response, MeasuredResponse):
        return np.asarray(response.reach)
    return np.full(2, 4 * float(np.max(response.sigma(distances))))


def _interpolation(tabulated: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Return (tabulated, distances) weights of linear interpolation, nearest outside."""
    return np.stack([np.interp(distances, tabulated, row) for row in np.eye(tabulated.size)])


def _on_lattice(
    kernel: np.ndarray, pixel: np.ndarray, spacing: np.ndarray, added: np.ndarray, planar: bool
) -> np.ndarray:
    """Return a kernel in counts per pixel at another spacing, narrower by a variance that is `added` elsewhere.

    Counts are spread evenly over their pixel and collected by samples as wide as they are apart.
    """
    if planar:
        kernel = kernel.sum(1, keepdims=True)
    narrow = [np.ones(1), np.ones(1)]
    for axis in (0,) if planar else (0, 1):
        more = added[axis]
        if abs(pixel[axis] / spacing[axis] - 1) > 1e-6:
            boxes = _boxes(kernel.shape[axis], pixel[axis], spacing[axis])
            kernel = np.moveaxis(boxes @ np.moveaxis(kernel, axis, 0), 0, axis)
            more = more + (pixel[axis] ** 2 + spacing[axis] ** 2) / 12
        variance = more / spacing[axis] ** 2
        if abs(variance) < 1e-9:
            continue
        taps = planes_taps(np.array([[abs(variance), 0.0]]))[0]
        if variance > 0:
            narrow[axis] = taps
        else:
            kernel = convolve1d(_padded(kernel, taps.size // 2, axis), taps, axis=axis, mode="constant")
    result = _sharpened(kernel, *narrow)
    return result / result.sum()


def _sharpened(kernel: np.ndarray, along_u: np.ndarray, along_z: np.ndarray) -> np.ndarray:
    """Return the kernel, nowhere negative, that blurred by taps along both axes is most like `kernel`.

    Source: Richardson 1972, Lucy 1974: k * S'(kernel / S k), which keeps the sum.
    """

    def blurred(k: np.ndarray) -> np.ndarray:
        once = convolve1d(k, along_u, axis=0, mode="constant")
        result: np.ndarray = convolve1d(once, along_z, axis=1, mode="constant")
        return result

    reach = [along_u.size // 2, along_z.size // 2]
    if not any(reach):
        return kernel
    kernel = _padded(_padded(kernel, reach[0], 0), reach[1], 1)  # what is blurred must not leave the array
    found = kernel
    for _ in range(_ROUNDS):
        seen = blurred(found)
        found = found * blurred(np.divide(kernel, seen, out=np.zeros_like(seen), where=seen > 0))
    return found[reach[0] : found.shape[0] - reach[0], reach[1] : found.shape[1] - reach[1]]


def _padded(kernel: np.ndarray, n: int, axis: int) -> np.ndarray:
    return np.pad(kernel, [(n, n) if axis == other else (0, 0) for other in (0, 1)])


def _boxes(n: int, pixel: float, spacing: float) -> np.ndarray:
    """Return (samples, n): which part of each of n pixels lies within each sample; both centred, of odd numbers."""
    half = math.ceil((n * pixel / spacing - 1) / 2 - 1e-9)
    samples, pixels = np.arange(-half, half + 1)[:, None] * spacing, (np.arange(n) - n // 2) * pixel
    lower = np.maximum(samples - spacing / 2, pixels - pixel / 2)
    upper = np.minimum(samples + spacing / 2, pixels + pixel / 2)
    return np.maximum(upper - lower, 0) / pixel


def is_gaussian(response: Response | None) -> TypeGuard[GaussianResponse | None]:
    """Whether the response can be built up plane by plane."""
    return response is None or (isinstance(response, GaussianResponse) and not isinstance(response, MeasuredResponse))
