"""Filtered back projection: an image from parallel-beam line integrals in one linear step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import ArrayLike

from emrecon.projectors import ImageGrid, SPECTGeometry
from emrecon.projectors.core.arrays import Array, PlanCache, add_up, array_namespace, device, dtype_name, is_numpy
from emrecon.projectors.core.operator import BatchOperator
from emrecon.projectors.core.threads import thread_count
from emrecon.projectors.parallel.geometry import ParallelBeamGeometry
from emrecon.projectors.parallel.projector import ParallelBeamProjector

_SCRATCH = 1 << 29  # bytes for the filtered views; what needs more is done in several parts
_FINER = 4  # filtered views are sampled so many times as densely as the data, and interpolated linearly from there

_SHAPES = {
    "ramp": lambda f: np.ones_like(f),
    "shepp-logan": lambda f: np.sinc(f / 2),
    "cosine": lambda f: np.cos(np.pi * f / 2),
    "hamming": lambda f: 0.54 + 0.46 * np.cos(np.pi * f),
    "hann": lambda f: 0.5 + 0.5 * np.cos(np.pi * f),
}


@dataclass(frozen=True)
class Window:
    """What the ramp filter is multiplied by, W(f), to keep the noise of high frequencies down.

    name, with t = f / cutoff::

        "ramp"         1                             "hamming"      0.54 + 0.46 cos(pi t)
        "shepp-logan"  sin(pi t / 2) / (pi t / 2)    "hann"         0.5 + 0.5 cos(pi t)
        "cosine"       cos(pi t / 2)                 "butterworth"  1 / sqrt(1 + t^(2 order))

    All but the Butterworth window are 0 above the cutoff. That one is 0.71 there; some programs leave out the root, and
    some call 2 * order the power factor.

    Args:
        cutoff, unit : a fraction of the Nyquist frequency 1 / (2 bin_size) for unit "nyquist", or a frequency for unit
            "cycles/cm".
        order : of the Butterworth window.

    Raises ValueError for an unknown name or unit, and for a cutoff or order that is not positive and finite.
    """

    name: str = "ramp"
    cutoff: float = 1.0
    unit: str = "nyquist"
    order: float = 5.0

    def __post_init__(self) -> None:
        if self.name not in (*_SHAPES, "butterworth"):
            raise ValueError(f"no window {self.name!r}; there are {', '.join(_SHAPES)} and butterworth")
        if self.unit not in ("nyquist", "cycles/cm"):
            raise ValueError(f'Window unit must be "nyquist" or "cycles/cm", got {self.unit!r}')
        for what in ("cutoff", "order"):
            value = getattr(self, what)
            if not 0 < value < math.inf:
                raise ValueError(f"Window {what} must be positive and finite, got {value}")

    def response(self, frequency: ArrayLike, bin_size: float) -> np.ndarray:
        """Return W at frequencies in cycles/mm, for bins of bin_size mm; 0 above the Nyquist frequency."""
        f, nyquist = np.abs(np.asarray(frequency, float)), 0.5 / bin_size
        cutoff = self.cutoff * nyquist if self.unit == "nyquist" else self.cutoff / 10
        t = f / cutoff
        if self.name == "butterworth":
            values = 1 / np.sqrt(1 + t ** (2 * self.order))
        else:
            values = np.where(t <= 1, _SHAPES[self.name](t), 0.0)
        return np.where(f <= nyquist, values, 0.0)


class FilteredBackprojection(BatchOperator):
    """Filtered back projection as a linear operator, from line integrals (views, bins, planes) to (nx, ny, nz)::

        x(p) = sum over views of  weight * q(p . (cos phi, sin phi)),   q = y * (ramp filter) * (window) along the bins

    Args:
        grid : the image.
        geometry : a `ParallelBeamGeometry`, or a `SPECTGeometry` whose lines are meant.
        window : a `Window`.

    Data are integrals in mm, so the image has their unit per mm. Voxels are samples at their centres.

    The ramp is the band-limited one, from its samples in space, so that the mean is right; nothing wraps around, and
    views go on beyond the detector, where the object must not be. Filtered views are sampled more densely by the same
    Fourier transform and interpolated linearly; the loss at high frequencies is made up for in the filter. Views weigh
    half the angles to their neighbours, modulo 180 degrees, shared between views that repeat a direction: right for any
    complete set of angles over 180 or 360 degrees. A missing wedge is not filled; the views at its edges stand for it.

    Like every `LinearOperator` it takes batches, NumPy, CuPy and torch, and passes gradients; `A.T` is its exact
    transpose, so it can be the first layer of a network.

    Raises ValueError where planes are not slices of the grid, as `ParallelBeamProjector` does.

    Source: Kak & Slaney 1988, chapter 3.
    """

    def __init__(
        self, grid: ImageGrid, geometry: ParallelBeamGeometry | SPECTGeometry, window: Window | None = None
    ) -> None:
        if isinstance(geometry, SPECTGeometry):
            geometry = ParallelBeamGeometry.from_spect(geometry)
        self.grid, self.geometry, self.window = grid, geometry, window or Window()
        self.in_shape, self.out_shape = geometry.shape, grid.shape
        self._bin = geometry.bin_size / _FINER
        self._first, last = _reach(grid, geometry, self._bin)
        self._n_fine = last - self._first + 1
        self._period = _odd_length(2 * max(last // _FINER, geometry.n_bins - self._first // _FINER) + 1)
        self._spread = ParallelBeamProjector(grid, self._fine_geometry(), sampling="splat")
        bytes_per_view = 3 * 8 * _FINER * self._period * geometry.n_planes
        self._n_parts = min(geometry.n_views, math.ceil(bytes_per_view * geometry.n_views / _SCRATCH))
        self._items = max(1, _SCRATCH // (bytes_per_view * geometry.n_views))
        self._plans = PlanCache()

    def _forward_batch(self, y: Array) -> Array:
        return self._in_groups(self._reconstruct, y)

    def _adjoint_batch(self, x: Array) -> Array:
        return self._in_groups(self._transposed, x)

    def _in_groups(self, apply: Callable[[Array], Array], x: Array) -> Array:
        done = [apply(x[i : i + self._items, ...]) for i in range(0, x.shape[0], self._items)]
        return done[0] if len(done) == 1 else array_namespace(x).concat(done)

    def _reconstruct(self, y: Array) -> Array:
        """(B, views, bins, planes) to (B, nx, ny, nz)."""
        fft, filters, axis = _fft_of(y), self._filters(y), 2

        def image(views: slice, spread: ParallelBeamProjector) -> Array:
            spectrum = filters[views] * fft.rfft(y[:, views, ...], n=self._period, axis=axis)
            fine = fft.irfft(spectrum, n=_FINER * self._period, axis=axis, norm="forward")[:, :, : self._n_fine, :]
            return spread._adjoint_batch(fine)

        return add_up(image(views, spread) for views, spread in self._parts())

    def _transposed(self, x: Array) -> Array:
        """(B, nx, ny, nz) to (B, views, bins, planes)."""
        xp, fft, filters, axis = array_namespace(x), _fft_of(x), self._filters(x), 2
        out = xp.empty((x.shape[0], *self.in_shape), dtype=x.dtype, device=device(x))
        for views, spread in self._parts():
            spectrum = fft.rfft(spread._forward_batch(x), n=_FINER * self._period, axis=axis)
            spectrum = xp.conj(filters[views]) * spectrum[:, :, : filters.shape[1], :]
            out[:, views, ...] = fft.irfft(spectrum, n=self._period, axis=axis, norm="forward")[
                :, :, : self.in_shape[1], :
            ]
        return out

    def _parts(self) -> Iterator[tuple[slice, ParallelBeamProjector]]:
        if self._n_parts == 1:
            yield slice(None), self._spread
            return
        for k in range(self._n_parts):
            yield slice(k, None, self._n_parts), self._spread.subset(k, self._n_parts)

    def _fine_geometry(self) -> ParallelBeamGeometry:
        """The lines on which the filtered views are sampled: from the data's first bin on, and as far as the image."""
        data = self.geometry
        middle = data.bin_centres()[:, 0] + self._bin * (self._first + (self._n_fine - 1) / 2)
        return ParallelBeamGeometry(
            data.angles, self._n_fine, self._bin, data.n_planes, data.plane_size, middle, data.axial_shift
        )

    def _filters(self, y: Array) -> Array:
        """The filter of each view times its weight, (views, frequencies, 1), complex."""

        def make() -> Array:
            dtype = "complex64" if dtype_name(y) == "float32" else "complex128"
            return array_namespace(y).asarray(self._make_filters().astype(dtype), device=device(y))

        return self._plans.get(y, make)

    def _make_filters(self) -> np.ndarray:
        tau, n = self.geometry.bin_size, self._period
        k = np.arange(n // 2 + 1)
        frequency = k / (n * tau)
        ramp = tau * scipy.fft.rfft(ramp_kernel(scipy.fft.fftfreq(n, 1 / n), tau)).real
        smooth = self.window.response(frequency, tau) / np.sinc(frequency * self._bin) ** 2
        shift = np.exp(2j * np.pi * k * self._first / (_FINER * n))
        dx, dy, _ = self.grid.voxel_size
        weights = angular_weights(self.geometry.angles) * self._bin / (dx * dy)
        return (weights[:, None] * (ramp * smooth * shift / n))[..., None]


def fbp(
    data: Array,
    geometry: ParallelBeamGeometry | SPECTGeometry | ParallelBeamProjector,
    grid: ImageGrid | None = None,
    window: str = "ramp",
    cutoff: float = 1.0,
    *,
    unit: str = "nyquist",
    order: float = 5.0,
) -> Array:
    """Return the filtered back projection of line integrals (..., views, bins, planes) as images (..., nx, ny, nz).

    Args:
        geometry : where the lines are; a `ParallelBeamProjector` knows the grid too.
        grid : of the image.
        window, cutoff, unit, order : see `Window`.

    Data are integrals in mm: line integrals of mu in 1/mm give 1/mm. Counts y of a SPECT camera are integrals after
    y * dx * dy / bin_size, for an image whose voxels of 1 add 1 to each view, as in `SPECTProjector`.
    For many data of one geometry, make a `FilteredBackprojection` once.

    Raises ValueError without a grid, and for shapes that do not fit.
    """
    if isinstance(geometry, ParallelBeamProjector):
        grid, geometry = grid or geometry.grid, geometry.geometry
    if grid is None:
        raise ValueError("fbp needs the grid of the image; only a ParallelBeamProjector brings one along")
    return FilteredBackprojection(grid, geometry, Window(window, cutoff, unit, order))(data)


def ramp_kernel(n: ArrayLike, bin_size: float) -> np.ndarray:
    """Return the ramp filter ``|f|``, cut off at the Nyquist frequency, at n bins from its middle; in 1/mm^2::

        1 / (4 tau^2) for n = 0,  -1 / (pi n tau)^2 for odd n,  0 for even n

    Source: Kak & Slaney 1988, section 3.3.3.
    """
    n = np.asarray(n, float)
    odd = np.where(n % 2 == 1, n, np.inf)
    return np.where(n == 0, 0.25, -1 / (np.pi * odd) ** 2) / bin_size**2


def angular_weights(angles: ArrayLike) -> np.ndarray:
    """Return how much of the half turn every view stands for, in radians; they sum to pi.

    A view has half the gap to either neighbour modulo 180 degrees, shared with the views that repeat its direction (to
    a thousandth of a degree).
    """
    folded = np.round(np.asarray(angles, float) % 180, 3) % 180
    direction, which, count = np.unique(folded, return_inverse=True, return_counts=True)
    gap = np.diff(direction, append=direction[0] + 180)
    weights: np.ndarray = np.deg2rad((gap + np.roll(gap, 1)) / 2 / count)[which]
    return weights


def _reach(grid: ImageGrid, geometry: ParallelBeamGeometry, fine: float) -> tuple[int, int]:
    """Return the first and last fine bin, counted from the data's first bin, that any voxel centre falls between."""
    x, y, _ = (np.ravel(c)[[0, -1]] for c in grid.coordinates())
    phi = np.deg2rad(geometry.angles)[:, None, None]
    s = x[:, None] * np.cos(phi) + y * np.sin(phi) - geometry.bin_centres()[:, :1, None]
    return math.floor(s.min() / fine - 1e-6), math.ceil(s.max() / fine + 1e-6)


def _odd_length(n: int) -> int:
    """Return the next odd length that is fast to transform; odd, so that no frequency is its own mirror image."""
    while n % 2 == 0 or scipy.fft.next_fast_len(n) != n:
        n += 1
    return n


class _HostFFT:
    """SciPy's transforms on the library's number of threads."""

    @staticmethod
    def rfft(x: np.ndarray, **options: int) -> np.ndarray:
        return scipy.fft.rfft(x, workers=thread_count(), **options)

    @staticmethod
    def irfft(x: np.ndarray, **options: int) -> np.ndarray:
        return scipy.fft.irfft(x, workers=thread_count(), **options)


def _fft_of(x: Array) -> Any:
    return _HostFFT if is_numpy(x) else array_namespace(x).fft
