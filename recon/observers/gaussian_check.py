"""Whether channel outputs are Gaussian, which the Hotelling observer's optimality and exact intervals rest on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy
from scipy import linalg

from emrecon.projectors.core.arrays import Array

from .channels import channel_matrix, outputs_on_host
from .hotelling import Images, covariance, require_regular

_MOST = 5000  # scores the Shapiro-Wilk test is made for
_AT_ONCE = 2**22


@dataclass(frozen=True)
class NormalityTests:
    """What tests say of channel outputs.

    Args:
        skewness, kurtosis : of Mardia: 0 and C (C + 2) for Gaussian outputs of C channels.
        p_skewness, p_kurtosis : of them.
        p_channels : (C,) of Shapiro & Wilk for every channel by itself, corrected for their number (Holm).
        level : below which a p counts.
        n : number of images.
        n_tested : of them, those the channels' own tests took.
    """

    skewness: float
    kurtosis: float
    p_skewness: float
    p_kurtosis: float
    p_channels: np.ndarray
    level: float
    n: int
    n_tested: int

    @property
    def normal(self) -> bool:
        """Whether no test speaks against it."""
        return not self.reasons

    @property
    def reasons(self) -> tuple[str, ...]:
        """What speaks against it, in words."""
        found = []
        if self.p_skewness * 3 < self.level:
            found.append(f"the outputs together are skewed (Mardia, p = {self.p_skewness:.2g})")
        if self.p_kurtosis * 3 < self.level:
            expected = len(self.p_channels) * (len(self.p_channels) + 2)
            tails = "heavier" if self.kurtosis > expected else "lighter"
            found.append(f"their tails are {tails} than those of a Gaussian (Mardia, p = {self.p_kurtosis:.2g})")
        bad = np.flatnonzero(self.p_channels * 3 < self.level)
        if len(bad):
            names = ", ".join(map(str, bad))
            found.append(f"{'channels' if len(bad) > 1 else 'channel'} {names} by itself (Shapiro-Wilk)")
        return tuple(found)

    def __str__(self) -> str:
        if self.normal:
            n_channels = len(self.p_channels)
            return f"{self.n} images give no reason to doubt that their {n_channels} channel outputs are Gaussian"
        return (
            f"the channel outputs of {self.n} images are not Gaussian: {'; '.join(self.reasons)}. The Hotelling "
            "template still has the best signal-to-noise ratio of linear ones, but AUC = Phi(SNR / sqrt 2) and exact "
            "intervals do not hold; use held-out scores and DeLong"
        )


def normality(images: Images, channels: np.ndarray | Array | None = None, *, level: float = 0.05) -> NormalityTests:
    """Test whether channel outputs of one class of images are Gaussian; `str` of what is returned says it in words.

    With z the outputs, centred and made white by their covariance (with N)::

        skewness b_1 = 1 / N^2 sum_ij (z_i'z_j)^3,   N b_1 k / 6  ~  chi^2(C (C + 1) (C + 2) / 6)
        kurtosis b_2 = 1 / N sum_i (z_i'z_i)^2,      (b_2 - C (C + 2)) / sqrt(8 C (C + 2) / N)  ~  N(0, 1)

    with k of Mardia 1974 for small N, and the test of Shapiro & Wilk for each channel. Three questions are asked, so
    each is held against a third of `level`.

    Args:
        images : (N, ...) or channel outputs (N, C), of one class.
        channels : (P, C), or None for outputs as they are.
        level : of the whole test.

    Where there are more than 5000 images, the channels' own tests take 5000 of them, spread evenly.

    Raises ValueError for NaN, fewer images than channels, outputs that do not vary, and a level outside of 0 to 1.

    Source: Mardia 1970 and 1974; Shapiro & Wilk 1965; the need for it, Elshahaby et al. 2016.
    """
    if not 0 < level < 1:
        raise ValueError(f"normality: level must be between 0 and 1, got {level}")
    outputs = outputs_on_host(images, None if channels is None else channel_matrix(channels), "normality")
    n, n_channels = outputs.shape
    if n < 4:
        raise ValueError(f"normality needs four images or more, got {n}")
    S = covariance(outputs)
    require_regular(S, n + 1, "normality")
    sd = np.sqrt(np.diag(S) * (n - 1) / n)
    scaled = (outputs - outputs.mean(0)) / sd
    lower = np.linalg.cholesky(S * (n - 1) / n / np.outer(sd, sd))
    z = linalg.solve_triangular(lower, scaled.T, lower=True).T
    step = max(1, _AT_ONCE // n)
    skewness = sum(float(((z[i : i + step] @ z.T) ** 3).sum()) for i in range(0, n, step)) / n**2
    kurtosis = float(((z**2).sum(1) ** 2).mean())
    few = (n_channels + 1) * (n + 1) * (n + 3) / (n * ((n + 1) * (n_channels + 1) - 6))
    p_skewness = float(
        scipy.stats.chi2.sf(n * skewness * few / 6, n_channels * (n_channels + 1) * (n_channels + 2) / 6)
    )
    expected = n_channels * (n_channels + 2)
    p_kurtosis = float(2 * scipy.stats.norm.sf(abs(kurtosis - expected) / math.sqrt(8 * expected / n)))
    taken = scaled[np.linspace(0, n - 1, min(n, _MOST)).astype(int)]
    alone = np.array([float(scipy.stats.shapiro(column).pvalue) for column in taken.T])
    return NormalityTests(skewness, kurtosis, p_skewness, p_kurtosis, _holm(alone), level, n, len(taken))


def _holm(p: np.ndarray) -> np.ndarray:
    """The p values corrected for their number, by Holm 1979."""
    order = np.argsort(p)
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return corrected
