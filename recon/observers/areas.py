"""Areas under ROC curves with their intervals, their comparison, and what they say of detectability."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import ArrayLike
from scipy import special

from emrecon.projectors.core.arrays import Array, to_numpy

Scores = Array | ArrayLike

_METHODS = ("delong", "logit", "gaussian")


@dataclass(frozen=True)
class Measured:
    """A number with its interval; `value, interval = measured` takes it apart.

    Args:
        value : the estimate.
        low, high : ends of the interval.
        standard_error : of the value; NaN where the interval does not rest on one.
        n_absent, n_present : how many images it rests on.
        level : of the interval, such as 0.95.
        method : how the interval was made.
        note : what a reader of the interval has to know, empty as a rule.
    """

    value: float
    low: float
    high: float
    standard_error: float
    n_absent: int
    n_present: int
    level: float
    method: str
    note: str = ""

    @property
    def interval(self) -> tuple[float, float]:
        """(low, high)."""
        return self.low, self.high

    def __iter__(self) -> Iterator[float | tuple[float, float]]:
        yield self.value
        yield self.interval

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        text = f"{self.value:.4g} ({self.low:.4g} to {self.high:.4g})"
        return f"{text}; {self.note}" if self.note else text


class ROCPoints(NamedTuple):
    """Points of an ROC curve from (0, 0) to (1, 1): a score of at least the threshold counts as present."""

    false_positive: np.ndarray
    true_positive: np.ndarray
    thresholds: np.ndarray


@dataclass(frozen=True)
class AreaComparison:
    """Two areas under ROC curves, and their difference.

    Args:
        first, second : each with its interval.
        difference : second less first, with its interval.
        p : of the two-sided test that both are the same.
        correlation : of the two areas, 0 for images of their own.
    """

    first: Measured
    second: Measured
    difference: Measured
    p: float
    correlation: float


def area_under_curve(
    absent_scores: Scores, present_scores: Scores, *, method: str = "delong", level: float = 0.95
) -> Measured:
    """Return the area under the ROC curve with its interval: `value, (low, high) = area_under_curve(...)`.

    The area is that of Mann and Whitney, the chance that an image with the signal has the larger score, ties counting
    half::

        A = 1 / (m n) sum_ij (1 where y_j > x_i, 1/2 where y_j = x_i)

    Args:
        absent_scores, present_scores : x (m,) and y (n,).
        method : "delong", A +- z s with the variance of DeLong et al. and cut at 0 and 1; "logit", the same on the
            scale log(A / (1 - A)), which keeps inside 0 and 1 and is better near them; "gaussian", exact where the
            scores of both classes are Gaussian with one variance: by the noncentral t distribution of d, their
            standardised difference (value and interval are those of Phi(d / sqrt 2), d corrected for its bias).
        level : of the interval.

    Where the scores are separated completely, or all the same, the variance of DeLong is zero and says nothing. The
    interval then is that of k = min(m, n) pairs without a common image: (alpha / 2)^(1/k) to 1 for complete separation,
    A +- sqrt(log(2 / alpha) / (2 k)) for others; `note` says so.

    Raises ValueError for NaN, for less than two scores in a class, and for an unknown method.

    Source: DeLong et al. 1988, with the ranks of Sun & Xu 2014; Pepe 2003, section 5.2 (logit).
    """
    x, y = _scores(absent_scores, "absent_scores"), _scores(present_scores, "present_scores")
    if method not in _METHODS:
        raise ValueError(f"unknown method {method!r}; choose from {', '.join(_METHODS)}")
    require_level(level)
    if method == "gaussian":
        return _gaussian_area(x, y, level)
    area, of_absent, of_present = placements(x, y)
    return area_interval(area, of_absent, of_present, method, level)


def compare_areas(
    first_absent: Scores,
    first_present: Scores,
    second_absent: Scores,
    second_present: Scores,
    *,
    paired: bool = True,
    level: float = 0.95,
) -> AreaComparison:
    """Compare the areas under two ROC curves, with what the images have in common.

    Args:
        first_absent, first_present, second_absent, second_present : scores, (m,) and (n,) each. Paired: number i of the
            first and of the second is one image, or two reconstructions of one scan.
        paired : else the images of the two have nothing in common.
        level : of the intervals.

    Raises ValueError as `area_under_curve` does, and for pairs of different numbers. Where the difference has no
    variance, p is 1 for equal areas and NaN for others, with a note.

    Source: DeLong et al. 1988.
    """
    require_level(level)
    kinds = ("first_absent", "first_present", "second_absent", "second_present")
    given = [_scores(s, kind) for s, kind in zip((first_absent, first_present, second_absent, second_present), kinds)]
    if paired and (len(given[0]), len(given[1])) != (len(given[2]), len(given[3])):
        raise ValueError(
            f"compare_areas: paired scores of {len(given[0])} + {len(given[1])} and {len(given[2])} + {len(given[3])} "
            "images; give both for the same images, or paired=False"
        )
    return compared(placements(given[0], given[1]), placements(given[2], given[3]), paired, level)


def roc_curve(absent_scores: Scores, present_scores: Scores) -> ROCPoints:
    """Return the points of the ROC curve, one for each different score, tied ones together.

    Raises ValueError for NaN and for less than two scores in a class.
    """
    x, y = _scores(absent_scores, "absent_scores"), _scores(present_scores, "present_scores")
    thresholds = np.unique(np.concatenate([x, y]))[::-1]
    fractions = [1 - np.searchsorted(np.sort(s), thresholds, side="left") / len(s) for s in (x, y)]
    false, true = (np.concatenate([[0.0], f]) for f in fractions)
    return ROCPoints(false, true, np.concatenate([[np.inf], thresholds]))


def detectability(
    absent_scores: Scores, present_scores: Scores, *, method: str = "delong", level: float = 0.95
) -> Measured:
    """Return d_A = sqrt 2 Phi^-1(A) of the area under the ROC curve, with the interval of the area on that scale.

    Infinite where the area is 1, and -infinite where it is 0: no finite number of images bounds it there.

    Raises ValueError as `area_under_curve` does.

    Source: Simpson & Fitter 1973.
    """
    area = area_under_curve(absent_scores, present_scores, method=method, level=level)
    value, low, high = (math.sqrt(2) * float(special.ndtri(a)) for a in (area.value, *area.interval))
    density = math.exp(-(value**2) / 4) / math.sqrt(2 * math.pi) if math.isfinite(value) else math.nan
    error = area.standard_error * math.sqrt(2) / density if density else math.nan
    return replace(area, value=value, low=low, high=high, standard_error=error)


class Placements(NamedTuple):
    """An area and its structural components: for each absent score the part of present ones above it, and so on."""

    area: float
    of_absent: np.ndarray
    of_present: np.ndarray


def placements(x: np.ndarray, y: np.ndarray) -> Placements:
    """Return the area of scores x (m,) and y (n,) with its structural components, by ranks; -inf is a score, too."""
    m, n = len(x), len(y)
    together = scipy.stats.rankdata(np.concatenate([x, y]))
    above_absent = 1 - (together[:m] - scipy.stats.rankdata(x)) / n  # part of y above each x
    below_present = (together[m:] - scipy.stats.rankdata(y)) / m  # part of x below each y
    return Placements(float(below_present.mean()), above_absent, below_present)


def area_interval(area: float, of_absent: np.ndarray, of_present: np.ndarray, method: str, level: float) -> Measured:
    """Return an area with the interval that its structural components give."""
    m, n = len(of_absent), len(of_present)
    variance = float(of_absent.var(ddof=1) / m + of_present.var(ddof=1) / n)
    if not variance > 1e-24:
        return _without_variance(area, m, n, level)
    error, z = math.sqrt(variance), float(special.ndtri((1 + level) / 2))
    if method == "logit":
        centre, width = float(special.logit(area)), z * error / (area * (1 - area))
        low, high = (float(special.expit(centre + side * width)) for side in (-1, 1))
    else:
        low, high = max(area - z * error, 0.0), min(area + z * error, 1.0)
    return Measured(area, low, high, error, m, n, level, method)


def compared(first: Placements, second: Placements, paired: bool, level: float) -> AreaComparison:
    """Return the comparison of two areas from their structural components."""
    areas = [area_interval(*one, "delong", level) for one in (first, second)]
    variances = [_covariance(one, one) for one in (first, second)]
    shared = _covariance(first, second) if paired else 0.0
    difference, variance = second.area - first.area, sum(variances) - 2 * shared
    product = math.prod(variances)
    correlation = shared / math.sqrt(product) if product > 0 else 0.0
    (m, n), z = (len(first.of_absent), len(first.of_present)), float(special.ndtri((1 + level) / 2))
    if variance > 1e-24:
        error = math.sqrt(variance)
        p, note = float(2 * special.ndtr(-abs(difference) / error)), ""
    else:
        error, p = 0.0, 1.0 if difference == 0 else math.nan
        note = "the difference has no variance in these images: the interval says nothing of others"
    ends = (max(difference - z * error, -1.0), min(difference + z * error, 1.0))
    measured = Measured(difference, *ends, error, m, n, level, "delong", note)
    return AreaComparison(areas[0], areas[1], measured, p, correlation)


def require_level(level: float) -> None:
    """Raise ValueError for a level of confidence outside of 0 to 1."""
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, such as 0.95, got {level}")


def noncentral_bounds(found: float, cdf: object, level: float, largest: float) -> tuple[float, float]:
    """Return the noncentralities at which `cdf(found, noncentrality)` is (1 + level) / 2 and (1 - level) / 2.

    Args:
        cdf : falls with the noncentrality.
        largest : where the search for the upper end begins.

    A bound that would lie below zero is zero.
    """
    assert callable(cdf)
    bounds = []
    for wanted in ((1 + level) / 2, (1 - level) / 2):
        if cdf(found, 0.0) <= wanted:
            bounds.append(0.0)
            continue
        end = max(largest, 1.0)
        while cdf(found, end) > wanted:
            end *= 2
        bounds.append(
            float(scipy.optimize.brentq(lambda value, wanted=wanted: cdf(found, value) - wanted, 0.0, end, xtol=1e-10))
        )
    return bounds[0], bounds[1]


def _gaussian_area(x: np.ndarray, y: np.ndarray, level: float) -> Measured:
    m, n = len(x), len(y)
    freedom, effective = m + n - 2, m * n / (m + n)
    variance = ((m - 1) * x.var(ddof=1) + (n - 1) * y.var(ddof=1)) / freedom
    if not variance > 0:
        return _without_variance(placements(x, y).area, m, n, level)
    d = float((y.mean() - x.mean()) / math.sqrt(variance))
    sign, t = (1 if d >= 0 else -1), abs(d) * math.sqrt(effective)

    spread, weights = _chi_nodes(freedom)

    def chance(found: float, noncentrality: float) -> float:
        """The noncentral t distribution as the mean of Phi(t s - d) over s; SciPy's has gaps for small chances."""
        return float(weights @ special.ndtr(found * spread - noncentrality))

    ends = []  # a bound of either sign: the noncentral t is that of the difference itself
    for wanted in ((1 + level) / 2, (1 - level) / 2):
        span = 10.0
        while not chance(t, t - span) > wanted > chance(t, t + span):
            span *= 2
        ends.append(
            float(
                scipy.optimize.brentq(
                    lambda value, wanted=wanted: chance(t, value) - wanted, t - span, t + span, xtol=1e-10
                )
            )
        )
    low, high = sorted(sign * end / math.sqrt(effective) for end in ends)
    corrected = d * math.exp(math.lgamma(freedom / 2) - math.lgamma((freedom - 1) / 2)) / math.sqrt(freedom / 2)
    value, low, high = (float(special.ndtr(one / math.sqrt(2))) for one in (corrected, low, high))
    return Measured(value, low, high, math.nan, m, n, level, "gaussian")


