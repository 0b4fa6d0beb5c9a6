"""How wide a point is in every plane, and the levels of blur that planes share."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.special import erfc

from .collimation import GaussianResponse
from .taps import n_passes, possible_cumulant

_LANDINGS = (0.5, 0.75, 1.0, 1.25)  # sigma^2 at the lowest levels, samples squared


class Widths(NamedTuple):
    """What widens a point besides the response, along u and z, for every class of views C; mm^2 and mm^4.

    Args:
        spacing : (2,) mm between samples.
        fixed : (C, 2) variance that sharing between columns and resampling to bins add.
        floor : (C, 2) variance that a point has at least, so that even activity looks even.
        aperture : (2,) size of a bin in mm, over which the camera integrates; 0 where it samples.
        cumulant : (C, 2) the fourth cumulant that is left to the blur, if the whole is to look like a Gaussian seen
            through the bin.
        centred : whether voxels lie at the middle of rows, as far as z goes.
    """

    spacing: np.ndarray
    fixed: np.ndarray
    floor: np.ndarray
    aperture: np.ndarray
    cumulant: np.ndarray
    centred: bool

    def left(self, variance: np.ndarray) -> np.ndarray:
        """Return the variance (C, n, 2) in samples squared that is left to the blur, of a response's (C, n) in mm^2."""
        seen = variance[..., None] + self.aperture**2 / 12
        if self.centred and self.aperture[1]:
            seen[..., 1] = _in_bins(variance, self.aperture[1])
        whole = np.maximum(seen, self.floor[:, None])
        left: np.ndarray = np.maximum(whole - self.fixed[:, None], 0) / self.spacing**2
        return np.where(left < 1e-9, 0, left)

    @property
    def kinks(self) -> np.ndarray:
        """The response's variance (C, 2) in mm^2 up to which the floor is wider."""
        return self.floor - self.aperture**2 / 12


def _in_bins(variance: np.ndarray, bin_size: float) -> np.ndarray:
    """Return the variance in mm^2 of a Gaussian around the centre of a bin, when all that is known is in which bin.

    From a sigma of 0.6 bins on it is variance + bin_size^2 / 12; what is narrower stays in its bin.
    """
    sigma = np.sqrt(np.maximum(variance, 1e-12)) / bin_size
    n = np.arange(1, 9)
    beyond = erfc((n - 0.5) / (math.sqrt(2) * np.minimum(sigma, 1)[..., None]))  # share beyond n - 1/2 on both sides
    found: np.ndarray = np.where(sigma < 1, (beyond * (2 * n - 1)).sum(-1), sigma**2 + 1 / 12) * bin_size**2
    return found


class Levels(NamedTuple):
    """The blur of every class of views: base (C, F, u or z, variance or cumulant), the rest as in the plan."""

    base: np.ndarray
    level: np.ndarray
    upper: np.ndarray
    steps: np.ndarray


def single_level(left: np.ndarray, n_planes: int) -> Levels:
    """Return the levels of a blur that is the same in all planes: `left` (C, 2) samples squared."""
    zeros = np.zeros((left.shape[0], n_planes))
    base = np.stack([left, np.zeros_like(left)], -1)[:, None]
    return Levels(base, zeros.astype(np.int32), zeros, np.zeros_like(base))


