"""Banded matrices, and the ones that lead from a lattice to bins of another size."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def resampling(n_in: int, pitch: float, n_out: int, pixel: float, offset: float) -> np.ndarray | None:
    """Return the (n_out, n_in) weights from samples to pixels, both centred but for `offset` mm; None if they coincide.

    The kernel is box(pitch) * box(pixel)^3: columns sum to one (nothing is lost), an even distribution stays even,
    and a point's variance grows by pitch^2/12 + pixel^2/4 wherever it lies.
    """
    shift = offset / pitch + (n_in - n_out) / 2
    if abs(pixel / pitch - 1) < 1e-6 and abs(shift - round(shift)) < 1e-6:
        return None
    samples = (np.arange(n_in) - (n_in - 1) / 2) * pitch
    pixels = (np.arange(n_out) - (n_out - 1) / 2) * pixel + offset
    distance = (pixels[:, None] - samples[None]) / pixel
    half = pitch / pixel / 2
    weights = (_spline_integral(distance + half) - _spline_integral(distance - half)) / (2 * half)
    return np.maximum(weights, 0)  # where rounding makes the integral fall


def resampling_reach(pitch: float, pixel: float) -> float:
    """Return how far from a pixel's centre samples are seen by it, in mm."""
    return 1.5 * pixel + pitch / 2


def resampling_variance(resample: np.ndarray | None, pitch: float, pixel: float) -> float:
    """Return the variance in mm^2 that resampling adds."""
    return 0.0 if resample is None else pitch**2 / 12 + pixel**2 / 4


def resampling_cumulant(resample: np.ndarray | None, pitch: float, pixel: float) -> float:
    """Return the fourth cumulant in mm^4 that resampling adds; a box of width w has -w^4 / 120."""
    return 0.0 if resample is None else -(pitch**4 + 3 * pixel**4) / 120


def _spline_integral(t: np.ndarray) -> np.ndarray:
    """The integral of the quadratic B-spline from minus infinity to t."""
    t = np.clip(t, -1.5, 1.5)
    outer = (1.5 - np.abs(t)) ** 3 / 6
    return np.where(np.abs(t) <= 0.5, 0.5 + 0.75 * t - t**3 / 3, np.where(t < 0, outer, 1 - outer))


def make_bands(matrices: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return banded matrices as first columns (C, rows) and weights (C, rows, width); one is in memory at a time."""
    bands = [(_band(matrix), matrix.shape[1]) for matrix in matrices]
    width = max(weights.shape[1] for (_, weights), _ in bands)
    widened = [_widened(start, weights, width, n) for (start, weights), n in bands]
    return np.stack([start for start, _ in widened]), np.stack([weights for _, weights in widened])


def _band(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    used = np.abs(matrix) > 1e-12 * np.abs(matrix).max(initial=1e-30)
    first = np.where(used.any(1), used.argmax(1), 0)
    last = np.where(used.any(1), matrix.shape[1] - used[:, ::-1].argmax(1), 0)
    width = max(1, int((last - first).max()))
    start = np.minimum(first, matrix.shape[1] - width)
    return start, np.take_along_axis(np.where(used, matrix, 0), start[:, None] + np.arange(width), axis=1)


def _widened(start: np.ndarray, weights: np.ndarray, width: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a band in rows of `width` weights, still inside n columns."""
    moved, wide = np.minimum(start, n - width), np.zeros((start.size, width))
    np.put_along_axis(wide, (start - moved)[:, None] + np.arange(weights.shape[1]), weights, axis=1)
    return moved.astype(np.int32), wide
