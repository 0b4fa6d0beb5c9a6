"""Small kernels with the variance and the fourth cumulant that are asked for; none has a weight below zero."""

from __future__ import annotations

import math

import numpy as np


def gaussian_taps(variance: float, cumulant: float = 0.0) -> np.ndarray:
    """Return symmetric taps that sum to one with this variance (samples^2) and fourth cumulant (0: a Gaussian's).

    Five taps up to a variance of 2/3, non-negative where `cumulant` is a `possible_cumulant`; beyond, a sampled
    Gaussian with the first term of its Gram-Charlier series.
    """
    if variance > 2 / 3:
        return _sampled_gaussian(variance, cumulant)
    return five_taps(variance, cumulant)


def _sampled_gaussian(variance: float, cumulant: float) -> np.ndarray:
    k = np.arange(-math.ceil(5.5 * math.sqrt(variance)), math.ceil(5.5 * math.sqrt(variance)) + 1)
    scale = variance
    for _ in range(4):  # sampling and cutting at zero change the variance a little: ask for as much more or less
        t = k / math.sqrt(scale)
        correction = 1 + cumulant / (24 * variance**2) * (t**4 - 6 * t**2 + 3)
        taps = np.maximum(correction, 0) * np.exp(-(t**2) / 2)
        taps /= taps.sum()
        scale *= variance / float(taps @ k**2)
    return taps


def five_taps(variance: float, cumulant: float) -> np.ndarray:
    """Return the only five symmetric taps with this sum (1), variance and fourth cumulant."""
    second = (3 * variance**2 - variance + cumulant) / 24
    first = variance / 2 - 4 * second
    return np.array([second, first, 1 - 2 * (first + second), first, second])


def possible_cumulant(variance: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the fourth cumulant nearest to `wanted` with which five taps are non-negative, in float32 too.

    Below v - 3 v^2 the outer taps would be negative, above 4 v - 3 v^2 the ones beside the centre.
    """
    margin, square = 1e-6 * variance, 3 * variance**2
    return np.clip(wanted, variance + margin - square, 4 * (variance - margin) - square)


def n_passes(variance: np.ndarray) -> np.ndarray:
    """How many five-tap kernels make up a step: each adds 2/3 of a sample squared at most, to look like a Gaussian."""
    return np.ceil(1.5 * variance - 1e-6).astype(int)


def stack_taps(taps: list[np.ndarray]) -> np.ndarray:
    """Return symmetric taps of several kernels as the rows of one array, padded with zeros."""
    radius = max(t.size for t in taps) // 2
    return np.stack([np.pad(t, radius - t.size // 2) for t in taps])


def planes_taps(moments: np.ndarray) -> np.ndarray:
    """Return non-negative taps (n, 2 R + 1) for (n, 2) variances and wanted fourth cumulants, in samples."""
    variance, wanted = moments.T
    cumulant = np.where(variance > 2 / 3, wanted, possible_cumulant(variance, wanted))
    return stack_taps([gaussian_taps(*pair) for pair in zip(variance, cumulant)])