@cache
def _chi_nodes(freedom: int) -> tuple[np.ndarray, np.ndarray]:
    """Values of sqrt(chi^2 / freedom) and their weights, which sum to 1."""
    nodes, weights = np.polynomial.legendre.leggauss(400)
    return np.sqrt(2 * special.gammaincinv(freedom / 2, (nodes + 1) / 2) / freedom), weights / 2


def _without_variance(area: float, m: int, n: int, level: float) -> Measured:
    k, alpha = min(m, n), 1 - level
    if area in (0.0, 1.0):
        bound = (alpha / 2) ** (1 / k)
        low, high = (bound, 1.0) if area == 1 else (0.0, 1 - bound)
        note = f"the scores are separated completely: the interval is the exact one of {k} independent pairs"
    else:
        width = math.sqrt(math.log(2 / alpha) / (2 * k))
        low, high = max(area - width, 0.0), min(area + width, 1.0)
        note = f"the scores have no variance of use: the interval is a wide one that holds for {k} independent pairs"
    return Measured(area, low, high, math.nan, m, n, level, "pairs", note)


def _covariance(first: Placements, second: Placements) -> float:
    parts = ((first.of_absent, second.of_absent), (first.of_present, second.of_present))
    return float(sum(np.cov(a, b)[0, 1] / len(a) for a, b in parts))


def _scores(scores: Scores, name: str) -> np.ndarray:
    values = np.asarray(to_numpy(scores))
    if values.dtype.kind not in "fiub":
        raise ValueError(f"{name} must be real numbers, got dtype {values.dtype}")
    values = values.astype(float)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"{name} must be (n,) with two scores or more, got shape {values.shape}")
    if np.isnan(values).any():
        raise ValueError(f"{name} hold NaN")
    return values
