"""Lesions at unknown places: an observer that scans candidate positions, and areas under its LROC curve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import fft

from emrecon.projectors.core.arrays import Array, to_numpy

from .areas import (
    AreaComparison,
    Measured,
    Placements,
    Scores,
    area_interval,
    compared,
    placements,
    require_level,
)
from .channels import channel_matrix
from .hotelling import Images, covariance, require_regular, solved

_AT_ONCE = 2**22
_TEMPLATES = ("shared", "each")


class Found(NamedTuple):
    """What a scan of images found: the largest score (N,) and where it is (N, axes), in voxels."""

    ratings: np.ndarray
    places: np.ndarray


class LROCPoints(NamedTuple):
    """Points of an LROC curve: present images above the threshold and localised, against false positives."""

    false_positive: np.ndarray
    true_and_localised: np.ndarray
    thresholds: np.ndarray


class ScanningHotelling:
    """A channelised Hotelling observer for a signal at an unknown place, one of known candidates.

    With v_k the channel outputs around position k, b_k their mean in images without the signal, s the mean of v - b
    around true places::

        z_k = w_k'(v_k - b_k) - w_k's / 2,   w_k = S_k^-1 s,   rating = max_k z_k,   place = argmax_k z_k

    which for Gaussian outputs is the position of the largest likelihood ratio.

    Args:
        channels : (P, C) for patches of P voxels.
        patch : their shape, odd numbers, so that a voxel is in the middle.
        positions : candidate places (K, axes), the voxels patches are centred on.
        template : "shared", one S of all positions and the present images; "each", S_k of the images without the
            signal at that position (more images needed, better where noise changes with the place).

    Raises ValueError for even patches, channels of another size, and positions that are not whole numbers.

    Source: Gifford et al. 2005 (scanning observers); the background's mean taken off as in the visual-search models of
    Gifford 2014.
    """

    def __init__(
        self, channels: np.ndarray | Array, patch: Sequence[int], positions: ArrayLike, template: str = "shared"
    ) -> None:
        self.channels, self.patch = channel_matrix(channels), tuple(int(n) for n in patch)
        if template not in _TEMPLATES:
            raise ValueError(f"unknown template {template!r}; choose from {', '.join(_TEMPLATES)}")
        if not all(n % 2 for n in self.patch) or math.prod(self.patch) != len(self.channels):
            raise ValueError(
                f"ScanningHotelling: patches must have odd sizes and {len(self.channels)} voxels, got {self.patch}"
            )
        self.positions, self.template = _voxels(positions, len(self.patch), "positions"), template
        self._background: np.ndarray | None = None
        self._weights = self._signal = np.empty(0)
        self._shape: tuple[int, ...] = ()

    def fit(self, absent: Images, present: Images, places: ArrayLike) -> ScanningHotelling:
        """Train on images without the signal (m, ...), and with it (n, ...) at places (n, axes); returns the observer.

        Raises ValueError for a patch that reaches out of the image, images of different sizes, NaN, and singular
        covariances.
        """
        without, with_signal = _stacked(absent), _stacked(present)
        true = _voxels(places, len(self.patch), "places")
        if without.shape[1:] != with_signal.shape[1:]:
            raise ValueError(
                f"images without the signal are {without.shape[1:]}, those with it {with_signal.shape[1:]}"
            )
        if len(true) != len(with_signal) or len(without) < 2 or len(true) < 2:
            raise ValueError(
                f"ScanningHotelling.fit: {len(without)} images without, {len(with_signal)} with the signal, "
                f"{len(true)} places; two images of each class or more, and a place for every image with the signal"
            )
        kernels = self.channels.T.reshape(-1, *self.patch)
        outputs = self._seen(without, kernels, self.positions)
        background = outputs.mean(0)
        centred = outputs - background
        different, which = np.unique(true, axis=0, return_inverse=True)
        around = self._seen(without, kernels, different).mean(0)[which.ravel()]
        own = self._seen(with_signal, kernels, different)[np.arange(len(true)), which.ravel()] - around
        signal = own.mean(0)
        n_channels = len(signal)
        if self.template == "shared":
            flat = centred.reshape(-1, n_channels)
            S = (flat.T @ flat / ((len(without) - 1) * len(self.positions)) + covariance(own)) / 2
            require_regular(S, len(without) + len(own), "ScanningHotelling.fit")
            weights = np.broadcast_to(solved(S, signal), background.shape)
        else:
            each = []
            for k in range(len(self.positions)):
                S = covariance(outputs[:, k])
                require_regular(S, len(without) + 1, f"ScanningHotelling.fit at {tuple(self.positions[k].tolist())}")
                each.append(solved(S, signal))
            weights = np.stack(each)
        self._background, self._weights, self._signal, self._shape = background, weights, signal, without.shape[1:]
        return self

    def scan(self, images: Images) -> Found:
        """Return the rating of every image and the place it was found at.

        Raises ValueError before `fit`, and for images of another size.
        """
        z = self.score_positions(images)
        best = z.argmax(1)
        return Found(z[np.arange(len(z)), best], self.positions[best])

    def score_positions(self, images: Images) -> np.ndarray:
        """Return z (N, K), the score of every candidate position."""
        if self._background is None:
            raise ValueError("ScanningHotelling: call fit(absent, present, places) first")
        stacked = _stacked(images)
        if stacked.shape[1:] != self._shape:
            raise ValueError(f"ScanningHotelling was fitted to images {self._shape}, got {stacked.shape[1:]}")
        offset = (self._weights * (self._background + self._signal / 2)).sum(1)
        if self.template == "shared":
            kernel = (self.channels @ self._weights[0]).reshape(1, *self.patch)
            return np.asarray(self._seen(stacked, kernel, self.positions)[..., 0] - offset)
        kernels = self.channels.T.reshape(-1, *self.patch)
        z = np.einsum("nkc,kc->nk", self._seen(stacked, kernels, self.positions), self._weights)
        return np.asarray(z - offset)

    def scores(self, images: Images) -> np.ndarray:
        """Return the rating of every image, (N,)."""
        return self.scan(images).ratings

    def _seen(self, images: np.ndarray, kernels: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Products of kernels with the patches around positions, (N, K, kernels), by a transform of the image."""
        shape, half = images.shape[1:], (np.array(self.patch) - 1) // 2
        if len(shape) != len(self.patch):
            raise ValueError(f"ScanningHotelling: images of {len(shape)} axes, patches of {len(self.patch)}")
        corners = positions - half
        outside = ((corners < 0) | (corners + self.patch > shape)).any(1)
        if outside.any():
            first = tuple(positions[outside][0].tolist())
            raise ValueError(
                f"ScanningHotelling: around {outside.sum()} of {len(positions)} positions, such as {first}, the patch "
                f"{self.patch} reaches out of the image {shape}; leave them out or pad the images"
            )
        axes = tuple(range(1, len(shape) + 1))
        turned = np.conj(fft.rfftn(kernels, s=shape, axes=axes))
        index = (slice(None), *corners.T)
        seen = np.empty((len(images), len(positions), len(kernels)))
        step = max(1, _AT_ONCE // math.prod(shape))
        for start in range(0, len(images), step):
            spectrum = fft.rfftn(images[start : start + step].astype(float), axes=axes)
            for c, kernel in enumerate(turned):
                seen[start : start + step, :, c] = fft.irfftn(spectrum * kernel, s=shape, axes=axes)[index]
        return seen


def localised(
    found: ArrayLike, true: ArrayLike, radius: float, voxel_size: float | Sequence[float] = 1.0
) -> np.ndarray:
    """Return whether places found (N, axes) are within a radius of the true ones (N, axes), (N,) bool.

    Args:
        radius : in the unit of the voxel size: voxels unless that is given.

    Raises ValueError for different shapes and a radius that is not positive.
    """
    a, b = np.asarray(found, float), np.asarray(true, float)
    if a.shape != b.shape or a.ndim != 2 or not radius > 0:
        raise ValueError(
            f"localised: places of shapes {a.shape} and {b.shape}, radius {radius}; expected (N, axes) twice"
        )
    distances = np.linalg.norm((a - b) * np.asarray(voxel_size, float), axis=1)
    return np.asarray(distances <= radius)


def area_under_lroc(
    absent_scores: Scores,
    present_scores: Scores,
    correct: ArrayLike,
    *,
    method: str = "delong",
    level: float = 0.95,
) -> Measured:
    """Return the area under the LROC curve with its interval.

    The chance that an image with the signal has the larger rating *and* is localised::

        A_L = 1 / (m n) sum_ij c_j (1 where y_j > x_i, 1/2 where y_j = x_i)

    A guess among K places has 1 / (2 K), not 1/2. The variance is that of DeLong with the ratings of images that were
    not localised put below all others.

    Args:
        absent_scores, present_scores : ratings x (m,) and y (n,), finite.
        correct : (n,) whether each image with the signal was localised (`localised`).
        method, level : "delong" or "logit", as for `area_under_curve`.

    Raises ValueError for scores that are not finite, other shapes, and an unknown method.

    Source: Swensson 1996 (the curve); Wunderlich & Noo 2012 (area and covariance without a model).
    """
    require_level(level)
    if method not in ("delong", "logit"):
        raise ValueError(f"unknown method {method!r}; choose from delong, logit")
    return area_interval(*_lroc(absent_scores, present_scores, correct, ""), method, level)


def compare_lroc_areas(
    first: tuple[Scores, Scores, ArrayLike],
    second: tuple[Scores, Scores, ArrayLike],
    *,
    paired: bool = True,
    level: float = 0.95,
) -> AreaComparison:
    """Compare the areas under two LROC curves; `first` and `second` are (absent_scores, present_scores, correct).

    Paired: number i of both is one image, or two reconstructions of one scan.

    Raises ValueError as `area_under_lroc` does, and for pairs of different numbers.

    Source: Wunderlich & Noo 2012.
    """
    require_level(level)
    one, two = _lroc(*first, "first: "), _lroc(*second, "second: ")
    if paired and (one.of_absent.shape, one.of_present.shape) != (two.of_absent.shape, two.of_present.shape):
        raise ValueError("compare_lroc_areas: paired ratings must be those of the same images; or give paired=False")
    return compared(one, two, paired, level)


def lroc_curve(absent_scores: Scores, present_scores: Scores, correct: ArrayLike) -> LROCPoints:
    """Return the points of the LROC curve, from (0, 0) to (1, part localised).

    Raises ValueError as `area_under_lroc` does.
    """
    x, y, right = _ratings(absent_scores, present_scores, correct, "")
    thresholds = np.unique(np.concatenate([x, y]))[::-1]
    false = (x[:, None] >= thresholds).mean(0)
    true = ((y[:, None] >= thresholds) & right[:, None]).mean(0)
    return LROCPoints(np.append(0.0, false), np.append(0.0, true), np.append(np.inf, thresholds))


def _lroc(absent: Scores, present: Scores, correct: ArrayLike, who: str) -> Placements:
    x, y, right = _ratings(absent, present, correct, who)
    return placements(x, np.where(right, y, -np.inf))


def _ratings(
    absent: Scores, present: Scores, correct: ArrayLike, who: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, y = (np.asarray(to_numpy(scores), float) for scores in (absent, present))
    right = np.asarray(to_numpy(correct))
    if x.ndim != 1 or y.ndim != 1 or min(len(x), len(y)) < 2 or not np.isfinite(np.concatenate([x, y])).all():
        raise ValueError(f"{who}ratings must be finite, two or more of each class, got shapes {x.shape} and {y.shape}")
    if right.shape != y.shape or not np.isin(right, (0, 1)).all():
        raise ValueError(f"{who}correct must say yes or no for each of {len(y)} images, got shape {right.shape}")
    return x, y, right.astype(bool)


def _voxels(places: ArrayLike, n_axes: int, name: str) -> np.ndarray:
    values = np.asarray(places)
    if values.ndim != 2 or values.shape[1] != n_axes or not len(values) or not np.all(values == np.round(values)):
        raise ValueError(f"ScanningHotelling: {name} must be whole voxels (places, {n_axes}), got shape {values.shape}")
    return values.astype(int)


def _stacked(images: Images) -> np.ndarray:
    stacked = to_numpy(images) if hasattr(images, "shape") else np.stack([to_numpy(one) for one in images])
    if not np.isfinite(stacked).all():
        raise ValueError("ScanningHotelling: images hold NaN or infinite values")
    return stacked
