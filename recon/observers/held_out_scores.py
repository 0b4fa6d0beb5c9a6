"""Scores of images that the observer was not trained on: split in two, or one left out at a time."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike

from .areas import Measured, area_interval, require_level
from .hotelling import ChannelisedHotelling, Images, classes, covariance, require_regular, solved

_AT_ONCE = 2**20  # pairs


class Observer(Protocol):
    """What is asked of an observer: it learns from images of both classes, and scores others."""

    def fit(self, absent: Images, present: Images) -> object:
        """Learn from images without (m, ...) and with the signal (n, ...)."""
        ...

    def scores(self, images: Images) -> np.ndarray:
        """Return scores (N,) of images (N, ...)."""
        ...


def held_out(
    observer: Observer,
    absent: Images,
    present: Images,
    *,
    fraction: float = 0.5,
    seed: int = 0,
    groups: tuple[ArrayLike, ArrayLike] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Train a copy of an observer on a part of the images, and return its scores of the others, absent and present.

    Args:
        observer : anything with `fit` and `scores`; it stays as it is.
        absent, present : (m, ...) and (n, ...).
        fraction : of each class that is held out.
        seed : of the choice.
        groups : for each image of both classes a label, such as its patient: images of one label stay together, and
            the fraction is that of the labels.

    Raises ValueError for a fraction that leaves less than two images to train or test with.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"held_out: fraction must be between 0 and 1, got {fraction}")
    random = np.random.default_rng(seed)
    sizes = (len(absent), len(present))
    if groups is None:
        tested = [np.isin(np.arange(n), random.permutation(n)[: round(fraction * n)]) for n in sizes]
    else:
        labels = [np.asarray(group) for group in groups]
        if tuple(map(len, labels)) != sizes:
            raise ValueError(f"held_out: groups must have {sizes} labels, got {tuple(map(len, labels))}")
        different = np.unique(np.concatenate(labels))
        chosen = random.permutation(different)[: round(fraction * len(different))]
        tested = [np.isin(group, chosen) for group in labels]
    for test in tested:
        if test.sum() < 2 or (~test).sum() < 2:
            raise ValueError(
                f"held_out: {test.sum()} images to test and {(~test).sum()} to train of a class; both need two or more"
            )
    trained = copy.copy(observer)
    trained.fit(*(_taken(images, ~test) for images, test in zip((absent, present), tested)))
    first, second = (trained.scores(_taken(images, test)) for images, test in zip((absent, present), tested))
    return first, second


def leave_one_out(observer: ChannelisedHotelling, absent: Images, present: Images) -> tuple[np.ndarray, np.ndarray]:
    """Return the score of every image by the template of all others, absent (m,) and present (n,).

    The covariance without image i is that of all less a rank-one part, ``S_-i = A - c d_i d_i'``, so that no template
    is solved for anew; scores are about the middle b of the two mean outputs, ``w_-i'(v_i - b)``, for templates that
    differ have different offsets. Where the true area is 0.5 the area of these scores is a little below on average (by
    0.01 to 0.02 with 200 images of each class), since different templates are put in one ranking; `leave_pair_out_area`
    has no such bias. With internal noise on channels, its variance is that of all images.

    Args:
        observer : a `ChannelisedHotelling`, fitted or not; it stays as it is.

    Raises ValueError as `ChannelisedHotelling.fit` does, and for less than three images in a class.
    """
    parts = _parts(observer, absent, present)
    scores = []
    for own, other, sign in ((parts.absent, parts.present, -1.0), (parts.present, parts.absent, 1.0)):
        n, d = len(own.centred), own.centred
        A = covariance(other.centred) / 2 + own.without + parts.noise
        require_regular(A, n + len(other.centred) - 1, "leave_one_out")
        seen, c = own.seen - parts.middle, own.downdate
        right = solved(A, np.concatenate([d, seen, parts.difference[None]]).T).T
        Ad, Aseen, Adv = right[:n], right[n : 2 * n], right[-1]
        dAd, dAseen = (d * Ad).sum(1), (d * Aseen).sum(1)
        # dv_-i = dv - sign d_i / (n - 1)
        plain = seen @ Adv - sign * dAseen / (n - 1)
        scores.append(plain + c * (d @ Adv - sign * dAd / (n - 1)) * dAseen / (1 - c * dAd))
    return scores[0] + parts.absent.decision, scores[1] + parts.present.decision


def leave_pair_out_area(
    observer: ChannelisedHotelling, absent: Images, present: Images, *, level: float = 0.95
) -> Measured:
    """Return the area under the ROC curve where each pair of images is compared by the template of all others.

    For each of the m n pairs ``w_-ij'(y_i - x_j)`` counts 1 above, 1/2 at zero. Its mean is that of the observer
    trained on one image less of each class, without bias; all templates come from two rank-one parts taken off one
    covariance. The interval is DeLong's, of these images for nearly this template: how templates of other training
    images would differ is not in it.

    Raises ValueError as `leave_one_out` does.

    Source: Airola et al. 2011 (leave-pair-out).
    """
    require_level(level)
    parts = _parts(observer, absent, present)
    one, two = parts.present, parts.absent
    n, m = len(one.centred), len(two.centred)
    B = one.without + two.without + parts.noise
    require_regular(B, m + n - 2, "leave_pair_out_area")
    dv, d, e = parts.difference, one.centred, two.centred
    f, g = one.seen - one.mean, two.seen - two.mean  # with internal noise, the ones that are scored
    e_, g_, dv_ = (solved(B, part.T).T for part in (e, g, dv[None]))
    dv_ = dv_[0]
    beta, e_g, dv_e, dv_g = (e * e_).sum(1), (e * g_).sum(1), e @ dv_, g @ dv_
    of_present, of_absent = np.empty(n), np.zeros(m)
    step = max(1, _AT_ONCE // m)
    for start in range(0, n, step):
        rows = slice(start, start + step)
        d_ = solved(B, d[rows].T).T
        gamma, d_g, e_f = d[rows] @ e_.T, d[rows] @ g_.T, f[rows] @ e_.T
        alpha, d_f = ((d[rows] * d_).sum(1))[:, None], ((f[rows] * d_).sum(1))[:, None]
        dv_d, dv_f = (d[rows] @ dv_)[:, None], (f[rows] @ dv_)[:, None]
        # L = dv - d / (n - 1) + e / (m - 1), the difference without the pair; R = dv + f - g, what it is asked about
        dR, eR = dv_d + d_f - d_g, dv_e + e_f - e_g
        LR = dv @ dv_ + dv_f - dv_g - dR / (n - 1) + eR / (m - 1)
        dL, eL = dv_d - alpha / (n - 1) + gamma / (m - 1), dv_e - gamma / (n - 1) + beta / (m - 1)
        first, second = 1 / one.downdate - alpha, 1 / two.downdate - beta
        determinant = first * second - gamma**2
        scores = LR + (dL * second * dR + dL * gamma * eR + eL * gamma * dR + eL * first * eR) / determinant
        scores += one.decision[rows, None] - two.decision
        won = (scores > 0) + 0.5 * (scores == 0)
        of_present[rows] = won.mean(1)
        of_absent += won.sum(0) / n
    return area_interval(float(of_present.mean()), of_absent, of_present, "delong", level)


class _Class(NamedTuple):
    """One class: outputs less their mean, outputs with internal noise, and what is left of S without one of them."""

    mean: np.ndarray
    centred: np.ndarray
    seen: np.ndarray
    decision: np.ndarray  # internal noise of the scores
    without: np.ndarray  # (n - 1) / (2 (n - 2)) S
    downdate: float  # n / (2 (n - 1) (n - 2)): S_-i / 2 = without - downdate d d'


class _Parts(NamedTuple):
    absent: _Class
    present: _Class
    difference: np.ndarray
    middle: np.ndarray
    noise: np.ndarray


def _parts(observer: ChannelisedHotelling, absent: Images, present: Images) -> _Parts:
    if not isinstance(observer, ChannelisedHotelling):
        raise ValueError(f"images are left out of a ChannelisedHotelling, got {type(observer).__name__}; use held_out")
    both = classes(absent, present, observer.channels)
    if min(map(len, both)) < 3:
        raise ValueError(f"leaving one out needs three images of each class, got {len(both[0])} and {len(both[1])}")
    alpha, on_channels = observer.internal_noise, observer.noise_on == "channels"
    S = both.covariance
    noise = alpha**2 * np.diag(np.diag(S)) if on_channels else np.zeros_like(S)
    require_regular(S + noise, sum(map(len, both)), "leaving images out")
    spread = np.sqrt(max(float(both.difference @ solved(S, both.difference)), 0.0)) if alpha else 0.0
    made = []
    for outputs in both:
        n = len(outputs)
        seen, decision = outputs, np.zeros(n)
        if alpha:
            random = np.random.default_rng([observer.seed, zlib.crc32(outputs.tobytes())])
            if on_channels:
                seen = outputs + random.normal(size=outputs.shape) * alpha * np.sqrt(np.diag(S))
            else:
                decision = alpha * spread * random.normal(size=n)
        mean = outputs.mean(0)
        without = (n - 1) / (2 * (n - 2)) * covariance(outputs)
        made.append(_Class(mean, outputs - mean, seen, decision, without, n / (2 * (n - 1) * (n - 2))))
    return _Parts(made[0], made[1], both.difference, (made[0].mean + made[1].mean) / 2, noise)


def _taken(images: Images, which: np.ndarray) -> Images:
    if isinstance(images, Sequence):
        return [images[int(i)] for i in np.flatnonzero(which)]
    return images[which]
