"""The signal-to-noise ratio of the Hotelling observer from few images: bias-corrected, with exact intervals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import scipy
from scipy import special

from emrecon.projectors.core.arrays import Array

from .areas import Measured, noncentral_bounds, require_level
from .channels import channel_matrix
from .hotelling import Images, classes, require_regular, solved


@dataclass(frozen=True)
class SignalToNoise:
    """What images say of the Hotelling observer that infinitely many would train.

    Args:
        squared : SNR^2, unbiased (so that it may be negative where there is little signal), and its interval.
        snr : its square root, 0 where that is negative.
        area : of the ROC curve, Phi(SNR / sqrt 2).
        resubstituted : dv' S^-1 dv, biased upwards.
        n_channels : p.
    """

    squared: Measured
    snr: Measured
    area: Measured
    resubstituted: float
    n_channels: int


def snr_interval(
    absent: Images,
    present: Images,
    channels: np.ndarray | Array | None = None,
    *,
    difference: np.ndarray | None = None,
    level: float = 0.95,
) -> SignalToNoise:
    """Return SNR^2 = dv' S^-1 dv of the channelised Hotelling observer, bias-corrected and with an exact interval.

    With m and n images, p channels, d the difference of the mean channel outputs and S their pooled covariance,
    for Gaussian outputs of one covariance in both classes::

        F = (m + n - p - 1) / (p (m + n - 2)) m n / (m + n) d' S^-1 d   ~   F(p, m + n - p - 1; m n / (m + n) SNR^2)
        unbiased SNR^2 = (m + n - p - 3) / (m + n - 2) d' S^-1 d - p (m + n) / (m n)

    and the interval holds the SNR^2 under which F is neither too large nor too small. With the true `difference` known
    (from images without noise, which a simulation has), intervals are shorter::

        (m + n - 2) SNR^2 / (d' S^-1 d)   ~   chi^2(m + n - p - 1),   unbiased (m + n - p - 3) / (m + n - 2) d' S^-1 d

    No images are needed for testing. The interval is about the ideal template, not one trained on these images.

    Args:
        absent, present : images (m, ...) and (n, ...), or channel outputs (m, p) and (n, p).
        channels : (P, p), or None for the voxels, or outputs as they are.
        difference : (p,), channel outputs of the signal, or an image of it with P voxels.
        level : of the intervals.

    Raises ValueError as `ChannelisedHotelling.fit` does, for m + n < p + 4, and for a difference of another size.

    Source: Wunderlich, Noo, Gallas & Heilbrun 2015; the unbiased estimate from the mean of noncentral F.
    """
    require_level(level)
    matrix = None if channels is None else channel_matrix(channels)
    both = classes(absent, present, matrix)
    (m, p), n, S = both.absent.shape, len(both.present), both.pooled
    require_regular(S, m + n, "snr_interval")
    if m + n < p + 4:
        raise ValueError(f"snr_interval: {m + n} images for {p} channels; the bias is known from {p + 4} images on")
    freedom, last = m + n - 2, m + n - p - 1
    d = both.difference if difference is None else _outputs_of(difference, matrix, p)
    found = float(d @ solved(S, d))
    gain = (last - 2) / freedom
    if difference is not None:
        low, high = (found * float(scipy.stats.chi2.ppf(q, last)) / freedom for q in ((1 - level) / 2, (1 + level) / 2))
        value = gain * found
    else:
        weight = m * n / (m + n)

        def chance(F: float, noncentrality: float) -> float:
            if noncentrality == 0:
                return float(special.fdtr(p, last, F))
            return float(special.ncfdtr(p, last, noncentrality, F))

        bounds = noncentral_bounds(found * weight * last / (p * freedom), chance, level, 4 * weight * found)
        low, high = (bound / weight for bound in bounds)
        value = gain * found - p / weight
    note = "the unbiased SNR^2 is negative: the images show no signal" if value < 0 else ""
    method = "noncentral F" if difference is None else "chi^2"
    squared = Measured(value, low, high, math.nan, m, n, level, method, note)
    snr = _through(squared, lambda s: math.sqrt(max(s, 0.0)))
    return SignalToNoise(squared, snr, _through(snr, lambda s: float(special.ndtr(s / math.sqrt(2)))), found, p)


def _through(measured: Measured, function: Callable[[float], float]) -> Measured:
    value, low, high = (function(one) for one in (measured.value, *measured.interval))
    return replace(measured, value=value, low=low, high=high)


def _outputs_of(difference: np.ndarray, matrix: np.ndarray | None, p: int) -> np.ndarray:
    flat = np.asarray(difference, float).ravel()
    if matrix is not None and len(flat) == len(matrix):
        flat = flat @ matrix
    if len(flat) != p or not np.isfinite(flat).all():
        raise ValueError(
            f"snr_interval: the difference must be finite, of {p} channel outputs or an image of the signal"
        )
    return flat
