"""Blurs of the image: a Gaussian, and kernels as they were measured; the resolution models of a projector."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.fft
from numpy.typing import ArrayLike
from scipy.special import erf

from .arrays import (
    Array,
    PlanCache,
    add_up,
    array_namespace,
    device,
    dtype_name,
    is_numpy,
    like,
    require_constant,
    to_numpy,
    without_rounding_below_zero,
)
from .grid import ImageGrid
from .mirror import folded, mirrored
from .operator import BatchOperator, LinearOperator, Projector, Shape
from .threads import thread_count

N_SIGMAS = 4.0
"""Where the Gaussian is cut off, in standard deviations; what is left is scaled to a sum of one."""

ENDS = ("mirrored", "empty")
"""What lies beyond the first and the last slice of an image: the body, mirrored at the end, or nothing."""

_BLOCK = 64  # voxels of an axis that are blurred by one matrix product


class GaussianBlur(BatchOperator):
    """A Gaussian blur of an image, axis by axis: y = K_x K_y K_z x.

    Args:
        grid : the image, (nx, ny, nz).
        fwhm : mm, one number or (x, y, z); 0 leaves an axis as it is.
        ends : "mirrored" where the body goes on beyond the first and the last slice, "empty" where the image ends with
            nothing beyond.

    The weight of the voxel at n voxels' distance is the Gaussian's integral over that voxel::

        w(n) = [erf((n + 1/2) d / (sqrt(2) sigma)) - erf((n - 1/2) d / (sqrt(2) sigma))] / 2,     sigma = fwhm / 2.355

    for ``|n|`` d up to 4 sigma and the rest of its last voxel, scaled to a sum of one. From an FWHM of 1.5 voxels, the
    variance is sigma^2 + d^2 / 12: that of the Gaussian and that of a voxel of size d.
    A body that is longer than the image brings as much activity into the end slices as leaves them. Mirrored ends say
    so: what leaves along z comes back, and an even image stays even up to its last slice; with empty ends such data
    give end slices up to twice as high as they are. Along x and y there are zeros outside, and what leaves there is
    lost, but not before a projector: `PETProjector @ blur` projects what has left the image, too. K is a symmetric band
    matrix, and the operator is its own transpose. An axis of one voxel is not blurred: such an image is flat.

    A resolution model before any projector: `PETProjector(grid, sinogram) @ GaussianBlur(grid, 4.5)`.
    Runs on NumPy, CuPy and torch.

    Raises ValueError for widths that are negative or not finite, and for other ends.
    """

    def __init__(self, grid: ImageGrid, fwhm: ArrayLike, *, ends: str = "mirrored") -> None:
        require_constant(fwhm, "GaussianBlur fwhm")
        widths = np.asarray(fwhm, float).ravel()
        if widths.size not in (1, 3) or not (np.isfinite(widths).all() and (widths >= 0).all()):
            raise ValueError(f"GaussianBlur fwhm must be one number or three, in mm and not negative, got {fwhm!r}")
        self.grid, self.in_shape, self.out_shape = grid, grid.shape, grid.shape
        x, y, z = (float(width) for width in np.broadcast_to(widths, 3))
        self.fwhm, self.ends = (x, y, z), _checked_ends(ends)
        self._plans = PlanCache()

    @property
    def kernels(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The weights along x, y and z, each of odd length and sum one; [1] where an axis is not blurred."""
        sizes = zip(self.fwhm, self.grid.voxel_size, self.in_shape)
        x, y, z = (gaussian_kernel(width / size if n > 1 else 0.0) for width, size, n in sizes)
        return x, y, z

    def _forward_batch(self, x: Array) -> Array:
        return self._blurred(x, self._matrices(x))

    def _adjoint_batch(self, y: Array) -> Array:
        return self._blurred(y, [None if matrix is None else matrix.T for matrix in self._matrices(y)])

    def _blurred(self, x: Array, matrices: list[Array | None]) -> Array:
        if all(matrix is None for matrix in matrices):
            return array_namespace(x).asarray(x, copy=True)
        for axis, (matrix, kernel) in enumerate(zip(matrices, self.kernels)):
            x = x if matrix is None else _along(x, matrix, kernel.size // 2, axis)
        return x

    def _matrices(self, x: Array) -> list[Array | None]:
        """The band matrix of every axis, None for the identity."""

        def make() -> list[Array | None]:
            return [
                None
                if kernel.size == 1
                else like(band_matrix(kernel, n, mirror=axis == 2 and self.ends == "mirrored"), x)
                for axis, (kernel, n) in enumerate(zip(self.kernels, self.in_shape))
            ]

        return self._plans.get(x, make)

    def on_grid(self, grid: ImageGrid) -> GaussianBlur:
        """Return the same blur of another image."""
        return GaussianBlur(grid, self.fwhm, ends=self.ends)

    def before(self, projector: Projector) -> tuple[Projector, LinearOperator]:
        """Return a projector and a blur in which what leaves the image sideways is not lost."""
        x, y, _ = (kernel.size // 2 for kernel in self.kernels)
        return _with_room(projector, self, (x, y))

    def __str__(self) -> str:
        return f"{self!r}\n  image     {self.grid}\n  FWHM      {' x '.join(f'{width:g}' for width in self.fwhm)} mm"


class _Room(BatchOperator):
    """An image with `margin` voxels of nothing around it along x and y."""

    def __init__(self, shape: Shape, margin: tuple[int, int]) -> None:
        (nx, ny, nz), (x, y) = shape, margin
        self.in_shape, self.out_shape = shape, (nx + 2 * x, ny + 2 * y, nz)
        self._place = (slice(None), slice(x, x + nx), slice(y, y + ny))

    def _forward_batch(self, x: Array) -> Array:
        out: Array = array_namespace(x).zeros((x.shape[0], *self.out_shape), dtype=x.dtype, device=device(x))
        out[self._place] = x
        return out

    def _adjoint_batch(self, y: Array) -> Array:
        image: Array = array_namespace(y).asarray(y[self._place], copy=True)
        return image


def _with_room(
    projector: Projector, blur: GaussianBlur | MeasuredBlur, margin: tuple[int, int]
) -> tuple[Projector, LinearOperator]:
    """Return the projector of a larger image and a blur into it, where the projector can be had for one."""
    on_grid, grid = getattr(projector, "on_grid", None), blur.grid
    if on_grid is None or getattr(projector, "grid", None) != grid or not any(margin):
        return projector, blur
    (nx, ny, nz), (x, y), (dx, dy, _) = grid.shape, margin, grid.voxel_size
    origin = (grid.origin[0] - x * dx, grid.origin[1] - y * dy, grid.origin[2])
    wide = ImageGrid((nx + 2 * x, ny + 2 * y, nz), grid.voxel_size, origin)
    return on_grid(wide), blur.on_grid(wide) @ _Room(grid.shape, margin)


class _Transfers(NamedTuple):
    """Weight image and spectrum of every kernel, slices (nz, nz + 2 reach) in their places, and ones within reach."""

    pairs: list[tuple[Array | None, Array]]
    widening: Array
    within_reach: list[Array]


class MeasuredBlur(LinearOperator):
    """A blur with kernels of any shape, by FFT: y = sum over k of kernel_k * (weight_k x).

    Args:
        grid : the image, (nx, ny, nz).
        kernel : (kx, ky, kz) of odd lengths on the voxels of the grid, the image of a point in its middle; it need be
            neither symmetric nor of sum one. Or a list of (weight image, kernel) for a blur that changes from place to
            place: a point in voxel j is spread as sum_k weight_k[j] kernel_k, so totals are kept where kernels have a
            sum of one and the weights add up to one. Every pair costs one transform.
        ends : as in `GaussianBlur`: beyond the first and the last slice the weighted image goes on, mirrored, or is
            empty.

    Along x and y what leaves is lost (zeros outside; nothing wraps around), but not before a projector. The transpose
    correlates with the kernels and then weights, exactly.
    Where kernels and weights are nowhere negative, nor is what becomes of an image that is not: rounding of the
    transforms is cut at zero, and voxels out of a kernel's reach are exactly zero.
    Runs on NumPy (SciPy's transforms), CuPy and torch.

    Raises ValueError for kernels of even length, weights of another shape, and values that are not finite.
    """

    def __init__(
        self, grid: ImageGrid, kernel: Array | Sequence[tuple[Array, Array]], *, ends: str = "mirrored"
    ) -> None:
        self.grid, self.in_shape, self.out_shape, self.ends = grid, grid.shape, grid.shape, _checked_ends(ends)
        require_constant(kernel, "MeasuredBlur kernel")
        varying = isinstance(kernel, Iterable) and not hasattr(kernel, "shape")
        pairs: list[Any] = list(kernel) if varying else [(None, kernel)]
        if not pairs or any(not isinstance(pair, (tuple, list)) or len(pair) != 2 for pair in pairs):
            raise ValueError("MeasuredBlur needs an array (kx, ky, kz) or a list of pairs (weight image, kernel)")
        for value in (part for pair in pairs for part in pair):
            require_constant(value, "MeasuredBlur kernels and weights")
        self.kernels = [_checked_kernel(values) for _, values in pairs]
        self.weights = [None if weight is None else self._checked_weight(weight) for weight, _ in pairs]
        shapes = np.array([values.shape for values in self.kernels])
        self._reach: tuple[int, ...] = tuple(int(n) for n in shapes.max(0) // 2)
        nx, ny, nz = self.in_shape
        lengths = (nx + min(self._reach[0], nx - 1), ny + min(self._reach[1], ny - 1), nz + 2 * self._reach[2])
        self._size = [scipy.fft.next_fast_len(n, real=True) for n in lengths]
        signs = [*self.kernels, *(weight for weight in self.weights if weight is not None)]
        self._positive = all((values >= 0).all() for values in signs)
        self._plans = PlanCache()

    def _forward(self, x: Array) -> Array:
        fft, made = fft_of(x), self._made(x)
        total = add_up(
            transfer * fft.rfftn((x if weight is None else weight * x) @ made.widening, s=self._size, axes=(0, 1, 2))
            for weight, transfer in made.pairs
        )
        (nx, ny, nz), beyond = self.in_shape, self._reach[2]
        return self._clean(fft.irfftn(total, s=self._size, axes=(0, 1, 2))[:nx, :ny, beyond : beyond + nz], x)

    def _adjoint(self, y: Array) -> Array:
        xp, fft, made = array_namespace(y), fft_of(y), self._made(y)
        (nx, ny, nz), beyond = self.in_shape, self._reach[2]
        edge = xp.zeros((nx, ny, beyond), dtype=y.dtype, device=device(y))
        spectrum = fft.rfftn(xp.concat([edge, y], axis=2), s=self._size, axes=(0, 1, 2))

        def part(weight: Array | None, transfer: Array) -> Array:
            wide = fft.irfftn(xp.conj(transfer) * spectrum, s=self._size, axes=(0, 1, 2))
            image = wide[:nx, :ny, : nz + 2 * beyond] @ made.widening.T
            return image if weight is None else weight * image

        return self._clean(add_up(part(weight, transfer) for weight, transfer in made.pairs), y)

    def on_grid(self, grid: ImageGrid) -> MeasuredBlur:
        """Return the same blur of a larger image around the same middle; weights are 0 in what is new."""
        room = [((n - m) // 2,) * 2 for n, m in zip(grid.shape, self.in_shape)]
        weights = [None if weight is None else np.pad(weight, room) for weight in self.weights]
        pairs: list[Any] = list(zip(weights, self.kernels))
        return MeasuredBlur(grid, pairs, ends=self.ends)

    def before(self, projector: Projector) -> tuple[Projector, LinearOperator]:
        """Return a projector and a blur in which what leaves the image sideways is not lost."""
        return _with_room(projector, self, (self._reach[0], self._reach[1]))

    def _clean(self, values: Array, x: Array) -> Array:
        """Return values without what is there by the transforms' rounding alone, where no entry is negative."""
        xp = array_namespace(x)
        if not self._positive:
            return xp.asarray(values, copy=True)
        near = xp.astype(x != 0, x.dtype)[None, ...]
        for axis, matrix in enumerate(self._made(x).within_reach):
            near = _along(near, matrix, self._reach[axis], axis)
        return without_rounding_below_zero(xp.where(near[0, ...] > 0, values, xp.zeros_like(values)), x)

    def _made(self, x: Array) -> _Transfers:
        def make() -> _Transfers:
            weights = [None if weight is None else like(weight, x) for weight in self.weights]
            complex_name = "complex64" if dtype_name(x) == "float32" else "complex128"
            spectra = [self._spectrum(kernel).astype(complex_name) for kernel in self.kernels]
            pairs = [(w, array_namespace(x).asarray(s, device=device(x))) for w, s in zip(weights, spectra)]
            boxes = [like(band_matrix(np.ones(2 * r + 1), n), x) for r, n in zip(self._reach, self.in_shape)]
            nz, beyond = self.in_shape[2], self._reach[2]
            place = mirrored(np.arange(-beyond, nz + beyond), nz, *[self.ends == "mirrored"] * 2)
            return _Transfers(pairs, like(np.equal.outer(np.arange(nz), place).astype(float), x), boxes)

        return self._plans.get(x, make)

    def _spectrum(self, kernel: np.ndarray) -> np.ndarray:
        """The transform of a kernel whose middle lies at voxel 0; what is wider than the image never matters."""
        wide = [max(0, size // 2 - (n - 1)) for size, n in zip(kernel.shape[:2], self.in_shape)] + [0]
        kernel = kernel[tuple(slice(cut, size - cut) for cut, size in zip(wide, kernel.shape))]
        padded = np.zeros(self._size)
        padded[tuple(slice(size) for size in kernel.shape)] = kernel
        spectrum: np.ndarray = scipy.fft.rfftn(np.roll(padded, [-(n // 2) for n in kernel.shape], (0, 1, 2)))
        return spectrum

    def _checked_weight(self, weight: Array) -> np.ndarray:
        values = np.asarray(to_numpy(weight), float)
        if values.shape != self.in_shape or not np.isfinite(values).all():
            raise ValueError(f"{self!r} needs finite weight images of {self.in_shape}, got shape {values.shape}")
        return values


def gaussian_kernel(fwhm: float) -> np.ndarray:
    """Return a Gaussian's integrals over voxels, cut off at 4 sigma and of sum one; `fwhm` in voxels.

    Returns an odd number of weights, the middle one that of the voxel itself; [1] for a width of 0.
    """
    sigma = fwhm / (2 * math.sqrt(2 * math.log(2)))
    if sigma == 0:
        return np.ones(1)
    reach = math.ceil(N_SIGMAS * sigma)
    weights = np.diff(erf((np.arange(-reach, reach + 2) - 0.5) / (math.sqrt(2) * sigma)))
    symmetric: np.ndarray = (weights + weights[::-1]) / (2 * weights.sum())
    return symmetric


def band_matrix(kernel: np.ndarray, n: int, *, mirror: bool = False) -> np.ndarray:
    """Return the matrix (n, n) of a convolution: entry (i, j) is the kernel's weight for i - j.

    Args:
        mirror : whether the line goes on mirrored at its ends; otherwise there are zeros outside.
    """
    reach = kernel.size // 2
    offset = np.subtract.outer(np.arange(n), np.arange(-reach, n + reach)) + reach
    wide = np.where((offset >= 0) & (offset < kernel.size), kernel[np.clip(offset, 0, kernel.size - 1)], 0.0)
    return folded(wide, -reach, n, mirror, mirror)


def _checked_ends(ends: str) -> str:
    if ends not in ENDS:
        raise ValueError(f"ends must be one of {', '.join(ENDS)}, got {ends!r}")
    return ends


def _along(x: Array, matrix: Array, reach: int, axis: int) -> Array:
    """Return a band matrix times an image (B, nx, ny, nz) along x, y or z, block by block of the band."""
    xp, shape, n = array_namespace(x), x.shape, x.shape[axis + 1]
    lines = xp.reshape(x, (math.prod(shape[: axis + 1]), n, math.prod(shape[axis + 2 :])))
    parts = []
    for first in range(0, n, _BLOCK):
        out, near = slice(first, first + _BLOCK), slice(max(0, first - reach), first + _BLOCK + reach)
        band = matrix[out, near]
        if axis == 2:
            parts.append((lines[:, near, 0] @ band.T)[..., None])
        else:
            parts.append(band @ lines[:, near, :])
    return xp.reshape(parts[0] if len(parts) == 1 else xp.concat(parts, axis=1), shape)


def _checked_kernel(kernel: Array) -> np.ndarray:
    values = np.asarray(to_numpy(kernel), float)
    if values.ndim != 3 or any(size % 2 == 0 for size in values.shape):
        raise ValueError(
            f"MeasuredBlur kernels must be (kx, ky, kz) of odd lengths, so that they have a middle; got {values.shape}"
        )
    if not np.isfinite(values).all():
        raise ValueError("MeasuredBlur kernels hold NaN or infinite values")
    return values


class _HostFFT:
    """SciPy's transforms on the library's number of threads."""

    @staticmethod
    def rfftn(x: np.ndarray, **options: Any) -> Any:
        return scipy.fft.rfftn(x, workers=thread_count(), **options)

    @staticmethod
    def irfftn(x: np.ndarray, **options: Any) -> Any:
        return scipy.fft.irfftn(x, workers=thread_count(), **options)


def fft_of(x: Array) -> Any:
    return _HostFFT if is_numpy(x) else array_namespace(x).fft