def blur_levels(response: GaussianResponse, distances: np.ndarray, widths: Widths, planar: bool) -> Levels:
    """Divide the planes' variances into levels.

    A step is at least a third of the larger sample squared, so that five taps can be non-negative along u and z, and
    grows with the variance. Below that come the fixed landings, as far as there are planes so near. Where an axis
    comes off its floor there is a level, too.
    """
    variance, square = response_variance(response, distances), widths.spacing**2
    used = 1 if planar else 2
    smallest, largest = min(square[:used].max() / 3, square[:used].min() * 2 / 3), square[:used].min() * 4 / 3
    ladders, n_free = [], 1
    for (nearest, *_, farthest), fixed, kinks in zip(variance, widths.fixed, widths.kinks[:, :used]):
        ladder = [max(nearest, kinks.min())]
        landings = [w * square[0] for w in _LANDINGS if (w - 0.2) * square[0] < farthest]
        kinks = [k for k in sorted(kinks) if ladder[0] + 0.05 * smallest < k < farthest]
        low = [k for k in kinks if landings and k < landings[-1]]
        ladder += [w for w in sorted({*landings, *low}) if w > ladder[0]]
        n_free = max(n_free, len(ladder))
        while ladder[-1] < farthest:
            step = np.clip((ladder[-1] - fixed[0]) / 4, smallest, largest)
            ladder.append(min([k for k in kinks if 0.05 < (k - ladder[-1]) / step < 1] + [ladder[-1] + step]))
        ladders.append(np.array(ladder))
    n_levels = max(map(len, ladders))
    position = np.stack([np.interp(v, ladder, np.arange(ladder.size)) for v, ladder in zip(variance, ladders)])
    level = np.clip(np.floor(position), 0, max(n_levels - 2, 0)).astype(np.int32)
    left = widths.left(np.stack([np.pad(ladder, (0, n_levels - ladder.size), mode="edge") for ladder in ladders]))
    if planar:
        left[..., 1] = 0
    wanted = widths.cumulant / square**2
    base, steps = _cumulants(left, min(n_levels, max(n_free, 2)), wanted[:, None])
    return Levels(base, level, position - level, steps)


def _cumulants(left: np.ndarray, n_free: int, plain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the (variance, fourth cumulant) of the lowest `n_free` levels and of the steps.

    Args:
        left : (C, levels, 2) variance left to the blur, samples squared.
        plain : (C, 1, 2) fourth cumulant that a plane by itself should get, samples^4.

    A plane between two levels is a mixture of two Gaussians: its fourth cumulant is up to 3/4 of the step squared, so
    every level gets half of that with a minus sign, as far as its taps stay non-negative. The peak of a point then is
    within 2 % of that of a Gaussian seen through the bin, from a sigma of one sample on, wherever it lies.
    """
    step = np.diff(left, axis=1, prepend=left[:, :1])
    above = np.concatenate([step[:, 1:], step[:, -1:]], axis=1)
    wanted = -0.375 * above**2 + plain
    fourth = np.zeros_like(left)
    lowest, goal = left[:, :n_free], wanted[:, :n_free]
    fourth[:, :n_free] = np.where(lowest > 2 / 3, goal, possible_cumulant(lowest, goal))
    reached = fourth[:, n_free - 1]
    for k in range(n_free, left.shape[1]):
        passes = np.maximum(n_passes(step[:, k]), 1)
        fourth[:, k] = passes * possible_cumulant(step[:, k] / passes, (wanted[:, k] - reached) / passes)
        reached = reached + fourth[:, k]
    return np.stack([left, fourth], -1)[:, :n_free], np.stack([step, fourth], -1)


def checked_sigma(response: GaussianResponse, distance: np.ndarray) -> np.ndarray:
    """Return sigma in mm, after checking what the response says."""
    sigma = np.asarray(response.sigma(distance), float)
    if sigma.shape != distance.shape or not np.all(np.isfinite(sigma)) or np.any(sigma < 0):
        raise ValueError(f"{response!r} must give one finite sigma >= 0 (mm) for each distance")
    return sigma


def response_variance(response: GaussianResponse, distance: np.ndarray) -> np.ndarray:
    """Return sigma^2 in mm^2, which must not fall with the distance."""
    sigma = checked_sigma(response, distance)
    if np.any(np.diff(sigma, axis=1) < -1e-9):
        raise ValueError(f"{response!r} gets narrower with distance; give its kernels as a MeasuredResponse instead")
    variance: np.ndarray = np.maximum.accumulate(sigma, axis=1) ** 2
    return variance
