"""The SPECT blur done directly: each plane convolved with its own kernel by FFT, for kernels of any shape."""

from __future__ import annotations

import math
from types import ModuleType
from typing import TypeGuard

import numpy as np
import scipy.fft
from scipy.ndimage import convolve1d, map_coordinates

from ..core.arrays import Array
from .collimation import GaussianResponse, MeasuredResponse, Response
from .plan import MadePlan, gaussian_taps


class DirectBlur:
    """Blur and add up the planes of a frame (planes, columns, slices), or the transpose of that.

    The kernels are those of the response, less the variance that sampling adds anyway (`made.fixed`).
    Convolution is linear (zero-padded); a MeasuredResponse costs one FFT per tabulated distance, a Gaussian one per
    plane. `fft` is the module to use, scipy.fft or its CuPy twin.
    """

    def __init__(self, response: Response, made: MadePlan, n_slices: int) -> None:
        self.response, self.spacing, self.fixed = response, made.spacing, made.fixed
        self.distances = np.unique(made.distances, axis=0)
        self.margin, self.columns, self.slices = made.plan.margin, made.plan.n_columns, n_slices
        self.planar = n_slices == 1 and self.margin == 0
        reach = reach_of(response, self.distances) / self.spacing
        self.size = (
            scipy.fft.next_fast_len(self.columns + math.ceil(reach[0]), real=True),
            1 if self.planar else scipy.fft.next_fast_len(n_slices + 2 * self.margin + math.ceil(reach[1]), real=True),
        )

    def collapse(self, frame: Array, view_class: int, fft: ModuleType = scipy.fft, xp: ModuleType = np) -> Array:
        """Return the blurred sum over planes, (columns, slices + 2 margin)."""
        share, transfer = self._kernels(view_class, frame.dtype)
        if share is not None:
            frame = xp.tensordot(xp.asarray(share), frame, axes=1)
        spectrum = fft.rfft2(frame, s=self.size, axes=(1, 2)) * xp.asarray(transfer)
        plane = fft.irfft2(spectrum.sum(0), s=self.size)
        # The kernels' centre is moved by `margin` slices, so that what spreads below slice 0 has a place.
        return plane[: self.columns, : self.slices + 2 * self.margin].astype(frame.dtype)

    def expand(self, plane: Array, view_class: int, fft: ModuleType = scipy.fft, xp: ModuleType = np) -> Array:
        """Return the transpose of `collapse`, (planes, columns, slices)."""
        share, transfer = self._kernels(view_class, plane.dtype)
        spectrum = fft.rfft2(plane, s=self.size)[None] * xp.asarray(transfer).conj()
        frame = fft.irfft2(spectrum, s=self.size, axes=(1, 2))[:, : self.columns, : self.slices].astype(plane.dtype)
        return frame if share is None else xp.tensordot(xp.asarray(share).T, frame, axes=1)

    def _kernels(self, view_class: int, dtype: np.dtype) -> tuple[np.ndarray | None, np.ndarray]:
        """Return how planes share the tabulated kernels (kernels, planes) and the kernels' spectra."""
        complex_type = np.result_type(dtype, np.complex64)
        shift = self._phase(self.margin)
        if isinstance(self.response, MeasuredResponse):
            share = _interpolation(self.response.distances, self.distances[view_class])
            kernels = [self._spectrum(kernel) for kernel in self.response.kernels]
            return share.astype(dtype), (np.stack(kernels) * shift).astype(complex_type)
        variance = np.maximum(self.response.sigma(self.distances[view_class])[:, None] ** 2 - self.fixed, 0)
        fu, fz = self._frequencies()
        exponent = variance[:, 0, None, None] * fu**2 + (0 if self.planar else variance[:, 1, None, None] * fz**2)
        return None, (np.exp(-2 * np.pi**2 * exponent) * shift).astype(complex_type)

    def _frequencies(self) -> tuple[np.ndarray, np.ndarray]:
        """Cycles per mm along u (as a column) and z."""
        return scipy.fft.fftfreq(self.size[0], self.spacing[0])[:, None], scipy.fft.rfftfreq(
            self.size[1], self.spacing[1]
        )

    def _phase(self, slices: int) -> np.ndarray:
        return np.exp(-2j * np.pi * scipy.fft.rfftfreq(self.size[1]) * slices)

    def _spectrum(self, kernel: np.ndarray) -> np.ndarray:
        """Return the spectrum of a measured kernel on this lattice, sharpened by what sampling adds."""
        if not isinstance(self.response, MeasuredResponse):
            raise TypeError(f"measured kernels need a MeasuredResponse, got {type(self.response).__name__}")
        kernel = _resample(kernel, np.asarray(self.response.pixel_size), self.spacing)
        for axis, variance in enumerate(self.fixed / self.spacing**2):
            kernel = convolve1d(np.pad(kernel, 2), gaussian_taps(-min(variance, 0.75)), axis=axis, mode="constant")
        if self.planar:
            kernel = kernel.sum(1, keepdims=True)
        nu, nz = kernel.shape
        wrapped = np.zeros(self.size)
        u = np.arange(-(nu // 2), nu // 2 + 1) % self.size[0]
        z = np.arange(-(nz // 2), nz // 2 + 1) % self.size[1]
        np.add.at(wrapped, (u[:, None], z[None]), kernel)
        return scipy.fft.rfft2(wrapped)


def reach_of(response: Response, distances: np.ndarray) -> np.ndarray:
    """Return how far the widest kernel extends to each side, mm along u and z."""
    if isinstance(response, MeasuredResponse):
        return np.asarray(response.reach)
    return np.full(2, 4 * float(np.max(response.sigma(distances))))


def _interpolation(tabulated: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Return (tabulated, distances) weights of linear interpolation, nearest outside."""
    return np.stack([np.interp(distances, tabulated, row) for row in np.eye(tabulated.size)])


def _resample(kernel: np.ndarray, pixel: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Return the kernel at another spacing (linear interpolation), centred and with the same sum."""
    if np.allclose(pixel, spacing, rtol=1e-6):
        return kernel
    half = np.ceil((np.array(kernel.shape) // 2) * pixel / spacing).astype(int)
    axes = [np.arange(-h, h + 1) * s / p + n // 2 for h, s, p, n in zip(half, spacing, pixel, kernel.shape)]
    resampled: np.ndarray = map_coordinates(kernel, np.meshgrid(*axes, indexing="ij"), order=1, mode="constant")
    return resampled * kernel.sum() / resampled.sum()


def is_gaussian(response: Response | None) -> TypeGuard[GaussianResponse | None]:
    """Whether the response can be built up plane by plane."""
    return response is None or (isinstance(response, GaussianResponse) and not isinstance(response, MeasuredResponse))
